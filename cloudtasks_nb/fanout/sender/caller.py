"""Calls to the service that go on until there is an answer: how many at once, what is tried again, what is not."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cloudtasks_nb.errors import CloudTasksError, EndpointError, UnavailableError
from cloudtasks_nb.fanout.sender.pace import Concurrency, backoff
from cloudtasks_nb.service.status import RETRIED, RETRIED_SOME

__all__ = ["RawClient", "Reply", "RpcCaller", "StopSignal", "Stopped"]

_SOME_TRIES = 8

_RNG = random.Random()  # noqa: S311 - jitter is no secret


class RawClient(Protocol):
    """What a sender needs of a connection."""

    @property
    def google(self) -> bool:
        """Whether this is Google's own endpoint, where the ramp applies."""

    async def raw(self, rpc: str, request: bytes, /, *, timeout: float | None = 20.0) -> bytes:
        """Call an RPC once.

        Raises
        ------
        CloudTasksError
            With the canonical code as `code`.
        """


class Stopped(Exception):  # noqa: N818 - not an error: somebody has turned the stop
    """The sending ends; what is under way is left as it is."""


class StopSignal:
    """Ends a sending from within: nothing new begins, and nobody waits any more."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._event = asyncio.Event()
        self.error: CloudTasksError | None = None  #: why; the first reason counts

    @property
    def is_set(self) -> bool:
        """Whether the sending ends."""
        return self._event.is_set()

    def set(self, error: CloudTasksError) -> None:
        """End the sending."""
        self.error = self.error or error
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Wait.

        Raises
        ------
        Stopped
            As soon as the sending ends.
        """
        waits = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._event.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.is_set:
            raise Stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a call."""

    data: bytes | None = None  #: the answer
    error: CloudTasksError | None = None  #: or why there is none; neither: it was not to be tried any more
    unclear: bool = False  #: an earlier try got no answer, so it may have been carried out


class RpcCaller:
    """Makes one kind of call, many at once.

    Parameters
    ----------
    client : RawClient
    stop : StopSignal
    ceiling : int
        Calls in flight at most.
    on_trouble : callable
        Hears each error that is followed by another try.
    also_retry : callable
        Says of any other error whether it is to be tried again.
    """

    def __init__(
        self,
        client: RawClient,
        stop: StopSignal,
        *,
        ceiling: int,
        on_trouble: Callable[[CloudTasksError], None],
        also_retry: Callable[[CloudTasksError], bool],
    ) -> None:
        self.concurrency = Concurrency(ceiling, start=max(2, ceiling // 4))
        self._client = client
        self._stop = stop
        self._on_trouble = on_trouble
        self._also_retry = also_retry
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._rests = backoff(_RNG)

    async def call(self, rpc: str, request: bytes, go_on: Callable[[bool], bool]) -> Reply:
        """Call until there is an answer; where nothing answers at all, the sending ends.

        Parameters
        ----------
        go_on : callable
            Asked before each try, with whether an earlier one is unclear; if not, or if the sending ends, the call
            ends without an answer.

        Raises
        ------
        Stopped
            If the sending ends while it waits for another try.
        """
        unclear, tries = False, 0
        pauses = backoff(_RNG)
        while True:
            await self._enter()
            try:
                if self._stop.is_set or not go_on(unclear):
                    return Reply(unclear=unclear)
                epoch = self.concurrency.epoch
                data = await self._client.raw(rpc, request)
            except EndpointError as error:
                # Nothing was sent. Who keeps on trying keeps others from sending who may reach it by another address.
                self._on_trouble(error)
                self._stop.set(error)
                return Reply(unclear=unclear)
            except CloudTasksError as error:
                tries += 1
                if not self._again(error, tries):
                    return Reply(error=error, unclear=unclear)
                unclear = unclear or not (error.code == "RESOURCE_EXHAUSTED" or self._also_retry(error))
                self.concurrency.failed(epoch)
                self._on_trouble(error)
            else:
                self.concurrency.succeeded()
                return Reply(data=data, unclear=unclear)
            finally:
                self._leave()
            await self._stop.sleep(next(pauses))

    async def rest(self, error: CloudTasksError) -> None:
        """Wait after trouble that an answer told of; longer each time, until `rested`."""
        self.concurrency.failed(self.concurrency.epoch)
        self._on_trouble(error)
        await self._stop.sleep(next(self._rests))

    def rested(self) -> None:
        """Note that an answer told of no trouble."""
        self._rests = backoff(_RNG)

    def _again(self, error: CloudTasksError, tries: int) -> bool:
        if error.code in RETRIED_SOME:
            return tries < _SOME_TRIES
        return error.code in RETRIED or isinstance(error, UnavailableError) or self._also_retry(error)

    async def _enter(self) -> None:
        """Wait for a place among the calls in flight."""
        while self._busy >= self.concurrency.limit:
            place = asyncio.get_running_loop().create_future()
            self._queue.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done():
                    self._wake()
                raise
        self._busy += 1

    def _leave(self) -> None:
        self._busy -= 1
        self._wake()

    def _wake(self) -> None:
        free = self.concurrency.limit - self._busy
        while self._queue and free > 0:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1
