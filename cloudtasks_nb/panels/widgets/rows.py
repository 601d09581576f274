"""The rows behind a table, of which it shows one page: in memory, or read page by page; and which are selected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Protocol, Self, cast
from urllib.parse import unquote, unquote_plus

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._frames import TASK_STATES, is_missing, spellings
from cloudtasks_nb._settings import near_words
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.cells import Cell, Column, cell, json_text

__all__ = ["SEPARATOR", "OnePage", "Query", "Selection", "TablePage", "TablePages", "TableRows", "check_search"]

#: Positions of rows in the order in which they were loaded.
_Places = npt.NDArray[np.intp]

#: What stands between the fields of a row in one text: ``day=2026-01-01 · origin=JFK``.
SEPARATOR = " · "

_EDGE = "\x1f"  # begins and ends each searched text; it is never typed, so that a match is inside one text
_PAIR = re.compile(r"(?P<name>[^\s:]+):(?P<value>\S(?:.*?\S)?)(?=\s+[^\s:]+:\S|\s*$)")

_NAME = re.compile(rf"{_EDGE}(\w+)=")

_NAMED = 20  # columns that an error names
_MOST_SELECTED = 1_000_000  # rows that are selected by their keys

#: Kinds whose text is searched.
_SEARCHED = ("text", "name", "state", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rows, and in which order."""

    text: str = ""  #: part of a shown text, in any case of letters
    where: tuple[tuple[str, tuple[Any, ...]], ...] = ()  #: column and the values that are wanted of it
    sort: str | None = None  #: column; None is the order in which rows were loaded
    descending: bool = False

    @property
    def filtering(self) -> bool:
        """Whether it leaves rows out."""
        return bool(self.text or self.where)

    @classmethod
    def of(cls, text: str | None, where: Mapping[str, Any]) -> Self:
        """Make a filter from the arguments of a call: for each column one value, several, or None for any."""
        wanted = {name: _several(values) for name, values in where.items() if values is not None}
        return cls(text=(text or "").strip(), where=tuple(wanted.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePage:
    """Rows that are shown together."""

    keys: Sequence[Any] = ()
    ids: Sequence[str] = ()  #: the keys as text
    cells: Sequence[list[Cell]] = ()
    start: int = 0  #: place of the first row among all that match
    matching: int = 0  #: rows that match
    total: int = 0  #: rows in all
    blank: frozenset[str] = frozenset()  #: the optional columns that are left out


class TablePages(Protocol):
    """The rows behind a table."""

    def page(self, query: Query, start: int, size: int) -> TablePage:
        """Return up to `size` of the rows that match, from place `start` on, or the last page."""

    def ids(self, query: Query) -> Iterable[str]:
        """Return the ids of all rows that match."""

    def keys(self, ids: Iterable[str]) -> list[Any]:
        """Return the keys of those of these rows that are there."""

    def selected(self, selection: Selection) -> list[Any]:
        """Return the keys of the selected rows."""

    def count(self, selection: Selection, query: Query) -> tuple[int, int]:
        """Return how many rows are selected, and how many of them the query hides."""


class TableRows:
    """Rows of a frame by key, all in memory.

    The table locks it: it is not safe for several threads. What is derived from the data (ranks for sorting, text
    for searching) is made when first asked for and kept until the data changes: 100,000 rows are sorted, searched
    and paged in some tens of milliseconds. Dropped rows stay in the frame until they are more than half of it, because
    cutting the frame takes tens of milliseconds, too.

    Parameters
    ----------
    columns : sequence of Column
        The columns to show.
    key : str
        Column or index that names a row; its values as text are the rows' ids.
    searched : sequence of str
        Columns that are searched although they are not shown, where the data has them.

    Attributes
    ----------
    places : dict
        Position of each row, by id. Dropped rows leave it; new rows make a new one.
    """

    _blank: frozenset[str] | None
    _ordered: tuple[Query, _Places] | None  # the rows that the last query has found

    def __init__(self, columns: Sequence[Column], key: str, searched: Sequence[str] = ()) -> None:
        self._columns = {column.name: column for column in columns}
        self._searched = [name for name, column in self._columns.items() if column.kind in _SEARCHED]
        self._searched += [name for name in searched if name not in self._searched]
        self._key = key
        self.clear()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def blank(self) -> frozenset[str]:
        """The optional columns that are left out now."""
        if self._blank is None:
            optional = [column for column in self._columns.values() if column.hidden_if]
            self._blank = frozenset(column.name for column in optional if self._is_blank(column))
        return self._blank

    def clear(self) -> None:
        """Remove all rows."""
        self._replace(pd.DataFrame(), [])

    def load(self, data: pd.DataFrame | Mapping[str, Any]) -> None:
        """Replace all rows."""
        frame = _frame(data)
        for name in self._columns:
            self._check(frame, name)
        self._replace(frame, self._ids_of(frame))

    def patch(self, data: pd.DataFrame | Mapping[str, Any]) -> None:
        """Update the rows that are loaded, and put new ones behind the last; columns that `data` lacks stay."""
        fresh = _frame(data)
        if not self.places:
            self.load(fresh)
            return
        ids = self._ids_of(fresh)
        known = np.array([name in self.places for name in ids], dtype=bool)
        at = np.array([self.places[name] for name in ids if name in self.places], dtype=np.intp)
        if len(at):
            self._overwrite(at, fresh.loc[known])
        if not known.all():
            whole = pd.concat([self._frame.loc[self._there], fresh.loc[~known]])
            self._replace(whole, self._ids_of(whole))

    def drop(self, ids: Iterable[str]) -> None:
        """Remove rows; ids that are not loaded are ignored."""
        self._there[[self.places.pop(name) for name in ids if name in self.places]] = False
        self._blank = self._ordered = None
        if 2 * len(self) < len(self._ids):
            self._replace(self._frame.loc[self._there], list(self.places))

    def check(self, name: str) -> None:
        """Raise InvalidInputError if there is no such column to filter or sort by."""
        if name not in self._columns and name not in self._searched:
            self._check(self._frame, name)

    def check_search(self, text: str) -> None:
        """Raise InvalidInputError if a search, which has found nothing, names a column that no row has."""
        rows = self._search_texts(None)
        check_search("this table", text.lower(), dict.fromkeys(name for row in rows for name in _NAME.findall(row)))

    def page(self, query: Query, start: int, size: int) -> TablePage:
        """Return up to `size` of the rows that match, from place `start` on, or the last page."""
        order = self.order(query)
        start = min(start, max(0, len(order) - 1) // size * size)
        at = order[start : start + size]
        return TablePage(
            keys=self.keys_at(at),
            ids=[self._ids[place] for place in at],
            cells=self.cells(at),
            start=start,
            matching=len(order),
            total=len(self),
            blank=self.blank,
        )

    def ids(self, query: Query) -> list[str]:
        """Return the ids of all rows that match, in order."""
        return [self._ids[place] for place in self.order(query)]

    def keys(self, ids: Iterable[str]) -> list[Any]:
        """Return the keys of those of these rows that are loaded."""
        return self.keys_at([self.places[name] for name in ids if name in self.places])

    def selected(self, selection: Selection) -> list[Any]:
        """Return the keys of the selected rows that are loaded, in their loaded order, also those that are hidden."""
        return self.keys_at(selection.places(self.places))

    def count(self, selection: Selection, query: Query) -> tuple[int, int]:
        """Return how many of the loaded rows are selected, and how many of them the query hides."""
        picked = selection.places(self.places)
        hides = query.filtering and picked
        return len(picked), int(np.isin(picked, self.order(query), invert=True).sum()) if hides else 0

    def order(self, query: Query) -> _Places:
        """Return the rows that match, in order; it is kept until the data change."""
        if self._ordered is None or self._ordered[0] != query:
            self._ordered = query, self._find(query)
        return self._ordered[1]

    def _find(self, query: Query) -> _Places:
        keep = self._there.copy()
        for name, wanted in query.where:
            keep &= np.asarray(self._column(name).isin(list(wanted)), dtype=bool) if len(self) else keep
        if query.text:
            keep &= self._search(query.text)
        at = np.flatnonzero(keep)
        if query.sort is None or not len(at):
            return at
        ranks = self._rank(query.sort)[at]
        # NaN, a missing value, is last in both directions; a stable sort keeps the loaded order among equals.
        return at[np.argsort(-ranks if query.descending else ranks, kind="stable")]

    def keys_at(self, at: Sequence[int] | _Places) -> list[Any]:
        """Return the keys of the rows at some places, as the data has them."""
        return self._column(self._key).iloc[list(at)].tolist() if len(at) else []

    def cells(self, at: _Places) -> list[list[Cell]]:
        """Return rows as cells, in the order of the columns."""
        if not len(at):
            return []
        shown = [
            [cell(value, column) for value in self._column(column.name).iloc[at].tolist()]
            for column in self._columns.values()
        ]
        return [list(row) for row in zip(*shown, strict=True)]

    def _replace(self, frame: pd.DataFrame, ids: list[str]) -> None:
        self._frame = frame
        self._ids = ids  # also those of dropped rows
        self._there = np.ones(len(ids), dtype=bool)  # False where a row was dropped
        self.places = dict(zip(ids, range(len(ids)), strict=True))
        self._ranks: dict[str, npt.NDArray[np.float64]] = {}
        self._blank = self._ordered = None
        self._haystack: list[str] | None = None
        self._found: tuple[str, npt.NDArray[np.bool_]] | None = None  # the last text, and the rows that contain it

    def _overwrite(self, at: _Places, fresh: pd.DataFrame) -> None:
        self._ordered = None
        for name in fresh.columns:
            # Writing into a column copies it, so unchanged columns are not written.
            if name not in self._frame.columns or _same(self._frame[name].iloc[at], fresh[name]):
                continue
            column = self._frame[name].array.copy()
            column[at] = fresh[name].array
            self._frame[name] = pd.Series(column, index=self._frame.index)
            self._ranks.pop(str(name), None)
            self._blank = None
        if self._haystack is not None:
            texts = self._search_texts(at)
            for place, text in zip(at, texts, strict=True):
                self._haystack[place] = text
            if self._found is not None:
                self._found[1][at] = _containing(self._found[0], texts)

    def _ids_of(self, frame: pd.DataFrame) -> list[str]:
        self._check(frame, self._key)
        ids = [str(value) for value in _series(frame, self._key).tolist()]
        if len(set(ids)) != len(ids):
            seen: set[str] = set()
            twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # the idiom
            raise InvalidInputError(
                f'two rows have the {self._key} "{twice}"',
                resource=twice,
                hint="a table finds its rows by key: give it a column whose values differ",
            )
        return ids

    def _check(self, frame: pd.DataFrame, name: str) -> None:
        names = [*map(str, frame.columns), *([str(frame.index.name)] if frame.index.name is not None else [])]
        if name not in names:
            raise _no_column("this table", name, names)

    def _column(self, name: str) -> pd.Series[Any]:
        return _series(self._frame, name)

    def _rank(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self._ranks:
            column = self._column(name)
            shown = self._columns.get(name)
            if shown is not None and shown.kind == "bar":
                column = column.map(itemgetter("share"))
            known = shown is not None and shown.kind == "state" and bool(column.dropna().isin(TASK_STATES).all())
            # States of tasks are sorted in the order of a task's life.
            self._ranks[name] = _ranks(column.astype(pd.CategoricalDtype(list(TASK_STATES))) if known else column)
        return self._ranks[name]

    def _is_blank(self, column: Column) -> bool:
        if not len(self):
            return True
        values = self._column(column.name)
        first = values.iloc[int(self._there.argmax())]
        empty = pd.isna(first) or column.hidden_if == "empty"
        same = values.isna() if empty else (values == first).fillna(False)
        return bool(np.asarray(same, dtype=bool)[self._there].all())

    def _search(self, text: str) -> npt.NDArray[np.bool_]:
        if self._haystack is None:
            self._haystack = self._search_texts(None)
        if self._found is None or self._found[0] != text:
            self._found = text, _containing(text, self._haystack)
        return self._found[1]

    def _search_texts(self, at: _Places | None) -> list[str]:
        there = [
            name for name in self._searched if name in {*self._columns, *self._frame.columns, self._frame.index.name}
        ]
        columns = (self._column(name) if at is None else self._column(name).iloc[at] for name in there)
        texts = [_texts(column) for column in columns]
        return [_haystack(row) for row in zip(*texts, strict=True)] or [""] * len(self._ids if at is None else at)


class OnePage:
    """The rows of one page, of more rows than are to be in memory.

    Parameters
    ----------
    rows : Rows
        Loads the page.
    every_key : callable
        Returns the keys of the rows on all pages.
    """

    def __init__(self, rows: TableRows, every_key: Callable[[], Iterable[Any]]) -> None:
        self._rows, self._every_key = rows, every_key
        self._total = 0

    def load(self, data: pd.DataFrame | Mapping[str, Any], total: int) -> None:
        """Replace the page, which is one of so many rows."""
        self._rows.load(data)
        self._total = total

    def page(self, query: Query, start: int, size: int) -> TablePage:  # noqa: ARG002 - the query has found it
        """Return the page that was loaded, which begins at place `start`."""
        return replace(self._rows.page(Query(), 0, size), start=start, matching=self._total, total=self._total)

    def ids(self, query: Query) -> Iterable[str]:  # noqa: ARG002 - there is one query for all pages
        """Return the ids of the rows on all pages.

        Raises
        ------
        InvalidInputError
            If they are too many.
        """
        if self._total > _MOST_SELECTED:
            raise InvalidInputError(
                f"{self._total:,} rows are too many to select: {_MOST_SELECTED:,} can be",
                hint="choose a state, a cause or a text before",
            )
        return map(str, self._every_key())

    def keys(self, ids: Iterable[str]) -> list[Any]:
        """Return the keys of those of these rows that are on the page."""
        return self._rows.keys(ids)

    def selected(self, selection: Selection) -> list[Any]:
        """Return the keys of the selected rows as text, also of those on other pages, in no order."""
        return list(selection.ids())

    def count(self, selection: Selection, query: Query) -> tuple[int, int]:  # noqa: ARG002 - nothing is hidden
        """Return how many rows are selected."""
        return len(selection.ids()), 0


def check_search(whose: str, text: str, names: Iterable[str]) -> None:
    """Refuse a search, which has found nothing, for a value of a column that the data of a table or a batch lacks.

    Raises
    ------
    InvalidInputError
        With the column that was meant.
    """
    names = list(names)
    for one in _PAIR.finditer(text):
        if one["name"].isidentifier() and not one["value"].startswith("/") and one["name"] not in names:
            raise _no_column(whose, one["name"], names)


def _no_column(whose: str, name: str, names: Sequence[str]) -> InvalidInputError:
    """Return the error that data, of a table or a batch, have other columns than this one."""
    near = near_words(name, names)
    shown = names if len(names) <= _NAMED else [*names[:_NAMED], f"{len(names) - _NAMED:,} others"]
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(shown) or 'none'}"
    return InvalidInputError(f'the data of {whose} has no column "{name}"', resource=name, hint=hint)


def _containing(text: str, haystack: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which rows contain a text, or each of the fields that it names: ``order:4711 day:2026-01-01``."""
    needle = text.lower()
    fields = list(_PAIR.finditer(needle))
    whole = bool(fields) and not fields[0].start()
    pairs = [[f"{_EDGE}{one['name']}={value}{_EDGE}" for value in spellings(one["value"])] for one in fields]
    needle = needle.replace(SEPARATOR, _EDGE)
    found = [needle in row or (whole and all(any(pair in row for pair in each) for each in pairs)) for row in haystack]
    return np.array(found, dtype=bool)


def _haystack(texts: Sequence[str]) -> str:
    """Return the texts of a row as one searchable text, with decoded percent signs and the fields of the row."""
    found = _EDGE.join(("", *texts, "")).replace(SEPARATOR, _EDGE)
    # In a query of a URL, a plus sign is a space.
    return (f"{found}{unquote(found)}{unquote_plus(found)}" if "%" in found or "+" in found else found).lower()


def _frame(data: pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    return data.copy(deep=False) if isinstance(data, pd.DataFrame) else pd.DataFrame(dict(data))


def _series(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    return frame[name] if name in frame.columns else frame.index.to_series()


def _several(values: Any) -> tuple[Any, ...]:
    return (values,) if isinstance(values, str | bytes) or not isinstance(values, Iterable) else tuple(values)


def _same(old: pd.Series[Any], new: pd.Series[Any]) -> bool:
    try:
        return bool(old.array.equals(new.array))
    except (TypeError, ValueError):  # objects that cannot be compared, such as a decoded body and NA
        return False


def _texts(series: pd.Series[Any]) -> list[str]:
    """Return values as the text that is searched and sorted by; empty where a value is missing."""
    if isinstance(series.dtype, pd.StringDtype):
        return cast("list[str]", series.fillna("").tolist())
    if isinstance(series.dtype, pd.CategoricalDtype):
        words = [*map(str, series.cat.categories), ""]  # the code -1, for missing values, selects the last
        return [words[code] for code in series.cat.codes.tolist()]
    return ["" if is_missing(value) else json_text(value) for value in series.tolist()]


def _ranks(series: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Return numbers that sort as the values do; NaN where a value is missing."""
    missing = series.isna().to_numpy(dtype=bool)
    if isinstance(series.dtype, pd.CategoricalDtype):
        ranks = np.array(series.cat.codes, dtype=np.float64)
    elif isinstance(series.dtype, pd.DatetimeTZDtype) or series.dtype.kind in "Mm":
        ranks = np.array(series.array.view("i8"), dtype=np.float64)
    elif pd.api.types.is_numeric_dtype(series.dtype):
        ranks = np.array(series.to_numpy(dtype=np.float64, na_value=np.nan))
    else:
        words = series if isinstance(series.dtype, pd.StringDtype) else np.array(_texts(series), dtype=object)
        ranks = pd.factorize(words, sort=True)[0].astype(np.float64)
    ranks[missing] = np.nan
    return ranks


class Selection:
    """Rows that are selected by key, whether they are loaded now or not.

    The browser writes `state`: a `version` that grows, `keys` that are selected, and the name of a `base`: all rows
    that matched a filter at one moment, but for those `without`. The base itself never travels.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"version": 0, "base": "", "keys": [], "without": []}
        self.base: frozenset[str] = frozenset()
        self._found: tuple[Mapping[str, int], int, list[int]] = {}, 0, []
        self._ids: frozenset[str] | None = None

    def of(self, ids: Iterable[str]) -> dict[str, Any]:
        """Return the next state, in which these rows and no others are selected."""
        return {"version": self.state["version"] + 1, "base": "", "keys": list(ids), "without": []}

    def choose(self, state: dict[str, Any], *, number: int, matching: Callable[[], Iterable[str]]) -> None:
        """Set the state, unless it is no newer than the present one.

        A kernel may handle the messages of one widget in several threads, so that an older one may come later.

        Parameters
        ----------
        state : dict
            What the browser wrote.
        number : int
            Number of the present filter. A base is named after its own (``"3.7251"``); one that was made under
            another filter is empty: never more than was shown.
        matching : callable
            Gives the ids of the rows that match now.
        """
        if state["version"] < self.state["version"] or state == self.state:
            return
        before, self.state = self.state, state
        self._found, self._ids = ({}, 0, []), None
        if state["base"] != before["base"]:
            self.base = frozenset()
            if state["base"].partition(".")[0] == str(number):
                self.base = frozenset(matching())

    def ids(self) -> frozenset[str]:
        """Return the selected rows, whether they are loaded or not."""
        if self._ids is None:
            self._ids = (self.base - set(self.state["without"])) | set(self.state["keys"])
        return self._ids

    def places(self, places: Mapping[str, int]) -> list[int]:
        """Return the positions of the selected rows, in order; found once for the same rows.

        Rows are only removed from a mapping: while it is as long, it has the same rows.
        """
        if self._found[0] is not places or self._found[1] != len(places):
            if self.base:
                ids = self.ids()
                found = [place for name, place in places.items() if name in ids]
            else:
                found = sorted(places[name] for name in set(self.state["keys"]) if name in places)
            self._found = places, len(places), found
        return self._found[2]
