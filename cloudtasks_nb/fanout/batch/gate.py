"""Decide which rows of a batch may be sent: none after a cancel; `canary` and `pause_at` are one gate.

It is also closed, until `Batch.resume`, where another home may have sent the rows, and nothing tells whether it has.

With a canary the first rows are sent alone. `pause_at` holds the other rows back after many failures. Failures count
since the last new try, the last added row or the last `Batch.resume` of a pause. What was decided is stored with the
batch, so that it holds after a restart and for other processes.

Homes that share a batch share its cancel too: the one that wishes it tells the store, and the others take it up from
there. What is taken up is a wish of this home to cancel, but only the home that wished it first deletes tasks. Of a
part, the store has the keys of the rows: the input of one home is nothing that another one knows. Of a whole batch, it
has the blocks of rows that there were: those that are added later are not meant.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import user
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import BatchNotFoundError, OutboxError, StoreError
from cloudtasks_nb.fanout.batch.request import share_of
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord, Cancel, RowFilter, Scope, StoredGate, whole
from cloudtasks_nb.fanout.refs import Refs
from cloudtasks_nb.fanout.states import BY_ATTEMPT, FINAL, SUCCESSES, State
from cloudtasks_nb.store.batches import last_cancel, new_cancels, put_cancel, read_cancelled
from cloudtasks_nb.store.store import Dated, Store, answer_of

__all__ = ["Cancels", "Gate", "cancelled_by", "gate_of", "lift_gate", "read_batch"]

_LEAST_ENDED = 20  # rows; of fewer, a single failure would be more than most shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What holds rows of a batch back, or slows them down."""

    held_for: str = ""  #: who may have sent the unsent rows in another home, of which nothing tells; empty: nobody
    last: int = 0  #: ref of the last row of the canary; 0: there is none, or the other rows may be sent too
    rows: Mapping[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))  #: of the canary, by state
    strange: int = 0  #: unsent rows of the canary that only another home has rendered
    unsent: int = 0  #: unsent rows of the batch
    elsewhere: int = 0  #: those of them that only another home has rendered
    doubtful: int = 0  #: rows that may have been sent by a sender that has ended
    pause_at: float | None = None  #: failed rows, or below 1 a share of failures; None: the sending never pauses
    failed: int = 0  #: rows that had failed before failures began to count
    ended: int = 0  #: rows that had succeeded or failed before that
    paused: tuple[int, int] | None = None  #: how many rows had failed, and ended, when the sending paused
    send_rate: float | None = None  #: rows that may be sent in a second; None: as many as the service takes

    @property
    def until(self) -> int | None:
        """The ref of the last row that may be sent now; None: all rows, 0: none."""
        return 0 if self.paused or self.held_for else self.last or None

    @property
    def waiting(self) -> int:
        """Unsent rows that are held back."""
        if self.paused or self.held_for:
            return self.unsent
        return self.unsent - self.rows[State.UNSENT] if self.last else 0

    @property
    def running(self) -> bool:
        """Whether rows wait for the end of the canary."""
        closed = self.paused or self.held_for
        return not closed and self.waiting + self.doubtful > 0 and self._done + self.strange < self._size

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

    @property
    def unrendered(self) -> str | None:
        """A sentence about rows that are not sent because only another home has rendered them."""
        if not self.elsewhere:
            return None
        were = "was" if self.elsewhere == 1 else "were"
        return f"{counted(self.elsewhere, 'rows')} {were} not rendered in this home, and cannot be sent from here"

    def reason(self, causes: str) -> str:
        """Return the sentence that says why rows are held back until `Batch.resume` is called.

        Parameters
        ----------
        causes : str
            Why rows failed; empty if none did.
        """
        if self.held_for:
            rows, are = counted(self.waiting, "rows"), "it is" if self.waiting == 1 else "they are"
            return f"{rows} may have been sent by {self.held_for}, and neither log nor results tell: {are} not sent"
        failed = f"failed ({causes})" if causes else "failed"
        rest = f"{counted(self.waiting, 'rows')} {'is' if self.waiting == 1 else 'are'} not sent"
        if self.paused:
            limit = self.pause_at or 0
            allowed = f"more than {100 * limit:.6g} %" if limit < 1 else f"pause_at={limit:.0f}"
            doubt = f"; {counted(self.doubtful, 'rows')} may have been sent" if self.doubtful else ""
            return f"paused: {self.paused[0]:,} of {self.paused[1]:,} rows {failed}, {allowed}: the other {rest}{doubt}"
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
        limit = math.inf if self.pause_at is None else self.pause_at
        many = failed >= limit if limit >= 1 else ended >= _LEAST_ENDED and failed > limit * ended
        if many and not self.paused and counts[State.UNSENT] + self.doubtful:
            gate = replace(gate, paused=(failed, ended))
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

    Raises
    ------
    BatchNotFoundError
        If it was deleted.
    """
    record = outbox.batches.get(batch)
    return (
        _change(outbox, batch, lambda _record, _gate, stored: stored)
        if _limited(record)
        else (record, _open(outbox, record))
    )


def gate_of(outbox: Outbox, record: BatchRecord) -> Gate:
    """Return the gate of a batch, and store nothing."""
    return _decide(outbox, record)[1] if _limited(record) else _open(outbox, record)


def lift_gate(outbox: Outbox, batch: str) -> None:
    """Have all rows sent, whatever became of the canary, and count failures anew.

    The canary of a batch that no process sends goes on: its process was killed.
    """
    outbox.batches.change(batch, lambda facts: replace(facts, held_for="") if facts.held_for else facts)
    sending = outbox.requests.has_sender(batch)

    def lift(record: BatchRecord, gate: Gate, stored: StoredGate) -> StoredGate:
        opened = replace(stored, last=0) if gate.last and (not gate.running or sending) else stored
        return _anew(opened, record.counts) if gate.paused else opened

    _change(outbox, batch, lift)


def _limited(record: BatchRecord) -> bool:
    return any(record.facts.options.get(name) is not None for name in ("canary", "pause_at"))


def _open(outbox: Outbox, record: BatchRecord) -> Gate:
    held_for, elsewhere = record.facts.held_for or "", _elsewhere(outbox, record)
    unsent, doubtful, rate = record.counts[State.UNSENT], record.doubtful, record.facts.options.get("send_rate")
    return Gate(held_for=held_for, unsent=unsent, elsewhere=elsewhere, doubtful=doubtful, send_rate=rate)


def _elsewhere(outbox: Outbox, record: BatchRecord) -> int:
    return outbox.rows.elsewhere(record.id) if record.facts.foreign_rows else 0


def _change(
    outbox: Outbox, batch: str, change: Callable[[BatchRecord, Gate, StoredGate], StoredGate]
) -> tuple[BatchRecord, Gate]:
    """Decide by the rows of a batch, and store the gate with some changes; return both as they were decided."""
    decided = list[tuple[BatchRecord, Gate]]()

    def decide(facts: BatchFacts) -> BatchFacts:
        record = outbox.batches.get(batch)
        stored, gate = _decide(outbox, record)
        decided.append((record, gate))
        return replace(facts, gate=change(record, gate, stored))

    outbox.batches.change(batch, decide)
    return decided[0]


def _decide(outbox: Outbox, record: BatchRecord) -> tuple[StoredGate, Gate]:
    """Return what is to be stored of the gate of a batch, and the gate."""
    stored = record.facts.gate
    canary, pause_at = record.facts.options.get("canary"), share_of(record.facts.options.get("pause_at"))
    if canary is not None and canary != stored.canary:
        share = share_of(canary) or 0
        count = math.ceil(round(share * record.total, 6)) if share < 1 else int(share)
        stored = replace(stored, canary=canary, last=outbox.rows.last_of_first(record.id, count))
    if record.round != stored.round:
        stored = _anew(replace(stored, round=record.round), record.counts)
    last = 0 if canary is None else stored.last
    rows, strange = outbox.rows.counts_until(record.id, last)
    gate = Gate(
        held_for=record.facts.held_for or "",
        last=last,
        rows=rows,
        strange=strange,
        unsent=record.counts[State.UNSENT],
        elsewhere=_elsewhere(outbox, record),
        doubtful=record.doubtful,
        pause_at=pause_at,
        paused=None if pause_at is None else stored.paused,
        failed=stored.failed,
        ended=stored.ended,
        send_rate=record.facts.options.get("send_rate"),
    ).after(record.counts)
    return replace(stored, last=gate.last if last else stored.last, paused=gate.paused or stored.paused), gate


def _anew(stored: StoredGate, counts: Mapping[State, int]) -> StoredGate:
    """Return what is stored when failures begin to count."""
    return replace(stored, failed=counts[State.FAILED], ended=_ended(counts), paused=None)


def _ended(counts: Mapping[State, int]) -> int:
    return sum(counts[state] for state in BY_ATTEMPT)


_DIGITS = 16  # of the time with which the name of a cancel begins, so that later ones come behind
_EVERY = 2.0  # seconds between two looks into the store
_PATIENCE = 5.0  # seconds for which a cancel waits for the store
_A_SECOND = 100_000  # rows of a part whose keys are stored in a second


class Cancels:
    """The cancels of one batch in the store of a connection."""

    def __init__(self, outbox: Outbox, store: Store, batch: str) -> None:
        self._outbox, self._store, self._batch = outbox, store, batch
        self._sharing = Sharing(outbox, store)
        self.shared = self._sharing.active
        self._last: Dated | None = None  # what told last that there are new cancels
        self.name = secrets.token_hex(4)  #: by which a wish of this connection is known

    def wished(self, earlier: Cancel | None, rows: Scope, at: int, *, own: bool = True) -> Cancel:
        """Return the cancel of a batch with one more wish: to cancel all rows, or those of an input.

        Parameters
        ----------
        at : int
            When it was wished, microseconds since 1970.
        own : bool
            Whether it is of this home, which also deletes tasks.
        """
        made = Cancel(at=at, by=self.name, remote=earlier is not None and earlier.remote)
        if rows.input and (earlier is None or earlier.parts):
            others = (one for one in (earlier.parts if earlier else ()) if one[0] != rows.input)
            part = (rows.input, rows.rows, self.name_of(made, rows) if own else None)
            return replace(made, parts=(*others, part))
        return made if own else replace(made, remote=True)

    def name_of(self, wish: Cancel, rows: Scope) -> str:
        """Return the name by which the store knows a wish of this home; later ones come behind it."""
        name = f"{wish.at:0{_DIGITS}x}-{wish.by}"
        return f"{name}-{rows.input}" if rows.input else name

    async def tell(self, name: str, rows: Scope) -> None:
        """Tell other homes of a wish to cancel the batch, or rows of it, unless they know it; say so if that fails."""
        seconds = _PATIENCE + rows.rows / _A_SECOND
        try:
            await answer_of(self._store, seconds, self._tell, name, rows)
        except StoreError as error:
            notify(f"other homes do not know that batch {self._batch} is cancelled: {error.message}")

    async def take(self) -> bool:
        """Wish here what other homes have wished; return whether something is new.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        lines = await _loop.to_thread(self._take) if self.shared else []
        for line in lines:
            notify(line)
        return bool(lines)

    async def follow(self, has_ended: Callable[[], bool], changed: Callable[[], None]) -> None:
        """Take up what other homes wish until the batch has ended; call `changed` each time."""
        while not has_ended():
            await asyncio.sleep(_EVERY)
            with suppress(BatchNotFoundError, StoreError):
                if await self.take():
                    changed()

    def finish(self, at: int) -> None:
        """Wish here what a home has cancelled that ended before it had deleted all tasks."""
        if refs := sorted(self._outbox.rows.being_deleted(self._batch)):
            rows = self._outbox.rows.add_input(self._batch, secrets.token_bytes(8), refs)
            change = self._outbox.batches.change
            change(self._batch, lambda facts: replace(facts, cancel=self.wished(facts.cancel, rows, at)))

    async def share_again(self) -> None:
        """Write the batch to the store if another home has deleted it there."""
        await _loop.to_thread(partial(self._sharing.publish, self._batch, again=True))

    def _tell(self, name: str, rows: Scope) -> None:
        if not self.shared or name in self._outbox.batches.facts(self._batch).cancels_known:
            return
        part = rows.input > 0
        keys = self._outbox.rows.keys(rows) if part else ()
        told: dict[str, Any] = {"who": user(), "part": part}
        if not part:  # rows that are added later are not meant
            self._sharing.update(self._batch)
            told["blocks"] = self._sharing.blocks(self._batch)
        put_cancel(self._store, self._batch, name, orjson.dumps(told), keys)
        who = None if part else user()
        self._outbox.batches.change(self._batch, lambda facts: _known(facts, name, who))

    def _take(self) -> list[str]:
        """Store new wishes of other homes; return what they are, a sentence each."""
        lines, last = list[str](), last_cancel(self._store, self._batch)
        if last == self._last:
            return lines
        known = self._outbox.batches.facts(self._batch).cancels_known
        for name, data in new_cancels(self._store, self._batch, known):
            try:
                found = orjson.loads(data)
                at, who, part = int(name[:_DIGITS], 16), str(found["who"]), bool(found["part"])
                blocks = None if part else [str(block) for block in found["blocks"]]
            except (KeyError, TypeError, ValueError):  # it is damaged
                continue
            self._sharing.update(self._batch)  # rows that others have added before are cancelled too
            rows = self._rows(name) if blocks is None else self._rows_of(name, blocks)
            before, _ = self._outbox.batches.change(self._batch, partial(self._with_cancel, name, at, who, rows))
            if name not in before.cancels_known and (rows.rows or not rows.input):
                some = f"{counted(rows.rows, 'rows')} of " if rows.input else ""
                lines.append(f"{who} has cancelled {some}batch {self._batch}: nothing more of that is sent from here")
        self._last = last
        return lines

    def _rows(self, name: str) -> Scope:
        """Return the rows of a part that another home has cancelled, which may have added them."""
        refs, stored = Refs(), self._outbox.rows
        for keys in read_cancelled(self._store, self._batch, name):
            for ref in stored.with_keys(self._batch, keys):
                refs.add(ref)
        return stored.add_input(self._batch, name.encode(), refs)

    def _rows_of(self, name: str, blocks: Sequence[str]) -> Scope:
        """Return the rows of a batch that had these blocks when another home cancelled it."""
        stored, later = self._outbox.rows, Refs()
        with suppress(OutboxError):  # what is damaged is not here either
            for keys in self._sharing.added(self._batch, blocks):
                for ref in stored.with_keys(self._batch, keys):
                    later.add(ref)
        if not later:
            return whole(self._batch)
        refs = (ref for ref in stored.matching(whole(self._batch), RowFilter()) if not later.has(ref))
        return stored.add_input(self._batch, name.encode(), refs)

    def _with_cancel(self, name: str, at: int, who: str, rows: Scope, facts: BatchFacts) -> BatchFacts:
        """Return the facts with a wish of another home."""
        if name in facts.cancels_known:
            return facts
        number = None if rows.input else self._outbox.batches.get(self._batch).round
        known = _known(facts, name, None if rows.input else who, number)
        if facts.cancels_all or (rows.input and not rows.rows):
            return known  # the wish of this home stays, as it also deletes tasks; or there is nothing to cancel
        return replace(known, cancel=self.wished(facts.cancel, rows, at, own=False))


def _known(facts: BatchFacts, name: str, who: str | None, number: int | None = None) -> BatchFacts:
    """Return the facts with one more cancel that is known; of all rows with who wished it, of others in which round."""
    known = replace(facts, cancels_known=(*facts.cancels_known, name))
    return known if who is None else replace(known, cancelled_by=who, cancelled_in=number)


def cancelled_by(record: BatchRecord) -> str | None:
    """Return who has cancelled a batch in another home and deletes its tasks; None if rows were sent since."""
    return record.facts.cancelled_by if record.facts.cancelled_in == record.round else None
