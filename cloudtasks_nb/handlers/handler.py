"""A served function, as the one who serves it sees it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import pandas as pd

from cloudtasks_nb.handlers import card
from cloudtasks_nb.handlers.address import Address
from cloudtasks_nb.handlers.call import Outcome
from cloudtasks_nb.handlers.coroutines import Coroutines
from cloudtasks_nb.handlers.record import Call, Record
from cloudtasks_nb.handlers.server import Received, Server
from cloudtasks_nb.handlers.target import Target
from cloudtasks_nb.handlers.workers import Workers

__all__ = ["Handler"]

_GRACE = 10.0  # seconds that running calls have to end when a handler closes
_JOIN = 1.0  # seconds for the threads to end after that


class Handler:
    """A function that waits for tasks at a URL of this machine, made by `serve`.

    Give it as ``url=`` wherever tasks are made. It works in background threads, also while a cell runs, until
    `close` or the end of the process. As a context manager it closes itself.

    Parameters
    ----------
    name : str
        What the function is served as.
    address : Address
        Where.
    sock : socket
        Bound to the address, listening.
    target : Target
        The function, and who may call it.
    workers : int
        How many calls run at a time.
    on_close : callable
        Called with the handler when it has closed.
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        sock: socket.socket,
        target: Target,
        workers: int,
        on_close: Callable[[Handler], object],
    ) -> None:
        self._name = name
        self._address = address
        self._target = target
        self._on_close = on_close
        self._closing = threading.Lock()
        self._closed = self._ended = False
        self._record = Record()
        self._coroutines = Coroutines(f"{name}-coroutines")
        self._workers = Workers(workers, name)
        try:
            self._server = Server(address, sock, self._receive, grace=_GRACE)
        except BaseException:
            self._workers.close(0)
            raise

    @property
    def name(self) -> str:
        """What the function is served as; with `url`, what identifies it."""
        return self._name

    @property
    def url(self) -> str:
        """Where tasks reach it."""
        return self._address.url

    @property
    def lasting(self) -> bool:
        """Whether the URL is the same after a restart of the kernel."""
        return self._address.lasting

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def calls(self) -> pd.DataFrame:
        """Return the newest 10,000 calls of this kernel that have ended, oldest first.

        Returns
        -------
        DataFrame
            ``time, task, queue, attempt, body, status, result, error, duration``: `body` decoded, `result` the very
            object that was returned, `error` the traceback or why the function was not called (then there is no
            `duration`).
        """
        return self._record.frame()

    def close(self) -> None:
        """Stop listening and wait for the calls that run, ten seconds at most; what was recorded stays."""
        with self._closing:
            if self._ended:
                return
            self._closed = True
            self._server.close()
            self._coroutines.close(_JOIN)
            left = self._workers.close(_JOIN)
            self._on_close(self)
            self._ended = True  # at the end: an interrupted close can be called again
        if left:
            print(f"{self.name} still runs (calls: {left}); those tasks had no answer and will be tried again")  # noqa: T201 - said to whoever closes

    def replace(self, target: Target, workers: int) -> None:
        """Put another function in the place of this one; calls that run end with the old one."""
        self._target = target
        if workers != self._workers.count:
            old, self._workers = self._workers, Workers(workers, self.name)
            old.close(0)

    def _receive(self, received: Received) -> Future[Outcome]:
        return self._workers.submit(lambda: self._work(received))

    def _work(self, received: Received) -> Outcome:
        self._record.begin()
        outcome = self._target.answer(received.body, received.authorization, wait=self._coroutines.wait)
        self._record.end(
            Call(
                time=received.time,
                task=received.task,
                queue=received.queue,
                attempt=received.attempt,
                body=received.body,
                outcome=outcome,
            )
        )
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        closed = f", closed: {card.again(self.name, lasting=self.lasting)}" if self._closed else ""
        return f"<Handler {self.name} at {self.url}{closed}>"

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, str]:
        """Return what notebooks show: text and a static html table."""
        summary = self._record.summary()
        shown = card.Shown(
            name=self.name,
            url=self.url,
            summary=summary,
            closed=self._closed,
            next_line=card.again(self.name, lasting=self.lasting)
            if self._closed
            else card.next_line(self._target.fn, summary),
        )
        return {"text/plain": card.text(shown), "text/html": card.html(shown)}
