"""Templates: text with columns in braces, as in ``"https://svc/run/{origin}?day={day:%Y-%m-%d}"``."""

from __future__ import annotations

import string
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.errors import InvalidInputError, NotSerializableError, TemplateError
from cloudtasks_nb.fanout.plan.columns import EXACT, Block, Column
from cloudtasks_nb.store.encode import json_text

__all__ = ["HOST", "Problems", "Text", "call_by_row", "check_columns", "constant", "function_name", "parse"]

T = TypeVar("T")

_LISTED = 30  # columns that an error lists

#: `_Field.safe` of a cell that is a host and perhaps a port.
HOST = ":[]"


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

    def cells(self, column: Column) -> list[Any]:
        """Return the cells of a column as JSON values, and note those that JSON cannot hold."""
        found = column.json  # which also finds the bad ones
        for index, reason in column.bad.items():
            self.add(index, reason)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
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
    fields: tuple[_Field, ...]

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

    def _cells(self, field: _Field, column: Column, problems: Problems) -> list[str]:
        texts = []
        for index, value in enumerate(column.raw if field.spec else problems.cells(column)):
            text = ""
            if value is None:
                problems.add_missing(index, self.what, column.name)
            elif not field.spec:
                text = value if type(value) is str else json_text(_integral(value))
            else:
                try:
                    text = format(_integral(value), field.spec)
                    text.encode()  # half a surrogate pair is a ValueError
                except (ValueError, TypeError) as error:
                    reason = f'{self.what}: "{column.name}" ({type(value).__name__}) has no format ":{field.spec}"'
                    problems.add(index, f"{reason}: {error}")
            texts.append(text)
        return texts if field.safe is None else [_quote(text, field.safe) for text in texts]


def call_by_row(function: Callable[[dict[str, Any]], T], block: Block, problems: Problems, what: str) -> list[T | None]:
    """Return what a function of the user returns for each row; None where it raises, which is one of the `problems`."""
    made: list[T | None] = []
    for index, row in enumerate(block.rows()):
        value = None
        try:
            value = function(row)
        except NotSerializableError as error:
            problems.add(index, f"{what}: {error.message} ({error.hint})")
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything; the message is stored with the row
            problems.add(index, f"{what}: the function raised {type(error).__name__}: {error}")
        made.append(value)
    return made


def _integral(value: Any) -> Any:
    """Return a whole float as an integer: a row sends the same, and is the same, whatever dtype its column has.

    So ``{flight:05d}`` works where a missing value made it a float, too.
    """
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT else value


@lru_cache(maxsize=8_192)
def _quote(text: str, safe: str) -> str:
    if safe == HOST and not text.isascii():  # a host is no UTF-8 in %XX: the check of the whole URL translates it
        return "".join(urllib.parse.quote(char, safe=safe) if char.isascii() else char for char in text)
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
    text = constant(source, what)
    literals, fields = [""], []
    try:
        parts = list(string.Formatter().parse(source))
    except ValueError as error:
        raise _wrong(source, what, str(error)) from None
    for literal, name, spec, conversion in parts:
        literals[-1] += literal
        if name is None:
            continue
        if not name:
            raise _wrong(source, what, "the braces name no column")
        if conversion is not None or "{" in (spec or ""):
            raise _wrong(source, what, f'"{name}" may have a format specification behind a colon and nothing else')
        fields.append(_Field(column=name, spec=spec or ""))
        literals.append("")
    return replace(text, literals=tuple(literals), fields=tuple(fields))


def constant(source: str, what: str) -> Text:
    """Return the same text for each row: a brace is a brace.

    Raises
    ------
    InvalidInputError
        If it cannot be sent.
    """
    try:
        source.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"{what}: text with half a surrogate pair cannot be sent",
            resource=what,
            hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        ) from None
    return Text(source=source, what=what, literals=(source,), fields=())


def _wrong(source: str, what: str, why: str) -> TemplateError:
    return TemplateError(
        f'{what}: "{source}" is not a template: {why}',
        resource=source,
        hint='columns stand in braces ("{origin}", "{day:%Y-%m-%d}"); braces that are meant as such are doubled',
    )


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


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function with its module."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"
