"""One home owns a batch in a store that several homes share: only it sends, adds, retries, cancels and deletes rows.

The store has objects 1, 2, …; the home that has created the highest one owns the batch. It may send while its lease is
valid, which it renews by writing its object. The lease is much shorter than the time after which another home may go
on, so that no two homes send at the same time, whatever stops, sleeps or answers late.

Nothing here knows a store, an outbox or a clock: they are handed in, so that a test can interleave every step.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Protocol

import orjson

from cloudtasks_nb.errors import PreconditionError, StoreError

__all__ = ["BEAT", "PEEK", "Home", "Identity", "Look", "Objects", "Owner", "Ownership", "Purpose", "Seen"]

BEAT = 10.0  #: seconds between two renewals of a lease
PEEK = 2.0  #: seconds between two looks for an owner that has come after
_LEASE = 45.0  # seconds for which a lease is valid, from the begin of the write
_GONE = 120.0  # seconds without a write after which an owner is gone; more than a lease and the deadline of a request
_LOOK = 60.0  # seconds for which what was read may be used to take a number
_RECENT = 900.0  # seconds without a write, by a listing that may be old, after which an owner is surely gone
_KEPT = 31 * 24 * 3600.0  # seconds for which an object says that the batch was deleted; the log is kept as long
_TRIES = 8  # tries to take a number before the store counts as unusable


class Purpose(StrEnum):
    """Why a home has taken a batch."""

    SENDS = "sends"
    CANCELS = "cancels"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What an object says of an owner."""

    home: str  #: the random id of a home
    token: str  #: by which a home knows what it has written; each write has a new one
    person: str  #: as user@host, for people
    purpose: Purpose
    ended: bool = False  #: it sends nothing any more

    def pack(self) -> bytes:
        """Return it as the content of an object."""
        return orjson.dumps(asdict(self))

    @classmethod
    def unpack(cls, data: bytes) -> Owner:
        """Read what `pack` returned; what is damaged, or written in part, is an owner that has not ended."""
        try:
            found = orjson.loads(data)
            texts = {name: str(found[name]) for name in ("home", "token", "person")}
            return cls(**texts, purpose=Purpose(found["purpose"]), ended=found["ended"] is True)
        except (ValueError, KeyError, TypeError):
            return cls(home="", token="", person="another home", purpose=Purpose.SENDS)


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was read."""

    owner: Owner
    modified: float  #: seconds by the clock of the store


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a home is, as its outbox says."""

    id: str
    person: str
    tokens: tuple[str, ...]  #: the last one that it has written for this batch, and the one that it was about to write


class Home(Protocol):
    """What the outbox has of this home."""

    async def identity(self) -> Identity:
        """Return who this home is."""

    async def remember(self, *tokens: str) -> None:
        """Store the tokens that this home may have written for the batch."""

    async def succeed(self, other: Seen) -> None:
        """Store that another home has owned the batch: what that has sent is found out before a row is sent."""

    async def become_another(self) -> None:
        """Take a new id: the outbox is a copy of another home's, or an old backup."""


class Objects(Protocol):
    """The objects of one batch in the store; all methods raise StoreError while it does not answer."""

    async def numbers(self) -> Mapping[int, float]:
        """Return the numbers that were taken, and when each object was modified."""

    async def read(self, number: int) -> Seen | None:
        """Return an object; None if there is none."""

    async def create(self, number: int, owner: Owner) -> object:
        """Write an object unless there is one."""

    async def write(self, number: int, owner: Owner) -> None:
        """Write an object."""

    async def now(self) -> float:
        """Return the time by the clock of the store, by an object that is written."""

    async def delete(self, numbers: Collection[int]) -> None:
        """Delete objects."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was read of the owners of a batch."""

    at: float  #: when the reading began, by the clock that counts sleep
    numbers: Mapping[int, float]  #: with the times of their modification
    newest: Seen | None  #: the object with the highest number

    @property
    def highest(self) -> int:
        """The number of the owner; 0: there was never one."""
        return max(self.numbers, default=0)


