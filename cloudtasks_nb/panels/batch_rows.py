"""The rows of a batch, chosen by state, cause and text, and shown a part at a time, however many there are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb.display.card import section_html
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.progress import FINAL
from cloudtasks_nb.fanout.batch.results import join_results
from cloudtasks_nb.fanout.batch.row_query import STATES, Keep, RowQuery, RowReader
from cloudtasks_nb.fanout.batch.stored_results import Answers
from cloudtasks_nb.fanout.outbox.causes import Cause
from cloudtasks_nb.panels.cards.task import last_errors
from cloudtasks_nb.panels.owner import Owner
from cloudtasks_nb.panels.panel import WIDE, Panel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.choices import Choice, Choices
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["REF", "BatchRows", "Part", "ShownRows"]

_WINDOW = 1_000  # rows that are in the table at a time
_PAUSE_FACTOR = 20  # rows are not read again for the duration of the last reading times this
_LONG_SEARCH = 0.5  # seconds; a search that took longer is not repeated by itself
_ALL = "all"

_STATE_COLUMNS = (
    Column("state", kind="state", width="8.5em"),
    Column("last_message", "Message"),
    Column("last_status", "Last answer", kind="state", width="12em"),
    Column("attempts", kind="count", width="7.5em"),
    Column("last_attempt_time", "Last attempt", kind="time", width="11em"),
)
_SUCCESS_COLUMNS = (
    Column("attempts", kind="count", width="7.5em"),
    Column("duration", kind="duration", width="7em"),
    Column("last_attempt_time", "Last attempt", kind="time", width="11em"),
)
_WIDTHS = {"row": "5em", "partition": "9em"}
_KEY = "_key"
#: The column with what identifies each row in the outbox.
REF = "_ref"
_INPUT_COLUMNS = 5  # columns of the input that are shown
_RESULT_COLUMNS = 5  # columns of the results that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of a backfill that is selected in its calendar."""

    keys: tuple[str, ...]  #: of the selected squares
    words: str  #: which periods these are
    keep: Keep  #: returns those rows of a frame that are in the part


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRows:
    """What the table shows."""

    query: RowQuery = field(default_factory=RowQuery)
    automatic: bool = True  #: the user has chosen nothing
    found: Sequence[int] | None = None  #: refs of all rows that a search found; None: state and cause tell them
    final: Mapping[str, int] = field(default_factory=dict)  #: how many of these are in which final state
    found_at: str = ""  #: when that was, if the search is not repeated by itself
    periods: str = ""  #: which periods were selected in the calendar
    columns: Sequence[str] = ()  #: of `batch.tasks()`


