"""Templates: text with columns in braces, as in ``"https://svc/run/{origin}?day={day:%Y-%m-%d}"``, and URLs."""

from __future__ import annotations

import re
import string
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.errors import InvalidInputError, TemplateError
from cloudtasks_nb.fanout.plan.columns import Block, Column
from cloudtasks_nb.store.encode import json_text

__all__ = [
    "Field",
    "HandlerAddress",
    "Problems",
    "Text",
    "Url",
    "check_columns",
    "compile_url",
    "function_name",
    "literal_url",
    "parse",
    "parse_url",
]

_LISTED = 30  # columns that an error lists


class Problems:
    """Why rows of a block cannot become tasks."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}  #: index in the block -> the first reason that was found
        self.missing: set[str] = set()  #: columns whose missing cells are such a reason

    def add(self, index: int, reason: str) -> None:
        """Note a reason; the first one of a row stays."""
        self.reasons.setdefault(index, reason)

    def add_missing(self, index: int, what: str, column: str) -> None:
        """Note that `what` needs a cell that is missing."""
        self.add(index, f'{what}: "{column}" is missing')
        self.missing.add(column)

    def add_bad(self, column: Column) -> None:
        """Note the cells of a column that JSON cannot hold."""
        for index, reason in column.bad.items():
            self.add(index, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column in braces."""

    column: str
    spec: str = ""  #: format specification behind the colon
    safe: str | None = None  #: characters besides letters, digits and ``_.-~`` that need no %XX; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A parsed template."""

    source: str
    what: str  #: the argument it was given as, for messages
    literals: tuple[str, ...]  #: one more than there are fields
    fields: tuple[Field, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names, in order."""
        return tuple(field.column for field in self.fields)

    @property
    def lone(self) -> str | None:
        """The column, if the template is one column in braces and nothing else: its cells keep their type."""
        alone = len(self.fields) == 1 and not any(self.literals) and not self.fields[0].spec
        return self.fields[0].column if alone else None

    def render(self, block: Block, problems: Problems) -> list[str]:
        """Return the text of each row; rows with a cell that is missing or has no such format are `problems`."""
        if not self.fields:
            return [self.literals[0]] * block.length
        cells = [self._cells(field, block.columns[field.column], problems) for field in self.fields]
        pattern = "%s".join(literal.replace("%", "%%") for literal in self.literals)
        return [pattern % row for row in zip(*cells, strict=True)]

    def _cells(self, field: Field, column: Column, problems: Problems) -> list[str]:
        texts = self._formatted(field, column, problems) if field.spec else self._plain(column, problems)
        if field.safe is None:
            return texts
        return [_quote(text, field.safe) for text in texts]

    def _plain(self, column: Column, problems: Problems) -> list[str]:
        texts = []
        values = column.canonical
        problems.add_bad(column)
        for index, value in enumerate(values):
            if type(value) is str:
                texts.append(value)
            elif value is None:
                problems.add_missing(index, self.what, column.name)
                texts.append("")
            else:
                texts.append(json_text(value))
        return texts

    def _formatted(self, field: Field, column: Column, problems: Problems) -> list[str]:
        texts = []
        for index, value in enumerate(column.raw):
            text = ""
            if value is None:
                problems.add_missing(index, self.what, column.name)
            else:
                try:
                    text = format(_integral(value), field.spec)
                    text.encode()  # half a surrogate pair is a ValueError
                except (ValueError, TypeError) as error:
                    reason = f'{self.what}: "{column.name}" ({type(value).__name__}) has no format ":{field.spec}"'
                    problems.add(index, f"{reason}: {error}")
            texts.append(text)
        return texts


def _integral(value: Any) -> Any:
    """Return a whole float as an integer, so that ``{flight:05d}`` works where a missing value made it a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@lru_cache(maxsize=8_192)
def _quote(text: str, safe: str) -> str:
    return urllib.parse.quote(text, safe=safe)


def parse(source: str, what: str) -> Text:
    """Parse a template.

    Parameters
    ----------
    source : str
        Columns stand in braces, with a format specification behind a colon if wanted; ``{{`` and ``}}`` are braces.
    what : str
        The argument that it is, for messages.

    Raises
    ------
    TemplateError
        If the braces do not match, or hold something else than a column.
    """
    literals, fields = [""], []
    try:
        source.encode()  # half a surrogate pair is a ValueError
        for literal, name, spec, conversion in string.Formatter().parse(source):
            literals[-1] += literal
            if name is not None:
                fields.append(_field(source, what, name, spec or "", conversion))
                literals.append("")
    except ValueError as error:
        if isinstance(error, TemplateError):
            raise
        raise _wrong(source, what, str(error)) from error
    return Text(source=source, what=what, literals=tuple(literals), fields=tuple(fields))


def _field(source: str, what: str, name: str, spec: str, conversion: str | None) -> Field:
    if not name:
        raise _wrong(source, what, "the braces name no column")
    if conversion is not None or "{" in spec:
        raise _wrong(source, what, f'"{name}" may have a format specification behind a colon and nothing else')
    return Field(column=name, spec=spec)


def _wrong(source: str, what: str, why: str) -> TemplateError:
    return TemplateError(
        f'{what}: "{source}" is not a template: {why}',
        resource=source,
        hint='columns stand in braces ("{origin}", "{day:%Y-%m-%d}"); braces that are meant as such are doubled',
    )


def parse_url(source: str) -> Text:
    """Parse a URL template; its cells are percent-encoded as their part of the URL requires.

    A cell at the beginning of the URL is not encoded, because it contains the scheme and the host.
    """
    text = parse(source, "url")
    before, fields = "", []
    for literal, field in zip(text.literals, text.fields, strict=False):
        before += literal
        fields.append(Field(column=field.column, spec=field.spec, safe=_safe(before)))
        before += "\0"
    return Text(source=source, what="url", literals=text.literals, fields=tuple(fields))


def _safe(before: str) -> str | None:
    """Return what needs no escape at the place of a URL template that comes after `before`."""
    scheme, found, rest = before.partition("://")
    if "?" in before or "#" in before or "/" in (rest if found else scheme):
        return ""
    return ":[]" if found else None  # host and port; without a scheme in the template the cell brings it all


def check_columns(names: Iterable[str], available: Iterable[str], what: str) -> None:
    """Refuse names of columns that the data does not have.

    Raises
    ------
    TemplateError
        With the first of them, similar names, and the columns of the data.
    """
    there = list(available)
    for name in names:
        if name not in there:
            more = f", … ({len(there)} in all)" if len(there) > _LISTED else ""
            raise TemplateError(
                f'{what} names the column "{name}", which the data does not have{did_you_mean(name, there)}',
                resource=name,
                hint="the columns are " + (", ".join(there[:_LISTED]) + more if there else "none"),
            )


#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#HttpRequest
_LONGEST = 2_083
_HTTP = re.compile(r"https?://[^\s/?#\x00-\x20\x7f][^\s\x00-\x20\x7f]*")


class Url(Protocol):
    """Makes the URL of each row."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns it names; None: it sees the whole row."""
        ...

    @property
    def identity(self) -> str:
        """A text that describes it and is the same when the same cell runs again."""
        ...

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        """Return each row's URL, and the text that represents it in the row's identity."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerAddress:
    """A handler as `compile_url` takes one: its address, and its name, which identifies it."""

    url: str
    name: str


def compile_url(url: Any) -> Url:
    """Return the `Url` that the argument means.

    Parameters
    ----------
    url : str, object with `url` and `name`, or callable
        A template; a handler; a function of the row (a dictionary).

    Raises
    ------
    InvalidInputError
        If it is none of these, or no row could make it an http(s) URL.
    """
    if isinstance(url, str):
        text = parse_url(url)
        if not text.fields:
            literal_url(text.literals[0])
        return _Template(text=text)
    address, name = getattr(url, "url", None), getattr(url, "name", None)
    if isinstance(address, str) and isinstance(name, str):
        return _Handler(address=address, name=name)
    if callable(url):
        return _Function(function=url)
    raise InvalidInputError(
        f"url={url!r} is not a URL",
        resource="url",
        hint='give a text such as "https://svc/run/{origin}", a handler (ct.serve), or a function of the row',
    )


def literal_url(url: Any) -> str:
    """Return the URL that a text without columns, or a handler, stands for.

    Raises
    ------
    InvalidInputError
        If it is not an http(s) URL.
    """
    address = getattr(url, "url", url)
    if not isinstance(address, str):
        raise InvalidInputError(
            f"url={url!r} is not a URL",
            resource="url",
            hint='give a text such as "https://svc/run", or a handler (ct.serve)',
        )
    if fault := _fault(address):
        raise InvalidInputError(fault, resource=address, hint='a URL begins with "https://" or "http://" and a host')
    return address


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function with its module."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


@lru_cache(maxsize=4_096)
def _fault(url: str) -> str | None:
    """Return why the service would refuse a URL; None if it would not."""
    if _HTTP.fullmatch(url) is None:
        return f'url: "{url[:200]}" is not an http(s) URL'
    try:
        length = len(url) if url.isascii() else len(urllib.parse.quote(url, safe=string.printable))
    except UnicodeEncodeError:
        return f"url: {url[:200]!a} has half a surrogate pair"
    return f"url: {length:,} characters are more than {_LONGEST:,}" if length > _LONGEST else None


def _check(urls: list[str], problems: Problems) -> None:
    for index, url in enumerate(urls):
        fault = _fault(url)
        if fault is not None:
            problems.add(index, fault)
            urls[index] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    text: Text

    @property
    def columns(self) -> tuple[str, ...]:
        return self.text.columns

    @property
    def identity(self) -> str:
        return self.text.source

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        urls = self.text.render(block, problems)
        if self.text.fields:
            _check(urls, problems)
        return urls, urls


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handler:
    """A handler, identified by its name, because its address may change."""

    address: str
    name: str
    columns: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return f"handler:{self.name}"

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:  # noqa: ARG002 - the protocol's
        return [self.address] * block.length, [self.identity] * block.length


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    function: Callable[[dict[str, Any]], Any]
    columns: None = None

    @property
    def identity(self) -> str:
        return f"function:{function_name(self.function)}"

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        urls: list[str] = []
        for index, row in enumerate(block.rows()):
            url: Any = ""
            try:
                url = self.function(row)
            except Exception as error:  # noqa: BLE001 - the user's function may raise anything; the message is stored with the row
                problems.add(index, f"url: the function raised {type(error).__name__}: {error}")
            if not isinstance(url, str):
                problems.add(index, f"url: the function returned {type(url).__name__}, not text")
                url = ""
            urls.append(url)
        _check(urls, problems)
        return urls, urls
