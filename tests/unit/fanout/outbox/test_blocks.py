"""Tasks packed together, and found again one by one."""

from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.outbox.blocks import (
    ChunkPreview,
    StoredBlock,
    pack_keys,
    pack_previews,
    pack_tasks,
    unpack_previews,
)
from tests.unit.fanout.conftest import digest

FIRST = 1 << 32


def _block(tasks: list[bytes]) -> StoredBlock:
    return StoredBlock(FIRST, pack_keys([digest(str(row)) for row in range(len(tasks))]), pack_tasks(tasks))


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=30))
def test_tasks_come_back_as_they_were(tasks: list[bytes]) -> None:
    """What was packed is found by its ref, empty tasks too."""
    block = _block(tasks)
    assert block.tasks(range(FIRST, FIRST + len(tasks))) == tasks
    assert block.tasks([block.last]) == tasks[-1:]
    assert block.last == FIRST + len(tasks) - 1


def test_keys_are_found_by_ref() -> None:
    """Keys of neighbours and of rows here and there are the same keys."""
    block = _block([b""] * 5)
    assert block.key(FIRST + 2) == digest("2")
    assert block.keys(range(FIRST + 1, FIRST + 4)) == digest("1") + digest("2") + digest("3")
    assert block.keys([FIRST, FIRST + 4]) == digest("0") + digest("4")
    assert block.keys([]) == b""


def test_what_is_shown_comes_back_by_chunk() -> None:
    """Each chunk of a block keeps what its plan wants to be shown."""
    previews = [ChunkPreview(n=2, shown=b"one"), ChunkPreview(n=1, shown=b""), ChunkPreview(n=0, shown=b"x")]
    assert list(unpack_previews(pack_previews(previews))) == previews


def test_rows_are_cut_by_number() -> None:
    """Small tasks are grouped by their number alone."""
    block = _block([b"x"] * 7)
    refs = range(FIRST, FIRST + 7)
    assert [len(group) for group in block.cut(refs, 3, 1_000)] == [3, 3, 1]
    assert [ref for group in block.cut(refs, 3, 1_000) for ref in group] == list(refs)


def test_rows_are_cut_by_weight() -> None:
    """Large tasks make smaller groups, and one that is too large for any group is alone."""
    block = _block([b"x" * 40, b"x" * 40, b"x" * 500, b"x" * 40])
    refs = range(FIRST, FIRST + 4)
    assert [[ref - FIRST for ref in group] for group in block.cut(refs, 100, 100)] == [[0, 1], [2], [3]]
    assert list(block.cut([], 100, 100)) == []