class Ownership:
    """What one process does to own a batch, and how long it may send.

    The process holds the lock of the sender meanwhile, so that there is one for each home.

    Parameters
    ----------
    objects : Objects
    home : Home
    clock : callable
        Returns seconds by a clock that counts sleep.
    sleep : coroutine function
        Waits for some seconds.
    """

    number = 0  #: the number that this process has taken; 0: none
    previous: Owner | None = None  #: who had the number before: a cancel of theirs that has not ended is to be finished

    _token = _next = ""  # what was written last, and what was about to be written
    _purpose = Purpose.SENDS
    _until = -math.inf  # when the lease runs out
    _earlier: tuple[int, ...] = ()  # numbers whose owners may still send
    _taken = 0.0  # when it was known that the number is this home's
    _modified = 0.0  # when the object was created, by the clock of the store
    _settled = False  # no earlier owner can send

    def __init__(
        self, objects: Objects, home: Home, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        self._objects, self._home = objects, home
        self._clock, self._sleep = clock, sleep

    @property
    def holds(self) -> bool:
        """Whether the lease of this process is valid."""
        return self._clock() < self._until

    @property
    def may_send(self) -> bool:
        """Whether a request may be handed to the transport at this moment."""
        return self._settled and self.holds

    @property
    def waits(self) -> float:
        """The most seconds until earlier owners cannot send any more; 0: they cannot."""
        return 0.0 if self._settled else max(0.0, self._taken + _GONE - self._clock())

    async def look(self) -> Look:
        """Read who owns the batch, and write nothing."""
        at = self._clock()
        numbers = await self._objects.numbers()
        return Look(at, numbers, await self._objects.read(max(numbers)) if numbers else None)

    async def until_free(self, stop: Callable[[], bool], see: Callable[[Seen], Awaitable[None]]) -> None:
        """Follow another owner until it has ended, or has not written for long; write nothing.

        Parameters
        ----------
        stop : callable
            Returns whether to return at once.
        see : callable
            Called with each owner that is seen.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        last, since = (0, 0.0), self._clock()
        while not stop():
            found = await self.look()
            if found.newest is None or found.newest.owner.ended:
                return
            await see(found.newest)
            if (now := (found.highest, found.newest.modified)) != last:
                last, since = now, self._clock()
            if self._clock() - since > _GONE:
                return
            await self._sleep(PEEK)

    async def living(self, look: Look) -> PreconditionError | None:
        """Return that another home owns the batch and lives, by what was read a moment ago; None if none does.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        newest = None if self.holds else look.newest
        return None if newest is None or await self._is_ours(newest) else await self._refusal(newest)

    async def take(self, purpose: Purpose, *, over: bool = False, look: Look | None = None) -> None:
        """Take the next number, and with it the batch; `settle` tells when earlier owners cannot send any more.

        Parameters
        ----------
        over : bool
            Also if the owner of the batch lives.
        look : Look, optional
            What `look` has returned a moment ago; None: it is read now.

        Raises
        ------
        PreconditionError
            If another home owns the batch and lives.
        StoreError
            If the store does not answer, or not in time.
        """
        self.stop()
        for _ in range(_TRIES):
            found = look or await self.look()
            look = None
            if found.highest and found.newest is None:
                continue  # it was deleted since it was listed
            ours = await self._is_ours(found.newest)
            if found.newest and not (ours or over) and (refusal := await self._refusal(found.newest)):
                raise refusal
            if await self._create(found, purpose, ours=ours):
                return
        raise StoreError("the owner of the batch cannot be stored: the store answers late, or others write it too")

    async def settle(self) -> None:
        """Wait until every earlier owner has ended or is gone, or 120 s have passed since this one came."""
        until = self._taken + _GONE
        for number in self._earlier:
            while self._clock() < until and not await self._is_over(number):
                await self._sleep(PEEK)
        self._settled = True

    async def beat(self) -> None:
        """Renew the lease, unless it has run out, the object is not this process's any more, or a later one exists.

        Raises
        ------
        StoreError
            If the store does not answer; the lease stays as long as it was.
        """
        if not (self.holds and await self._is_owner()):
            self.stop()
            return
        # After a write without an answer it is the same, as that may be carried out later.
        self._next = token = self._next or secrets.token_hex(16)
        await self._home.remember(self._token, token)
        owner, begun = await self._owner(token, self._purpose), self._clock()
        await self._objects.write(self.number, owner)
        self._token, self._next = token, ""
        later = await self._objects.read(self.number + 1)
        if later is not None or not self.holds:  # a lease that has run out meanwhile is not renewed either
            self.stop()
            return
        self._until = begun + _LEASE

    async def peek(self) -> None:
        """End the lease if another home has taken the batch."""
        if self.holds and await self._objects.read(self.number + 1) is not None:
            self.stop()

    def stop(self) -> None:
        """End the lease: no request is handed out from now on."""
        self._until = -math.inf

    async def end(self) -> None:
        """Tell other homes that this one sends no more, after the answers to its requests have come.

        Raises
        ------
        StoreError
            If the store does not answer; other homes then wait until this one is gone.
        """
        self.stop()
        if self.number:
            owner = await self._owner(self._token, self._purpose)
            await self._objects.write(self.number, replace(owner, ended=True))

    async def clear(self) -> None:
        """Of a batch that was deleted, delete the objects of earlier owners, and after 31 days the last one too.

        A recent one stays, so that nobody creates its number by an old look.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        found = await self.look()
        if found.newest is None or found.newest.owner.purpose is not Purpose.DELETED:
            return
        now, kept = await self._objects.now(), {found.highest: _KEPT}
        await self._objects.delete([one for one, at in found.numbers.items() if now - at > kept.get(one, _RECENT)])

    async def _is_ours(self, seen: Seen | None) -> bool:
        """Return whether this home wrote an object; if another home with the same id did, take a new id."""
        if seen is None:
            return False
        identity = await self._home.identity()
        if seen.owner.token in identity.tokens:
            return True
        if seen.owner.home == identity.id:
            await self._home.become_another()
        return False

    async def _refusal(self, seen: Seen) -> PreconditionError | None:
        """Return that another owner lives; None if it has ended, or is gone."""
        age = math.inf if seen.owner.ended else await self._objects.now() - seen.modified
        if age > _GONE:
            return None
        text = f"{seen.owner.person} {seen.owner.purpose} this batch, seen {max(0, round(age))} s ago"
        return PreconditionError(text, hint="batch.take_over() continues it here")

    async def _create(self, look: Look, purpose: Purpose, *, ours: bool) -> bool:
        """Create the object after the newest one; return whether it is this home's, and its lease is valid."""
        number, token = look.highest + 1, secrets.token_hex(16)
        last = (look.newest.owner.token,) if ours and look.newest else ()
        await self._home.remember(*last, token)
        if look.newest and not ours:
            await self._home.succeed(look.newest)
        owner, begun = await self._owner(token, purpose), self._clock()
        if begun - look.at > _LOOK:
            return False
        failed: StoreError | None = None
        try:
            await self._objects.create(number, owner)
        except StoreError as error:  # whether it was written is read
            failed = error
        seen = await self._objects.read(number)
        if seen is None:
            raise failed or StoreError(f"the owner {number} of the batch is missing right after it was stored")
        if seen.owner.token != token:
            return False
        self.number, self._purpose, self._until = number, purpose, begun + _LEASE
        self._token, self._next = token, ""
        self._taken, self._modified = self._clock(), seen.modified
        self.previous = look.newest.owner if look.newest else None
        recent = [one for one in look.numbers if look.numbers[one] > seen.modified - _RECENT]
        self._earlier, self._settled = tuple(sorted(recent, reverse=True)), not recent
        return self.holds

    async def _is_over(self, number: int) -> bool:
        """Return whether an earlier owner cannot send any more.

        One of this home has ended with its process. Only a copy of the home could still go on, and would send the same
        rows; so a cancel waits for it too.
        """
        try:
            seen = await self._objects.read(number)
        except StoreError:
            return False
        if seen is None:
            return False
        own = seen.owner.home == (await self._home.identity()).id and self._purpose is not Purpose.CANCELS
        return own or seen.owner.ended or self._modified - seen.modified > _GONE

    async def _is_owner(self) -> bool:
        """Return whether the object is what this process wrote last."""
        seen = await self._objects.read(self.number)
        if not await self._is_ours(seen) or seen is None:
            return False
        self._token = seen.owner.token  # of two writes the one that was carried out
        return True

    async def _owner(self, token: str, purpose: Purpose) -> Owner:
        identity = await self._home.identity()
        return Owner(home=identity.id, token=token, person=identity.person, purpose=purpose)
