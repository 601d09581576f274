"""What a dry run hears of the rows that a batch has already."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.outbox._draft import Draft
from cloudtasks_nb.fanout.outbox._outbox import Outbox
from cloudtasks_nb.fanout.outbox._records import Ack, Outcome, State
from cloudtasks_nb.fanout.outbox._requests import Desk
from cloudtasks_nb.fanout.plan._identity import task_id
from tests.unit.fanout.conftest import PLACE, chunks, digest, spool


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
    desk = Desk(batch)
    (request,) = outbox.turn(desk, [], 1, now=1.0)
    outbox.turn(desk, [Ack(seq=request.seq, sent=request.refs)], 0, now=1.0)
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


def test_ids_of_tasks(outbox: Outbox) -> None:
    """A row that the batch has shows its newest task, one that is new the task that it will be."""
    batch = spool(outbox, chunks(range(2)), name="days").batch
    desk = Desk(batch)
    (request,) = outbox.turn(desk, [], 1, now=1.0)
    outbox.turn(desk, [Ack(seq=request.seq, sent=request.refs)], 0, now=1.0)
    outbox.record(batch, [Outcome(ref=request.refs[0], attempt=1, state=State.FAILED)])
    outbox.new_try(batch)
    found = outbox.planned(draft(), keys(range(3)), None)
    wanted = [(0, 2, State.UNSENT), (1, 1, State.SENT), (2, 1, None)]
    assert found == [(task_id(batch, digest(str(row)), attempt), state) for row, attempt, state in wanted]


def test_ids_before_there_is_a_batch(outbox: Outbox) -> None:
    """The batch that would be made is known by its name, or by all its rows; without both no id is."""
    before = outbox.planned(draft(), keys(range(2)), None)
    assert outbox.planned(replace(draft(), name=None), keys(range(2)), None) == [(None, None)] * 2
    batch = spool(outbox, chunks(range(2)), name="days").batch
    assert before == [(task_id(batch, key, 1), None) for key in keys(range(2))]
