"""What a dry run hears of the rows that a batch has already."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.outbox.draft import Draft
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, Outcome, State
from cloudtasks_nb.fanout.plan.chunk import Asked, Chunk, Forecast
from cloudtasks_nb.fanout.plan.identity import row_sum, task_id
from tests.unit.fanout.conftest import PLACE, chunk, chunks, digest, send_all, spool


def draft(name: str = "days", recipe: bytes = b"recipe") -> Draft:
    """Return what would be asked for."""
    return Draft(place=PLACE, name=name, recipe=recipe, description={}, skip=False)


def keys(rows: range) -> list[bytes]:
    """Return the keys of rows."""
    return [digest(str(row)) for row in rows]


def test_no_batch(outbox: Outbox) -> None:
    """Where there is no batch of the name, every row is new."""
    spool(outbox, chunks(range(3)), name="other")
    assert outbox.known(draft(), keys(range(3))) == [None, None, None]


def test_states(outbox: Outbox) -> None:
    """Known rows come with their states, in the order of the keys, over many pages of them."""
    batch = spool(outbox, chunks(range(2_500)), name="days").batch
    queue = outbox.requests.queue(batch)
    (request,) = queue.turn([], 1, now=1.0)
    queue.turn([Ack(seq=request.seq, sent=request.refs)], 0, now=1.0)
    found = outbox.known(draft(), keys(range(2_600))[::-1])
    assert found == [None] * 100 + [State.UNSENT] * 2_400 + [State.SENT] * 100
    assert outbox.known(draft(name=batch), keys(range(1))) == [State.SENT]


def test_rows_that_were_no_task(outbox: Outbox) -> None:
    """A row that was no valid task is new: it would be sent if it is one now."""
    spool(outbox, chunks(range(2), rejected={1: "no URL"}), name="days", errors="skip")
    assert outbox.known(draft(), keys(range(2))) == [State.UNSENT, None]


def test_other_templates(outbox: Outbox) -> None:
    """A batch of this name that was made of other templates is refused, as sending would be."""
    spool(outbox, chunks(range(2)), name="days")
    with pytest.raises(BatchExistsError, match="other templates"):
        outbox.known(draft(recipe=b"other"), keys(range(2)))


def test_no_keys(outbox: Outbox) -> None:
    """Nothing asked, nothing answered."""
    spool(outbox, chunks(range(2)), name="days")
    assert outbox.known(draft(), []) == []


def asked(rows: Iterable[int], *, shown: int | None = None, alike: bool = True) -> Asked:
    """Return what a dry run of rows asks; `alike`: with the requests that `spool` sends."""
    part = chunk(rows, request=str if alike else lambda row: f"other {row}")
    again = {n for n, key in enumerate(part.keys) if key in part.keys[:n]}
    first = [n for n in range(len(part.keys)) if n not in again]
    numbers = [int.from_bytes(digest_[:8]) for digest_ in part.digests]
    return Asked(
        rows=part.rows,
        read=len(part.rows),
        keys=b"".join(part.keys),
        digests=array("Q", numbers).tobytes(),
        again=again,
        shown=len(part.rows) if shown is None else shown,
        total=row_sum([part.keys[n] for n in first], [numbers[n] for n in first]),
    )


def ids(batch: str, rows: Iterable[int], attempt: int = 1) -> list[str]:
    """Return the ids of tasks."""
    return [task_id(batch, digest(str(row)), attempt) for row in rows]


def refused(outbox: Outbox, rows: Iterable[Chunk], **words: Any) -> str:
    """Spool rows that must be refused; return what the error says, without what is plain in a dry run."""
    with pytest.raises(BatchExistsError) as error:
        spool(outbox, rows, **words)
    return f"{error.value.message}; {str(error.value.hint).removeprefix('nothing was sent; ')}"


def test_ids_of_tasks(outbox: Outbox) -> None:
    """A row that the batch has shows its newest task, one that is new the task that it will be."""
    batch = spool(outbox, chunks(range(2)), name="days").batch
    queue = outbox.requests.queue(batch)
    (request,) = queue.turn([], 1, now=1.0)
    queue.turn([Ack(seq=request.seq, sent=request.refs)], 0, now=1.0)
    outbox.outcomes.record(batch, [Outcome(ref=request.refs[0], attempt=1, state=State.FAILED)])
    outbox.outcomes.new_try(batch)
    found = outbox.planned(draft(), asked(range(3)))
    assert found.tasks == [*ids(batch, [0], 2), *ids(batch, [1, 2])]
    assert (found.known, found.left_out, found.refusal) == ({"in the queue": 1}, 1, "")


def test_ids_before_there_is_a_batch(outbox: Outbox) -> None:
    """The batch that would be made is known by its name, or by all its rows; without both no id is."""
    before = outbox.planned(draft(), asked(range(2)))
    nothing = outbox.planned(replace(draft(), name=None), replace(asked(range(2)), total=None))
    assert nothing == Forecast(tasks=[None, None])
    assert before == Forecast(tasks=ids(spool(outbox, chunks(range(2)), name="days").batch, range(2)))
    unnamed = outbox.planned(replace(draft(), name=None), asked(range(5, 7)))
    assert unnamed == Forecast(tasks=ids(spool(outbox, chunks(range(5, 7))).batch, range(5, 7)))


def test_rows_of_the_same_batch(outbox: Outbox) -> None:
    """The rows of a batch without a name are found again; all of them are counted, also those that are not shown."""
    batch = spool(outbox, chunks(range(30))).batch
    send_all(outbox, batch)
    found = outbox.planned(replace(draft(), name=None), asked(range(30), shown=3))
    assert found == Forecast(tasks=ids(batch, range(3)), known={"in the queue": 30}, left_out=30)


@pytest.mark.parametrize("name", [None, "days"])
@pytest.mark.parametrize("others", [range(5), range(2, 40)])
def test_rows_of_another_batch(outbox: Outbox, name: str | None, others: range) -> None:
    """Without a name, rows that another batch has are in the way, as they are for `spool`, which is quoted."""
    batch = spool(outbox, chunks(others), name=name).batch
    mine, shared = range(7), set(range(7)) & set(others)
    found = outbox.planned(replace(draft(), name=None), asked(mine, shown=6))
    label = name or batch
    assert found.refusal == refused(outbox, chunks(mine))
    assert f'name="{label}" sends the other 2' in found.refusal
    assert found.problems == {row: f"the batch {label} has this row" for row in shared if row < 6}
    assert (found.tasks, found.left_out, found.known) == ([None] * 6, 5, {f"in {label}": 5})


def test_rows_of_two_other_batches(outbox: Outbox) -> None:
    """A row is left out once, however many batches have it; each batch is said."""
    spool(outbox, chunks(range(4)), name="a")
    spool(outbox, chunks(range(2, 5)), name="b")
    found = outbox.planned(replace(draft(), name=None), asked(range(7)))
    assert (found.left_out, found.known) == (5, {"in a": 4, "in b": 3})
    assert found.refusal == refused(outbox, chunks(range(7)))


def test_a_name_has_no_overlap(outbox: Outbox) -> None:
    """With a new name all rows are sent again, whoever has them."""
    batch = spool(outbox, chunks(range(4)), name="a").batch
    found = outbox.planned(draft(), asked(range(7)))
    assert (found.left_out, found.refusal, found.problems) == (0, "", {})
    assert not set(found.tasks) & set(ids(batch, range(7)))


def test_keys_with_other_requests(outbox: Outbox) -> None:
    """Rows whose key the batch knows with another request are in the way, as they are for `spool`, which is quoted."""
    spool(outbox, chunks(range(3)), name="days")
    found = outbox.planned(draft(), asked(range(5), alike=False))
    assert found.refusal == refused(outbox, chunks(range(5), request=lambda row: f"other {row}"), name="days")
    assert "3 of 5 rows have keys" in found.refusal
    assert sorted(found.problems) == [0, 1, 2]
    assert "knows its key with another request" in found.problems[0]
    assert (found.left_out, found.known) == (3, {})
