"""Call a function with the body of a request, and turn its result or its exception into an answer."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import re
import reprlib
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import orjson

from cloudtasks_nb._names import TAG_HEADER, TYPES_HEADER
from cloudtasks_nb.errors import HandlerError, NotSerializableError, StoreError
from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.convert import display_name, parameters_of
from cloudtasks_nb.handlers.failures import HOPELESS, GiveUp, Kinds, retry_after, upstream_status
from cloudtasks_nb.handlers.processes import ProcessPool
from cloudtasks_nb.handlers.verify import Verifier
from cloudtasks_nb.handlers.version import Version
from cloudtasks_nb.store.encode import to_json
from cloudtasks_nb.store.results import ResultWriter, StoredResult
from cloudtasks_nb.store.types import describe

__all__ = ["ReceivedRequest", "TaskFunction", "call", "check_function", "decode", "mismatch", "name_cells"]

#: HTTP statuses: of a success, of an exception, and of one that says when to try again. 503 slows the whole queue down
#: (https://cloud.google.com/tasks/docs/common-pitfalls).
_DONE, _RAISED, _LATER = 200, 500, 503
_LONGEST_MESSAGE = 2000
_LONGEST_TRACEBACK = 100_000
#: Frames of these modules stand between the server and the user's function; a traceback starts after them.
_OUR_MODULES = (__name__, "cloudtasks_nb.handlers.workers", "concurrent.futures._base")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """The parts of a request that are used to call the function and to record the call."""

    time: dt.datetime  #: of its arrival
    body: bytes  #: as received: the function may change the value that is decoded from it
    authorization: str | None = None  #: header
    serverless: str | None = None  #: header X-Serverless-Authorization
    task: str | None = None  #: short id; None: the request was not sent by a queue
    queue: str | None = None
    attempt: int | None = None  #: 1 for the first
    tag: str | None = None  #: header; it is stored with the result
    types: str | None = None  #: header; what the values of the body are, where JSON does not say it

    @classmethod
    def received(cls, body: bytes, header: Callable[[str], str | None]) -> Self:
        """Return a request that has just arrived; `header` returns the value of a header by its name."""
        return cls(
            time=dt.datetime.now(dt.UTC),
            body=body,
            authorization=header("Authorization"),
            serverless=header("X-Serverless-Authorization"),
            task=header("X-CloudTasks-TaskName"),
            queue=header("X-CloudTasks-QueueName"),
            attempt=_attempt_of(header("X-CloudTasks-TaskRetryCount")),
            tag=header(TAG_HEADER),
            types=header(TYPES_HEADER),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFunction:
    """A function, with the check of the token that its callers need, and the store of its results."""

    fn: Callable[..., Any]
    verifier: Verifier | None  #: None: every request that reaches the server is accepted
    results: ResultWriter | None = None  #: None: results are not stored
    processes: ProcessPool | None = None  #: None: the calling thread calls the function
    give_up_on: Kinds = ()  #: after such an exception it is not called again; the processes have their own
    version: Version = field(default_factory=Version)
    revision: str | None = None  #: of the service that runs it

    def answer(self, request: ReceivedRequest, *, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> Answer:
        """Check the token, if one is required, call the function and store its result; never raises. Blocks."""
        refusal = None if self.verifier is None else self.verifier.check(request.authorization, request.serverless)
        if refusal is not None:
            return refusal
        started = dt.datetime.now(dt.UTC)
        if self.processes:
            answer = self.processes.call(request.body, request.types)
        else:
            answer = call(self.fn, request.body, types=request.types, run=run, give_up_on=self.give_up_on)
        if answer.error is not None:
            answer = replace(answer, error=name_cells(answer.error))
        try:
            stored = self._store(request, answer, started)
        except StoreError as error:
            # The result counts only once it is stored: the task is tried again.
            return replace(
                answer,
                status=_RAISED if answer.ok or answer.gave_up else answer.status,
                result=None,
                gave_up=False,
                error=f"{answer.error}\n{error}" if answer.error else str(error),
                message=answer.message or _bounded(f"StoreError: the result was not stored: {error}"),
            )
        # The queue retries everything but a success. Only the stored result shows the failure.
        return replace(answer, status=_DONE) if answer.gave_up and stored else answer

    def close(self, *, kill: bool) -> int:
        """End its processes, if it has some, as `ProcessPool.close`; return how many calls ran in them."""
        return 0 if self.processes is None else self.processes.close(kill=kill)

    def _store(self, request: ReceivedRequest, answer: Answer, started: dt.datetime) -> bool:
        """Store the outcome of a task; return False if there is no store, or no task has sent the request."""
        if self.results is None or request.task is None:
            return False
        result = StoredResult(
            task=request.task,
            attempt=request.attempt,
            status=answer.status,
            started=started,
            duration=answer.duration,
            result=None if answer.result is None else orjson.Fragment(answer.result),
            types=answer.types,
            error=answer.error,
            gave_up=answer.message if answer.gave_up else None,
            upstream=answer.upstream,
            tag=request.tag,
            version=self.version.digits,
            revision=self.revision,
        )
        self.results.put(result, request.queue)
        return True


def _attempt_of(retries: str | None) -> int | None:
    """Return the number of an attempt, 1 for the first, from the header ``X-CloudTasks-TaskRetryCount``."""
    # Longer numbers may not fit an Int64.
    valid = retries is not None and retries.isascii() and retries.isdigit() and len(retries) <= 9  # noqa: PLR2004
    return int(retries) + 1 if valid and retries is not None else None


def check_function(fn: Any) -> None:
    """Refuse an object that cannot be served.

    Raises
    ------
    HandlerError
        If `fn` cannot be called, or would only return a generator.
    """
    if not callable(fn):
        raise HandlerError(
            f"{reprlib.repr(fn)} is not a function",
            resource=type(fn).__name__,
            hint="give the function itself, ct.serve(report), not what a call of it returns",
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        name = display_name(fn)
        raise HandlerError(
            f"{name} yields: a call would return before anything in it ran",
            resource=name,
            hint=f"serve a function that exhausts it, such as: def run(**row): return list({name}(**row))",
        )


def call(
    fn: Callable[..., Any],
    body: bytes,
    *,
    types: str | None = None,
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    give_up_on: Kinds = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Answer:
    """Call a function with the arguments in a body; never raises.

    Parameters
    ----------
    fn : callable
        A plain or an async function.
    body : bytes
        A JSON object becomes keyword arguments, as `Parameters.fill` says, an empty body no argument, and anything else
        the only argument; then as `Parameters` says.
    types : str, optional
        What the values are, where JSON does not say it, as `describe` returns it: JSON. Annotations win.
    run : callable
        Runs a coroutine to its end and returns its result.
    give_up_on : tuple of type
        Exceptions after which another attempt is of no use, besides `HOPELESS`, unless they say when to try again.
    clock : callable
        Seconds, for the duration.
    """
    parameters = parameters_of(fn)
    args, kwargs = _arguments(body)
    if types is not None:
        args, kwargs = parameters.restore(args, kwargs, decode(types.encode()))
    kwargs = parameters.fill(kwargs)
    if (reason := parameters.mismatch(args, kwargs)) is not None:
        return _wrong_arguments(f"TypeError: {reason}")
    try:
        args, converted = parameters.convert(args, kwargs)
    except ValueError as error:
        return _wrong_arguments(f"ValueError: {error}")
    began = clock()
    try:
        result = fn(*args, **converted)
        # Only coroutines are awaited: other awaitables, such as a batch, are results.
        if inspect.iscoroutine(result):
            result = run(result)
    except BaseException as error:  # noqa: BLE001 - even sys.exit() in the function must become an answer
        return _failure(error, clock() - began, give_up_on)
    duration = clock() - began
    try:
        return Answer(status=_DONE, result=to_json(result), types=describe(result), duration=duration)
    except Exception as error:  # noqa: BLE001 - an object of the user's may raise anything when it is read
        message = _no_json(fn, result, error)
        return Answer(status=_RAISED, error=message, message=_bounded(message), duration=duration, gave_up=True)


def decode(body: bytes) -> Any:
    """Return the value of a JSON body, else its text, else the bytes; None for an empty one."""
    if not body:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    try:
        # Not orjson: it reads integers beyond 64 bits as rounded floats.
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def mismatch(fn: Callable[..., Any], body: bytes) -> str | None:
    """Return why a function cannot be called with the names in a body; None if it can."""
    parameters = parameters_of(fn)
    args, kwargs = _arguments(body)
    return parameters.mismatch(args, parameters.fill(kwargs))


def _arguments(body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not body:
        return (), {}
    value = decode(body)
    return ((), value) if isinstance(value, dict) else ((value,), {})


def _wrong_arguments(reason: str) -> Answer:
    return Answer(status=400, error=reason, message=_bounded(reason))


def _no_json(fn: Callable[..., Any], result: Any, error: Exception) -> str:
    """Explain why a result is not stored, and how to return it."""
    reason = error.message if isinstance(error, NotSerializableError) else f"{type(error).__name__}: {error}"
    hint = (error.hint if isinstance(error, NotSerializableError) else None) or "convert it first"
    return (
        f"{display_name(fn)} returned a {type(result).__name__}, which is not a JSON value: {reason}\n"
        f"  → {hint}; or save it in a file or a bucket, and return its path"
    )


def _failure(error: BaseException, duration: float, give_up_on: Kinds) -> Answer:
    """Return the answer for an exception; of a kind that is given up, the status is that of any exception."""
    full, message = _explain(error)
    chosen, delay = isinstance(error, GiveUp), retry_after(error)
    return Answer(
        status=_DONE if chosen else _RAISED if delay is None else _LATER,
        error=full,
        message=message.removeprefix(f"{type(error).__name__}: ") if chosen else message,
        duration=duration,
        gave_up=chosen or (delay is None and isinstance(error, (*HOPELESS, *give_up_on))),
        upstream=upstream_status(error),
        retry_after=delay,
    )


def _explain(error: BaseException) -> tuple[str, str]:
    """Return the traceback from the first frame of the user's code on, and one line for the answer."""
    summary = traceback.TracebackException(type(error), error, _outside(error.__traceback__))
    # str() of the summary, because __str__ of the exception may raise.
    full = "".join(summary.format())
    if len(full) > _LONGEST_TRACEBACK:
        full = f"{full[: _LONGEST_TRACEBACK // 2]}…{full[-_LONGEST_TRACEBACK // 2 :]}"
    return full, _bounded(f"{type(error).__name__}: {summary}")


def _outside(frames: TracebackType | None) -> TracebackType | None:
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__name__") in _OUR_MODULES:
        inner = inner.tb_next
    return inner or frames


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


_FILE = re.compile(r'(?<= File ")([^"\n]+)(?=", line \d)')


def name_cells(trace: str) -> str:
    """Return a traceback with ``cell [1]`` in place of the file of each cell that has run in this process."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    name_of = getattr(getattr(shell, "compile", None), "format_code_name", None)
    if name_of is None:
        return trace

    def name(file: re.Match[str]) -> str:
        found = name_of(file[0])  # such as ("Cell", "In[1]")
        return f"cell {found[1].removeprefix('In')}" if found else file[0]

    return _FILE.sub(name, trace)
