"""The recipe of a fan-out: its options, checked and parsed once, before any data is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, final

import orjson

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import Body, check_literal, compile_body
from cloudtasks_nb.fanout.plan.options import Delivery, TaskOptions, check_delivery, check_headers
from cloudtasks_nb.fanout.plan.schedule import Schedule, compile_schedule
from cloudtasks_nb.fanout.plan.templates import Text, check_columns, parse
from cloudtasks_nb.fanout.plan.url import Url, compile_url

__all__ = ["ROW", "Recipe", "Row", "compile_recipe"]


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
    delivery: Delivery
    shown: tuple[str, ...] = ()  #: columns that are shown later, whether anything names them or not

    @property
    def columns_used(self) -> tuple[str, ...] | None:
        """The columns that templates and key name, and those to be shown, each once; None: the whole row."""
        parts = [self.url.columns, *(text.columns for _, text in self.headers), self.body.columns]
        parts += [self.schedule.columns, self.columns_of_key, self.shown]
        names: list[str] = []
        for part in parts:
            if part is None:
                return None
            names += part
        return tuple(dict.fromkeys(names))

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
            "method": self.delivery.method,
            "body": self.body.identity,
            "key": key,
            "service_account": self.delivery.service_account,
            "audience": self.delivery.audience,
        }

    def check(self, available: Iterable[str]) -> None:
        """Refuse data that lacks a column which the recipe names, or has one that it names by mistake.

        Raises
        ------
        TemplateError
            With the column, similar names, and the columns of the data.
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


def compile_recipe(options: TaskOptions) -> Recipe:
    """Check the options of a fan-out's tasks, and parse their templates.

    `url`, `body`, header values, `at` and `delay` may name columns in braces: ``"https://svc/run/{origin}"``. `url`
    may also be a `UrlFunction`, and `body` a function of the row; without a `body` the whole row is sent as JSON, with
    a list these columns.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    delivery = check_delivery(options)
    body = compile_body(options.body, delivery.method)
    headers = check_headers(options.headers, json=body.json)
    return Recipe(
        url=compile_url(options.url),
        headers=tuple((name, parse(value, f'the header "{name}"')) for name, value in headers.items()),
        body=body,
        key=_key(options.key),
        schedule=compile_schedule(at=options.at, delay=options.delay, tz=options.tz),
        delivery=delivery,
    )


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
