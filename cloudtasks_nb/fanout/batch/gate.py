"""Decide which rows of a batch may be sent: `canary`, `pause_at` and `stop_after_failures` are one gate.

It is also closed, until `Batch.resume`, where another home may have sent the rows, and nothing tells whether it has.

With a canary the first rows are sent alone. `pause_at` holds the other rows back after many failures, and
`stop_after_failures` cancels them. Failures count since the last new try, the last added row or the last `Batch.resume`
of a pause. What was decided is stored with the batch, so that it holds after a restart and for other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.request import lasting_options, share_of
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.outbox.requests import CANCELLING, INPUTS
from cloudtasks_nb.fanout.states import BY_ATTEMPT, FINAL, SUCCESSES, State

__all__ = ["Gate", "ask", "gate_of", "lift_gate", "read_batch", "was_asked"]

_SETTING = "gate"  #: of the batch
#: What is stored of a new batch: the canary's option and its last row (0: the other rows may be sent); the round in
#: which failures count, what had failed and ended before, what had when the sending paused, and whether the rest was
#: cancelled.
_NEW = {"canary": None, "last": 0, "round": 1, "failed": 0, "ended": 0, "paused": None, "stopped": False}
_ASKED = "elsewhere"  # setting of a batch: who may have sent its rows; empty after `Batch.resume`
_LEAST_ENDED = 20  # rows; with fewer, a single failure would pause most batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What holds rows of a batch back, or drops them."""

    asked: str = ""  #: who may have sent the unsent rows in another home, of which nothing tells; empty: nobody
    last: int = 0  #: ref of the last row of the canary; 0: there is none, or the other rows may be sent too
    rows: Mapping[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))  #: of the canary, by state
    untrusted: int = 0  #: unsent rows of the canary that another home has rendered, and nobody trusts
    unsent: int = 0  #: unsent rows of the batch
    doubtful: int = 0  #: rows that may have been sent by a sender that has ended
    pause_at: float | None = None  #: a share of failures; None: the sending never pauses
    stop_after: float | None = None  #: failed rows, or below 1 a share of all rows; None: there is no limit
    failed: int = 0  #: rows that had failed before failures began to count
    ended: int = 0  #: rows that had succeeded or failed before that
    paused: tuple[int, int] | None = None  #: how many rows had failed, and ended, when the sending paused
    stopped: bool = False  #: `stop_after` was reached in this round, and the other rows are cancelled

    @property
    def until(self) -> int | None:
        """The ref of the last row that may be sent now; None: all rows, 0: none."""
        return 0 if self.paused or self.asked else self.last or None

    @property
    def waiting(self) -> int:
        """Unsent rows that are held back."""
        if self.paused or self.asked:
            return self.unsent
        return self.unsent - self.rows[State.UNSENT] if self.last else 0

    @property
    def running(self) -> bool:
        """Whether rows wait for the end of the canary."""
        closed = self.paused or self.asked
        return not closed and self.waiting + self.doubtful > 0 and self._done + self.untrusted < self._size

    @property
    def held(self) -> bool:
        """Whether rows are held back until `Batch.resume` is called."""
        return self.until is not None and self.waiting + self.doubtful > 0 and not self.running

    @property
    def note(self) -> str | None:
        """A sentence about the canary while it runs."""
        if not self.running:
            return None
        failed = self._done - self._well
        without = f", {failed:,} of them without success" if failed else ""
        wait = "waits" if self.waiting == 1 else "wait"
        return f"canary: {self._done:,} of {self._size:,} done{without}; {counted(self.waiting, 'rows')} {wait} for it"

    def stop_note(self, cancelled: int) -> str | None:
        """Return what was done in this round, if so many rows have failed as `stop_after` allows."""
        if not self.stopped:
            return None
        did = f"cancelled the remaining {cancelled:,} rows" if cancelled else "too many rows failed, and none remained"
        return f"{did}: stop_after_failures={self.stop_after}"

    def reason(self, causes: str) -> str:
        """Return the sentence that says why rows are held back until `Batch.resume` is called.

        Parameters
        ----------
        causes : str
            Why rows failed; empty if none did.
        """
        if self.asked:
            rows, are = counted(self.waiting, "rows"), "it is" if self.waiting == 1 else "they are"
            return f"{rows} may have been sent by {self.asked}, and neither log nor results tell: {are} not sent"
        failed = f"failed ({causes})" if causes else "failed"
        rest = f"{counted(self.waiting, 'rows')} {'is' if self.waiting == 1 else 'are'} not sent"
        if self.paused:
            limit = f"more than {100 * (self.pause_at or 0):.6g} %"
            doubt = f"; {counted(self.doubtful, 'rows')} may have been sent" if self.doubtful else ""
            return f"paused: {self.paused[0]:,} of {self.paused[1]:,} rows {failed}, {limit}: the other {rest}{doubt}"
        words = {State.FAILED: failed, State.UNSENT: "not rendered in this home"}
        words |= {state: f"ended as {state.word}" for state in FINAL if state not in {*SUCCESSES, State.FAILED}}
        first, *more = [(self.rows[state], text) for state, text in words.items() if self.rows[state]]
        ends = [f"{first[0]:,} of {self._size:,} rows {first[1]}", *(f"{count:,} {text}" for count, text in more)]
        return f"canary: {', '.join(ends)}: the other {rest}"

    def after(self, counts: Mapping[State, int]) -> Gate:
        """Return the gate after a count of all rows: it opens when the canary has succeeded, and closes at a limit.

        Examples
        --------
        >>> gate = Gate(pause_at=0.05)
        >>> few, many = (dict.fromkeys(State, 0) | {State.UNSENT: 9, State.FAILED: count} for count in (19, 20))
        >>> gate.after(few).paused, gate.after(many).paused
        (None, (20, 20))
        """
        gate = self
        if self.last and self._well == self._size:
            gate = replace(gate, last=0)
        failed, ended = counts[State.FAILED] - self.failed, _ended(counts) - self.ended
        few = self.pause_at is None or ended < _LEAST_ENDED or failed <= self.pause_at * ended
        if not (few or self.paused) and counts[State.UNSENT] + self.doubtful:
            gate = replace(gate, paused=(failed, ended))
        allowed = math.inf if self.stop_after is None else self.stop_after
        allowed *= sum(counts.values()) if allowed < 1 else 1
        if failed >= allowed and counts[State.UNSENT] + counts[State.SENT]:
            gate = replace(gate, stopped=True)
        return gate

    @property
    def _size(self) -> int:
        return sum(self.rows.values())

    @property
    def _well(self) -> int:
        return sum(self.rows[state] for state in SUCCESSES)

    @property
    def _done(self) -> int:
        return sum(self.rows[state] for state in FINAL)


