"""Decide which rows of a batch may be sent now: the first ones alone (`canary`), none after many failures (`pause_at`).

With `stop_after_failures` the others are cancelled. Failures count since the last new try, the last added row or the
last `Batch.resume` of a pause. What was decided is stored with the batch, so that it holds after a restart and for
other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.failure_limit import FailureLimit
from cloudtasks_nb.fanout.batch.request import lasting_options, share_of
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = ["SendGate", "lift_gate", "store_stop", "update_gate"]

_SETTING = "gate"  #: of the batch
#: What is stored of a new batch: the canary's option and its last row (0: the other rows may be sent); the round in
#: which failures count, what had failed and ended before, what had when the sending paused, and whether the rest was
#: cancelled.
_NEW = {"canary": None, "last": 0, "round": 1, "failed": 0, "ended": 0, "paused": None, "stopped": False}
_LEAST_ENDED = 20  # rows; with fewer, a single failure would pause most batches
_ENDED_OTHERWISE = (State.REJECTED, State.GONE, State.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGate:
    """What holds rows of a batch back."""

    last: int = 0  #: ref of the last row of the canary; 0: there is none, or the other rows may be sent too
    rows: Mapping[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))  #: of the canary, by state
    unsent: int = 0  #: unsent rows of the batch
    doubtful: int = 0  #: rows that may have been sent by a sender that has ended
    pause_at: float | None = None  #: a share of failures; None: the sending never pauses
    failed: int = 0  #: rows that had failed before failures began to count
    ended: int = 0  #: rows that had succeeded or failed before that
    paused: tuple[int, int] | None = None  #: how many rows had failed, and ended, when the sending paused
    limit: FailureLimit = field(default_factory=FailureLimit)  #: of failures, after which the other rows are cancelled

    @property
    def active(self) -> bool:
        """Whether rows are held back, or may be."""
        return bool(self.last) or self.pause_at is not None

    @property
    def until(self) -> int | None:
        """The ref of the last row that may be sent now; None: all rows, 0: none."""
        return 0 if self.paused else self.last or None

    @property
    def waiting(self) -> int:
        """Unsent rows that are held back."""
        if self.paused:
            return self.unsent
        return self.unsent - self.rows[State.UNSENT] if self.last else 0

    @property
    def running(self) -> bool:
        """Whether rows wait for the end of the canary."""
        return not self.paused and self.waiting + self.doubtful > 0 and self._done < self._size

    @property
    def held(self) -> bool:
        """Whether rows are held back until `Batch.resume` is called."""
        return self.until is not None and self.waiting + self.doubtful > 0 and not self.running

    @property
    def note(self) -> str | None:
        """A sentence about the canary while it runs."""
        if not self.running:
            return None
        failed = self._done - self.rows[State.SUCCEEDED]
        without = f", {failed:,} of them without success" if failed else ""
        wait = "waits" if self.waiting == 1 else "wait"
        return f"canary: {self._done:,} of {self._size:,} done{without}; {counted(self.waiting, 'rows')} {wait} for it"

    def reason(self, causes: str) -> str:
        """Return the sentence that says why rows are held back until `Batch.resume` is called.

        Parameters
        ----------
        causes : str
            Why rows failed; empty if none did.
        """
        failed = f"failed ({causes})" if causes else "failed"
        rest = f"{counted(self.waiting, 'rows')} {'is' if self.waiting == 1 else 'are'} not sent"
        if self.paused:
            limit = f"more than {100 * (self.pause_at or 0):.6g} %"
            doubt = f"; {counted(self.doubtful, 'rows')} may have been sent" if self.doubtful else ""
            return f"paused: {self.paused[0]:,} of {self.paused[1]:,} rows {failed}, {limit}: the other {rest}{doubt}"
        words = {State.FAILED: failed} | {state: f"ended as {state.name.lower()}" for state in _ENDED_OTHERWISE}
        first, *more = [(self.rows[state], text) for state, text in words.items() if self.rows[state]]
        ends = [f"{first[0]:,} of {self._size:,} rows {first[1]}", *(f"{count:,} {text}" for count, text in more)]
        return f"canary: {', '.join(ends)}: the other {rest}"

    def after(self, counts: Mapping[State, int]) -> SendGate:
        """Return the gate after a count of all rows: it opens when the canary has succeeded, and closes at the share.

        Examples
        --------
        >>> gate = SendGate(pause_at=0.05)
        >>> few, many = (dict.fromkeys(State, 0) | {State.UNSENT: 9, State.FAILED: count} for count in (19, 20))
        >>> gate.after(few).paused, gate.after(many).paused
        (None, (20, 20))
        """
        gate = self
        if self.last and self.rows[State.SUCCEEDED] == self._size:
            gate = replace(gate, last=0)
        failed, ended = counts[State.FAILED] - self.failed, _ended(counts) - self.ended
        few = self.pause_at is None or ended < _LEAST_ENDED or failed <= self.pause_at * ended
        none = not (counts[State.UNSENT] or self.doubtful)  # is left to send
        return gate if few or self.paused or none else replace(gate, paused=(failed, ended))

    @property
    def _size(self) -> int:
        return sum(self.rows.values())

    @property
    def _done(self) -> int:
        return sum(self.rows[state] for state in FINAL)


def update_gate(outbox: Outbox, batch: str) -> SendGate:
    """Read the gate of a batch, decide by its rows as they are now, and store what has changed."""
    return _change(outbox, batch, lambda _: {})


def lift_gate(outbox: Outbox, batch: str) -> None:
    """Have all rows sent, whatever became of the canary, and count failures anew.

    The canary of a batch that no process sends goes on: its process was killed.
    """
    outbox.requests.allow(batch)
    sending = outbox.requests.has_sender(batch)

    def lift(gate: SendGate) -> dict[str, Any]:
        opened = {"last": 0} if gate.last and (not gate.running or sending) else {}
        return opened | (_anew(outbox.batches.counts(batch)) if gate.paused else {})

    _change(outbox, batch, lift)


def store_stop(outbox: Outbox, batch: str, limit: FailureLimit) -> None:
    """Store that the limit of failures was reached, unless another round has begun."""
    _change(outbox, batch, lambda gate: {"stopped": gate.limit.stopped or gate.limit.round == limit.round})


def _change(outbox: Outbox, batch: str, change: Callable[[SendGate], dict[str, Any]]) -> SendGate:
    """Decide by the rows of a batch, and store the gate with some changes, in one transaction; return it as decided."""

    def decide() -> tuple[dict[str, Any], SendGate]:
        stored, gate = _decide(outbox, batch)
        return stored | change(gate), gate

    return outbox.batches.decide_setting(batch, _SETTING, decide)


def _decide(outbox: Outbox, batch: str) -> tuple[dict[str, Any], SendGate]:
    """Return what is to be stored of the gate of a batch, and the gate."""
    record, settings = outbox.batches.get(batch), outbox.batches.settings(batch)
    options, stored = lasting_options(record, settings), {**_NEW, **settings.get(_SETTING, {})}
    canary, pause_at = options["canary"], share_of(options["pause_at"])
    if canary is not None and canary != stored["canary"]:
        share = share_of(canary) or 0
        count = math.ceil(round(share * record.total, 6)) if share < 1 else int(share)
        stored |= {"canary": canary, "last": outbox.rows.last_of_first(batch, count)}
    if record.round != stored["round"]:
        stored |= {"round": record.round, "stopped": False, **_anew(record.counts)}
    last = 0 if canary is None else stored["last"]
    gate = SendGate(
        last=last,
        rows=outbox.rows.counts_until(batch, last),
        unsent=record.counts[State.UNSENT],
        doubtful=outbox.requests.doubtful(batch),
        pause_at=pause_at,
        failed=stored["failed"],
        ended=stored["ended"],
        paused=tuple(stored["paused"]) if stored["paused"] and pause_at is not None else None,
        limit=FailureLimit(
            limit=options["stop_after_failures"],
            **{name: stored[name] for name in ("round", "failed", "stopped")},
        ),
    ).after(record.counts)
    if last:
        stored["last"] = gate.last
    return stored | {"paused": gate.paused or stored["paused"]}, gate


def _anew(counts: Mapping[State, int]) -> dict[str, Any]:
    """Return what is stored when failures begin to count."""
    return {"failed": counts[State.FAILED], "ended": _ended(counts), "paused": None}


def _ended(counts: Mapping[State, int]) -> int:
    return counts[State.SUCCEEDED] + counts[State.FAILED]
