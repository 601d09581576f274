"""Rows that only another home has rendered: their tasks are not known here."""

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import IMPORTED, whole
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.plan.identity import named_identity
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import PLACE, all_rows, chunks, put, refs, spool, take, task

ROWS = 5_000  # in three blocks


def fetch(outbox: Outbox, rows: Iterable[int], name: str | None = "march") -> str:
    """Bring rows of another home here; without a name they are those of the batch that has all of these rows."""
    known = spool(outbox, chunks(range(1)), name="model").batch
    identity = named_identity(PLACE, name) if name else bytes(16)
    record = replace(
        outbox.batches.get(known), id="0000abcd", identity=identity, name=name, description={IMPORTED: True}
    )
    spec = BatchSpec(place=PLACE, recipe=b"recipe", name=name, skip=True, origin=record, description=record.description)
    with outbox.spool(spec) as spooling:
        for chunk in chunks(rows, 2_000):
            spooling.add(replace(chunk, tasks=[b""] * len(chunk.rows)))
        return spooling.commit().batch


def given(outbox: Outbox, batch: str) -> list[bytes]:
    """Return the tasks that a sender gets."""
    return [wire for request in take(outbox, batch) for wire in request.wire]


@pytest.mark.parametrize("order", ["same", "shuffled"])
def test_a_row_that_is_rendered_here_gets_its_task(outbox: Outbox, order: str) -> None:
    """Place, state and try stay; of a part of the rows, and beside new ones, only these are changed."""
    batch = fetch(outbox, range(ROWS))
    before = refs(outbox, batch)
    put(outbox, batch, before[7], State.FAILED)
    mine = list(range(0, ROWS, 2))
    if order == "shuffled":
        random.Random(1).shuffle(mine)
    spooled = spool(outbox, chunks([*mine[:100], ROWS, *mine[100:]]), name="march")
    assert (spooled.added, spooled.known) == (1, len(mine))
    assert refs(outbox, batch)[:ROWS] == before
    assert all_rows(outbox, batch, "wire", wire=True) == [
        task(str(row)) if row % 2 == 0 or row == ROWS else b"" for row in range(ROWS + 1)
    ]
    assert all_rows(outbox, batch, "rows")[:ROWS] == list(range(ROWS))
    assert outbox.outcomes.elsewhere(whole(batch), set(State)) == ROWS // 2
    assert outbox.rows.states_of([before[7]]) == {before[7]: State.FAILED}


def test_a_sender_reads_tasks_that_have_come(outbox: Outbox) -> None:
    """It reads a block once for all of its rows, unless some of them have no task yet."""
    batch = fetch(outbox, range(10))
    spool(outbox, chunks(range(1)), name="march")
    queue = outbox.requests.queue(batch)
    assert [list(request.wire) for request in queue.turn([], 9, now=0.0)] == [[task("0")]]
    spool(outbox, chunks(range(10)), name="march")
    spool(outbox, chunks(range(20, 21)), name="march")  # a new round
    found = [wire for request in queue.turn([], 9, now=0.0) for wire in request.wire]
    assert found == [task(str(row)) for row in [*range(1, 10), 20]]


def test_a_batch_of_another_home_is_compared_row_by_row(outbox: Outbox) -> None:
    """What its record says of all rows does not make them those of the cell."""
    own = spool(outbox, chunks(range(10)))
    identity = outbox.batches.get(own.batch).identity
    outbox.batches.delete(own.batch)
    batch = fetch(outbox, range(100, 110), name=None)
    with closing(sqlite3.connect(outbox.path)) as connection:
        connection.execute("UPDATE batches SET identity = ? WHERE id = ?", (identity, batch))
        connection.commit()
    again = spool(outbox, chunks(range(10)))
    assert (again.batch, again.known, again.added) == (batch, 0, 10)
