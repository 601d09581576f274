"""Tasks packed together, and found again one by one."""

from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.outbox.database import StoredBlock, pack_keys, pack_tasks
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
