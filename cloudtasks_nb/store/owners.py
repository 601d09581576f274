"""Who owns a batch, as objects ``batches/<batch>/owners/<number>``: the home with the highest number owns it.

Who writes them, and when, is decided by `store.ownership`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.store.ownership import Owner, Seen
from cloudtasks_nb.store.store import Dated, Store, answer_of

__all__ = ["OwnerObjects", "ThreadedObjects", "probe"]

_PATIENCE = 20.0  # seconds for a call of the store
_DIGITS = 6  # of a number, so that names sort

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnerObjects:
    """The objects that say who owns a batch. All methods raise `StoreError` if the store cannot be used."""

    store: Store
    batch: str

    def numbers(self) -> dict[int, float]:
        """Return the numbers that were taken, and when each object was modified, in seconds by the store's clock."""
        found = self.store.children(self._path("")).objects
        return {int(name): modified for name, modified in sorted(found.items()) if _is_number(name)}

    def read(self, number: int) -> Dated | None:
        """Return an object; None if there is none with this number."""
        return self.store.dated(self._path(_name(number)))

    def create(self, number: int, data: bytes) -> bool:
        """Write an object if there is none with this number; False may also mean that the answer was lost."""
        return self.store.exclusive(self._path(_name(number)), data)

    def write(self, number: int, data: bytes) -> None:
        """Write an object in place of the one with this number."""
        self.store.put(self._path(_name(number)), data)

    def now(self) -> float:
        """Return the time by the store's clock, in seconds: that of an object that is written beside the others."""
        path = self._path(f"clock-{secrets.token_hex(8)}")
        self.store.put(path, b"-")
        found = self.store.dated(path)
        self.store.delete([path])
        if found is None:
            raise StoreError(f"{path} is missing right after it was written", resource=self.store.url)
        return found.modified

    def delete(self, numbers: Iterable[int]) -> None:
        """Delete objects."""
        self.store.delete([self._path(_name(number)) for number in numbers])

    def _path(self, name: str) -> str:
        return f"batches/{self.batch}/owners/{name}"


@dataclass(frozen=True, slots=True)
class ThreadedObjects:
    """The objects of one batch as coroutines ask for them; each call runs in a thread, and ends."""

    objects: OwnerObjects

    async def numbers(self) -> dict[int, float]:
        """Return the numbers that were taken, and when each object was modified."""
        return await self._ask(self.objects.numbers)

    async def read(self, number: int) -> Seen | None:
        """Return what an object says; None if there is none with this number."""
        found = await self._ask(self.objects.read, number)
        return None if found is None else Seen(Owner.unpack(found.data), found.modified)

    async def create(self, number: int, owner: Owner) -> bool:
        """Write an object if there is none with this number."""
        return await self._ask(self.objects.create, number, owner.pack())

    async def write(self, number: int, owner: Owner) -> None:
        """Write an object in place of the one with this number."""
        await self._ask(self.objects.write, number, owner.pack())

    async def now(self) -> float:
        """Return the time by the store's clock, in seconds."""
        return await self._ask(self.objects.now)

    async def delete(self, numbers: Any) -> None:
        """Delete objects."""
        await self._ask(self.objects.delete, numbers)

    async def _ask(self, function: Callable[..., T], *args: Any) -> T:
        return await answer_of(self.objects.store, _PATIENCE, function, *args)


def probe(store: Store) -> None:
    """Make sure that a store can be shared, before this home writes to it for the first time.

    Raises
    ------
    StoreError
        If an object can be created twice: two homes would own one batch.
    PreconditionError
        If objects cannot be created.
    """
    path = f"probes/{secrets.token_hex(16)}"
    try:
        new, twice = store.exclusive(path, b"-"), store.exclusive(path, b"-")
        store.delete([path])
    except StoreError as error:
        raise PreconditionError(
            f"a batch needs an owner in the store, and that cannot be written: {error.message}",
            resource=store.url,
            hint=error.hint,
        ) from error
    if not new:
        raise PreconditionError(f"{store.url} says that {path} exists, which is new", resource=store.url)
    if twice:
        raise StoreError(
            f"{store.url} cannot be shared: it lets an object be created that exists, so two homes could own one batch",
            resource=store.url,
            hint="use a bucket, or a folder on a disk that creates files exclusively; a synchronised folder does not",
        )


def _name(number: int) -> str:
    return f"{number:0{_DIGITS}d}"


def _is_number(name: str) -> bool:
    return len(name) >= _DIGITS and name.isascii() and name.isdigit()
