"""The recipe of a fan-out: its options as the user gives them, checked and parsed once, before any data is read."""

from __future__ import annotations

import datetime as dt
import hashlib
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Required, TypedDict, final

import orjson
import pandas as pd

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb._settings import (
    check_mapping,
    check_text,
    did_you_mean,
    parse_duration,
    parse_time,
    parse_zone,
    wrong_argument,
)
from cloudtasks_nb.errors import InvalidInputError, NaiveTimeError
from cloudtasks_nb.fanout.plan.body import Body, check_literal, compile_body
from cloudtasks_nb.fanout.plan.columns import Block
from cloudtasks_nb.fanout.plan.templates import Problems, Text, check_columns, constant, parse
from cloudtasks_nb.fanout.plan.url import Url, compile_url
from cloudtasks_nb.fanout.wire import TAG_BYTES
from cloudtasks_nb.service.convert import HTTP_METHODS, retry_message, seconds

__all__ = ["BREAK", "ROW", "Recipe", "TaskKeywords", "TaskOptions", "check_token", "compile_recipe", "token_options"]

#: What the value of a header cannot have.
BREAK = re.compile(r"[\r\n\0]")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_BYTES = 80 * 1024 - TAG_BYTES
_ACCOUNT = re.compile(r"[^@\s{}]+@[^@\s{}]+")
#: Of a deadline: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#Task
_SHORTEST, _LONGEST = dt.timedelta(seconds=15), dt.timedelta(minutes=30)
_ACCOUNT_HINT = '"name@project.iam.gserviceaccount.com"'
#: How far ahead the service takes a task (https://cloud.google.com/tasks/docs/quotas).
_FURTHEST = dt.timedelta(days=30)

_ZONE_HINT = 'add the time zone: tz="UTC", tz="Europe/Zurich"'
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)


class TaskKeywords(TypedDict, total=False):
    """The optional arguments by name that `enqueue`, `fan_out` and `backfill` share; None is as good as left out."""

    at: Any
    delay: Any
    tz: Any  #: the zone of times without one
    headers: Mapping[str, str] | None
    method: str | None  #: None: POST
    service_account: str | None
    audience: str | None
    dispatch_deadline: Any
    retry: Mapping[str, Any] | None


class TaskOptions(TaskKeywords, total=False):
    """The options that describe a task, unchecked."""

    url: Required[Any]
    body: Any
    key: Any  #: the columns that identify a row; only for rows


