"""Decide which rows of a batch may be sent now: the first ones alone (`canary`), none after many failures (`pause_at`).

What was decided is stored with the batch, so that it holds after a restart and for other processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.request import lasting_options, share_of
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import FINAL, BatchRecord, State

__all__ = ["SendGate", "lift_gate", "update_gate"]

_CANARY, _PAUSE = "canary", "pause"  # settings of the batch
_LEAST_ENDED = 20  # rows; with fewer, a single failure would pause most batches
_ENDED_OTHERWISE = (State.REJECTED, State.GONE, State.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGate:
    """What holds rows of a batch back."""

    last: int = 0  #: ref of the last row of the canary; 0: there is none, or the other rows may be sent too
    rows: Mapping[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))  #: of the canary, by state
    unsent: int = 0  #: unsent rows of the batch
    pause_at: float | None = None  #: a share of failures; None: the sending never pauses
    round: int = 1  #: the round in which failures count
    failed: int = 0  #: rows that had failed before failures began to count
    ended: int = 0  #: rows that had succeeded or failed before that
    paused: tuple[int, int] | None = None  #: how many rows had failed, and ended, when the sending paused

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
        return not self.paused and self.waiting > 0 and self._done < self._size

    @property
    def held(self) -> bool:
        """Whether rows are held back until `Batch.resume` is called."""
        return self.waiting > 0 and not self.running

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
            return f"paused: {self.paused[0]:,} of {self.paused[1]:,} rows {failed}, {limit}: the other {rest}"
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
        return gate if few or self.paused or not counts[State.UNSENT] else replace(gate, paused=(failed, ended))

    @property
    def _size(self) -> int:
        return sum(self.rows.values())

    @property
    def _done(self) -> int:
        return sum(self.rows[state] for state in FINAL)


def update_gate(outbox: Outbox, batch: str) -> SendGate:
    """Read the gate of a batch, decide by its rows as they are now, and store what has changed."""
    record, settings = outbox.batches.get(batch), outbox.batches.settings(batch)
    options = lasting_options(record, settings)
    before = SendGate(unsent=record.counts[State.UNSENT], pause_at=share_of(options["pause_at"]))
    if before.pause_at is not None:
        before = replace(before, **_pause(record, settings.get(_PAUSE)))
    if options["canary"] is not None:
        before = _with_canary(outbox, record, before, options["canary"], settings.get(_CANARY))
    gate = before.after(record.counts)
    if before.last and not gate.last:
        _open(outbox, batch)
    if gate.pause_at is not None and settings.get(_PAUSE) != (stored := _stored_pause(gate)):
        outbox.batches.set_setting(batch, _PAUSE, stored)
    return gate


def lift_gate(outbox: Outbox, batch: str) -> None:
    """Have all rows sent, whatever became of the canary, and count failures anew.

    The canary of a batch that no process sends goes on: its process was killed.
    """
    gate, counts = update_gate(outbox, batch), outbox.batches.counts(batch)
    if gate.paused:
        gate = replace(gate, failed=counts[State.FAILED], ended=_ended(counts), paused=None)
        outbox.batches.set_setting(batch, _PAUSE, _stored_pause(gate))
    if gate.last and (not gate.running or outbox.requests.has_sender(batch)):
        _open(outbox, batch)


def _with_canary(
    outbox: Outbox, record: BatchRecord, gate: SendGate, option: float | str, stored: Mapping[str, Any] | None
) -> SendGate:
    """Return a gate with the rows of its canary; which ones these are is stored when they are first asked for."""
    if stored is None or stored["option"] != option:
        share = share_of(option) or 0
        count = math.ceil(round(share * record.total, 6)) if share < 1 else int(share)
        stored = {"option": option, "last": outbox.rows.last_of_first(record.id, count), "open": False}
        outbox.batches.set_setting(record.id, _CANARY, stored)
    if stored["open"]:
        return gate
    return replace(gate, last=stored["last"], rows=outbox.rows.counts_until(record.id, stored["last"]))


def _open(outbox: Outbox, batch: str) -> None:
    stored = outbox.batches.settings(batch)[_CANARY]
    outbox.batches.set_setting(batch, _CANARY, {**stored, "open": True})


def _pause(record: BatchRecord, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return since when failures count, and whether the sending has paused; a new round counts them anew."""
    if stored is None and record.round == 1:
        return {}
    if stored is None or stored["round"] != record.round:
        return {"round": record.round, "failed": record.counts[State.FAILED], "ended": _ended(record.counts)}
    return {**stored, "paused": tuple(stored["paused"]) if stored["paused"] else None}


def _stored_pause(gate: SendGate) -> dict[str, Any]:
    paused = None if gate.paused is None else list(gate.paused)
    return {"round": gate.round, "failed": gate.failed, "ended": gate.ended, "paused": paused}


def _ended(counts: Mapping[State, int]) -> int:
    return counts[State.SUCCEEDED] + counts[State.FAILED]
