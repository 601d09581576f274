"""Show rows by key in a table of which the browser has one page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets

from cloudtasks_nb.display.plural import count_text, counted
from cloudtasks_nb.panels.widgets.assets import source
from cloudtasks_nb.panels.widgets.cells import Cell, Column, static_table
from cloudtasks_nb.panels.widgets.rows import Places, Query, Rows, Selection

__all__ = ["Table"]


class Table(anywidget.AnyWidget):
    """A live table: rows keyed by name, selection and scroll survive every refresh.

    All rows stay in Python; the page gets the text of those that it shows. Every method may be called from any thread.
    The selection is kept by key, so that a row which vanishes and returns is selected again; loading rows never changes
    it.

    Set callbacks as attributes. They run in the thread that caused them, or in the one that is calling back at that
    moment. Their exceptions go to `on_error`, if it is set.

    Parameters
    ----------
    columns : sequence of Column
        The columns to show, from left to right.
    key : str
        Column or index that names a row. Its values must differ.
    page_size : int
        Rows on a page; all of them can be seen at once.
    label : str
        Name of the rows, in the plural: ``"tasks"``. Read by screen readers, and shown behind counts.
    selectable : bool
        Whether rows can be selected.
    empty : str, optional
        Text in a table without rows.
    searched : sequence of str
        Columns that the text of a filter is looked for in although they are not shown, where the data has them.

    Attributes
    ----------
    on_show : callable, optional
        Called with the key of a row that becomes the current one, by a click or by Enter. This selects nothing.
    on_open : callable, optional
        Called with the key of a row when it is opened: Enter or double click.
    on_press : callable, optional
        Called with the key of a row and the text of its button when that is pressed.
    on_select : callable, optional
        Called with the keys of the selected rows when they have changed, by a click or because rows came or went.
    on_page : callable, optional
        Called with the keys of the rows on the page when these are others than before.
    on_error : callable, optional
        Called with the exception that a callback has raised.
    """

    _esm = source("browser.js", "table.js")
    _css = source("theme.css", "table.css")

    _setup = traitlets.Dict().tag(sync=True)
    # Sent with `send_state`, but never set: a trait that one thread sets while another one handles a message of the
    # browser could be held back with the changes of that message, and be lost.
    _page = traitlets.Any().tag(sync=True, to_json=lambda _value, table: table._sent[0])  # noqa: SLF001 - its own class
    _summary = traitlets.Any().tag(sync=True, to_json=lambda _value, table: table._sent[1])  # noqa: SLF001 - its own class
    _selection = traitlets.Any().tag(sync=True, to_json=lambda _value, table: table._selected.state)  # noqa: SLF001 - its own class

    on_show: Callable[[Any], object] | None = None
    on_open: Callable[[Any], object] | None = None
    on_press: Callable[[tuple[Any, str]], object] | None = None
    on_select: Callable[[list[Any]], object] | None = None
    on_page: Callable[[list[Any]], object] | None = None
    on_error: Callable[[Exception], object] | None = None

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        key: str = "name",
        page_size: int = 20,
        label: str = "tasks",
        selectable: bool = True,
        empty: str | None = None,
        searched: Sequence[str] = (),
    ) -> None:
        self._columns, self._key = tuple(columns), key
        self._page_size = page_size
        self._label = label
        self._empty_text = empty or f"No {label}"
        self._empty = "Not loaded yet"
        self._lock = threading.RLock()
        self._rows = Rows(self._columns, key, searched)
        self._query = Query()
        self._filters = 0  # number of filters so far: a selection of "all that match" refers to its filter by number
        self._order: Places = self._sorted()
        self._page_number = 0  # number of the page that is shown, from 0
        self._answers = 0  # changes of page, sort and filter so far: after each the browser scrolls to the top
        self._selected = Selection()
        self._current: str | None = None  # id of the row that was clicked last
        self._last_click: tuple[str | None, int] = None, 0  # the view in which that was, and its number there
        self._reported: dict[str, list[Any]] = {"on_select": [], "on_page": []}
        self._reporting = self._changed_meanwhile = False
        self._sent = self._compose(revision=0)  # `data-revision` in the page is the newest that was drawn
        setup = {"columns": [_column_setup(column) for column in columns], "selectable": selectable, "label": label}
        super().__init__(_setup=setup)
        self.on_msg(self._on_message)

    def load(self, data: pd.DataFrame | Mapping[str, Any]) -> None:
        """Replace all rows.

        Raises
        ------
        InvalidInputError
            If a column or the key is not in `data`, or two rows have the same key.
        """
        with self._changing():
            self._rows.load(data)
            self._empty = self._empty_text

    def clear(self) -> None:
        """Remove all rows and the selection, as before the first `load`."""
        with self._changing(moved=True):
            self._rows.clear()
            self._order = self._sorted()
            self._empty, self._current, self._page_number = "Not loaded yet", None, 0
            self._choose(self._selected.of(()))
            self.send_state("_selection")

    @property
    def empty(self) -> str:
        """Text in the table while no rows are loaded."""
        return self._empty

    @empty.setter
    def empty(self, text: str) -> None:
        with self._lock:
            if text != self._empty:
                self._empty = text
                self._publish()

    def patch(self, data: pd.DataFrame | Mapping[str, Any]) -> None:
        """Update rows by key; new rows are appended. Columns that `data` lacks stay as they are."""
        with self._changing():
            self._rows.patch(data)

    def drop(self, keys: Iterable[Any]) -> None:
        """Remove rows."""
        with self._changing():
            self._rows.drop(str(key) for key in keys)

    def filter(self, text: str | None = None, **where: Any) -> None:
        """Show the rows that match. Each call replaces the earlier filter; without arguments all rows are shown.

        Parameters
        ----------
        text : str, optional
            Text that a row must contain, in upper or lower case.
        **where
            A column and the value, or values, that it must have; None for any.

        Raises
        ------
        InvalidInputError
            If the text is ``column:value``, no row matches, and none has this column.
        """
        with self._changing(moved=True):
            for name in where:
                self._rows.check(name)
            asked = Query.of(text, where)
            self._filters += (asked.text, asked.where) != (self._query.text, self._query.where)
            self._query = replace(asked, sort=self._query.sort, descending=self._query.descending)
            self._page_number = 0
        if self.total and not self.matching:
            with self._lock:
                self._rows.check_search(asked.text)

    def sort(self, column: str | None = None, *, descending: bool = False) -> None:
        """Sort by a column; without one, show rows in the order in which they were loaded."""
        with self._changing(moved=True):
            if column is not None:
                self._rows.check(column)
            self._query = replace(self._query, sort=column, descending=descending)
            self._page_number = 0

    def turn(self, page: int) -> None:
        """Show a page, counted from 0; the last one if there are fewer."""
        with self._changing(moved=True, ordered=False):
            self._page_number = max(page, 0)

    def select(self, keys: Iterable[Any]) -> None:
        """Select these rows and no others; an empty list clears the selection."""
        with self._lock:
            self._choose(self._selected.of(str(key) for key in keys))
            self.send_state("_selection")
        self._call_back()

    @property
    def selected(self) -> list[Any]:
        """Keys of the selected rows that are loaded, in their loaded order, also those that a filter hides."""
        with self._lock:
            return self._rows.keys(self._picked())

    def known(self, keys: Iterable[Any]) -> set[str]:
        """Return those of these keys, as text, whose rows are loaded."""
        with self._lock:
            return {key for key in map(str, keys) if key in self._rows.places}

    @property
    def current(self) -> Any:
        """Key of the row that is looked at; None if there is none, or if it is not loaded any more."""
        with self._lock:
            place = self._rows.places.get(self._current or "")
            return None if place is None else self._rows.keys([place])[0]

    def show(self, key: Any) -> None:
        """Mark a row as the one that is looked at, none for None; `on_show` is not called."""
        with self._lock:
            self._current = None if key is None else str(key)
            self._publish()

    @property
    def page_keys(self) -> list[Any]:
        """Keys of the rows on the page."""
        with self._lock:
            return self._rows.keys(self._on_page())

    @property
    def matching(self) -> int:
        """How many rows match the filter."""
        return len(self._order)

    @property
    def filtering(self) -> bool:
        """Whether a filter leaves rows out."""
        return self._query.filtering

    @property
    def total(self) -> int:
        """How many rows are loaded."""
        return len(self._rows)

    def html(self) -> str:
        """Return the page as a static HTML table."""
        with self._lock:
            at = self._on_page()
            shown = [column.name not in self._rows.blank for column in self._columns]
            cells = [list(compress(row, shown)) for row in self._rows.cells(at)]
            columns = list(compress(self._columns, shown))
            return static_table(columns, cells, caption=self._caption(len(at)), empty=self._empty)

    def __repr__(self) -> str:
        return f"<Table of {counted(len(self._rows), self._label)}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/html"] = self.html()  # for exports and viewers that have no kernel
        return bundle

    @contextmanager
    def _changing(self, *, moved: bool = False, ordered: bool = True) -> Iterator[None]:
        """Change rows or query inside; then sort, send, and call back without holding the lock."""
        with self._lock:
            yield
            if ordered:
                self._order = self._sorted()
            self._answers += moved
            self._publish()
        self._call_back()

    def _publish(self) -> None:
        with self._lock:
            last = max(0, (self.matching - 1) // self._page_size)
            self._page_number = min(self._page_number, last)
            old_page, old_summary = self._sent
            page, summary = self._compose(revision=old_summary["revision"])
            if (page, summary) == self._sent:
                return
            summary["revision"] += 1
            self._sent = page, summary
            self.send_state(["_summary"] if page == old_page else ["_page", "_summary"])

    def _compose(self, *, revision: int) -> tuple[dict[str, Any], dict[str, Any]]:
        at = self._on_page()
        ids = self._rows.ids(at)
        cells: list[list[Cell]] = self._rows.cells(at)
        query = self._query
        page = {
            "rows": [[name, row, name in self._selected.base] for name, row in zip(ids, cells, strict=True)],
            "start": self._page_number * self._page_size,
            "size": self._page_size,
            "matching": self.matching,
            "caption": self._caption(len(at)),
            "hidden": sorted(self._rows.blank),
            "filter": self._filters,
            "filtering": query.filtering,
            "sort": [query.sort, "descending" if query.descending else "ascending"],
            "answers": self._answers,
            "empty": f"None of {counted(self.total, self._label)} matches" if self.total else self._empty,
        }
        summary = {
            "revision": revision,
            "version": self._selected.state["version"],
            "base": self._selected.state["base"],
            "selected": self._count_selected(),
            "hidden": self._hidden(),
            "current": self._current,
        }
        return page, summary

    def _on_page(self) -> Places:
        start = self._page_number * self._page_size
        return self._order[start : start + self._page_size]

    def _caption(self, shown: int) -> str:
        """Return which rows are on the page, and of how many, if that is not all."""
        start, matching = self._page_number * self._page_size, self.matching
        text = counted(self.total, self._label)
        if matching < self.total:
            text = f"{count_text(matching)} that {'matches' if matching == 1 else 'match'}, of {text}"
        if shown == matching:
            return text
        return f"{count_text(start + 1)}\u2013{count_text(start + shown)} of {text}"

    def _sorted(self) -> Places:
        """Return the rows that match, in order."""
        return self._rows.order(self._query)

    def _picked(self) -> list[int]:
        return self._selected.places(self._rows.places)

    def _count_selected(self) -> int:
        return len(self._picked())

    def _hidden(self) -> int:
        """Return how many of the selected rows the filter hides."""
        picked = self._picked()
        return int(np.isin(picked, self._order, invert=True).sum()) if self._query.filtering and picked else 0

    def _take_selection(self, state: dict[str, Any]) -> None:
        with self._lock:
            newer = self._selected.is_newer(state)
            if newer:
                self._choose(state)
        if newer:
            self._call_back()

    def _choose(self, state: dict[str, Any]) -> None:
        self._selected.choose(state, number=self._filters, matching=self._matching_ids)
        self._publish()

    def _matching_ids(self) -> Iterable[str]:
        return self._rows.ids(self._order)

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        actions: dict[str, Callable[[dict[str, Any]], None]] = {
            # Not a trait: the browser holds that back while an earlier one is on its way, and a later click on a button
            # would arrive before it.
            "select": lambda message: self._take_selection(message["selection"]),
            "sort": lambda message: self.sort(message["column"], descending=message["descending"]),
            "page": lambda message: self.turn(message["page"]),
            "show": lambda message: self._look("on_show", message),
            "open": lambda message: self._look("on_show" if self.on_open is None else "on_open", message),
            "press": lambda message: self._look("on_press", message),
        }
        actions[content["do"]](content)

    def _look(self, name: str, message: dict[str, Any]) -> None:
        """Make a row the current one, and call back with its key.

        A kernel may handle the messages of one widget in several threads. A click that arrives after a later one is
        ignored.
        """
        row, view, number = message["key"], message.get("view"), message.get("number", 0)
        with self._lock:
            if view == self._last_click[0] and number < self._last_click[1]:
                return
            self._last_click = view, number
            there = row in self._rows.places
            if there:
                self._current = row
                self._publish()
        if there:
            self._call(name, (self.current, message["text"]) if "text" in message else self.current)

    def _call_back(self) -> None:
        """Call `on_select` and `on_page` after changes; one thread at a time, so that the newest is reported last."""
        with self._lock:
            self._changed_meanwhile = True
            if self._reporting:
                return  # the thread that reports now will report this change too
            self._reporting = True
        try:
            while self._more_changes():
                self._report("on_select")
                self._report("on_page")
        except BaseException:  # from `on_error`: later changes must be reported all the same
            self._reporting = False
            raise

    def _more_changes(self) -> bool:
        """Return whether something has changed since the last report; if not, end the reporting."""
        with self._lock:
            self._reporting = self._changed_meanwhile
            self._changed_meanwhile = False
            return self._reporting

    def _report(self, name: str) -> None:
        if getattr(self, name) is None:
            return  # do not collect 100,000 keys for no callback
        with self._lock:
            keys = self.selected if name == "on_select" else self.page_keys
            changed = keys != self._reported[name]
            self._reported[name] = keys
        if changed:
            self._call(name, keys)

    def _call(self, name: str, value: Any) -> None:
        callback = getattr(self, name)
        if callback is None:
            return
        try:
            callback(value)
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)


def _column_setup(column: Column) -> dict[str, Any]:
    widths = {"time": "11em", "due": "16em", "duration": "8em", "state": "15em"}
    return {
        "name": column.name,
        "title": column.heading,
        "tip": column.tip or column.heading,
        "kind": column.kind,
        "width": column.width or widths.get(column.kind, ""),
        "align": column.side,
        "verbatim": column.verbatim,
    }