def check_token(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return account and audience of the tokens of tasks with these `TaskOptions`, checked.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    account, audience = token_options(options["url"], options.get("service_account"), options.get("audience"))
    check_text(account, "service_account", f"service_account={_ACCOUNT_HINT}")
    if account is not None and not _ACCOUNT.fullmatch(account):
        hint = f"one account signs for all rows: service_account={_ACCOUNT_HINT}"
        raise wrong_argument("service_account", account, "is not an e-mail address", hint)
    check_text(audience, "audience", 'audience="https://service.example.com"')
    if audience is not None and account is None:
        raise InvalidInputError(
            "audience= needs service_account=: without an account there is no token",
            resource="audience",
            hint=f"add service_account={_ACCOUNT_HINT}",
        )
    return account, audience


def token_options(url: Any, service_account: Any, audience: Any) -> tuple[Any, Any]:
    """Return account and audience of a task's token: as given, else those that a deployed function accepts."""
    if service_account is None:
        service_account = getattr(url, "service_account", None)
    return service_account, getattr(url, "audience", None) if audience is None else audience


def _headers(headers: Any, *, json: bool) -> dict[str, str]:
    """Return the headers of a task sorted by name, with ``Content-Type: application/json`` added to JSON.

    Raises
    ------
    InvalidInputError
        If a name or a value is not one of a header.
    """
    check_mapping(headers, "headers", 'headers={"X-Shop": "north"}')
    found: dict[str, str] = {}
    for name, given in ((str(name), given) for name, given in (headers or {}).items()):
        found[name] = str(given)
        why, hint = "", ""
        if given is None:
            why, hint = f'the header "{name}" has no value', 'leave it out, or use "" for an empty one'
        elif not _HEADER_NAME.fullmatch(name):
            why, hint = f'"{name}" is not the name of a header', "for example X-Shop"
        elif name.lower() == TAG_HEADER.lower():
            told = "set by this package: by it a stored result shows of which task it is"
            why, hint = f'the header "{name}" is {told}', "give yours another name"
        elif BREAK.search(found[name]):
            hint = "a header is one line; put longer text into the body"
            why = f'the value of the header "{name}" has several lines'
        if why:
            raise InvalidInputError(why, resource=name, hint=hint)
    if sum(len(name) + len(value.encode(errors="replace")) for name, value in found.items()) >= _HEADER_BYTES:
        raise InvalidInputError("the headers have more than 80 KB", resource="headers", hint="put it into the body")
    if json and "content-type" not in {name.lower() for name in found}:
        found["Content-Type"] = "application/json"
    return dict(sorted(found.items()))


@final
class _Row:
    """The type of `ROW`."""

    def __repr__(self) -> str:
        return "ct.ROW (the position in the input identifies a row)"


#: Given as ``key=``: the position in the input identifies a row, so that each row is its own.
ROW: Final = _Row()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Schedule:
    """The times given by `at`, `delay` and `tz`."""

    moment: dt.datetime | dt.timedelta | None = None  #: a literal time, or a literal duration from now on
    tz: dt.tzinfo | None = None  #: the zone of times that have none
    template: Text | None = None  #: columns in braces
    what: str = "at"  #: which of the two arguments the template is

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names."""
        return () if self.template is None else self.template.columns

    @property
    def immediate(self) -> bool:
        """Whether every row is due at once."""
        return self.moment is None and self.template is None

    def fixed(self, now: dt.datetime) -> int | None:
        """Return when every row is due, in microseconds since 1970; None if at once or if the rows differ.

        Raises
        ------
        InvalidInputError
            If it is more than 30 days ahead.
        """
        moment = now + self.moment if isinstance(self.moment, dt.timedelta) else self.moment
        if moment is not None and moment > now + _FURTHEST:
            raise InvalidInputError(
                f"{moment.isoformat(sep=' ', timespec='seconds')} is more than 30 days ahead",
                hint="Cloud Tasks holds a task for at most 30 days; schedule it later, or use Cloud Scheduler",
            )
        return None if moment is None else _micros(moment)

    def render(self, block: Block, now: dt.datetime, problems: Problems) -> list[int] | None:
        """Return when each row is due, in microseconds since 1970; None if the rows do not differ.

        Raises
        ------
        NaiveTimeError
            If a column of times has no zone and `tz` was not given.
        """
        if self.template is None:
            return None
        lone = self.template.lone
        cells: list[Any] = block.columns[lone].raw if lone else self.template.render(block, problems)
        start, latest = _micros(now), _micros(now + _FURTHEST)
        moments = []
        for index, cell in enumerate(cells):
            moment = start
            if cell is None:
                problems.add_missing(index, self.what, lone or "")
            elif index not in problems.reasons:
                try:
                    moment = self._read(cell, start)
                except NaiveTimeError as error:
                    names = " and ".join(f'"{name}"' for name in self.columns)
                    raise NaiveTimeError(f"{error.message} (column {names})", resource="at", hint=_ZONE_HINT) from None
                except InvalidInputError as error:
                    problems.add(index, error.message)
            if moment > latest:
                ahead = (moment - start) / 86_400e6
                problems.add(index, f"{self.what}: {ahead:,.1f} days ahead; Cloud Tasks holds a task for at most 30")
                moment = start
            moments.append(moment)
        return moments

    def _read(self, cell: Any, now: int) -> int:
        if self.what == "delay":
            return now + parse_duration(cell, self.what) // _MICRO
        if isinstance(cell, (str, dt.date)):
            return _read_time(cell, self.tz, getattr(cell, "fold", 0))
        seconds = '; of seconds since 1970 pd.to_datetime(column, unit="s", utc=True) makes times'
        number = isinstance(cell, numbers.Real) and not isinstance(cell, bool)
        raise InvalidInputError(f"at: {type(cell).__name__} is not a time{seconds if number else ''}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a row becomes a task."""

    url: Url
    headers: tuple[tuple[str, Text], ...]  #: sorted by name
    body: Body
    key: tuple[str, ...] | _Row | None  #: None: what is rendered identifies a row
    schedule: _Schedule
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
        key = "ROW" if isinstance(self.key, _Row) else self.key and list(self.key)
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
    body = compile_body(options.get("body"), method, literal=literal, function=getattr(url.handler, "function", None))
    headers = _headers(options.get("headers"), json=body.json)
    read = constant if literal else parse
    return Recipe(
        url=url,
        headers=tuple((name, read(value, f'the header "{name}"')) for name, value in headers.items()),
        body=body,
        key=_key(options.get("key")),
        schedule=_schedule(options.get("at"), options.get("delay"), options.get("tz"), read),
        method=method,
        service_account=account,
        audience=audience,
        dispatch_deadline=_deadline(options.get("dispatch_deadline")),
        retry=_retry(options.get("retry")),
    )


def _key(key: Any) -> tuple[str, ...] | _Row | None:
    if key is None or isinstance(key, _Row):
        return key
    names = [key] if isinstance(key, str) else list(key) if isinstance(key, (list, tuple)) else []
    if not names or not all(isinstance(name, (str, int)) for name in names):
        hint = 'give a list of columns (key=["day", "shop"]), or key=ct.ROW if each row is its own'
        raise wrong_argument("key", key, "names no columns", hint)
    return tuple(map(str, names))


def _method(given: str | None) -> str:
    method = "POST" if given is None else str(given).upper()
    if method not in HTTP_METHODS[1:]:
        why = f"is not an HTTP method{did_you_mean(method, HTTP_METHODS[1:])}"
        raise wrong_argument("method", given, why, "there are " + ", ".join(HTTP_METHODS[1:]))
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
        hint = "1 means no retry, -1 means without end"
        raise wrong_argument("max_attempts", given["max_attempts"], "is no number of attempts", hint)
    return settings


def _schedule(at: Any = None, delay: Any = None, tz: Any = None, read: Callable[[str, str], Text] = parse) -> _Schedule:
    """Return the schedule that the arguments mean.

    Parameters
    ----------
    at : time or template, optional
        ISO text, a datetime or a Timestamp; ``"{column}"`` for a time a row.
    delay : duration or template, optional
        ``"10min"``, a Timedelta, or seconds; ``"{column}"`` for a duration a row.
    tz : str or tzinfo, optional
        The zone of times that have none.
    read : callable
        `parse`, or `constant` if a text in braces is no column.

    Raises
    ------
    InvalidInputError
        If both are given, or one is no time or no duration.
    """
    zone = None if tz is None else parse_zone(tz)
    if at is not None and delay is not None:
        raise InvalidInputError("at= and delay= exclude each other", resource="at", hint="give one of them")
    what, value = ("at", at) if delay is None else ("delay", delay)
    text = read(value, what) if isinstance(value, str) and "{" in value else None
    if text is not None and text.fields:
        return _Schedule(template=text, what=what, tz=zone)
    if delay is not None:
        return _Schedule(moment=parse_duration(delay, what))
    return _Schedule(moment=None if at is None else parse_time(at, what, zone))


def _micros(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICRO


@lru_cache(maxsize=4_096, typed=True)
def _read_time(cell: Any, tz: dt.tzinfo | None, fold: int) -> int:
    """Read a cell as a point in time; cached, as many rows share few times.

    `fold` is the cell's own: the two times of an hour that comes twice are equal otherwise.
    """
    if isinstance(cell, dt.datetime) and cell.tzinfo is None and tz is not None:
        # the first of two times when the clock goes back, if fold is not 1; the first after a gap when it goes forward
        cell = pd.Timestamp(cell).tz_localize(tz, ambiguous=not fold, nonexistent="shift_forward")
    elif isinstance(cell, dt.date) and not isinstance(cell, dt.datetime):
        cell = dt.datetime(cell.year, cell.month, cell.day)  # noqa: DTZ001 - its zone is the one of tz=
    return _micros(parse_time(cell, "at", tz))
