"""`Handler`: a function that is served on this machine, with its URL and its calls."""

from __future__ import annotations

import datetime as dt
import html
import inspect
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from cloudtasks_nb._settings import near_names
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import escape_controls, mask_text
from cloudtasks_nb.handlers.address import Address
from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import ReceivedRequest, TaskFunction, mismatch
from cloudtasks_nb.handlers.convert import signature
from cloudtasks_nb.handlers.history import Call, CallHistory, CallSummary
from cloudtasks_nb.handlers.workers import CoroutineRunner, Workers, WorkersClosedError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Handler"]

_GRACE = 10.0  # seconds that running calls have to end when a handler closes
_JOIN = 1.0  # seconds for the threads to end after that
_TITLES = ("time (UTC)", "task", "attempt", "status", "result or error")
_WIDEST = 120  # characters of a result or an error


@near_names
class Handler:
    """A function that waits for tasks at a URL of this machine, made by `serve`.

    Pass it as ``url=`` to methods that create tasks. It works in background threads, also while a cell runs, until
    `close` or the end of the process. As a context manager it closes itself.

    Attributes
    ----------
    name : str
        The name under which the function is served.
    url : str
        The URL at which tasks reach it.
    lasting : bool
        Whether the URL is the same after a restart of the kernel.

    Examples
    --------
    >>> with ct.serve(lambda day, origin: f"{origin} on {day}", name="text") as handler:
    ...     queue.fan_out(df, url=handler).wait()
    3 rows: 3 succeeded
    >>> handler.name, handler.lasting
    ('text', True)
    >>> handler.url
    'http://127.0.0.1:.../text/...'
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        sock: socket.socket,
        function: TaskFunction,
        workers: int,
        on_close: Callable[[Handler], object],
    ) -> None:
        from cloudtasks_nb.handlers.server import Server  # noqa: PLC0415 - loads aiohttp, which panels do without

        self.name: Final = name
        self.url: Final = address.url
        self.lasting: Final = address.lasting
        self._function = function
        self._on_close = on_close
        self._closing = threading.Lock()
        self._closed = self._ended = self._notified = False
        self._history = CallHistory()
        self._coroutines = CoroutineRunner(f"{name}-coroutines")
        self._workers = Workers(workers, name)
        try:
            self._server = Server(address, sock, self._submit, grace=_GRACE)
        except BaseException:
            self._workers.close(0)
            raise

    @property
    def function(self) -> Callable[..., Any]:
        """The function that is served now.

        Examples
        --------
        >>> ct.serve(report).function is report
        True
        """
        return self._function.fn

    @property
    def store(self) -> str:
        """The folder or bucket where the results of batches are stored.

        Examples
        --------
        >>> ct.serve(report, name="shared", store="results").store
        '...results'
        """
        return "" if self._function.results is None else self._function.results.store.url

    @property
    def version(self) -> str | None:
        """The version of the function: 12 hexadecimal digits, the same on every release of Python.

        They change with the source of the function and of what it uses from the notebook, constants too, but not with
        comments, docstrings and the layout. `uncovered` has what may change without a new version. None if the source
        is not known. Each stored result has the version that computed it: see `Batch.stale`.

        Examples
        --------
        >>> ct.serve(lambda day: day.upper(), name="upper").version
        '...'
        """
        return self._function.version.digits

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The objects that the function uses and that `version` does not cover, such as frames and clients.

        Examples
        --------
        >>> shops = pd.DataFrame({"rate": [0.5]}, index=["berlin"])
        >>> ct.serve(lambda shop: shops.loc[shop, "rate"], name="rate").uncovered
        ('shops (DataFrame)',)
        """
        return self._function.version.uncovered

    @property
    def closed(self) -> bool:
        """Whether `close` was called.

        Examples
        --------
        >>> handler.closed
        False
        """
        return self._closed

    def calls(self) -> pd.DataFrame:
        """Return the newest 10,000 calls of this kernel that have ended, oldest first.

        `batch.results()` has the results of all rows of a batch, also those of earlier kernels.

        Returns
        -------
        DataFrame
            ``time, task, queue, attempt, body, status, result, error, duration``: `body` decoded, `result` as its JSON
            was answered (a date is text), `error` the traceback or why the function was not called (then there is no
            `duration`). The newest 32 MB of bodies and results are kept; older ones are NA. What is missing is
            in ``attrs["cut"]``, and is printed the first time.

        Examples
        --------
        >>> batch = queue.fan_out(df, url=handler)
        >>> batch.wait()
        3 rows: 2 succeeded, 1 failed
        >>> calls = handler.calls()
        >>> calls.groupby("status").size()
        status
        200    2
        500    1
        dtype: int64
        >>> calls["error"].dropna().item().splitlines()[-1]
        'ValueError: day ...'
        """
        found = self._history.frame()
        if "cut" in found.attrs and not self._notified:
            self._notified = True  # once: panels call this all the time
            notify(f"{self.name}: {found.attrs['cut']}")
        return found

    def close(self) -> None:
        """Stop listening and wait for running calls, ten seconds at most; the recorded calls stay.

        Examples
        --------
        >>> handler.close()
        >>> handler.closed
        True
        """
        with self._closing:
            if self._ended:
                return
            self._closed = True
            self._server.close()
            self._coroutines.close(_JOIN)
            ended = self._function.close(kill=True)
            running = self._workers.close(_JOIN)
            self._on_close(self)
            self._ended = True  # at the end: an interrupted close can be called again
        if running:
            notify(f"{self.name} still runs (calls: {running}); those tasks had no answer and will be tried again")
        if ended:
            notify(f"{self.name} was ended while it ran (calls: {ended}); those tasks will be tried again")

    def mismatch(self, body: bytes) -> str | None:
        """Return why the function cannot be called with the names in a body; None if it can.

        Parameters
        ----------
        body : bytes
            The body of a request, JSON.

        Examples
        --------
        >>> print(handler.mismatch(b'{"dayy": "2013-01-01", "origin": "JFK"}'))
        report(day, origin): missing a required argument: 'day'; the body gave the names dayy, origin
        """
        return mismatch(self._function.fn, body)

    def answer_to(self, body: bytes, since: dt.datetime) -> Answer | None:
        """Return the answer to the newest request that had this body and was not sent by a queue; None without one.

        Parameters
        ----------
        body : bytes
        since : datetime
            When the earliest request came that counts.
        """
        return self._history.answer_to(body, since)

    def replace(self, function: TaskFunction, workers: int) -> None:
        """Call another function from now on; running calls still use the old one.

        Parameters
        ----------
        function : TaskFunction
        workers : int
            How many calls run at the same time.
        """
        before, self._function = self._function, function
        before.close(kill=False)
        if workers != self._workers.count:
            old, self._workers = self._workers, Workers(workers, self.name)
            old.close(0)

    def _submit(self, request: ReceivedRequest) -> Future[Answer]:
        while True:
            workers = self._workers
            try:
                return workers.submit(lambda: self._answer(request))
            except WorkersClosedError:  # `replace` has just put others in their place
                if workers is self._workers:
                    raise

    def _answer(self, request: ReceivedRequest) -> Answer:
        self._history.begin()
        answer = self._function.answer(request, run=self._coroutines.run)
        self._history.end(request, answer)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Handler belongs to its process: hand on its URL, handler.url")

    def __repr__(self) -> str:
        closed = f", closed: {self._reopening()}" if self._closed else ""
        return f"<Handler {self.name} at {self.url}{closed}>"

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, str]:
        """Return the MIME bundle for notebooks: the state, the counts and the newest calls."""
        # Loads pandas, which a deployed handler has no use for.
        from cloudtasks_nb.display.card import html_card, lines_html, next_html, table_html  # noqa: PLC0415

        summary = self._history.summary()
        state = "closed; its tasks wait with ct.local(), elsewhere they fail" if self._closed else "waiting for tasks"
        lines = [self.url, _counts(summary)]
        if summary.last_error is not None:
            lines.append(f"last error: {_short(summary.last_error)}")
        if self.uncovered:
            lines.append(f"version {self.version} does not cover {', '.join(self.uncovered)}")
        if summary.cut is not None:
            lines.append(f"calls() has {summary.cut}")
        next_line = self._reopening() if self._closed else _next_line(self._function.fn, summary)
        calls = table_html(_TITLES, map(_cells, summary.latest)) if summary.latest else ""
        return {
            "text/plain": escape_controls("\n".join([f"{self.name}: {state}", *lines, f"→ {next_line}"])),
            "text/html": html_card(self.name, lines_html(lines), calls, next_html(next_line), badge=state),
        }

    def _reopening(self) -> str:
        """Return the text that explains how to serve the function again after `close`."""
        if self.lasting:
            return f"ct.serve({self.name}) serves it again"
        return 'its tasks will reach no other handler; ct.serve(fn, name="report") has an address that stays'