class BatchRows(widgets.VBox):
    """Rows of a batch. At first those that failed, if some did, else all.

    Parameters
    ----------
    panel : Panel
        Runs searches in the background, and shows exceptions.
    chosen : callable
        Called when other rows are to be shown.
    selected : callable
        Called when other rows are selected.
    shown : callable
        Called with the key of a row that is clicked.
    """

    def __init__(
        self,
        panel: Panel,
        chosen: Callable[[], object],
        selected: Callable[[], object],
        shown: Callable[[str], object],
        *tools: widgets.Button,
    ) -> None:
        self._panel = panel
        self._chosen, self._selected, self._shown = chosen, selected, shown
        self._reader: RowReader | None = None
        self._version: tuple[tuple[Any, ...], float] | None = None  # of the rows that are shown
        self._choosing = threading.Lock()  # held while `query` is replaced
        self._fresh_until = 0.0  # the rows are not read again before this time
        self._heading = widgets.HTML()
        self.states = Choices("States of rows", "inline", picked=lambda state: panel.guarded(self._pick_state, state))
        self.text = widgets.Text(
            placeholder="Find in input, URL and message: text, or column:value, then Enter",
            continuous_update=False,
            layout=WIDE,
        )
        self.text.tooltip = "Search all rows of this state"
        panel.control(self.text, self._search)
        self.earlier = panel.button(f"Previous {_WINDOW:,}", lambda: self._turn(-1), changes=False, quick=True)
        self.later = panel.button(f"Next {_WINDOW:,}", lambda: self._turn(1), changes=False, quick=True)
        self._pager = panel.row(self.earlier, self.later)
        self._tools = panel.row(self.text, *tools)
        self.table: Table | None = None
        self._table_owner: Owner | None = None
        self._reset(None)
        super().__init__([self._heading, self.states, self._tools, self._pager])
        self.add_class("ctn-rows")

    def show(self, reader: RowReader | None) -> None:
        """Show the rows of another batch, or none."""
        self._reset(reader)
        self.clear()

    def choose(self, query: RowQuery) -> None:
        """Show the rows that a query chooses; they are read by the next `draw`."""
        with self._choosing:
            self._automatic, self._start, self.query = False, 0, query
        self.clear()

    def draw(self, part: Part | None, changed: float, *, progress: bool = False) -> float:
        """Read the rows again if they may have changed and the last read is not too recent.

        Parameters
        ----------
        part : Part, optional
            What is selected in the calendar of a backfill.
        changed : float
            When the batch was changed last.
        progress : bool
            Show the progress of a search in the panel.

        Returns
        -------
        float
            Seconds after which there is more to show; 0 for none.
        """
        reader, seconds = self._reader, 0.0
        while reader is not None:
            query, start = self._asked(reader, part)
            seconds = self._draw(reader, query, start, part, changed, progress=progress)
            if (query, start) == (self.query, self._start) or reader is not self._reader:
                break  # else the user has chosen other rows meanwhile
        return seconds

    def final(self, shown: ShownRows) -> Mapping[str, int]:
        """Return how many of the chosen rows are in each state in which they can be sent again."""
        query = shown.query
        if shown.found is not None:
            return shown.final
        if self._reader is None or not (query.state or query.cause):
            return {}
        state = query.state or "failed"
        return {state: self._reader.count(replace(query, state=state))} if state in FINAL else {}

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows, with the column `REF`."""
        return pd.DataFrame() if self.table is None else self.table.selected_frame

    def clear(self) -> None:
        """Clear the selection."""
        if self.table is not None:
            self.table.select([])

    def task(self, key: str) -> str | None:
        """Return the task of a row; None if there never was one."""
        return None if key.startswith("row ") else key

    def html(self) -> str:
        """Return the current page of the table."""
        return "" if self.table is None else self._heading.value + self.table.html()

    def _reset(self, reader: RowReader | None) -> None:
        self._reader = reader
        self.query, self._automatic, self._start = RowQuery(), True, 0
        self.shown = ShownRows()
        self._search_seconds = 0.0
        self._version, self._fresh_until = None, 0.0
        self._values: dict[str, Any] = {}  # results of the rows that are shown
        self.text.value = ""

    def _pick_state(self, state: str) -> None:
        wanted = "" if state in (_ALL, self.query.state) else state
        cause = self.query.cause if wanted in ("failed", "retrying") else ""
        self.choose(replace(self.query, state=wanted, cause=cause))
        self._chosen()

    def _search(self) -> None:
        text = self.text.value.strip()
        if text != self.query.text:
            self.choose(replace(self.query, text=text))
            self._chosen()

    def _turn(self, by: int) -> None:
        self._start = max(0, self._start + by * _WINDOW)
        self.clear()
        self._chosen()

    def _asked(self, reader: RowReader, part: Part | None) -> tuple[RowQuery, int]:
        """Return which rows to show, and from which on; offer the states with their counts."""
        counts = reader.counts()
        with self._choosing:
            if self._automatic:
                self.query = RowQuery(state="failed" if counts["failed"] and part is None else "")
            query, start = self.query, self._start
        shown = [name for name in STATES if counts[name] or name == query.state]
        self.states.offer(
            [
                Choice(key=_ALL, text=_ALL, number=sum(counts.values())),
                *(Choice(key=name, text=name, number=counts[name], colour=colour(name)) for name in shown),
            ]
        )
        self.states.picked = query.state or (None if query.cause else _ALL)
        return query, start

    def _draw(
        self, reader: RowReader, query: RowQuery, start: int, part: Part | None, changed: float, *, progress: bool
    ) -> float:
        """Read rows if they may have changed; return as `draw` does."""
        version = (query, start, part and part.keys)
        if (version, changed) == self._version:
            return 0.0
        began = time.monotonic()
        same = self._version is not None and self._version[0] == version
        if same and began < self._fresh_until:
            return self._fresh_until - began
        shown = ShownRows(query=query, automatic=self._automatic, periods=part.words if part else "")
        if shown.periods or query.text:
            again = not same or self._search_seconds < _LONG_SEARCH
            found = self._find(reader, shown, part, progress=progress) if again else self.shown
            shown = replace(shown, found=found.found, final=found.final, found_at=found.found_at)
        self._read(reader, shown, start)
        self._version = version, changed
        ended = time.monotonic()
        self._fresh_until = ended + _PAUSE_FACTOR * (ended - began)
        return 0.0

    def _find(self, reader: RowReader, shown: ShownRows, part: Part | None, *, progress: bool) -> ShownRows:
        """Search rows; until the user stops that, or chooses other rows."""
        stopping = self._panel.stopping

        def stopped() -> bool:
            return (progress and stopping.is_set()) or self.query is not shown.query

        began = time.monotonic()
        found = reader.search(shown.query, part.keep if part else None, stopped, progress=progress)
        self._search_seconds = time.monotonic() - began
        now = self._panel.context.connection.clock.now()
        at = f", found at {now:%H:%M:%S} UTC" if self._search_seconds > _LONG_SEARCH else ""
        at += ", and the search was stopped" if stopped() else ""
        return replace(shown, found=found, final=reader.final(found), found_at=at)

    def _read(self, reader: RowReader, shown: ShownRows, start: int) -> None:
        """Read the rows from `start` on, and show them."""
        found = shown.found
        total = reader.count(shown.query) if found is None else len(found)
        if start >= total:
            start = max(0, total - 1) // _WINDOW * _WINDOW
        end = start + _WINDOW
        refs = sorted(reader.refs(shown.query, start, _WINDOW) if found is None else found[start:end])
        frame = reader.frame(refs)
        columns = [str(name) for name in frame.columns]
        self.shown = replace(shown, columns=columns)
        self._pager.layout.display = None if total > _WINDOW else "none"
        self._panel.enable(self.earlier, start > 0)
        self._panel.enable(self.later, end < total)
        missing = self._load(reader, shown.query, frame.assign(**{REF: refs}))
        span = f", here {start + 1:,} to {start + len(frame):,}" if total > _WINDOW else ""
        self._heading.value = section_html(_words(shown, frame, total, reader.causes()) + span + missing, "")

    def _load(self, reader: RowReader, query: RowQuery, frame: pd.DataFrame) -> str:
        """Show rows, those that succeeded with their results beside their inputs; return a note on the results."""
        inputs = frame.columns[: list(frame.columns).index("url")]
        hidden = ("start", "end") if "partition" in inputs else ()
        names = [str(name) for name in inputs if name not in hidden][:_INPUT_COLUMNS]
        wanted = names if "partition" in names else ["row", *names]
        columns, note = [Column(name, width=_WIDTHS.get(name)) for name in wanted], ""
        if query.state == "succeeded":
            frame, results, note = self._with_results(reader, frame)
            columns += [*(Column(name, kind="json") for name in results), *_SUCCESS_COLUMNS]
        else:
            frame = _with_messages(frame)
            columns += _STATE_COLUMNS
        if self.table is None or columns != self._columns:
            self._make(columns)
        assert self.table is not None  # noqa: S101 - it was just made
        self.table.load(_keyed(frame))
        return note

    def _with_results(self, reader: RowReader, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str], str]:
        """Return rows with their results, the names of the new columns, and a note if results are missing."""
        self._values = {task: self._values[task] for task in frame["task"] if task in self._values}

        def read(tasks: Sequence[str]) -> Answers:
            self._values |= reader.answers([task for task in tasks if task not in self._values]).results
            return Answers(self._values, {})

        try:
            joined = join_results(frame, read)
        except StoreError as error:
            return frame, [], f", without results: {error.message}"
        if joined.missing == len(frame):
            return frame, [], ", of which no results are stored"
        names = [name for name in joined.frame.columns if name not in frame.columns and name != "error"]
        note = f", {joined.missing:,} of them without a stored result" if joined.missing else ""
        return frame.assign(**{name: joined.frame[name] for name in names}), names[:_RESULT_COLUMNS], note

    def _make(self, columns: list[Column]) -> None:
        old = self._table_owner
        self._columns, self._table_owner = columns, self._panel.owner.part()
        with self._table_owner.making():
            self.table = self._panel.attach(Table(columns, key=_KEY, page_size=20, label="rows", empty="No rows"))
        self.table.on_select = lambda _: self._panel.guarded(self._selected)
        self.table.on_show = lambda key: self._panel.guarded(self._shown, key)
        self.children = [self._heading, self.states, self._tools, self.table, self._pager]
        if old is not None:
            old.close()


def _words(shown: ShownRows, frame: pd.DataFrame, total: int, causes: Mapping[str, Cause]) -> str:
    """Return which rows are shown, of a mixed selection also how many are in which state."""
    query = shown.query
    words = counted(total, f"{query.state} rows".lstrip())
    words += f" of {shown.periods}" if shown.periods else ""
    words += f" with the cause {mask_text(causes[query.cause].text)}" if query.cause in causes else ""
    words += f" with “{mask_text(query.text)}”" if query.text else ""
    words += shown.found_at
    if shown.found is None or query.state or total > len(frame) or not total:
        return words
    states = Counter(frame["state"].tolist()).most_common()
    return f"{words}: " + ", ".join(f"{count:,} {state}" for state, count in states)


def _with_messages(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the exceptions of handlers in this kernel: the log entry of a last attempt has no message."""
    silent = frame[(frame["state"] == "failed") & frame["last_message"].isna() & frame["task"].notna()]
    known = last_errors(silent["url"].dropna()) if len(silent) else {}
    if not known:
        return frame
    return frame.assign(last_message=frame["last_message"].fillna(silent["task"].map(known)))


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows with their position in the input, and their keys: their newest tasks, or places if there are none."""
    keys = [f"row {place}" if pd.isna(task) else str(task) for place, task in enumerate(frame["task"])]
    return frame.reset_index().rename(columns=str).assign(**{_KEY: keys})
