"""The arguments of a fan-out, read once and checked as far as that goes without the data."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import orjson

from cloudtasks_nb._settings import check_headers, check_mapping, check_text, near, parse_duration
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import Body, check_literal, compile_body
from cloudtasks_nb.fanout.plan.schedule import Schedule, compile_schedule
from cloudtasks_nb.fanout.plan.templates import Text, check_columns, parse
from cloudtasks_nb.fanout.plan.url import Url, compile_url
from cloudtasks_nb.service.convert import METHODS, retry_message

__all__ = ["ROW", "Recipe", "Row", "compile_recipe"]

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#Task
_SHORTEST, _LONGEST = dt.timedelta(seconds=15), dt.timedelta(minutes=30)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BACKOFFS = (("min_backoff", 0), ("max_backoff", 0))
_HEADER_BYTES = 80 * 1024
_ACCOUNT = re.compile(r"[^@\s{}]+@[^@\s{}]+")
_ACCOUNT_HINT = '"name@project.iam.gserviceaccount.com"'


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
    method: str
    headers: tuple[tuple[str, Text], ...]  #: sorted by name
    body: Body
    key: tuple[str, ...] | Row | None  #: None: what is rendered identifies a row
    schedule: Schedule
    service_account: str | None
    audience: str | None  #: None: the service takes the task's URL
    dispatch_deadline: dt.timedelta | None  #: None: the service's 10 minutes
    retry: Mapping[str, Any] | None  #: settings of the tasks themselves, in the words of a queue's

    @property
    def columns_used(self) -> tuple[str, ...] | None:
        """The columns that templates and key name, each once; None: the whole row."""
        parts = [self.url.columns, *(text.columns for _, text in self.headers), self.body.columns]
        parts += [self.schedule.columns, self.key if isinstance(self.key, tuple) else ()]
        names: list[str] = []
        for part in parts:
            if part is None:
                return None
            names += part
        return tuple(dict.fromkeys(names))

    @property
    def columns_shown(self) -> tuple[str, ...] | None:
        """The columns of the input by which a person tells a row: those of the key, else the used ones; None: all."""
        return self.key if isinstance(self.key, tuple) else self.columns_used

    @property
    def identity(self) -> bytes:
        """16 bytes that another request template has otherwise; schedule and delivery settings do not count."""
        parts = {**self.describe(), "headers": [(name, text.source) for name, text in self.headers]}
        return hashlib.blake2b(orjson.dumps(parts), digest_size=16).digest()

    def describe(self) -> dict[str, Any]:
        """Return the templates as JSON-able values, without the headers (they may hold secrets)."""
        key = list(self.key) if isinstance(self.key, tuple) else None if self.key is None else "ROW"
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
            Naming it, near ones, and the columns there are.
        """
        there = list(available)
        named = [("url", self.url.columns), ("body", self.body.columns)]
        named += [(f'the header "{name}"', text.columns) for name, text in self.headers]
        named += [(self.schedule.what, self.schedule.columns), ("key", self.columns_of_key)]
        for what, names in named:
            check_columns(names or (), there, what)
        check_literal(self.body, there)

    @property
    def columns_of_key(self) -> tuple[str, ...]:
        """The columns of the key; empty if it has none."""
        return self.key if isinstance(self.key, tuple) else ()


