"""Failures of a function: final ones, temporary ones, and those of a service that the function called.

The exceptions of other libraries are read by their attributes, so that none of these libraries is needed.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from numbers import Integral
from typing import Any, TypeAlias

from cloudtasks_nb._settings import parse_duration
from cloudtasks_nb.errors import HandlerError

__all__ = ["HOPELESS", "GiveUp", "Kinds", "TryLater", "check_kinds", "retry_after", "upstream_status"]

#: Classes of exceptions, as `isinstance` takes them.
Kinds: TypeAlias = tuple[type[BaseException], ...]

#: After one of these another attempt would fail too: every function gives up on them.
HOPELESS: Kinds = (NameError, ModuleNotFoundError, SyntaxError, NotImplementedError)

_UPSTREAM = range(400, 600)  # HTTP statuses of errors
_THROTTLED = (429, 503)
_DEEPEST = 20  # exceptions in a chain, which may be a circle
_LONGEST = 9  # digits of a number of seconds


class GiveUp(Exception):  # noqa: N818 - it says what to do
    """Raise it in a served function if another attempt would be of no use: the row has failed at once.

    The task is answered with 200, so that Cloud Tasks does not try it again. The stored result says that the function
    gave up, and the row is `failed` with the message as its cause. Without a store that both the handler and the batch
    use, the task counts as a success, as the answer says.

    Parameters
    ----------
    message : str
        Why.

    Examples
    --------
    >>> def report(day, origin):
    ...     if origin == "EWR":
    ...         raise ct.GiveUp("no such place")
    >>> batch = queue.fan_out(df, url=ct.serve(report, name="places"))
    >>> batch.wait()
    3 rows: 2 succeeded, 1 failed
    >>> batch.failed()[["origin", "attempts", "last_message"]]
        origin  attempts   last_message
    row
    2      EWR         1  no such place
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class TryLater(Exception):  # noqa: N818 - same
    """Raise it in a served function to have the task tried again after a delay.

    The task is answered with 503 and ``Retry-After``. Cloud Tasks waits for the delay or the queue's backoff, whichever
    is longer, and counts the attempt. On Google, many such answers slow the whole queue down. An exception that has a
    response with status 429 or 503 and ``Retry-After`` is answered in the same way.

    Parameters
    ----------
    delay : str, timedelta or float
        ``"30s"``, or a number of seconds; it is rounded up to seconds.
    message : str, optional
        Why.

    Raises
    ------
    InvalidInputError
        If `delay` is not a duration.

    Examples
    --------
    >>> calls = []
    >>> def report(day, origin):
    ...     calls.append(day)
    ...     if len(calls) == 1:
    ...         raise ct.TryLater("1s", "quota")
    >>> queue.update(max_attempts=3)
    <Queue ...>
    >>> batch = queue.fan_out(df, url=ct.serve(report, name="quota"))
    >>> batch.wait()
    3 rows: 3 succeeded
    >>> len(calls)
    4
    """

    delay = 0  #: seconds

    def __init__(self, delay: str | dt.timedelta | float, message: str | None = None) -> None:
        super().__init__(delay, message)  # what a copy in another process is made of
        self.delay = math.ceil(parse_duration(delay, "delay").total_seconds())
        self.message = message or f"in {self.delay} s"

    def __str__(self) -> str:
        return self.message


def check_kinds(given: Any) -> Kinds:
    """Return the exceptions of a `give_up_on`, which is a class or several.

    Raises
    ------
    HandlerError
        If it is something else.

    Examples
    --------
    >>> check_kinds([KeyError, ValueError]), check_kinds(KeyError)
    ((<class 'KeyError'>, <class 'ValueError'>), (<class 'KeyError'>,))
    """
    kinds = tuple(given) if isinstance(given, Iterable) and not isinstance(given, (str, type)) else (given,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            hint = "give_up_on=(KeyError, ValueError): the classes themselves, without quotes"
            raise HandlerError(f"give_up_on={kind!r} is no class of exceptions", resource="give_up_on", hint=hint)
    return kinds


def upstream_status(error: BaseException) -> int | None:
    """Return the HTTP status, 400 to 599, of the answer of a service that made the function fail; None without one.

    Examples
    --------
    >>> from urllib.error import HTTPError
    >>> upstream_status(HTTPError("https://api.example", 404, "Not Found", None, None))
    404
    """
    return _answer(error)[0]


def retry_after(error: BaseException) -> int | None:
    """Return the seconds after which to try again; None: the function, or a service that it called, does not say."""
    if isinstance(error, GiveUp):
        return None
    if isinstance(error, TryLater):
        return error.delay
    status, headers = _answer(error)
    text = None
    with suppress(Exception):  # it may be anything
        text = str(headers.get("Retry-After")).strip() if status in _THROTTLED else None
    return None if text is None else _seconds(text)


def _answer(error: BaseException) -> tuple[int | None, Any]:
    """Return status and headers of the answer that an exception is about, or the ones it was raised from."""
    for one in _chain(error):
        response = _attribute(one, "response")  # of requests, httpx, and google-api-core over REST
        # `status` is aiohttp's, `code` that of urllib and google-api-core.
        for status in (_attribute(response, "status_code"), _attribute(one, "status"), _attribute(one, "code")):
            if isinstance(status, Integral) and status in _UPSTREAM:  # such as numpy's, too
                return int(status), _attribute(one if response is None else response, "headers")
    return None, None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes; for GiveUp and TryLater also the exception that was being handled."""
    for _ in range(_DEEPEST):
        if error is None:
            return
        yield error
        handled = isinstance(error, (GiveUp, TryLater)) and not error.__suppress_context__
        error = error.__context__ if handled else error.__cause__


def _attribute(value: Any, name: str) -> Any:
    with suppress(Exception):  # a property may raise anything
        return getattr(value, name, None)
    return None


def _seconds(text: str) -> int | None:
    """Return the seconds of a ``Retry-After``, which is a number or a date."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= _LONGEST else None
    try:
        date = parsedate_to_datetime(text)
        return max(0, math.ceil(date.timestamp() - dt.datetime.now(dt.UTC).timestamp()))
    except (ValueError, OverflowError):
        return None
