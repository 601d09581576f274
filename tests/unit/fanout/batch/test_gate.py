"""`canary` and `pause_at` hold rows back, in every round of a batch, and after a restart."""

import threading
from collections.abc import Mapping
from typing import Unpack

import pytest

from cloudtasks_nb.fanout.batch.gate import Gate, lift_gate, read_batch
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchFacts, LastingOptions, whole
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.batch.conftest import counts
from tests.unit.fanout.conftest import NOW, chunks, put, put_facts, refs, spool

ROWS, FIRST = 250, 20


def canary(**rows: int) -> Gate:
    """Return a gate whose canary has so many rows in each state, with 30 rows behind it."""
    return Gate(last=9, rows=counts(**rows), unsent=30 + rows.get("unsent", 0))


@cases(
    (Gate(unsent=30), None, None),
    (canary(unsent=4), "canary: 0 of 4 done; 30 rows wait for it", None),
    (canary(sent=1, succeeded=3), "canary: 3 of 4 done; 30 rows wait for it", None),
    (canary(sent=1, failed=2), "canary: 2 of 3 done, 2 of them without success; 30 rows wait for it", None),
    (canary(failed=2, succeeded=2), None, "canary: 2 of 4 rows failed (KeyError: …)"),
    (canary(failed=1, gone=2), None, "canary: 1 of 3 rows failed (KeyError: …), 2 ended as gone"),
    (canary(rejected=1), None, "canary: 1 of 1 rows ended as rejected"),
    (Gate(last=9, rows=counts(failed=4)), None, None),
    (
        Gate(pause_at=0.005, paused=(5, 60), unsent=30),
        None,
        "paused: 5 of 60 rows failed (KeyError: …), more than 0.5 %",
    ),
    (Gate(pause_at=5, paused=(5, 60), unsent=30), None, "paused: 5 of 60 rows failed (KeyError: …), pause_at=5"),
    (
        Gate(held_for="ada", unsent=30),
        None,
        "30 rows may have been sent by ada, and neither log nor results tell: they are not sent",
    ),
)
def test_what_is_shown(gate: Gate, note: str | None, reason: str | None) -> None:
    """While the canary runs it has a note; what is held back has a reason."""
    shown = gate.reason("KeyError: …") if gate.held else None
    assert (gate.note, shown) == (
        note,
        reason and f"{reason}{'' if gate.held_for else ': the other 30 rows are not sent'}",
    )


@cases(
    ({"failed": 19}, None),
    ({"failed": 1, "succeeded": 19}, None),
    ({"failed": 2, "succeeded": 18}, (2, 20)),
    ({"failed": 5, "succeeded": 95}, None),
    ({"failed": 6, "succeeded": 95, "gone": 99, "cancelled": 99}, (6, 101)),
)
def test_the_share_of_failures(rows: dict[str, int], paused: tuple[int, int] | None) -> None:
    """More than the share, of rows that succeeded or failed, of which there have to be 20; only if a row is unsent."""
    gate = Gate(pause_at=0.05, unsent=1)
    after = gate.after(counts(unsent=1, **rows))
    assert (after.paused, after.held) == (paused, paused is not None)
    assert gate.after(counts(**rows)) == gate
    later = Gate(pause_at=0.05, failed=100, ended=300)
    assert later.after(counts(unsent=1, failed=100, succeeded=250)) == later


@cases((1, {"failed": 1}, True), (5, {"failed": 4, "succeeded": 1}, False), (5, {"failed": 5, "succeeded": 900}, True))
def test_a_number_of_failures(limit: int, rows: dict[str, int], *, paused: bool) -> None:
    """However many rows have ended."""
    assert Gate(pause_at=limit, unsent=1).after(counts(unsent=1, **rows)).held is paused


def test_a_pause_holds_rows_in_doubt_back(outbox: Outbox) -> None:
    """A killed sender had taken all rows: those of which no task is known are not sent before `resume`."""
    batch = limited(outbox, pause_at="5%")
    outbox.requests.queue(batch).turn([], 9, now=NOW)
    outbox.requests.find_doubtful(batch)
    put(outbox, batch, refs(outbox, batch)[:20], State.FAILED)
    gate = read_batch(outbox, batch)[1]
    assert (gate.paused, gate.until, gate.held) == ((20, 20), 0, True)
    assert gate.reason("").endswith("the other 0 rows are not sent; 230 rows may have been sent")
    lift_gate(outbox, batch)
    assert read_batch(outbox, batch)[1].until is None


def limited(outbox: Outbox, **options: Unpack[LastingOptions]) -> str:
    """Make a batch with these lasting options."""
    return spool(outbox, chunks(range(ROWS)), name="n", facts=BatchFacts(options=options)).batch


def test_rows_that_are_added_later_need_no_other_canary(outbox: Outbox) -> None:
    """It is of the first rows of the batch; the option of the newest `fan_out` counts."""
    batch = limited(outbox, canary=1)
    known = refs(outbox, batch)
    assert read_batch(outbox, batch)[1].until == known[0]
    put(outbox, batch, known[0], State.SUCCEEDED)
    assert read_batch(outbox, batch)[1].until is None
    assert spool(outbox, chunks(range(ROWS, ROWS + 9)), name="n").batch == batch
    assert read_batch(outbox, batch)[1].until is None
    put_facts(outbox, batch, options={"canary": 2})
    assert read_batch(outbox, batch)[1].until == known[1]
    put_facts(outbox, batch, options={"canary": None})
    assert read_batch(outbox, batch)[1].until is None


def test_a_pause_does_not_undo_what_another_process_resumes(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see the failures at the same moment; one of them decides that the sending pauses, the other one resumes."""
    batch = limited(outbox, pause_at="10%")
    put(outbox, batch, refs(outbox, batch)[:FIRST], State.FAILED)

    def resume_elsewhere() -> None:
        with Outbox(outbox.path) as other:
            assert read_batch(other, batch)[1].paused
            lift_gate(other, batch)

    decide, elsewhere = Gate.after, threading.Thread(target=resume_elsewhere)

    def decide_late(gate: Gate, seen: Mapping[State, int]) -> Gate:
        if threading.current_thread() is not elsewhere and not elsewhere.ident:
            elsewhere.start()
            elsewhere.join(0.5)  # it waits for this transaction
        return decide(gate, seen)

    monkeypatch.setattr(Gate, "after", decide_late)
    assert read_batch(outbox, batch)[1].paused
    elsewhere.join(240)
    assert not read_batch(outbox, batch)[1].paused


def test_failures_count_anew(outbox: Outbox) -> None:
    """After `resume`, and in each round."""
    batch = limited(outbox, pause_at=0.1)
    known = iter(refs(outbox, batch))

    def fail(count: int) -> tuple[int, int] | None:
        put(outbox, batch, [next(known) for _ in range(count)], State.FAILED)
        return read_batch(outbox, batch)[1].paused

    assert (fail(19), fail(1)) == (None, (20, 20))
    assert fail(5) == (20, 20)
    lift_gate(outbox, batch)
    assert (read_batch(outbox, batch)[1].paused, fail(19), fail(1)) == (None, None, (20, 20))
    outbox.outcomes.new_try(whole(batch))
    assert (read_batch(outbox, batch)[1].paused, fail(19), fail(1)) == (None, None, (20, 20))
