"""A frame meets the batches that are there: the same cell, a longer frame, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cloudtasks_nb.errors import BatchExistsError, DuplicateRowsError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.spool import BatchSpec, Incoming
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.raising import raises
from tests.unit.fanout.conftest import NOTHING, PLACE, all_rows, chunk, chunks, spool, tables, task


@pytest.mark.parametrize("name", [None, "nightly"])
def test_the_same_cell_three_times_is_one_batch(outbox: Outbox, name: str | None) -> None:
    """Running a cell again attaches to its batch and adds nothing."""
    first = spool(outbox, chunks(range(250)), name=name)
    for _ in range(2):
        again = spool(outbox, chunks(range(250)), name=name)
        assert again == replace(first, created=False, added=0, known=250, left={State.UNSENT: 250})
    assert tables(outbox.path)["rows"] == tables(outbox.path)["keys"] == 250
    assert tables(outbox.path)["hidden"] == 0


@pytest.mark.parametrize("by_id", [False, True])
def test_a_longer_frame_under_its_name_sends_the_rest(outbox: Outbox, *, by_id: bool) -> None:
    """Rows that the batch has are left, the others are added; a batch without a name is named by its id."""
    name = None if by_id else "nightly"
    first = spool(outbox, chunks(range(290)), name=name)
    longer = spool(outbox, chunks([300, *range(290), *range(301, 312)]), name=first.batch if by_id else name)
    assert (longer.batch, longer.created, longer.added, longer.known) == (first.batch, False, 12, 290)
    assert all_rows(outbox, first.batch, "rows") == [*range(290), 300, *range(301, 312)]
    assert all_rows(outbox, first.batch, "wire", wire=True)[-1] == task("311")
    assert outbox.batches.get(first.batch).round == 2


@cases(
    ({"a": 2_989}, 3_001, "2,989 of these 3,001 rows are in the batch a already", 'name="a" sends the other 12,'),
    ({"a": 100}, 10, "10 of these 10 rows are in the batch a already", 'tasks.batch("a") shows it,'),
    ({"a": 10, "b": 40}, 50, "30 of these 50 rows are in the batch b already, 10 in a", 'name="b" sends the other 20,'),
    ({"other": 10}, 20, "10 of these 20 rows are in the batch other already", "it was made of other templates;"),
    ids=["longer", "part", "several", "templates"],
)
def test_a_frame_without_a_name_that_overlaps_is_refused(
    outbox: Outbox, earlier: dict[str, int], rows: int, message: str, ways: str
) -> None:
    """Rows that earlier batches have raise, with exact numbers and each way out; the largest overlap comes first."""
    start = 0
    for name, end in earlier.items():
        spool(outbox, chunks(range(start, end)), name=name, recipe=b"other" if name == "other" else b"recipe")
        start = end
    stored = tables(outbox.path)
    with pytest.raises(BatchExistsError) as caught:
        spool(outbox, chunks(range(rows)))
    hint = f"nothing was sent; {ways} any new name sends all"
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.resource == [*earlier][-1]
    assert tables(outbox.path) == stored
    assert spool(outbox, chunks(range(rows)), name="all of it").added == rows


def test_a_name_with_other_templates_is_refused_at_once(outbox: Outbox) -> None:
    """A name that stands for other templates raises before a row is planned, and says what differs."""
    spool(outbox, chunks(range(10)), name="n", description={"url": "https://a/{x}", "key": None})
    spec = BatchSpec(place=PLACE, recipe=b"other", name="n", description={"url": "https://b/{x}", "key": None})
    differs = re.escape("was made of other templates; url was 'https://a/{x}', is 'https://b/{x}'")
    with raises(BatchExistsError, differs, hint="any new name sends all"):
        outbox.spool(spec).__enter__()


def test_a_key_with_another_request_is_refused(outbox: Outbox) -> None:
    """Under one name a key stands for one request: a row that changed raises, and nothing is added."""
    first = spool(outbox, chunks(range(300)), name="n")
    with pytest.raises(BatchExistsError) as caught:
        spool(outbox, chunks(range(310), request=lambda row: f"{row}{'!' if row in (7, 120) else ''}"), name="n")
    assert caught.value.message == (
        f"2 of 310 rows have keys that the batch n ({first.batch}) has with another request (rows 7, 120)"
    )
    assert "; data.iloc[[7, 120]] with a new name sends what has changed, any new name sends all" in str(caught.value)
    assert outbox.batches.get(first.batch).total == 300


def test_duplicates_raise_with_count_rows_and_ways_out(outbox: Outbox) -> None:
    """Rows that send the same request are counted, the first are named, and nothing is kept."""
    rows = [*range(2_500), 7, 2_400, 7, *range(100, 106)]
    with pytest.raises(DuplicateRowsError) as caught:
        spool(outbox, chunks(range(len(rows)), key=lambda row: str(rows[row])))
    assert caught.value.message == (
        "9 of 2,509 rows have the key of an earlier row: 2500 is the same as 7, 2501 is the same as 2400, "
        "2502 is the same as 7, 2503 is the same as 100, 2504 is the same as 101, ..."
    )
    assert 'errors="skip" (the first is sent)' in str(caught.value)
    assert tables(outbox.path) == NOTHING


def test_duplicates_can_be_left_out(outbox: Outbox) -> None:
    """With errors="skip" the first of equal rows is sent, and the others say whose duplicates they are."""
    same = [chunk(range(100)), chunk(range(100, 103), key=lambda _: "5", request=lambda _: "5")]
    done = spool(outbox, same, skip=True)
    assert (done.added, done.duplicates, done.rejected) == (100, 3, 0)
    assert all_rows(outbox, done.batch, "reasons", states={State.REJECTED}) == ["duplicate of row 5"] * 3
    assert all_rows(outbox, done.batch, "tasks")[-3:] == [None] * 3
    again = spool(outbox, same, skip=True)
    assert (again.batch, again.added, again.duplicates, again.known) == (done.batch, 0, 0, 103)
    with pytest.raises(DuplicateRowsError, match="3 of 103 rows"):
        spool(outbox, same)


@pytest.mark.parametrize("name", [None, "n"])
def test_rows_that_others_add_meanwhile_are_compared_too(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """A batch that is made or lengthened after the comparison, and before the lock, is compared again."""
    if name:
        spool(outbox, chunks(range(100)), name=name)
    prepare = Incoming.prepare

    def late(incoming: Incoming) -> None:
        prepare(incoming)
        monkeypatch.setattr(Incoming, "prepare", prepare)
        spool(outbox, chunks(range(550, 560)), name=name)

    monkeypatch.setattr(Incoming, "prepare", late)
    if name is None:
        assert spool(outbox, chunks(range(500, 600))).known == 10
    else:
        with pytest.raises(BatchExistsError, match="10 of these 100 rows are in"):
            spool(outbox, chunks(range(500, 600)))


def test_rows_of_a_batch_without_a_name(outbox: Outbox) -> None:
    """Three rows, then all, then three again are one batch; another disk has to be told which one."""
    first = spool(outbox, chunks(range(3)))
    longer = spool(outbox, chunks([9, *range(8)]))
    assert (longer.batch, longer.created, longer.added, longer.known) == (first.batch, False, 6, 3)
    part = spool(outbox, chunks(range(5, 8)))
    assert (part.batch, part.added, part.known) == (first.batch, 0, 3)
    again = [spool(outbox, chunks(rows)) for rows in (range(3), [9, *range(8)], range(5, 8))]
    assert [one.by_id for one in (first, longer, part, *again)] == [False, True, True, False, True, True]
    assert [one.scope and one.scope.rows for one in again] == [3, 9, 3]
    assert {one.batch for one in again} == {first.batch}
    assert tables(outbox.path)["rows"] == 9


def test_an_id_is_the_name_of_a_batch_on_another_disk(outbox: Outbox, tmp_path: Path) -> None:
    """There is no batch there yet: the new one gets this id, so that its tasks have the same names."""
    first = spool(outbox, chunks(range(3)))
    longer = spool(outbox, chunks(range(8)))
    with Outbox(tmp_path / "other" / "outbox.sqlite3") as other:
        made = spool(other, chunks(range(8)), name=first.batch)
        assert (made.batch, made.created) == (first.batch, True)
        assert other.batches.find()[0].name is None
        assert sorted(all_rows(other, made.batch, "tasks")) == sorted(all_rows(outbox, longer.batch, "tasks"))
        assert spool(other, chunks(range(8)), name=first.batch).added == 0
        assert spool(other, chunks(range(9))).added == 1
        date = spool(other, chunks(range(8)), name="20250101")
        assert (date.batch == "20250101", other.batches.get(date.batch).name) == (False, "20250101")
