"""Cancels of batches that homes share: the one that wishes it tells the store, and the others take it up from there.

What is taken up is a wish of this home to cancel the batch, but only the home that wished it first deletes tasks.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from cloudtasks_nb._settings import user
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import BatchNotFoundError, StoreError
from cloudtasks_nb.fanout.batch.sharing import is_shared
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.outbox.requests import CANCELLING, cancels_all
from cloudtasks_nb.store.batches import put_cancel, read_cancel
from cloudtasks_nb.store.store import Store

__all__ = ["ELSEWHERE", "Cancels", "cancelled_by", "was_cancelled"]

#: The part of the setting `CANCELLING` that says who has cancelled the batch in another home.
ELSEWHERE = "elsewhere"

_EVERY = 2.0  # seconds between two looks into the store
_PATIENCE = 5.0  # seconds for which a cancel waits for the store
_KNOWN = "cancel"  # setting of a batch: the last cancel in the store that this home knows


class Cancels:
    """The cancels of one batch in the store of a connection."""

    def __init__(self, outbox: Outbox, store: Store, batch: str) -> None:
        self._outbox, self._store, self._batch = outbox, store, batch
        self.shared = is_shared(outbox, store)
        self.name = secrets.token_hex(4)  #: by which a wish of this connection is known

    async def tell(self, wish: Mapping[str, Any]) -> None:
        """Tell other homes of a wish to cancel the batch, unless they know it; say so if that fails."""
        reason = "the store did not answer"
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.to_thread(self._tell, wish)
        except (StoreError, TimeoutError) as error:
            reason = error.message if isinstance(error, StoreError) else reason
            notify(f"other homes do not know that batch {self._batch} is cancelled: {reason}")

    async def take(self) -> bool:
        """Wish here what another home has wished; return whether that is new.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        who = await asyncio.to_thread(self._take) if self.shared else None
        if who is not None:
            notify(f"batch {self._batch} was cancelled by {who}: nothing more of it is sent from here")
        return who is not None

    async def follow(self, has_ended: Callable[[], bool], changed: Callable[[], None]) -> None:
        """Take up what other homes wish until the batch has ended; call `changed` each time."""
        while not has_ended():
            await asyncio.sleep(_EVERY)
            with suppress(BatchNotFoundError, StoreError):
                if await self.take():
                    changed()

    def _tell(self, wish: Mapping[str, Any]) -> None:
        told = {"at": wish.get("at", 0), "by": wish.get("by"), "who": user()}
        if self.shared and self._outbox.batches.settings(self._batch).get(_KNOWN) != told:
            put_cancel(self._store, self._batch, orjson.dumps(told))
            self._outbox.batches.set_setting(self._batch, _KNOWN, told)

    def _take(self) -> str | None:
        """Store a new wish of another home; return whose it is."""
        try:
            found = orjson.loads(read_cancel(self._store, self._batch) or b"")
            at, by, who = int(found["at"]), found["by"], str(found["who"])
        except (KeyError, TypeError, ValueError):  # there is none, or it is damaged
            return None

        def decide(record: BatchRecord) -> tuple[Mapping[str, Any], str | None]:
            known = record.settings.get(_KNOWN, {})
            if (known.get("at"), known.get("by")) == (at, by):
                return {}, None
            told = {"at": at, "by": by, "who": who, "round": record.round}
            # A wish of this home for all rows stays: it also deletes tasks.
            own = cancels_all(record.settings)
            wish = record.settings[CANCELLING] if own else {"at": at, "by": self.name, ELSEWHERE: who}
            return {_KNOWN: told, CANCELLING: wish}, who

        return self._outbox.batches.decide(self._batch, decide)


def was_cancelled(record: BatchRecord) -> bool:
    """Return whether a cancel of a batch is known, of whatever home."""
    return _KNOWN in record.settings


def cancelled_by(record: BatchRecord) -> str | None:
    """Return who has cancelled a batch in another home and deletes its tasks; None if rows were sent since."""
    known = record.settings.get(_KNOWN, {})
    return known["who"] if known.get("round") == record.round else None