def compile_recipe(  # noqa: PLR0913 - the words of `fan_out`, keyword-only
    *,
    url: Any,
    body: Any = None,
    key: Any = None,
    at: Any = None,
    delay: Any = None,
    tz: Any = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
    service_account: str | None = None,
    audience: str | None = None,
    dispatch_deadline: Any = None,
    retry: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read and check the arguments of a fan-out.

    Parameters
    ----------
    url : str, handler, or callable
        ``"https://svc/run/{origin}"``; columns in braces, percent-encoded. A lone ``"{url}"`` is taken as it is.
    body : None, list of str, mapping, str, or callable
        None for the whole row as a JSON object (nothing, if the method has no body).
    key : str, list of str, or `ROW`, optional
        The columns that identify a row; default: what is rendered.
    at, delay, tz : optional
        When a row is due; ``"{column}"`` for a time or duration a row. `tz` is the zone of times without one.
    headers : mapping, optional
        Values may have columns in braces. JSON bodies get ``Content-Type: application/json`` unless named here.
    method : str, optional
        POST by default.
    service_account, audience : str, optional
        E-mail of the account whose OIDC token goes along, and for whom the token is.
    dispatch_deadline : duration, optional
        15 s to 30 min.
    retry : mapping, optional
        `max_attempts`, `max_retry_duration`, `min_backoff`, `max_backoff`, `max_doublings`.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    check_text(service_account, "service_account", f"service_account={_ACCOUNT_HINT}")
    _check_account(service_account)
    check_text(audience, "audience", 'audience="https://service.example.com"')
    verb = _method(method)
    made = compile_body(body, verb)
    if audience is not None and service_account is None:
        raise InvalidInputError(
            "audience= says for whom a token is, and there is none",
            resource="audience",
            hint=f"say service_account={_ACCOUNT_HINT} too",
        )
    return Recipe(
        url=compile_url(url),
        method=verb,
        headers=_headers(check_headers(headers), json=made.json),
        body=made,
        key=_key(key),
        schedule=compile_schedule(at=at, delay=delay, tz=tz),
        service_account=service_account,
        audience=audience,
        dispatch_deadline=_deadline(dispatch_deadline),
        retry=_retry(retry),
    )


def _method(method: str | None) -> str:
    verb = "POST" if method is None else str(method).upper()
    if verb not in METHODS[1:]:
        raise InvalidInputError(
            f'method="{method}" is not an HTTP method{near(verb, METHODS[1:])}',
            resource="method",
            hint="there are " + ", ".join(METHODS[1:]),
        )
    return verb


def _check_account(email: str | None) -> None:
    if email is not None and not _ACCOUNT.fullmatch(email):
        raise InvalidInputError(
            f"service_account={email!r} is not an e-mail address",
            resource="service_account",
            hint=f"one account signs for all rows: service_account={_ACCOUNT_HINT}",
        )


def _headers(headers: dict[str, str], *, json: bool) -> tuple[tuple[str, Text], ...]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(f'"{name}" is not the name of a header', resource=name, hint="for example X-Shop")
        if re.search(r"[\r\n\0]", value):
            raise InvalidInputError(
                f'the value of the header "{name}" has several lines',
                resource=name,
                hint="a header is one line; put longer text into the body",
            )
    if sum(len(name) + len(value.encode()) for name, value in headers.items()) >= _HEADER_BYTES:
        raise InvalidInputError("the headers have more than 80 KB", resource="headers", hint="put it into the body")
    if json and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = "application/json"
    return tuple((name, parse(headers[name], f'the header "{name}"')) for name in sorted(headers))


def _key(key: Any) -> tuple[str, ...] | Row | None:
    if key is None or isinstance(key, Row):
        return key
    names = [key] if isinstance(key, str) else list(key) if isinstance(key, (list, tuple)) else []
    if not names or not all(isinstance(name, (str, int)) for name in names):
        raise InvalidInputError(
            f"key={key!r} names no columns",
            resource="key",
            hint='give a list of columns (key=["day", "shop"]), or key=ct.ROW if each row is its own',
        )
    return tuple(map(str, names))


def _deadline(given: Any) -> dt.timedelta | None:
    if given is None:
        return None
    span = parse_duration(given, "dispatch_deadline")
    if not _SHORTEST <= span <= _LONGEST:
        raise InvalidInputError(
            f"dispatch_deadline={given!r} is not between 15 seconds and 30 minutes",
            resource="dispatch_deadline",
            hint='leave it out for 10 minutes, or say "30min"',
        )
    return span


def _retry(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if given is None:
        return None
    check_mapping(given, "retry", 'retry={"max_attempts": 3}')
    words = dict(given)
    retry_message(words)  # for its checks
    low, high = (parse_duration(words.get(word, default), word) for word, default in _BACKOFFS)
    if "min_backoff" in words and "max_backoff" in words and low > high:
        raise InvalidInputError(
            f"retry: min_backoff={words['min_backoff']!r} is longer than max_backoff={words['max_backoff']!r}",
            resource="min_backoff",
            hint="the waits grow from the first to the second",
        )
    if words.get("max_attempts", 1) < -1:
        raise InvalidInputError(
            f"retry: max_attempts={words['max_attempts']!r} is no number of attempts",
            resource="max_attempts",
            hint="1 means no retry, -1 means without end",
        )
    return words
