"""How rows come into the outbox: all or none, each key once, never unseen twice; also those of another home."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from cloudtasks_nb.errors import DuplicateRowsError, OutboxError
from cloudtasks_nb.fanout.outbox import spool as spool_module
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import IMPORTED, whole
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.plan.identity import named_identity
from cloudtasks_nb.fanout.plan.render import Chunk
from cloudtasks_nb.fanout.states import State
from tests.threads import at_once
from tests.unit.fanout.conftest import NOTHING, PLACE, all_rows, chunk, chunks, put, refs, spool, tables, take, task

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_duplicates_are_found_in_one_pass(outbox: Outbox, errors: Literal["raise", "skip"]) -> None:
    """Eight times the rows are eight times the work, not 64 times, when a few of them have the key of another."""

    def work(rows: int) -> int:
        steps: list[None] = []
        with outbox.spool(BatchSpec(place=PLACE, recipe=b"r", skip=errors == "skip", name=f"of {rows}")) as spooling:
            for part in chunks(range(rows), key=lambda row: str(max(row, 20))):
                spooling.add(part)
            spooling._connection.set_progress_handler(lambda: steps.append(None), 1000)
            with nullcontext() if errors == "skip" else pytest.raises(DuplicateRowsError, match="20 of"):
                spooling.commit()
        return len(steps)

    assert work(8_000) < 16 * work(1_000)


@pytest.mark.parametrize("fault", [ZeroDivisionError(), sqlite3.OperationalError("no such table: days")])
def test_a_plan_that_raises_leaves_nothing(outbox: Outbox, fault: Exception) -> None:
    """A bad row in the middle of the plan leaves the outbox as it was, and raises its own error.

    The rows may come from another SQLite file, whose errors are not the outbox's.
    """

    def plan() -> Iterator[Chunk]:
        yield from chunks(range(6_000))
        raise fault

    with pytest.raises(type(fault)):
        spool(outbox, plan())
    with pytest.raises(type(fault)), outbox.dry_run(BatchSpec(place=PLACE, recipe=b"r")):
        raise fault
    assert tables(outbox.path) == NOTHING
    assert list((outbox.path.parent / "locks").iterdir()) == []


def test_rejected_rows_are_kept_with_their_reason(outbox: Outbox) -> None:
    """A row that the plan could not make a task of is a row of the batch that was never sent."""
    done = spool(outbox, chunks(range(150), rejected={3: "no URL", 120: "too large"}))
    assert (done.added, done.rejected, outbox.batches.get(done.batch).total) == (148, 2, 150)
    assert all_rows(outbox, done.batch, "rows", states={State.REJECTED}) == [3, 120]
    assert all_rows(outbox, done.batch, "reasons", states={State.REJECTED}) == ["no URL", "too large"]
    assert outbox.outcomes.new_try(whole(done.batch), allowed=set(State)) == 0


def test_two_batches_may_have_the_same_short_id(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another batch happens to have a batch's id, the next id is taken, and found again."""

    def ids(identity: bytes, _name: None) -> Iterator[str]:
        yield "00000000"
        yield identity.hex()[:8]

    monkeypatch.setattr(spool_module, "batch_ids", ids)
    one, two = spool(outbox, chunks(range(10))), spool(outbox, chunks(range(10, 20)))
    assert one.batch == "00000000" != two.batch
    assert spool(outbox, chunks(range(10, 20))).batch == two.batch


def test_a_batch_that_goes_while_its_rows_are_planned_is_told(outbox: Outbox) -> None:
    """Rows that were left out for a batch that is no more are not lost silently."""
    spool(outbox, chunks(range(100)), name="n")

    def plan() -> Iterator[Chunk]:
        yield chunk(range(100))
        with closing(sqlite3.connect(outbox.path)) as connection, connection:
            connection.execute("DELETE FROM batches")

    with pytest.raises(OutboxError, match="run the cell again"):
        spool(outbox, plan(), name="n")


def test_a_locked_outbox_is_told(path: Path) -> None:
    """When another program holds the file, the error says so after the waiting time."""
    with Outbox(path, timeout=0.05) as outbox, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutboxError, match="locked by another program"):
            spool(outbox, chunks(range(10)))
        other.execute("ROLLBACK")
        assert spool(outbox, chunks(range(10))).created


def test_two_threads_with_one_frame_make_one_batch(outbox: Outbox) -> None:
    """Two kernels that run the same cell at once end with one batch, each row once."""
    ready = threading.Barrier(2)

    def plan() -> tuple[bool, int, int]:
        with outbox.spool(BatchSpec(place=PLACE, recipe=b"recipe")) as spooling:
            for part in chunks(range(3_000)):
                spooling.add(part)
            ready.wait()
            found = spooling.commit()
        return found.created, found.added, found.known

    assert sorted(at_once(plan)) == [(False, 0, 3_000), (True, 3_000, 0)]
    assert tables(outbox.path)["rows"] == 3_000


PLANNER = """
    import sys, time
    from pathlib import Path
    from tests.unit.fanout.conftest import PLACE, chunk
    from cloudtasks_nb.fanout.outbox.spool import BatchSpec
    from cloudtasks_nb.fanout.outbox.outbox import Outbox
    outbox = Outbox(sys.argv[1])
    stop = int(sys.argv[2])
    with outbox.spool(BatchSpec(place=PLACE, recipe=b"recipe")) as spooling:
        for at in range(60):
            if at == stop:
                print("now", flush=True)
                sys.stdin.read()
            spooling.add(chunk(range(100 * at, 100 * at + 100)))
        spooling._store(0)
        print("now", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("stop", [0, 1, 25, 45, 60])
def test_a_killed_planner_leaves_nothing(path: Path, stop: int) -> None:
    """SIGKILL while rows are planned: no batch is listed, nothing stays, and the cell can be run again."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PLANNER), str(path), str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"now\n"
        with Outbox(path) as outbox:
            assert outbox.batches.find() == []
            assert tables(path)["hidden"] == 1, "a living spool is not swept away"
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            assert outbox.sweep() == 1
            assert tables(path) == NOTHING
            assert spool(outbox, chunks(range(6_000))).added == 6_000


def test_large_rows_make_smaller_blocks(outbox: Outbox) -> None:
    """Rows of a megabyte each do not wait for two thousand of their kind."""
    large = b"x" * 1_000_000
    done = spool(outbox, [replace(chunk([row]), tasks=[large]) for row in range(6)])
    assert tables(outbox.path)["blocks"] == 6
    assert all_rows(outbox, done.batch, "wire", wire=True) == [large] * 6


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
