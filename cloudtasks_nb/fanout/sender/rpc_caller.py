"""Call RPCs with retries, and limit the calls in flight."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cloudtasks_nb.errors import CloudTasksError, EndpointError, UnavailableError
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.sender.pace import Concurrency, backoff
from cloudtasks_nb.service.status import RETRIED, RETRIED_SOME

__all__ = ["RawClient", "Reply", "RpcCaller", "SendObserver", "StopSignal", "Stopped"]

_SOME_TRIES = 8  # most tries after codes that may mean a permanent fault

_RNG = random.Random()  # noqa: S311 - jitter is no secret


class RawClient(Protocol):
    """The part of a connection that a sender uses."""

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

    def refused(self, rpc: str, status: Any, /) -> CloudTasksError:
        """Return the error for a raw ``google.rpc.Status`` in an answer."""


class SendObserver(Protocol):
    """Receives the reports of a sender, and answers its questions."""

    def send_until(self) -> int | None:
        """Return the last ref whose row may be sent now; None: all rows, 0: none, so that the sending ends."""

    def rows_sent(self, count: int) -> None:
        """Note that `count` more rows are sent, and stored as sent."""

    def will_retry(self, error: CloudTasksError) -> None:
        """Note an error after which the sender tries again."""

    def other_sender(self, owner: Mapping[str, Any] | None) -> None:
        """Note the owner of another sender that this one waits for; None: this one sends."""

    def is_temporary(self, error: CloudTasksError) -> bool:
        """Return whether to retry after an error that would end the sending, as for a queue just created."""

    async def were_created(self, tasks: Sequence[str], since: float) -> Mapping[str, bool | None]:
        """Return whether tasks that are not in the queue were created; None, or left out: not known.

        They may have been created since a time, in seconds since 1970.
        """


class Stopped(Exception):  # noqa: N818 - not an error: the stop signal was set
    """The sending ends; calls in flight are not waited for."""


class StopSignal:
    """Signals the end of a sending: no new call begins, and every wait ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self.error: CloudTasksError | None = None  #: the first reason

    @property
    def is_set(self) -> bool:
        """Whether the sending ends."""
        return self._event.is_set()

    def set(self, error: CloudTasksError) -> None:
        """End the sending."""
        self.error = self.error or error
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds.

        Raises
        ------
        Stopped
            As soon as the sending ends.
        """
        waits = {asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._event.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.is_set:
            raise Stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The result of a call."""

    data: bytes | None = None  #: the answer
    error: CloudTasksError | None = None  #: why there is no answer; if both are None, the call was not wanted any more
    unclear: bool = False  #: an earlier try got no answer, so it may have been executed


class RpcCaller:
    """Makes concurrent calls with a common limit and backoff.

    Parameters
    ----------
    ceiling : int
        The most calls in flight.
    """

    def __init__(self, client: RawClient, stop: StopSignal, observer: SendObserver, *, ceiling: int) -> None:
        self.concurrency = Concurrency(ceiling, start=max(2, ceiling // 4))
        self._client = client
        self._stop = stop
        self._observer = observer
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._pauses = backoff(_RNG)

    async def call(self, rpc: str, request: bytes, wanted: Callable[[bool], Awaitable[bool]]) -> Reply:
        """Call until the service answers; if nothing answers at the endpoint, end the sending.

        Parameters
        ----------
        wanted : coroutine function
            Called before each try, with True if the result of an earlier one is unclear. If it returns False, or if
            the sending ends, the call ends without an answer.

        Raises
        ------
        Stopped
            If the sending ends between two tries.
        """
        unclear, tries = False, 0
        pauses = backoff(_RNG)
        while True:
            await self._enter()
            try:
                if self._stop.is_set or not await wanted(unclear):
                    return Reply(unclear=unclear)
                epoch = self.concurrency.epoch
                data = await self._client.raw(rpc, request)
            except EndpointError as error:
                # Nothing was sent. Retrying here would block other senders, which may have a working address.
                self._observer.will_retry(error)
                self._stop.set(error)
                return Reply(unclear=unclear)
            except CloudTasksError as error:
                tries += 1
                if not self._retries(error, tries):
                    return Reply(error=error, unclear=unclear)
                unclear = unclear or not (error.code == "RESOURCE_EXHAUSTED" or self._observer.is_temporary(error))
                self.concurrency.failed(epoch)
                self._observer.will_retry(error)
            else:
                self.concurrency.succeeded()
                return Reply(data=data, unclear=unclear)
            finally:
                self._leave()
            await self._stop.sleep(next(pauses))

    async def back_off(self, error: CloudTasksError) -> None:
        """Wait after an answer with a temporary error; longer each time, until `reset_backoff`."""
        self.concurrency.failed(self.concurrency.epoch)
        self._observer.will_retry(error)
        await self._stop.sleep(next(self._pauses))

    def reset_backoff(self) -> None:
        """Note an answer without a temporary error."""
        self._pauses = backoff(_RNG)

    def _retries(self, error: CloudTasksError, tries: int) -> bool:
        if error.code in RETRIED_SOME:
            return tries < _SOME_TRIES
        return error.code in RETRIED or isinstance(error, UnavailableError) or self._observer.is_temporary(error)

    async def _enter(self) -> None:
        """Wait until one more call may be in flight."""
        while self._busy >= self.concurrency.limit:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
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
        while self._waiting and free > 0:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1