def _next_line(fn: Callable[..., Any], summary: CallSummary) -> str:
    """Return the next line of Python to type."""
    if summary.total:
        return "handler.calls()"
    found = signature(fn)
    if found is None:
        return "queue.enqueue(handler, {...})"
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [one.name for one in found.parameters.values() if one.kind in named and one.default is one.empty]
    arguments = ", ".join(f'"{name}": ...' for name in names)
    return f"queue.enqueue(handler, {{{arguments}}})"


def _counts(summary: CallSummary) -> str:
    running = f", {summary.running:,} running" if summary.running else ""
    calls = counted(summary.total, "calls")
    return f"{calls}: {summary.succeeded:,} succeeded, {summary.failed:,} failed{running}"


def _cells(call: Call) -> list[str]:
    request, answer = call
    shown = _short(
        (answer.result or b"")[: 4 * _WIDEST].decode("utf-8", "ignore") if answer.ok else answer.message or ""
    )
    cells = (f"{request.time:%H:%M:%S}", request.task or "", str(request.attempt or ""), str(answer.status), shown)
    return [html.escape(cell) for cell in cells]


def _short(line: str) -> str:
    flat = " ".join(mask_text(line).split())
    return flat if len(flat) <= _WIDEST else flat[:_WIDEST] + "…"
