"""The recipe of a fan-out: its options, checked and parsed once, before any data is read."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import orjson

from cloudtasks_nb._settings import check_mapping, did_you_mean, parse_duration, wrong_argument
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import Body, check_literal, compile_body
from cloudtasks_nb.fanout.plan.options import check_headers, check_token
from cloudtasks_nb.fanout.plan.schedule import Schedule, compile_schedule
from cloudtasks_nb.fanout.plan.templates import Text, check_columns, constant, parse
from cloudtasks_nb.fanout.plan.url import Url, compile_url
from cloudtasks_nb.service.convert import HTTP_METHODS, retry_message, seconds

__all__ = ["ROW", "Recipe", "Row", "compile_recipe"]

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#Task
_SHORTEST, _LONGEST = dt.timedelta(seconds=15), dt.timedelta(minutes=30)


@final
class Row:
    """The type of `ROW`."""

    def __repr__(self) -> str:
        return "ct.ROW (the position in the input identifies a row)"


#: Given as ``key=``: the position in the input identifies a row, so that each row is its own.
ROW: Final = Row()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a row becomes a task."""

    url: Url
    headers: tuple[tuple[str, Text], ...]  #: sorted by name
    body: Body
    key: tuple[str, ...] | Row | None  #: None: what is rendered identifies a row
    schedule: Schedule
    method: str
    service_account: str | None
    audience: str | None  #: None: that of the task's URL
    dispatch_deadline: dt.timedelta | None  #: None: the service's 10 minutes
    retry: Mapping[str, float] | None  #: retry settings of the task itself, with the names of a queue's; seconds
    shown: tuple[str, ...] = ()  #: columns that are shown later, whether anything names them or not

    @property
    def columns_used(self) -> tuple[str, ...] | None:
        """The columns that templates and key name, and those to be shown, each once; None: the whole row."""
        parts = [*(names for _, names in self._named()), self.shown]
        return None if None in parts else tuple(dict.fromkeys(name for part in parts for name in part or ()))

    def _named(self) -> Iterator[tuple[str, tuple[str, ...] | None]]:
        """Yield what names columns, and which."""
        yield "url", self.url.columns
        for name, text in self.headers:
            yield f'the header "{name}"', text.columns
        yield "body", self.body.columns
        yield self.schedule.what, self.schedule.columns
        yield "key", self.key if isinstance(self.key, tuple) else ()

    @property
    def identity(self) -> bytes:
        """16 bytes that differ for other request templates; schedule and delivery settings do not count."""
        parts = {**self.describe(), "headers": [(name, text.source) for name, text in self.headers]}
        return hashlib.blake2b(orjson.dumps(parts), digest_size=16).digest()

    def describe(self) -> dict[str, Any]:
        """Return the templates as JSON-able values, without the headers (they may hold secrets)."""
        key = "ROW" if isinstance(self.key, Row) else self.key and list(self.key)
        return {
            "url": self.url.identity,
            "method": self.method,
            "body": self.body.identity,
            "key": key,
            "service_account": self.service_account,
            "audience": self.audience,
        }

    def check(self, available: Iterable[str]) -> None:
        """Refuse data that lacks a column which the recipe names, or has one that it names by mistake.

        Raises
        ------
        TemplateError
            With the column, similar names, and the columns of the data.
        """
        there = list(available)
        for what, names in self._named():
            check_columns(names or (), there, what)
        check_literal(self.body, there)

    def choose(self, available: Iterable[str]) -> tuple[str, ...] | None:
        """Check the columns of data before they are read, and return those that are needed; None: all."""
        self.check(available)
        return self.columns_used


def compile_recipe(options: Mapping[str, Any], *, literal: bool = False) -> Recipe:
    """Check the options of a fan-out's tasks, and parse their templates.

    `url`, `body`, header values, `at` and `delay` may name columns in braces: ``"https://svc/run/{origin}"``. `url`
    may also be a `UrlFunction`, and `body` a function of the row; without a `body` the whole row is sent as JSON, with
    a list these columns.

    Parameters
    ----------
    options : mapping
        `TaskOptions`; others among them are ignored.
    literal : bool
        Whether a brace is a brace: the options are those of a single task.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    account, audience = check_token(options)
    method = _method(options.get("method"))
    url = compile_url(options["url"], literal=literal)
    body = compile_body(options.get("body"), method, literal=literal, function=url.function)
    headers = check_headers(options.get("headers"), json=body.json)
    read = constant if literal else parse
    return Recipe(
        url=url,
        headers=tuple((name, read(value, f'the header "{name}"')) for name, value in headers.items()),
        body=body,
        key=_key(options.get("key")),
        schedule=compile_schedule(options.get("at"), options.get("delay"), options.get("tz"), read),
        method=method,
        service_account=account,
        audience=audience,
        dispatch_deadline=_deadline(options.get("dispatch_deadline")),
        retry=_retry(options.get("retry")),
    )


def _key(key: Any) -> tuple[str, ...] | Row | None:
    if key is None or isinstance(key, Row):
        return key
    names = [key] if isinstance(key, str) else list(key) if isinstance(key, (list, tuple)) else []
    if not names or not all(isinstance(name, (str, int)) for name in names):
        hint = 'give a list of columns (key=["day", "shop"]), or key=ct.ROW if each row is its own'
        raise wrong_argument("key", key, "names no columns", hint)
    return tuple(map(str, names))


def _method(given: str | None) -> str:
    method = "POST" if given is None else str(given).upper()
    if method not in HTTP_METHODS[1:]:
        raise InvalidInputError(
            f'method="{given}" is not an HTTP method{did_you_mean(method, HTTP_METHODS[1:])}',
            resource="method",
            hint="there are " + ", ".join(HTTP_METHODS[1:]),
        )
    return method


def _deadline(given: Any) -> dt.timedelta | None:
    if given is None:
        return None
    span = parse_duration(given, "dispatch_deadline")
    if not _SHORTEST <= span <= _LONGEST:
        hint = 'leave it out for 10 minutes, or use "30min"'
        raise wrong_argument("dispatch_deadline", given, "is not between 15 seconds and 30 minutes", hint)
    return span


def _retry(given: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    if given is None:
        return None
    check_mapping(given, "retry", 'retry={"max_attempts": 3}')
    checked = retry_message(given)
    values = {name: getattr(checked, name) for name in given}
    settings = {name: value if isinstance(value, int) else seconds(value) for name, value in values.items()}
    if settings.get("max_doublings", 0) < 0:
        raise wrong_argument("max_doublings", given["max_doublings"], "is negative", "16 is the service's default")
    # The service reads 0 as "not given".
    if settings.get("max_attempts", 1) < -1 or settings.get("max_attempts") == 0:
        raise InvalidInputError(
            f"retry: max_attempts={given['max_attempts']!r} is no number of attempts",
            resource="max_attempts",
            hint="1 means no retry, -1 means without end",
        )
    return settings
