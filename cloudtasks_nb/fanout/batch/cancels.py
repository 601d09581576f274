"""Cancels of batches that homes share: the one that wishes it tells the store, and the others take it up from there.

What is taken up is a wish of this home to cancel the batch, but only the home that wished it first deletes tasks. Of a
part, the store has the keys of the rows: the input of one home is nothing that another one knows.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import orjson

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import user
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import BatchNotFoundError, StoreError
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.fanout.outbox.facts import BatchFacts, Cancel
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope, whole
from cloudtasks_nb.fanout.refs import Refs
from cloudtasks_nb.store.batches import new_cancels, put_cancel, read_cancelled
from cloudtasks_nb.store.store import Store, answer_of

__all__ = ["Cancels", "cancelled_by"]

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

    def _tell(self, name: str, rows: Scope) -> None:
        if not self.shared or name in self._outbox.batches.facts(self._batch).cancels_known:
            return
        part = rows.input > 0
        keys = self._outbox.rows.keys(rows) if part else ()
        put_cancel(self._store, self._batch, name, orjson.dumps({"who": user(), "part": part}), keys)
        who = None if part else user()
        self._outbox.batches.change(self._batch, lambda facts: _known(facts, name, who))

    def _take(self) -> list[str]:
        """Store new wishes of other homes; return what they are, a sentence each."""
        lines = list[str]()
        known = self._outbox.batches.facts(self._batch).cancels_known
        for name, data in new_cancels(self._store, self._batch, known):
            try:
                found = orjson.loads(data)
                at, who, part = int(name[:_DIGITS], 16), str(found["who"]), bool(found["part"])
            except (KeyError, TypeError, ValueError):  # it is damaged
                continue
            rows = self._rows(name) if part else whole(self._batch)
            before, _ = self._outbox.batches.change(self._batch, partial(self._with_cancel, name, at, who, rows))
            if name not in before.cancels_known and (rows.rows or not part):
                some = f"{counted(rows.rows, 'rows')} of " if part else ""
                lines.append(f"{who} has cancelled {some}batch {self._batch}: nothing more of that is sent from here")
        return lines

    def _rows(self, name: str) -> Scope:
        """Return the rows of a part that another home has cancelled, which may have added them."""
        self._sharing.update(self._batch)
        refs, stored = Refs(), self._outbox.rows
        for keys in read_cancelled(self._store, self._batch, name):
            for ref in stored.with_keys(self._batch, keys):
                refs.add(ref)
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
