"""Rows that another home says to have rendered, and whose tasks nobody here has trusted."""

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

import pytest

from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import IMPORTED, Choice, whole
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.identity import named_identity
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import PLACE, all_rows, chunks, put, refs, send_all, spool, take, task, tell

ROWS = 5_000  # in three blocks


def foreign(rows: Iterable[int], maker: str = "bob@b", size: int = 2_000) -> list[Chunk]:
    """Return chunks of another home, with its own tasks for the same rows."""
    return [
        replace(chunk, tasks=[task(f"theirs-{row}") for row in chunk.rows], maker=maker) for chunk in chunks(rows, size)
    ]


def fetch(outbox: Outbox, made: Iterable[Chunk], name: str | None = "march") -> str:
    """Bring rows of another home here; without a name they are those of the batch that has all of these rows."""
    known = spool(outbox, chunks(range(1)), name="model").batch
    identity = named_identity(PLACE, name) if name else bytes(16)
    record = replace(
        outbox.batches.get(known), id="0000abcd", identity=identity, name=name, description={IMPORTED: True}
    )
    spec = BatchSpec(place=PLACE, recipe=b"recipe", name=name, skip=True, origin=record, description=record.description)
    with outbox.spool(spec) as spooling:
        for chunk in made:
            spooling.add(chunk)
        return spooling.commit().batch


def given(outbox: Outbox, batch: str) -> list[bytes]:
    """Return the tasks that a sender gets."""
    return [wire for request in take(outbox, batch) for wire in request.wire]


def test_nothing_is_given_out_before_it_is_trusted(outbox: Outbox) -> None:
    """Own rows of the batch are; what is trusted stays it, what others add later is not."""
    batch = fetch(outbox, foreign(range(300)))
    assert given(outbox, batch) == []
    spool(outbox, chunks(range(1_000, 1_010)), name="march")
    assert given(outbox, batch) == [task(str(row)) for row in range(1_000, 1_010)]
    found = outbox.trust.untrusted(whole(batch), {State.UNSENT})
    assert list(found.values()) == ["bob@b"] * 300
    outbox.trust.trust(list(found)[:200])
    assert sorted(given(outbox, batch)) == sorted(
        [*(task(str(row)) for row in range(1_000, 1_010)), *(task(f"theirs-{row}") for row in range(200))]
    )
    fetch(outbox, foreign(range(2_000, 2_005), "mallory@m"))
    assert sorted(outbox.trust.untrusted(whole(batch), {State.UNSENT}).values()) == ["bob@b"] * 100 + ["mallory@m"] * 5


@pytest.mark.parametrize("order", ["same", "shuffled"])
def test_a_row_that_is_rendered_here_has_the_task_of_this_home(outbox: Outbox, order: str) -> None:
    """Place, state and try stay; of a part of the rows, and beside new ones, only these are changed."""
    batch = fetch(outbox, foreign(range(ROWS)))
    before = refs(outbox, batch)
    put(outbox, batch, before[7], State.FAILED)
    mine = list(range(0, ROWS, 2))
    if order == "shuffled":
        random.Random(1).shuffle(mine)
    spooled = spool(outbox, chunks([*mine[:100], ROWS, *mine[100:]]), name="march")
    assert (spooled.added, spooled.known) == (1, len(mine))
    assert refs(outbox, batch)[:ROWS] == before
    assert all_rows(outbox, batch, "wire", wire=True) == [
        task(str(row)) if row % 2 == 0 or row == ROWS else task(f"theirs-{row}") for row in range(ROWS + 1)
    ]
    assert all_rows(outbox, batch, "rows")[:ROWS] == list(range(ROWS))
    assert set(outbox.trust.untrusted(whole(batch), set(State))) == set(before[1::2])
    assert outbox.rows.states_of([before[7]]) == {before[7]: State.FAILED}


