"""A table of which Python has one page at a time, too: for more rows than are to be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.rows import Places, Query
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["PagedTable"]

_MOST_SELECTED = 1_000_000  # rows that are selected by their keys


class PagedTable(Table):
    """A table whose pages are loaded one by one, in any order that its owner can make.

    Parameters
    ----------
    columns, key, label, empty
        As for `Table`.
    every_key : callable
        Returns the keys of the rows on all pages: those that "Select all" selects.

    Attributes
    ----------
    on_turn : callable, optional
        Called with the place of the first row that is wanted, the column to sort by (None for none), and whether from
        large to small; `show_page` is the answer.
    """

    on_turn: Callable[[int, str | None, bool], object] | None = None

    def __init__(
        self, columns: Sequence[Column], *, key: str, label: str, empty: str, every_key: Callable[[], Iterable[Any]]
    ) -> None:
        self._every_key = every_key
        self._in_all = 0
        self._refused = False  # whether more rows were to be selected than can be
        self._asked = False  # whether the browser waits for a page
        super().__init__(columns, key=key, label=label, empty=empty)

    @property
    def whole(self) -> bool:
        """Whether all rows were selected, and none since then."""
        selection = self._selected
        return bool(selection.base) and not (selection.state["keys"] or selection.state["without"])

    def show_page(
        self, data: pd.DataFrame | Mapping[str, Any], *, start: int, total: int, sort: tuple[str, bool] | None = None
    ) -> None:
        """Show the rows from place `start` on, of so many in all, which are sorted as `on_turn` has wanted."""
        with self._changing(moved=self._asked):
            self._asked = False
            column, descending = sort or (None, False)
            self._query = replace(self._query, sort=column, descending=descending)
            self._rows.load(data)
            self._empty = self._empty_text
            self._page_number, self._in_all = start // self._page_size, total

    def turn(self, page: int) -> None:
        """Ask for a page, counted from 0."""
        self._ask(max(page, 0) * self._page_size, self._query.sort, self._query.descending)

    def sort(self, column: str | None = None, *, descending: bool = False) -> None:
        """Ask for the first page of all rows in another order."""
        self._ask(0, column, descending)

    @property
    def matching(self) -> int:
        """How many rows there are on all pages."""
        return self._in_all

    @property
    def total(self) -> int:
        """How many rows there are on all pages."""
        return self._in_all

    @property
    def selected(self) -> list[Any]:
        """Keys of the selected rows as text, also of those on other pages, in no order."""
        with self._lock:
            return list(self._selected.ids())

    def _ask(self, start: int, column: str | None, descending: bool) -> None:  # noqa: FBT001 - as `on_turn`
        self._asked = True
        if self.on_turn is not None:
            self.on_turn(start, column, descending)

    def _sorted(self) -> Places:
        return self._rows.order(Query())

    def _on_page(self) -> Places:
        return self._order

    def _count_selected(self) -> int:
        return len(self._selected.ids())

    def _matching_ids(self) -> Iterable[str]:
        self._refused = self._in_all > _MOST_SELECTED
        return () if self._refused else map(str, self._every_key())

    def _call_back(self) -> None:
        if self._refused and self.on_error is not None:
            self._refused = False
            text = f"{self._in_all:,} {self._label} are too many to select: {_MOST_SELECTED:,} can be"
            self.on_error(InvalidInputError(text, hint="choose a state, a cause or a text before"))
        super()._call_back()
