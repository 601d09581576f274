"""Cancels of batches that homes share: the one that wishes it tells the store, and the others take it up from there.

What is taken up is a wish of this home to cancel the batch, but only the home that wished it first deletes tasks. Of a
part, the store has the keys of the rows: the input of one home is nothing that another one knows.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import user
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import BatchNotFoundError, StoreError
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope, whole
from cloudtasks_nb.fanout.outbox.requests import CANCELLING, INPUTS, cancels_all
from cloudtasks_nb.fanout.refs import Refs
from cloudtasks_nb.store.batches import new_cancels, put_cancel, read_cancelled
from cloudtasks_nb.store.store import Store, answer_of

__all__ = ["ELSEWHERE", "Cancels", "cancelled_by", "takes_up", "was_cancelled"]

#: The item of the setting `CANCELLING` that says that another home has cancelled all rows, and deletes the tasks.
ELSEWHERE = "elsewhere"

_DIGITS = 16  # of the time with which the name of a cancel begins, so that later ones come behind
_EVERY = 2.0  # seconds between two looks into the store
_PATIENCE = 5.0  # seconds for which a cancel waits for the store
_A_SECOND = 100_000  # rows of a part whose keys are stored in a second
#: Setting of a batch: the `names` of the cancels in the store that this home knows, `who` has wished the last one of
#: all rows, and the `round` of the batch then, if it was another home.
_KNOWN = "cancels"


class Cancels:
    """The cancels of one batch in the store of a connection."""

    def __init__(self, outbox: Outbox, store: Store, batch: str) -> None:
        self._outbox, self._store, self._batch = outbox, store, batch
        self._sharing = Sharing(outbox, store)
        self.shared = self._sharing.active
        self.name = secrets.token_hex(4)  #: by which a wish of this connection is known

    def wished(self, record: BatchRecord, rows: Scope, wish: Mapping[str, Any], *, own: bool = True) -> dict[str, Any]:
        """Return the setting `CANCELLING` of a batch with one more wish: to cancel all rows, or those of an input.

        Parameters
        ----------
        wish : mapping
            When it was wished (`at`), and by which connection.
        own : bool
            Whether it is of this home, which also deletes tasks.
        """
        stored = record.settings.get(CANCELLING, {INPUTS: []})
        made = {key: value for key, value in {**stored, **wish}.items() if key != INPUTS}
        if rows.input and INPUTS in stored:
            others = (one for one in stored[INPUTS] if one[0] != rows.input)
            made[INPUTS] = [*others, [rows.input, rows.rows, self.name_of(wish, rows) if own else None]]
        elif not own:
            made[ELSEWHERE] = True
        return made

    def name_of(self, wish: Mapping[str, Any], rows: Scope) -> str:
        """Return the name by which the store knows a wish of this home; later ones come behind it."""
        name = f"{wish['at']:0{_DIGITS}x}-{wish.get('by', self.name)}"
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
        if not self.shared or name in self._names():
            return
        part = rows.input > 0
        keys = self._outbox.rows.keys(rows) if part else ()
        put_cancel(self._store, self._batch, name, orjson.dumps({"who": user(), "part": part}), keys)
        last = {} if part else {"who": user()}
        self._outbox.batches.decide(self._batch, lambda record: ({_KNOWN: _known(record, name, last)}, None))

    def _take(self) -> list[str]:
        """Store new wishes of other homes; return what they are, a sentence each."""
        lines = list[str]()
        for name, data in new_cancels(self._store, self._batch, self._names()):
            try:
                found = orjson.loads(data)
                at, who, part = int(name[:_DIGITS], 16), str(found["who"]), bool(found["part"])
            except (KeyError, TypeError, ValueError):  # it is damaged
                continue
            rows = self._rows(name) if part else whole(self._batch)
            if self._outbox.batches.decide(self._batch, partial(self._decide, name, at, who, rows)):
                some = f"{counted(rows.rows, 'rows')} of " if part else ""
                lines.append(f"{who} has cancelled {some}batch {self._batch}: nothing more of that is sent from here")
        return lines

    def _names(self) -> list[str]:
        names: list[str] = self._outbox.batches.settings(self._batch).get(_KNOWN, {}).get("names", [])
        return names

    def _rows(self, name: str) -> Scope:
        """Return the rows of a part that another home has cancelled, which may have added them."""
        self._sharing.update(self._batch)
        refs, stored = Refs(), self._outbox.rows
        for keys in read_cancelled(self._store, self._batch, name):
            for ref in stored.with_keys(self._batch, keys):
                refs.add(ref)
        return stored.add_input(self._batch, name.encode(), refs)

    def _decide(self, name: str, at: int, who: str, rows: Scope, record: BatchRecord) -> tuple[Mapping[str, Any], bool]:
        """Return the settings with a wish of another home, and whether there is something to cancel that is new."""
        if name in record.settings.get(_KNOWN, {}).get("names", ()):
            return {}, False
        if rows.input:
            last, new = dict[str, Any](), rows.rows > 0
        else:
            last, new = {"who": who, "round": record.round}, True
        settings = {_KNOWN: _known(record, name, last)}
        if new and not cancels_all(record.settings):  # else the wish of this home stays: it also deletes tasks
            settings[CANCELLING] = self.wished(record, rows, {"at": at, "by": self.name}, own=False)
        return settings, new


def _known(record: BatchRecord, name: str, last: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of cancels with one more; `last` is about it, if it is of all rows."""
    known = record.settings.get(_KNOWN, {})
    return {**(last or known), "names": [*known.get("names", ()), name]}


def takes_up(settings: Mapping[str, Any]) -> bool:
    """Return whether what another home has cancelled is still to be cancelled here, by the settings of the batch."""
    wish = settings.get(CANCELLING, {})
    return ELSEWHERE in wish or any(name is None for *_, name in wish.get(INPUTS, ()))


def was_cancelled(record: BatchRecord) -> bool:
    """Return whether a cancel of all rows of a batch is known, of whatever home."""
    return "who" in record.settings.get(_KNOWN, {})


def cancelled_by(record: BatchRecord) -> str | None:
    """Return who has cancelled a batch in another home and deletes its tasks; None if rows were sent since."""
    known = record.settings.get(_KNOWN, {})
    return known["who"] if known.get("round") == record.round else None
