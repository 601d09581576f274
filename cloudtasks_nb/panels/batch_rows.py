"""The rows of a batch, chosen by state, cause and text, and shown a part at a time, however many there are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from cloudtasks_nb.display.card import section_html
from cloudtasks_nb.display.charts import state_bar
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.row_query import STATES, RowQuery, RowReader, join_results
from cloudtasks_nb.fanout.batch.stored_results import Answers
from cloudtasks_nb.fanout.batch.view import BatchView
from cloudtasks_nb.fanout.outbox.outcomes import Cause
from cloudtasks_nb.fanout.states import RETRYING, WORDS, State
from cloudtasks_nb.panels.batch_box import BatchBox, BatchNow, Pacing, SelectedPeriods
from cloudtasks_nb.panels.cards.task import last_errors
from cloudtasks_nb.panels.owner import WidgetOwner
from cloudtasks_nb.panels.panel import WIDE, Panel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.choices import ChoiceButton, Choices
from cloudtasks_nb.panels.widgets.fields import Picker
from cloudtasks_nb.panels.widgets.rows import Query, check_search
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["REF", "BatchRows", "RowsRequest", "RowsView", "SearchResult"]

_PAUSE_FACTOR = 20  # rows are not read again for the duration of the last reading times this
_LONG_SEARCH = 0.5  # seconds; a search that took longer is not repeated automatically
_ALL = "all"
_PAGE = 20  # rows of a page

_STATE, _MESSAGE = Column("state", kind="state"), Column("last_message", "Message", hidden_if="empty")
_ATTEMPTS, _LAST = Column("attempts", kind="count"), Column("last_attempt_time", "Last attempt", kind="time")
_ATTEMPT_COLUMNS = (Column("last_status", "Last answer", kind="state"), _ATTEMPTS, _LAST)
_SUCCESS_COLUMNS = (_ATTEMPTS, Column("duration", kind="duration"), _LAST)
_ROW_COLUMN = Column("row", width="7em", align="right")
_INPUT_WIDTH = "14em"  # or the message, for which people come, would get too little
#: The column with what identifies each row in the outbox; it is the key of the table. No input has one of this name.
REF = "\0ref"
_INPUT_COLUMNS = 5  # columns of the input that are shown, unless the user chooses others
_RESULT_COLUMNS = 5  # columns of the results that are shown


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowsRequest:
    """Which rows are to be shown. Each choice of the user makes another one."""

    query: RowQuery = field(default_factory=RowQuery)
    automatic: bool = True  #: the user has chosen nothing
    start: int = 0  #: the place of the first row among all of them
    order: Query = field(default_factory=Query)  #: by which column they are sorted; without one as in the input
    again: Sequence[int] | None = None  #: refs of rows that were sent again: these are shown in every state

    def pages_as(self, other: RowsRequest) -> bool:
        """Return whether the pages of another one are the same."""
        return (self.query, self.order) == (other.query, other.order) and self.again is other.again


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Rows that are chosen by more than their state and cause, or are sorted."""

    refs: Sequence[int] = ()
    final: Mapping[str, int] = field(default_factory=dict)  #: how many of these are in which final state
    note: str = ""  #: the time of the search, if it is not repeated automatically
    quick: bool = True  #: it is repeated when the batch has changed


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsView:
    """What the table shows."""

    request: RowsRequest = field(default_factory=RowsRequest)
    part: SelectedPeriods | None = None  #: what was selected in the calendar
    changed: float = -1.0  #: when the batch had been changed last
    found: SearchResult | None = None  #: None: state and cause choose the rows
    ordered: SearchResult | None = None  #: the same rows as they are sorted; None: they are not
    columns: Sequence[str] = ()  #: of `batch.tasks()`

    @property
    def query(self) -> RowQuery:
        """State, cause and text of the rows."""
        return self.request.query

    @property
    def periods(self) -> str:
        """Which periods were selected in the calendar; empty for none."""
        return self.part.words if self.part else ""

    @property
    def chosen(self) -> bool:
        """Whether the user has chosen these rows, rather than the panel."""
        return not self.request.automatic or (self.part is not None and self.request.again is None)

    def valid(self, result: SearchResult | None, changed: float) -> SearchResult | None:
        """Return a result of this view if it is that of the same rows after a change of the batch."""
        return result if result and (self.changed == changed or not result.quick) else None


