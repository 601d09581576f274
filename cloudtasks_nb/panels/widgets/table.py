"""Show rows by key in a table of which the browser has one page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from typing import Any

import anywidget
import pandas as pd
import traitlets

from cloudtasks_nb.display.plural import count_text, counted
from cloudtasks_nb.panels.widgets.assets import source
from cloudtasks_nb.panels.widgets.cells import Column, static_table
from cloudtasks_nb.panels.widgets.rows import OnePage, Query, Selection, TablePage, TablePages, TableRows

__all__ = ["Table"]


class Table(anywidget.AnyWidget):
    """A live table: rows keyed by name, selection and scroll survive every refresh.

    The rows stay in Python; the browser gets the text of those on its page. Every method may be called from any thread.
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
    every_key : callable, optional
        Returns the keys of all rows, where these are more than are to be in memory: the table then has one page, which
        `show_page` replaces, and `load`, `patch`, `drop` and `filter` are not called.

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
    on_turn : callable, optional
        Called with the place of the first row that is wanted, and the query with its order, where `every_key` is given;
        `show_page` is the answer.
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
    on_turn: Callable[[int, Query], object] | None = None
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
        every_key: Callable[[], Iterable[Any]] | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._page_size = page_size
        self._label = label
        self._empty_text = empty or f"No {label}"
        self._empty = "Not loaded yet"
        self._lock = threading.RLock()
        self._rows = TableRows(self._columns, key, searched)
        self._one_page = None if every_key is None else OnePage(self._rows, every_key)
        self._pages: TablePages = self._one_page or self._rows
        self._query, self._start = Query(), 0
        self._shown = TablePage()
        self._filters = 0  # number of filters so far: a selection of "all that match" refers to its filter by number
        self._waiting = False  # whether the browser waits for a page of `on_turn`
        self._answers = 0  # changes of page, sort and filter so far: after each the browser scrolls to the top
        self._selected = Selection()
        self._current: str | None = None  # id of the row that was clicked last
        self._last_click: tuple[str | None, int] = None, 0  # the view in which that was, and its number there
        self._reported: dict[str, list[Any]] = {"on_select": [], "on_page": []}
        self._reporting = False
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
            self._empty, self._current, self._start = "Not loaded yet", None, 0
            self._selected.choose(self._selected.of(()), number=self._filters, matching=tuple)
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
            self._query, self._start = replace(asked, sort=self._query.sort, descending=self._query.descending), 0
        if self.total and not self.matching:
            with self._lock:
                self._rows.check_search(asked.text)

    def sort(self, column: str | None = None, *, descending: bool = False) -> None:
        """Sort by a column; without one, show rows in the order in which they were loaded."""
        self._turn(0, replace(self._query, sort=column, descending=descending))

    def turn(self, page: int) -> None:
        """Show a page, counted from 0; the last one if there are fewer."""
        self._turn(max(page, 0) * self._page_size, self._query)

    def _turn(self, start: int, query: Query) -> None:
        if self.on_turn is not None:
            self._waiting = True
            self.on_turn(start, query)
            return
        with self._changing(moved=True):
            if query.sort is not None:
                self._rows.check(query.sort)
            self._start, self._query = start, query

    def show_page(self, data: pd.DataFrame | Mapping[str, Any], *, start: int, total: int, query: Query) -> None:
        """Show the rows from place `start` on, of so many in all, which are sorted as `on_turn` has wanted."""
        assert self._one_page is not None  # noqa: S101 - else the rows are loaded
        with self._changing(moved=self._waiting):
            self._one_page.load(data, total)
            self._start, self._query, self._waiting, self._empty = start, query, False, self._empty_text

    def select(self, keys: Iterable[Any]) -> None:
        """Select these rows and no others; an empty list clears the selection."""
        with self._lock:
            self._choose(self._selected.of(map(str, keys)))
            self.send_state("_selection")
        self._call_back()

    @property
    def selected(self) -> list[Any]:
        """Keys of the selected rows that are loaded, in their loaded order, also those that a filter hides.

        Where the table has one page, these are the keys of all selected rows as text, in no order.
        """
        with self._lock:
            return self._pages.selected(self._selected)

    @property
    def whole(self) -> bool:
        """Whether all rows were selected, and none since then."""
        selection = self._selected
        return bool(selection.base) and not (selection.state["keys"] or selection.state["without"])

    def known(self, keys: Iterable[Any]) -> set[str]:
        """Return those of these keys, as text, whose rows are loaded."""
        with self._lock:
            return {key for key in map(str, keys) if key in self._rows.places}

    @property
    def current(self) -> Any:
        """Key of the current row; None without one, or if it is not loaded any more."""
        with self._lock:
            return next(iter(self._pages.keys([self._current or ""])), None)

    def show(self, key: Any) -> None:
        """Make a row the current one, none for None; `on_show` is not called."""
        with self._lock:
            self._current = None if key is None else str(key)
            self._publish()

    @property
    def page_keys(self) -> list[Any]:
        """Keys of the rows on the page."""
        return list(self._shown.keys)

    @property
    def matching(self) -> int:
        """How many rows match the filter."""
        return self._shown.matching

    @property
    def filtering(self) -> bool:
        """Whether a filter leaves rows out."""
        return self._query.filtering

    @property
    def total(self) -> int:
        """How many rows there are."""
        return self._shown.total

    def html(self) -> str:
        """Return the page as a static HTML table."""
        page = self._shown
        there = [column.name not in page.blank for column in self._columns]
        cells, columns = [list(compress(row, there)) for row in page.cells], list(compress(self._columns, there))
        return static_table(columns, cells, caption=self._caption(page), empty=self._empty)

    def __repr__(self) -> str:
        return f"<Table of {counted(self.total, self._label)}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/html"] = self.html()  # for exports and viewers that have no kernel
        return bundle

    @contextmanager
    def _changing(self, *, moved: bool = False) -> Iterator[None]:
        """Change rows or query inside; then show the page, and call back without holding the lock."""
        with self._lock:
            yield
            self._shown = self._pages.page(self._query, self._start, self._page_size)
            self._start = self._shown.start
            self._answers += moved
            self._publish()
        self._call_back()

    def _publish(self) -> None:
        with self._lock:
            old_page, old_summary = self._sent
            page, summary = self._compose(revision=old_summary["revision"])
            if (page, summary) == self._sent:
                return
            summary["revision"] += 1
            self._sent = page, summary
            self.send_state(["_summary"] if page == old_page else ["_page", "_summary"])

    def _compose(self, *, revision: int) -> tuple[dict[str, Any], dict[str, Any]]:
        shown, query = self._shown, self._query
        page = {
            "rows": [
                [name, row, name in self._selected.base] for name, row in zip(shown.ids, shown.cells, strict=True)
            ],
            "start": shown.start,
            "size": self._page_size,
            "matching": shown.matching,
            "caption": self._caption(shown),
            "hidden": sorted(shown.blank),
            "filter": self._filters,
            "filtering": query.filtering,
            "sort": [query.sort, "descending" if query.descending else "ascending"],
            "answers": self._answers,
            "empty": f"None of {counted(shown.total, self._label)} matches" if shown.total else self._empty,
        }
        selected, hidden = self._pages.count(self._selected, query)
        summary = {
            "revision": revision,
            "version": self._selected.state["version"],
            "base": self._selected.state["base"],
            "selected": selected,
            "hidden": hidden,
            "current": self._current,
        }
        return page, summary

    def _caption(self, page: TablePage) -> str:
        """Return which rows are on the page, and of how many, if that is not all."""
        text, shown = counted(page.total, self._label), len(page.ids)
        if page.matching < page.total:
            text = f"{count_text(page.matching)} that {'matches' if page.matching == 1 else 'match'}, of {text}"
        if shown == page.matching:
            return text
        return f"{count_text(page.start + 1)}\u2013{count_text(page.start + shown)} of {text}"

    def _choose(self, state: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._selected.choose(state, number=self._filters, matching=lambda: self._pages.ids(self._query))
            finally:
                self._publish()

    def _take_selection(self, state: dict[str, Any]) -> None:
        self._try(self._choose, state)
        self._call_back()

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        actions: dict[str, Callable[[dict[str, Any]], None]] = {
            # Not a trait: the browser holds that back while an earlier one is on its way, and a later click on a button
            # would arrive before it.
            "select": lambda message: self._take_selection(message["selection"]),
            "sort": lambda message: self.sort(message["column"], descending=message["descending"]),
            "page": lambda message: self.turn(message["page"]),
            "show": lambda message: self._clicked("on_show", message),
            "open": lambda message: self._clicked("on_show" if self.on_open is None else "on_open", message),
            "press": lambda message: self._clicked("on_press", message),
        }
        actions[content["do"]](content)

    def _clicked(self, name: str, message: dict[str, Any]) -> None:
        """Make a row the current one, and call back with its key.

        A kernel may handle the messages of one widget in several threads. A click that arrives after a later one is
        ignored.
        """
        row, view, number = message["key"], message.get("view"), message.get("number", 0)
        with self._lock:
            if view == self._last_click[0] and number < self._last_click[1]:
                return
            self._last_click = view, number
            there = self._pages.keys([row])
            if there:
                self._current = row
                self._publish()
        for key in there:
            self._call(name, (key, message["text"]) if "text" in message else key)

    def _call_back(self) -> None:
        """Call `on_select` and `on_page` after changes; one thread at a time, so that the newest is reported last."""
        with self._lock:
            if self._reporting:
                return  # the thread that reports now will report this change too
            self._reporting = True
        try:
            while changed := self._changed():
                for name, keys in changed.items():
                    self._call(name, keys)
        except BaseException:  # from `on_error`: later changes must be reported all the same
            self._reporting = False
            raise

    def _changed(self) -> dict[str, list[Any]]:
        """Return what has changed since the last report; if nothing has, end the reporting."""
        with self._lock:
            pages = {} if self.on_page is None else {"on_page": self.page_keys}
            found = pages if self.on_select is None else {"on_select": self.selected, **pages}
            changed = {name: keys for name, keys in found.items() if keys != self._reported[name]}
            self._reported |= changed
            self._reporting = bool(changed)
            return changed

    def _call(self, name: str, value: Any) -> None:
        callback = getattr(self, name)
        if callback is not None:
            self._try(callback, value)

    def _try(self, work: Callable[[Any], object], value: Any) -> None:
        try:
            work(value)
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