def test_rows_of_another_request_are_not_replaced(outbox: Outbox) -> None:
    """Their key is that of a row that was rendered here, and what they send is something else."""
    batch = fetch(outbox, foreign(range(10)))
    other = chunks(range(10), request=lambda row: f"other-{row}")
    with pytest.raises(BatchExistsError, match="with another request"):
        spool(outbox, other, name="march")
    assert len(outbox.trust.untrusted(whole(batch), {State.UNSENT})) == 10
    assert all_rows(outbox, batch, "wire", wire=True)[0] == task("theirs-0")


def test_what_another_home_renders_again_is_not_trusted(outbox: Outbox) -> None:
    """The rows of a second block with the same keys stay those of the first."""
    batch = fetch(outbox, foreign(range(10)))
    fetch(outbox, [replace(chunk, maker="mallory@m") for chunk in chunks(range(10))])
    assert set(outbox.trust.untrusted(whole(batch), set(State)).values()) == {"bob@b"}
    assert all_rows(outbox, batch, "wire", wire=True)[0] == task("theirs-0")


def test_a_row_that_was_trusted_keeps_its_task(outbox: Outbox) -> None:
    """It may have been sent, and the same request with another task would be another one."""
    batch = fetch(outbox, foreign(range(10)))
    outbox.trust.trust(refs(outbox, batch)[:4])
    spool(outbox, chunks(range(10)), name="march")
    wire = all_rows(outbox, batch, "wire", wire=True)
    assert wire == [*(task(f"theirs-{row}") for row in range(4)), *(task(str(row)) for row in range(4, 10))]


def test_a_sender_does_not_keep_a_task_that_was_replaced(outbox: Outbox) -> None:
    """It reads a block once for all of its rows, unless some of them are not trusted."""
    batch = fetch(outbox, foreign(range(10)))
    outbox.trust.trust(refs(outbox, batch)[:1])
    queue = outbox.requests.queue(batch)
    assert [list(request.wire) for request in queue.turn([], 9, now=0.0)] == [[task("theirs-0")]]
    spool(outbox, chunks(range(10)), name="march")
    spool(outbox, chunks(range(20, 21)), name="march")  # a new round
    found = [wire for request in queue.turn([], 9, now=0.0) for wire in request.wire]
    assert found == [task(str(row)) for row in [*range(1, 10), 20]]


def test_a_batch_of_another_home_is_compared_row_by_row(outbox: Outbox) -> None:
    """What its record says of all rows does not make them those of the cell."""
    own = spool(outbox, chunks(range(10)))
    identity = outbox.batches.get(own.batch).identity
    outbox.batches.delete(own.batch)
    batch = fetch(outbox, foreign(range(100, 110)), name=None)
    with closing(sqlite3.connect(outbox.path)) as connection:
        connection.execute("UPDATE batches SET identity = ? WHERE id = ?", (identity, batch))
        connection.commit()
    again = spool(outbox, chunks(range(10)))
    assert (again.batch, again.known, again.added) == (batch, 0, 10)


def test_which_rows_a_new_try_would_send(outbox: Outbox) -> None:
    """By state, by rows and their tasks, and by cause: as `new_try` chooses them."""
    batch = fetch(outbox, foreign(range(10)))
    found = refs(outbox, batch)
    send_all(outbox, batch)
    tell(outbox, batch, found[:2], state=State.FAILED, last_status=13)
    tell(outbox, batch, found[2:4], state=State.FAILED, last_status=14)
    tasks = all_rows(outbox, batch, "tasks")
    untrusted = outbox.trust.untrusted
    assert list(untrusted(whole(batch), {State.FAILED})) == found[:4]
    assert list(untrusted(whole(batch), {State.FAILED}, Choice(statuses=frozenset({14})))) == found[2:4]
    rows = [(found[0], tasks[0]), (found[1], "another"), (found[2], None), (found[9], None)]
    assert list(untrusted(whole(batch), {State.FAILED}, rows)) == [found[0], found[2]]
    outbox.trust.trust(found)
    assert untrusted(whole(batch), set(State)) == {}