def read_batch(outbox: Outbox, batch: str) -> tuple[BatchRecord, Gate]:
    """Read a batch and its gate, in one transaction that decides by the rows as they are, and stores what has changed.

    A batch whose limit of failures is reached is cancelled from now on.

    Raises
    ------
    BatchNotFoundError
        If it was deleted.
    """
    record = outbox.batches.get(batch)
    return _change(outbox, batch, lambda _record, _gate: {}) if _limited(record) else (record, _open(record))


def gate_of(outbox: Outbox, record: BatchRecord) -> Gate:
    """Return the gate of a batch, and store nothing."""
    return _decide(outbox, record)[1] if _limited(record) else _open(record)


def lift_gate(outbox: Outbox, batch: str) -> None:
    """Have all rows sent, whatever became of the canary, and count failures anew.

    The canary of a batch that no process sends goes on: its process was killed.
    """
    outbox.batches.decide(batch, lambda record: ({_ASKED: ""} if record.settings.get(_ASKED) else {}, None))
    sending = outbox.requests.has_sender(batch)

    def lift(record: BatchRecord, gate: Gate) -> dict[str, Any]:
        opened = {"last": 0} if gate.last and (not gate.running or sending) else {}
        return opened | (_anew(record.counts) if gate.paused else {})

    _change(outbox, batch, lift)


