"""From a request's body to a call of the function, and from what the function did to an answer."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import orjson

__all__ = ["Outcome", "call", "decode", "display_name", "encode", "status_of"]

#: The nearest class in an exception's ancestry decides. Never 429 or 503: they slow the whole queue down
#: (https://cloud.google.com/tasks/docs/common-pitfalls).
_STATUS: dict[type, int] = {
    ValueError: 400,
    TypeError: 400,
    PermissionError: 403,
    LookupError: 404,
    FileNotFoundError: 404,
    NotImplementedError: 501,
    TimeoutError: 504,
}
_LONGEST_MESSAGE = 2000
#: Frames of these files stand between the server and the user's function; a traceback starts behind them.
_BETWEEN = (__name__, "cloudtasks_nb.handlers.coroutines", "concurrent.futures._base")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request."""

    status: int  #: HTTP status of the answer
    result: Any = None  #: what the function returned
    error: str | None = None  #: the whole traceback, or why the function was not called
    message: str | None = None  #: ``Type: message``, all that leaves this process
    duration: float | None = None  #: seconds in the function; None: it was not called

    @property
    def ok(self) -> bool:
        """Whether the task is done."""
        return self.status < 300  # noqa: PLR2004 - 2xx is what Cloud Tasks takes for success

    def content(self) -> tuple[bytes, str]:
        """Return the answer's body and its media type."""
        if self.ok:
            return encode(self.result), "application/json"
        return (self.message or "").encode("utf-8", "replace"), "text/plain"


def call(
    fn: Callable[..., Any],
    body: bytes,
    *,
    wait: Callable[[Coroutine[Any, Any, Any]], Any],
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Call a function with what a body says; never raises.

    Parameters
    ----------
    fn : callable
        A plain or an async function.
    body : bytes
        A JSON object becomes keyword arguments, nothing no argument, anything else the one argument.
    wait : callable
        Runs a coroutine to its end and returns its result.
    clock : callable
        Seconds, for the duration.
    """
    args, kwargs = _arguments(body)
    mismatch = _mismatch(fn, args, kwargs)
    if mismatch is not None:
        return Outcome(status=_STATUS[TypeError], error=mismatch, message=_bounded(mismatch))
    began = clock()
    try:
        result = fn(*args, **kwargs)
        # Only what `async def` made: other awaitables, such as a batch, are results in their own right.
        if inspect.iscoroutine(result):
            result = wait(result)
    except BaseException as error:  # noqa: BLE001 - even sys.exit() in the function must become an answer
        full, message = _explain(error)
        return Outcome(status=status_of(error), error=full, message=message, duration=clock() - began)
    return Outcome(status=200, result=result, duration=clock() - began)


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


def encode(result: Any) -> bytes:
    """Return a result as JSON, nothing if that is not possible."""
    try:
        return orjson.dumps(result, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return b""


def status_of(error: BaseException) -> int:
    """Return the HTTP status that tells the kind of an exception; 500 if it is of no particular kind."""
    return next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), 500)


def display_name(fn: Callable[..., Any]) -> str:
    """Return what to call a function in a sentence."""
    return str(getattr(fn, "__name__", type(fn).__name__))


def _arguments(body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not body:
        return (), {}
    value = decode(body)
    return ((), value) if isinstance(value, dict) else ((value,), {})


def _mismatch(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Say which argument is missing or too many, before the call: a TypeError out of it may be the function's own."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some builtins have none
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        wanted = f"{display_name(fn)}({', '.join(signature.parameters)})"
        return f"TypeError: {wanted}: {error}; the body gave {_given(args, kwargs)}"
    return None


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if args:
        return f"one value ({type(args[0]).__name__}); only a JSON object becomes keyword arguments"
    return "the names " + ", ".join(kwargs) if kwargs else "no names"


def _explain(error: BaseException) -> tuple[str, str]:
    """Return the whole traceback from the user's own frames on, and one line for the answer."""
    told = traceback.TracebackException(type(error), error, _outside(error.__traceback__))
    # str() of the summary, not of the exception, whose own __str__ may raise.
    return "".join(told.format()), _bounded(f"{type(error).__name__}: {told}")


def _outside(frames: TracebackType | None) -> TracebackType | None:
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__name__") in _BETWEEN:
        inner = inner.tb_next
    return inner or frames


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"