class BatchRows(BatchBox):
    """Rows of a batch. At first those that failed, if some did, else all; with their results, once all have succeeded.

    Parameters
    ----------
    panel : Panel
        Runs searches in the background, and shows exceptions.
    chosen : callable
        Called when other rows are to be shown.
    selected : callable
        Called when other rows are selected.
    shown : callable
        Called with the ref of a row that is clicked.
    """

    def __init__(
        self,
        panel: Panel,
        chosen: Callable[[], object],
        selected: Callable[[], object],
        shown: Callable[[int], object],
        *tools: widgets.Button,
    ) -> None:
        self._panel = panel
        self._chosen, self._selected, self._shown = chosen, selected, shown
        self._reader: RowReader | None = None
        self._request, self.shown = RowsRequest(), RowsView()
        self._choosing = threading.Lock()  # held while `_request` is replaced
        self._pacing = Pacing()
        self._values: dict[str, Any] = {}  # results of the rows that are shown
        self._fields: list[str] = []  # of the results that were shown so far
        self._sides: dict[str, str] = {}  # to which the columns of the input are aligned
        self._heading = widgets.HTML()
        self.states = Choices("States of rows", "inline", picked=lambda state: panel.guarded(self._pick_state, state))
        self.text = widgets.Text(
            placeholder="Find in input, URL and message: text, or column:value, then Enter",
            continuous_update=False,
            layout=WIDE,
        )
        self.text.tooltip = "Search all rows of this state"
        panel.control(self.text, self._search)
        tip = "Choose the columns of the input that are shown"
        self.pick = panel.button("Columns", self._fold_columns, changes=False, inline=True, tip=tip)
        self.columns = Picker("Columns", "None of the input", lambda: panel.guarded(self._choose_columns))
        self._offering = False  # whether it gets other names
        self._fold_columns()
        self._tools = panel.row(self.text, self.pick, *tools)
        self.table: Table | None = None
        self._table_owner: WidgetOwner | None = None
        super().__init__([self._heading, self.states, self._tools, self.columns])
        self.add_class("ctn-rows")

    @property
    def query(self) -> RowQuery:
        """State, cause and text of the rows that are to be shown."""
        return self._request.query

    def show(self, view: BatchView | None) -> None:
        """Show the rows of another batch, or none."""
        self._reader, self._values, self.text.value = None if view is None else view.reader, {}, ""
        self._fields, self._sides, self.shown = [], {}, RowsView()
        self._offer_columns([])
        self.columns.layout.display = "none"
        self._replace_request(RowsRequest())

    def choose(self, query: RowQuery) -> None:
        """Show the rows that a query chooses; they are read by the next `draw`."""
        self._replace_request(RowsRequest(query=query, automatic=False))

    def follow(self, refs: Sequence[int]) -> None:
        """Show rows that were sent again, whatever their states become."""
        self._replace_request(RowsRequest(again=refs))

    def release(self) -> None:
        """Show other rows than those that were sent again; what the user has chosen stays."""
        self._replace_request(RowsRequest() if self._request.again is not None else self._request)

    @property
    def followed(self) -> Mapping[str, int] | None:
        """How many of the rows that were sent again are in which state; None while no such rows are shown."""
        shown = self.shown
        if shown.found is None or shown.request.again is None:
            return None
        final = shown.found.final
        return {**final, State.SENT.word: len(shown.found.refs) - sum(final.values())}

    def _replace_request(self, request: RowsRequest) -> None:
        with self._choosing:
            self._request = request
        self.clear()

    def draw(self, now: BatchNow) -> float:
        """Read the rows again if they may have changed and the last read is not too recent; return as `BatchBox`."""
        while (reader := self._reader) is not None:
            request = self._complete(reader, now.part)
            seconds = self._draw(reader, request, now)
            if request is self._request or reader is not self._reader:
                return seconds  # else the user has chosen other rows meanwhile
        return 0.0

    @property
    def slow(self) -> bool:
        """Whether all rows are read to find out which ones are shown: their text is searched, or they are sorted."""
        request = self._request
        return bool(request.query.text or request.order.sort) and not request.pages_as(self.shown.request)

    @property
    def whole(self) -> bool:
        """Whether all rows are selected that were chosen by their state, cause, text or period."""
        chosen = self.shown.found is not None or self.shown.query.state or self.shown.query.cause
        return self.table is not None and self.table.whole and bool(chosen)

    @property
    def selected(self) -> list[int]:
        """The refs of the selected rows, on all pages, in input order."""
        return [] if self.table is None else sorted(map(int, self.table.selected))

    def clear(self) -> None:
        """Clear the selection."""
        if self.table is not None:
            self.table.select([])

    def html(self) -> str:
        """Return the current page of the table."""
        return "" if self.table is None else self._heading.value + self.table.html()

    def _pick_state(self, picked: str) -> None:
        state = "" if picked in (_ALL, self.query.state) else picked
        cause = self.query.cause if state in (State.FAILED.word, WORDS[RETRYING]) else ""
        self.choose(replace(self.query, state=state, cause=cause))
        self._chosen()

    def _search(self) -> None:
        text = self.text.value.strip()
        if text != self.query.text:
            self.choose(replace(self.query, text=text))
            self._chosen()

    def _turn(self, start: int, order: Query) -> None:
        with self._choosing:  # what is selected stays
            self._request = replace(self._request, start=start, order=order)
        self._chosen()

    def _every_key(self) -> Iterable[int]:
        """Return the refs of all rows that are chosen."""
        if self._reader is None:
            return []
        return self._reader.each(self.shown.query) if self.shown.found is None else self.shown.found.refs

    def _fold_columns(self) -> None:
        self.columns.layout.display = None if self.columns.layout.display else "none"

    def _offer_columns(self, names: list[str]) -> None:
        """Offer the columns of an input; the first ones are shown until the user chooses."""
        if names != self.columns.options:
            self._offering = True
            self.columns.options, self.columns.value = names, names[:_INPUT_COLUMNS]
            self._offering = False
        text = f"Columns ({len(self.columns.value)} of {len(names)})"
        if self.pick.description != text:
            self.pick.description = text
        self.pick.layout.display = None if len(names) > _INPUT_COLUMNS else "none"

    def _choose_columns(self) -> None:
        if not self._offering:
            with self._choosing:
                self._request = replace(self._request)  # the same rows are read again
            self._chosen()

    def _inputs(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of the input among those of `batch.tasks()`."""
        inputs = columns[: columns.index("url")] if "url" in columns else []
        hidden = ("start", "end") if "partition" in inputs else ()
        return [name for name in inputs if name not in hidden]

    def _complete(self, reader: RowReader, part: SelectedPeriods | None) -> RowsRequest:
        """Return which rows to show, by default until the user has chosen; offer the states with their counts."""
        counts = reader.counts()
        with self._choosing:
            default = RowQuery(state=_default_state(counts) if part is None else "")
            if self._request.automatic and self._request.again is None and self._request.query != default:
                self._request = replace(self._request, query=default, start=0)
            request = self._request
        query = request.query
        shown = [name for name in STATES if counts[name] or name == query.state]
        self.states.offer(
            [
                ChoiceButton(key=_ALL, text=_ALL, number=sum(counts.values())),
                *(ChoiceButton(key=name, text=name, number=counts[name], colour=colour(name)) for name in shown),
            ]
        )
        self.states.picked = query.state or (None if query.cause or request.again else _ALL)
        return request

    def _draw(self, reader: RowReader, request: RowsRequest, now: BatchNow) -> float:
        """Read rows if they may have changed; return as `draw` does."""
        before, part, changed = self.shown, now.part, now.view.changed()
        same_part = (before.part and before.part.keys) == (part and part.keys)
        same = same_part and before.request is request
        if same and before.changed == changed:
            return 0.0
        if same and (wait := self._pacing.wait):
            return wait

        def stopped() -> bool:
            return (now.searching and self._panel.stopping.is_set()) or self._request is not request

        with self._pacing.measured(_PAUSE_FACTOR if request.again is None else _PAUSE_FACTOR / 4):  # they are watched
            kept = before if same_part and request.pages_as(before.request) else RowsView()
            shown = RowsView(request=request, part=part, changed=changed)
            found = kept.valid(kept.found, changed) or self._find(reader, shown, stopped, progress=now.searching)
            shown = replace(shown, found=found)
            ordered = kept.valid(kept.ordered, changed) or self._sort(reader, shown, stopped, progress=now.searching)
            self._read(reader, replace(shown, ordered=ordered))
        if not same:
            self._panel.guarded(_check_column, self.shown)
        return 0.0

    def _find(
        self, reader: RowReader, shown: RowsView, stopped: Callable[[], bool], *, progress: bool
    ) -> SearchResult | None:
        """Search rows, until the user stops that or chooses others; None if state and cause choose them."""
        part, again, began = shown.part, shown.request.again, time.monotonic()
        if again is not None:
            return SearchResult(refs=again, final=reader.final(again))
        if part is None and not shown.query.text:
            return None
        refs = reader.search(shown.query, part.keep if part else None, stopped, progress=progress)
        quick, note = self._timed("found", began)
        note += ", and the search was stopped" if stopped() else ""
        return SearchResult(refs=refs, final=reader.final(refs), note=note, quick=quick)

    def _sort(
        self, reader: RowReader, shown: RowsView, stopped: Callable[[], bool], *, progress: bool
    ) -> SearchResult | None:
        """Sort the rows that are chosen by a column, as `_find` searches; None if they are as in the input."""
        order, began = shown.request.order, time.monotonic()
        if order.sort is None:
            return None
        refs = list(reader.each(shown.query)) if shown.found is None else shown.found.refs
        ordered = reader.ordered(refs, order.sort, stopped, descending=order.descending, progress=progress)
        quick, note = self._timed("sorted", began)
        return SearchResult(refs=ordered, note=note + (", and that was stopped" if stopped() else ""), quick=quick)

    def _timed(self, verb: str, began: float) -> tuple[bool, str]:
        """Return whether a search was quick enough to be repeated automatically, and else the time of its end."""
        quick, zone = time.monotonic() - began < _LONG_SEARCH, self._panel.footer.tzinfo
        now = self._panel.context.connection.clock.now().astimezone(zone)
        return quick, "" if quick else f", {verb} at {now:%H:%M:%S} {zone}"

    def _read(self, reader: RowReader, shown: RowsView) -> None:
        """Read the rows from the first one on, and show them."""
        query, start = shown.query, shown.request.start
        found = shown.ordered or shown.found
        total = reader.count(query) if found is None else len(found.refs)
        start = min(start, max(0, total - 1) // _PAGE * _PAGE)
        refs = reader.refs(query, start, _PAGE) if found is None else list(found.refs[start : start + _PAGE])
        frame = reader.frame(refs).assign(**{REF: sorted(refs)})  # which is in input order
        frame = frame.iloc[np.argsort(np.argsort(refs))]
        columns = [str(name) for name in frame.columns[:-1]] if refs else self.shown.columns  # no rows have no input
        self.shown = shown = replace(shown, columns=columns)
        self._offer_columns(self._inputs(columns))
        missing = self._load(reader, query, frame, start, total)
        words = _words(shown, frame, total, reader.causes()) + missing
        course, label = self.followed, "rows that were sent again"
        bar = state_bar(course, label=label, share=1 - course[State.SENT.word] / total) if course else ""
        self._heading.value = section_html(words, bar)

    def _load(self, reader: RowReader, query: RowQuery, frame: pd.DataFrame, start: int, total: int) -> str:
        """Show rows, those that succeeded with their results beside their inputs; return a note on the results."""
        names = [name for name in self.columns.value if name in frame.columns]
        columns, note = [self._input_column(name, frame[name]) for name in names], ""
        row = [] if "partition" in names else [_ROW_COLUMN]
        if query.state == State.SUCCEEDED.word:
            frame, note = self._with_results(reader, frame, "of them" if total == len(frame) else "of this page")
            results = [
                Column(name, kind="json", width=_INPUT_WIDTH, verbatim=True) for name in self._fields[:_RESULT_COLUMNS]
            ]
            columns = [*row, *columns, *results, *_SUCCESS_COLUMNS]
        else:
            frame = _with_messages(frame)
            columns = [*row, _STATE, _MESSAGE, *columns, *_ATTEMPT_COLUMNS]
        if self.table is None or columns != self._columns:
            self._make(columns)
        assert self.table is not None  # noqa: S101 - it was just made
        frame = frame.reset_index().rename(columns=str)
        self.table.show_page(frame, start=start, total=total, query=self.shown.request.order)
        return note

    def _input_column(self, name: str, values: pd.Series[Any]) -> Column:
        """Return a column of the input; its numbers stand right."""
        right = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
        side = self._sides.setdefault(name, "right" if right else "left")  # of all pages
        return Column(name, width=_INPUT_WIDTH, align="right" if side == "right" else "left", verbatim=True)

    def _with_results(self, reader: RowReader, frame: pd.DataFrame, which: str) -> tuple[pd.DataFrame, str]:
        """Return rows with the fields of their results, and a note if results are missing."""
        self._values = {task: self._values[task] for task in frame["task"] if task in self._values}

        def read(tasks: Sequence[str]) -> Answers:
            self._values |= reader.answers([task for task in tasks if task not in self._values]).results
            return Answers(self._values, {})

        try:
            joined = join_results(frame, read)
        except StoreError as error:
            return frame.assign(**dict.fromkeys(self._fields)), f", without results: {error.message}"
        names = [name for name in joined.frame.columns if name not in frame.columns and name != "error"]
        if joined.missing < len(frame):  # else the name is that of a result as a whole
            self._fields = list(dict.fromkeys([*self._fields, *names]))
        note = f", {joined.missing:,} {which} without a stored result" if joined.missing else ""
        if joined.missing == len(frame) and which == "of them":
            note = ", of which no results are stored"
        return frame.assign(**{name: joined.frame[name] if name in names else None for name in self._fields}), note

    def _make(self, columns: list[Column]) -> None:
        old = self._table_owner
        self._columns, self._table_owner = columns, self._panel.owner.part()
        with self._table_owner.making():
            self.table = Table(columns, key=REF, label="rows", empty="No rows", every_key=self._every_key)
        self._panel.attach(self.table)
        self.table.on_select = lambda _: self._panel.guarded(self._selected)
        self.table.on_show = lambda ref: self._panel.guarded(self._shown, ref)
        self.table.on_turn = lambda *page: self._panel.guarded(self._turn, *page)
        self.children = [self._heading, self.states, self._tools, self.columns, self.table]
        if old is not None:
            old.close()


def _default_state(counts: Mapping[str, int]) -> str:
    """Return the state that is shown first; empty for all rows."""
    failed, succeeded = State.FAILED.word, State.SUCCEEDED.word
    if counts[failed]:
        return failed
    return succeeded if counts[succeeded] and counts[succeeded] == sum(counts.values()) else ""


def _words(shown: RowsView, frame: pd.DataFrame, total: int, causes: Mapping[str, Cause]) -> str:
    """Return which rows are shown, of a mixed selection also how many are in which state."""
    query = shown.query
    if shown.request.again is not None:
        return f"{counted(total, 'rows')} that {'was' if total == 1 else 'were'} sent again"
    words = counted(total, f"{query.state} rows".lstrip())
    words += f" of {shown.periods}" if shown.periods else ""
    words += f" with the cause {mask_text(causes[query.cause].text)}" if query.cause in causes else ""
    words += f" with “{mask_text(query.text)}”" if query.text else ""
    words += "".join(found.note for found in (shown.found, shown.ordered) if found is not None)
    if shown.found is None or query.state or not total:
        return words
    states = Counter(frame["state"].tolist() if total == len(frame) else dict(shown.found.final))
    open_rows = total - sum(states.values())
    counts = [f"{count:,} {state}" for state, count in states.most_common()]
    return f"{words}: " + ", ".join([*counts, *([f"{open_rows:,} not done"] if open_rows else [])])


def _check_column(shown: RowsView) -> None:
    """Refuse a search for the value of a column that the data does not have, if it found nothing else."""
    if shown.found is not None and not len(shown.found.refs):
        check_search("this batch", shown.query.text, shown.columns)


def _with_messages(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the exceptions of handlers in this kernel: the log entry of a last attempt has no message."""
    silent = frame[(frame["state"] == State.FAILED.word) & frame["last_message"].isna() & frame["task"].notna()]
    known = last_errors(silent["url"].dropna()) if len(silent) else {}
    if not known:
        return frame
    return frame.assign(last_message=frame["last_message"].fillna(silent["task"].map(known)))