def ask(outbox: Outbox, batch: str, who: str) -> None:
    """Hold the unsent rows of a batch, which somebody in another home may have sent, unless that was answered."""
    outbox.batches.decide(batch, lambda record: ({_ASKED: record.settings.get(_ASKED, who)}, None))


def was_asked(record: BatchRecord) -> bool:
    """Return whether that was asked before."""
    return _ASKED in record.settings


def _limited(record: BatchRecord) -> bool:
    options = lasting_options(record)
    return any(options[name] is not None for name in ("canary", "pause_at", "stop_after_failures"))


def _open(record: BatchRecord) -> Gate:
    asked = record.settings.get(_ASKED, "")
    return Gate(asked=asked, unsent=record.counts[State.UNSENT], doubtful=record.doubtful)


def _change(
    outbox: Outbox, batch: str, change: Callable[[BatchRecord, Gate], dict[str, Any]]
) -> tuple[BatchRecord, Gate]:
    """Decide by the rows of a batch, and store the gate with some changes; return both as they were decided."""

    def decide(record: BatchRecord) -> tuple[dict[str, Any], tuple[BatchRecord, Gate]]:
        stored, gate = _decide(outbox, record)
        settings: dict[str, Any] = {_SETTING: stored | change(record, gate)}
        if gate.stopped and not stored["stopped"]:
            wish = record.settings.get(CANCELLING, {INPUTS: []})
            if INPUTS in wish:  # of all rows there is none yet; such a one is wished once in a round
                wish = {"at": record.round}
            settings = {_SETTING: settings[_SETTING] | {"stopped": True}, CANCELLING: wish}
            record = replace(record, settings={**record.settings, CANCELLING: wish})
        return settings, (record, gate)

    return outbox.batches.decide(batch, decide)


def _decide(outbox: Outbox, record: BatchRecord) -> tuple[dict[str, Any], Gate]:
    """Return what is to be stored of the gate of a batch, and the gate."""
    options, stored = lasting_options(record), {**_NEW, **record.settings.get(_SETTING, {})}
    canary, pause_at = options["canary"], share_of(options["pause_at"])
    if canary is not None and canary != stored["canary"]:
        share = share_of(canary) or 0
        count = math.ceil(round(share * record.total, 6)) if share < 1 else int(share)
        stored |= {"canary": canary, "last": outbox.rows.last_of_first(record.id, count)}
    if record.round != stored["round"]:
        stored |= {"round": record.round, "stopped": False, **_anew(record.counts)}
    last = 0 if canary is None else stored["last"]
    rows, untrusted = outbox.rows.counts_until(record.id, last)
    gate = Gate(
        asked=record.settings.get(_ASKED, ""),
        last=last,
        rows=rows,
        untrusted=untrusted,
        unsent=record.counts[State.UNSENT],
        doubtful=record.doubtful,
        pause_at=pause_at,
        stop_after=options["stop_after_failures"],
        paused=tuple(stored["paused"]) if stored["paused"] and pause_at is not None else None,
        **{name: stored[name] for name in ("failed", "ended", "stopped")},
    ).after(record.counts)
    if last:
        stored["last"] = gate.last
    return stored | {"paused": gate.paused or stored["paused"]}, gate


def _anew(counts: Mapping[State, int]) -> dict[str, Any]:
    """Return what is stored when failures begin to count."""
    return {"failed": counts[State.FAILED], "ended": _ended(counts), "paused": None}


def _ended(counts: Mapping[State, int]) -> int:
    return sum(counts[state] for state in BY_ATTEMPT)
