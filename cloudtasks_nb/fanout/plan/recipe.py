"""The recipe of a fan-out: its options as the user gives them, checked and parsed once, before any data is read."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Required, TypedDict, final

import orjson

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb._settings import check_mapping, check_text, did_you_mean, parse_duration, wrong_argument
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import Body, check_literal, compile_body
from cloudtasks_nb.fanout.plan.schedule import Schedule, compile_schedule
from cloudtasks_nb.fanout.plan.templates import Text, check_columns, constant, parse
from cloudtasks_nb.fanout.plan.url import Url, compile_url
from cloudtasks_nb.fanout.wire import TAG_BYTES
from cloudtasks_nb.service.convert import HTTP_METHODS, retry_message, seconds

__all__ = [
    "HEADER_BREAK",
    "LARGEST_TASK",
    "ROW",
    "Recipe",
    "Row",
    "TaskKeywords",
    "TaskOptions",
    "check_headers",
    "check_token",
    "compile_recipe",
    "token_options",
]

#: Bytes of a stored task that the service accepts, less what it adds itself (the name, times and its User-Agent header)
#: and the header with the tag of a row's task.
LARGEST_TASK = 1_048_569 - 700 - TAG_BYTES

#: What the value of a header cannot have.
HEADER_BREAK = re.compile(r"[\r\n\0]")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_BYTES = 80 * 1024 - TAG_BYTES
_ACCOUNT = re.compile(r"[^@\s{}]+@[^@\s{}]+")
_ACCOUNT_HINT = '"name@project.iam.gserviceaccount.com"'


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


def check_headers(headers: Any, *, json: bool) -> dict[str, str]:
    """Return the headers of a task sorted by name, with ``Content-Type: application/json`` added to JSON.

    Raises
    ------
    InvalidInputError
        If a name or a value is not one of a header.
    """
    check_mapping(headers, "headers", 'headers={"X-Shop": "north"}')
    found: dict[str, str] = {}
    for name, given in ((str(name), given) for name, given in (headers or {}).items()):
        if given is None:
            raise InvalidInputError(
                f'the header "{name}" has no value', resource=name, hint='leave it out, or use "" for an empty one'
            )
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(f'"{name}" is not the name of a header', resource=name, hint="for example X-Shop")
        if name.lower() == TAG_HEADER.lower():
            raise InvalidInputError(
                f'the header "{name}" is set by this package: by it a stored result shows of which task it is',
                resource=name,
                hint="give yours another name",
            )
        found[name] = str(given)
        if HEADER_BREAK.search(found[name]):
            raise InvalidInputError(
                f'the value of the header "{name}" has several lines',
                resource=name,
                hint="a header is one line; put longer text into the body",
            )
    if sum(len(name) + len(value.encode(errors="replace")) for name, value in found.items()) >= _HEADER_BYTES:
        raise InvalidInputError("the headers have more than 80 KB", resource="headers", hint="put it into the body")
    if json and "content-type" not in {name.lower() for name in found}:
        found["Content-Type"] = "application/json"
    return dict(sorted(found.items()))


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
