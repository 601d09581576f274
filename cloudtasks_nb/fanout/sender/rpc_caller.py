"""Call RPCs of the service until there is an answer: limit the calls in flight, retry what may succeed later."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cloudtasks_nb.errors import CloudTasksError, EndpointError, UnavailableError
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.sender.pace import Concurrency, backoff
from cloudtasks_nb.service.status import RETRIED, RETRIED_SOME

__all__ = ["RawClient", "Reply", "RpcCaller", "SendObserver", "StopSignal", "Stopped"]

_SOME_TRIES = 8  # for codes that may stand for a fault that will not go away

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


class SendObserver(Protocol):
    """Receives what a sender reports, and answers what it cannot know."""

    def rows_sent(self, count: int) -> None:
        """Note that `count` more rows are sent; the outbox has stored it."""

    def will_retry(self, error: CloudTasksError) -> None:
        """Note an error after which the sender tries again."""

    def other_sender(self, owner: Mapping[str, Any] | None) -> None:
        """Note the owner of another sender that this one waits for; None: this one sends."""

    def is_temporary(self, error: CloudTasksError) -> bool:
        """Tell whether to retry after an error that would end the sending: a new queue is not known everywhere yet."""

    async def were_created(self, tasks: Sequence[str]) -> Mapping[str, bool | None]:
        """Tell of tasks that are not in the queue whether they ever were; None, or left out: not known."""


class Stopped(Exception):  # noqa: N818 - not an error: the stop signal was set
    """The sending ends; calls under way are left as they are."""


class StopSignal:
    """Ends a sending from within: nothing new begins, and every wait ends.

    Parameters
    ----------
    clock : Clock
    """

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
        """Wait.

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
    error: CloudTasksError | None = None  #: why there is none; neither: the call was no longer wanted
    unclear: bool = False  #: an earlier try got no answer, so it may have had its effect


class RpcCaller:
    """Makes calls of one kind, many at once.

    Parameters
    ----------
    client : RawClient
    stop : StopSignal
    observer : SendObserver
    ceiling : int
        Calls in flight at most.
    """

    def __init__(self, client: RawClient, stop: StopSignal, observer: SendObserver, *, ceiling: int) -> None:
        self.concurrency = Concurrency(ceiling, start=max(2, ceiling // 4))
        self._client = client
        self._stop = stop
        self._observer = observer
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._pauses = backoff(_RNG)

    async def call(self, rpc: str, request: bytes, wanted: Callable[[bool], bool]) -> Reply:
        """Call until there is an answer; where no server answers at all, the sending ends.

        Parameters
        ----------
        wanted : callable
            Called before each try, with whether an earlier one is unclear. If it returns False, or if the sending
            ends, the call ends without an answer.

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
                if self._stop.is_set or not wanted(unclear):
                    return Reply(unclear=unclear)
                epoch = self.concurrency.epoch
                data = await self._client.raw(rpc, request)
            except EndpointError as error:
                # Nothing was sent. To keep trying would block other senders, which may have a better address.
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
        """Wait after an answer that reports an error of the moment; longer each time, until `reset_backoff`."""
        self.concurrency.failed(self.concurrency.epoch)
        self._observer.will_retry(error)
        await self._stop.sleep(next(self._pauses))

    def reset_backoff(self) -> None:
        """Note an answer without such an error."""
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
