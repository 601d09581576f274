"""Own a batch in a shared store while this process sends it: `ownership` with a store, an outbox and a clock."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Self

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import user
from cloudtasks_nb.errors import CloudTasksError, PreconditionError, StoreError
from cloudtasks_nb.fanout.clock import seconds_since_boot
from cloudtasks_nb.fanout.outbox.database import Hold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.store.batches import delete_batch
from cloudtasks_nb.store.owners import OwnerObjects, ThreadedObjects, probe
from cloudtasks_nb.store.ownership import BEAT, PEEK, Identity, Look, Owner, Ownership, Purpose, Seen
from cloudtasks_nb.store.store import Store

__all__ = ["BatchOwner", "probe_once"]

_LOCK_POLL = 0.2  # seconds between two checks whether a sender of this home has ended
_LAST = 5.0  # seconds in which the end is told

#: The stores that homes of this process have written to: of each, where the outbox is, and the place.
_probed: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class _Home:
    """What the outbox has of this home."""

    outbox: Outbox
    batch: str
    person: str

    async def identity(self) -> Identity:
        return await self.outbox.run(self._identity)

    async def remember(self, *tokens: str) -> None:
        change = self.outbox.batches.change
        await self.outbox.run(change, self.batch, lambda facts: replace(facts, owner_tokens=tokens))

    async def succeed(self, other: Seen) -> None:
        change, value = self.outbox.batches.change, (other.owner.person, other.modified)
        await self.outbox.run(change, self.batch, lambda facts: replace(facts, owned_before=value))

    async def become_another(self) -> None:
        await self.outbox.run(self.outbox.home.renew)

    def _identity(self) -> Identity:
        known = self.outbox.batches.find(batch=self.batch)  # the batch may be in the store only
        tokens = known[0].facts.owner_tokens if known else ()
        return Identity(self.outbox.home.get(), self.person, tokens)


class BatchOwner:
    """Owns one batch while this process holds the lock of its sender, so that it may send.

    Parameters
    ----------
    changed : callable
        Called after each change.
    """

    sending = False  #: this process sends the batch, or waits to go on
    over = False  #: take the batch also from a home that lives, at the next time
    other: Owner | None = None  #: another home that owns the batch, as it was seen last
    looked: Look | None = None  #: what was read a moment ago of its owners
    text: str | None = None  #: who owned it when that was seen last, as `Status.owner` has it

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        batch: str,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox, self._store, self._batch, self._changed = outbox, store, batch, changed
        self._ownership = Ownership(
            ThreadedObjects(OwnerObjects(store, batch)), _Home(outbox, batch, user()), seconds_since_boot, asyncio.sleep
        )
        self._keeper: asyncio.Task[None] | None = None
        self._hold: Hold | None = None  # keeps other processes of this home from owning the batch
        self._used = False  # something in this process owns it, or is about to
        self._silent: tuple[dt.datetime, str] | None = None  # since when the store does not answer, and why

    def lock(self) -> Self | None:
        """Let nothing else in this home own the batch until `release`; None: something does."""
        if self._used:
            return None
        self._hold = self._hold or self._outbox.requests.lock(self._batch)
        self._used = self._hold is not None
        return self if self._used else None

    async def sends_here(self) -> bool:
        """Return whether a process of this home sends the batch as its owner."""
        if self.lock() is not None:
            self.release()
            return False
        with suppress(StoreError):  # else it may only try to own it
            await self.look()
            return self.text == "this home"
        return False

    def release(self) -> None:
        """Let others in this home own it, unless rows are held back."""
        self._used = False
        if self._keeper is None and self._hold is not None:
            self._hold.release()
            self._hold = None

    @property
    def owns(self) -> bool:
        """Whether this process owns the batch."""
        return self._ownership.holds

    @property
    def is_first(self) -> bool:
        """Whether no home has owned the batch before this process, so that no row was sent from the store."""
        return self._ownership.number == 1 or (self.looked is not None and not self.looked.highest)

    @property
    def previous(self) -> Owner | None:
        """Who has owned the batch before this process."""
        return self._ownership.previous

    @property
    def note(self) -> str | None:
        """A sentence about another home for which this one waits; None: it does not wait."""
        previous, seconds = self._ownership.previous, self._ownership.waits
        if self._keeper is not None and previous is not None and seconds:
            until = dt.datetime.now().astimezone() + dt.timedelta(seconds=seconds)
            return f"waits until {until:%H:%M} for {previous.person}, who may still send this batch"
        if self.other is None:
            return None
        if self.over:
            return f"this connection takes the batch over from {self.other.person}"
        return f"{self.other.person} {self.other.purpose} this batch; this connection continues when that stops"

    async def begin(self, purpose: Purpose = Purpose.SENDS) -> None:
        """Own the batch, and keep it until `end`; wait until no other home sends it. The caller has the lock.

        Raises
        ------
        PreconditionError
            If another home owns it, and lives.
        StoreError
            If the store does not answer.
        """
        if purpose is Purpose.SENDS and self._keeper is not None and self._ownership.may_send:
            return  # rows were held back
        await self.end()
        look, self.looked = self.looked, None
        with self._heard():
            await self._ownership.take(purpose, over=self.over or purpose is Purpose.CANCELS, look=look)
        self.over, self.other, self.text = False, None, "this home"
        self._keeper = asyncio.create_task(self._keep())
        self._changed()
        await self._ownership.settle()

    @asynccontextmanager
    async def own(self, purpose: Purpose) -> AsyncIterator[None]:
        """Own the batch inside the block, as `begin`; no process of this home sends it meanwhile."""
        announced = self._outbox.requests.announce_sender(self._batch)  # so that who holds rows back lets go
        try:
            await self._locked()
            try:
                await self.begin(purpose)
                yield
            finally:
                await self.end()
                self.release()
        finally:
            announced.release()

    async def leave(self) -> None:
        """End at the end of this process: other homes are told if all requests are answered soon."""
        try:
            async with asyncio.timeout(_LAST):
                await self._locked()
                await self.end()
        except TimeoutError:
            self._ownership.stop()
            if self._keeper is not None:
                self._keeper.cancel()
                self._keeper = None
        self.release()

    async def _locked(self) -> None:
        while self.lock() is None:  # noqa: ASYNC110 - of another process, too
            await asyncio.sleep(_LOCK_POLL)

    async def delete(self) -> None:
        """Delete the batch from the store; one object tells other homes so.

        Raises
        ------
        PreconditionError, StoreError
            As for `begin`.
        """
        async with self.own(Purpose.DELETED):
            await _loop.to_thread(delete_batch, self._store, self._batch)
            await self.clear()

    async def clear(self) -> None:
        """Delete what is left of a batch that was deleted, as soon as no home needs it.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        await self._ownership.clear()

    async def take_over(self) -> bool:
        """Take the batch at the next sending although another home lives; return whether one owns it.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        self.over = self.over or await self._ownership.living(await self._ownership.look()) is not None
        return self.over

    async def check_verb(self) -> None:
        """Refuse a verb that changes the batch while another home owns it and lives, or the store does not answer.

        Raises
        ------
        PreconditionError
            If so.
        """
        if refusal := await self.living():
            raise PreconditionError(refusal.message, resource=self._batch, hint=refusal.hint)

    async def living(self) -> PreconditionError | None:
        """Return that another home owns the batch and lives, unless it is taken over; None if none does.

        Raises
        ------
        PreconditionError
            If the store does not answer.
        """
        try:
            self.looked = look = await self._ownership.look()
            return None if self.over else await self._ownership.living(look)
        except StoreError as error:
            text = f"who owns batch {self._batch} is not known: {error.message}"
            raise PreconditionError(text, resource=self._store.url, hint=error.hint) from error

    def check(self) -> None:
        """Refuse to hand out a request, unless this process owns the batch at this moment.

        Raises
        ------
        StoreError
            If so.
        """
        if not self._ownership.may_send:
            raise self.silence or StoreError(
                f"sending waits: this home does not own batch {self._batch} any more; it goes on by itself",
                resource=self._store.url,
            )

    @property
    def silence(self) -> StoreError | None:
        """That the sending waits because the store does not answer; None: it does."""
        if self._silent is None:
            return None
        (since, why), place = self._silent, self._store.url
        text = f"sending waits: {place} has not answered since {since:%H:%M} ({why}); it goes on by itself"
        return StoreError(text, resource=place)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Note since when the store does not answer, by what the block asks it; a StoreError is raised all the same."""
        try:
            yield
        except StoreError as error:
            since = self._silent[0] if self._silent else dt.datetime.now().astimezone()
            self._silent = since, error.message
            raise
        self._silent = None

    async def end(self, *, held: bool = False) -> None:
        """Tell other homes that nothing more is sent from here; all requests are answered.

        With rows that are `held` back this home owns the batch until they are gone, or another process sends them.
        """
        if held and self._ownership.may_send:
            return
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._ownership.stop()
        if keeper is not asyncio.current_task():
            keeper.cancel()
            await asyncio.wait({keeper})
        with suppress(CloudTasksError, TimeoutError):
            async with asyncio.timeout(_LAST):
                await self._ownership.end()

    async def _keep(self) -> None:
        while True:
            for _ in range(round(BEAT / PEEK)):
                await asyncio.sleep(PEEK)
                with suppress(StoreError), self._heard():
                    await self._ownership.peek()
                if await self._outbox.run(self._is_unused) and self.lock():
                    await self.end()
                    self.release()
                    return
            with suppress(StoreError), self._heard():
                await self._ownership.beat()

    def _is_unused(self) -> bool:
        """Return whether no row is held back, another process of this home sends the batch, or another home owns it."""
        if self._used or (self.sending and self.owns):
            return False
        requests = self._outbox.requests
        return not self.owns or requests.has_sender(self._batch) or not requests.waiting(whole(self._batch))

    async def until_free(self, stop: Callable[[], bool]) -> None:
        """Follow another home that owns the batch until that has ended or is gone, or `over` is set.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        with self._heard():
            await self._ownership.until_free(lambda: self.over or stop(), self._see)

    async def look(self) -> Seen | None:
        """Return who owns the batch, as the store tells; None if there was never an owner.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        seen = (await self._ownership.look()).newest
        if seen is not None:
            await self._see(seen)
        return seen

    async def _see(self, seen: Seen) -> None:
        owner, before = seen.owner, self.text
        other = owner.home != await self._outbox.run(self._outbox.home.get)
        at = "" if owner.ended else f", seen {dt.datetime.fromtimestamp(seen.modified, dt.UTC):%H:%M:%S} UTC"
        self.text = f"{owner.person}{at}" if other else "this home"
        self.other = owner if other and not owner.ended else None
        if self.text != before:
            self._changed()


def probe_once(outbox: Outbox, store: Store) -> None:
    """Make sure, once in each process, that a home may write to a store and share it.

    Raises
    ------
    StoreError, PreconditionError
        As `probe` does.
    """
    key = str(outbox.path), store.url
    if key not in _probed:
        probe(store)
        _probed.add(key)
