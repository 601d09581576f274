"""The rows of a batch, chosen by state, cause and text, and shown a part at a time, however many there are."""

from __future__ import annotations

import difflib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb.display.card import section_html
from cloudtasks_nb.display.charts import state_bar
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import InvalidInputError, StoreError
from cloudtasks_nb.fanout.batch.progress import FINAL
from cloudtasks_nb.fanout.batch.results import join_results
from cloudtasks_nb.fanout.batch.row_query import STATES, Keep, RowQuery, RowReader
from cloudtasks_nb.fanout.batch.stored_results import Answers
from cloudtasks_nb.fanout.outbox.causes import Cause
from cloudtasks_nb.panels.cards.task import last_errors
from cloudtasks_nb.panels.owner import Owner
from cloudtasks_nb.panels.pacing import Pacing
from cloudtasks_nb.panels.panel import WIDE, Panel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.choices import Choice, Choices
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["REF", "BatchRows", "Found", "SelectedPeriods", "ShownRows", "Wanted"]

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
_ROW_COLUMN = Column("row", width="5em")
_INPUT_WIDTH = "9em"  # or the message, for which people come, would get no more than a number does
_KEY = "_key"
#: The column with what identifies each row in the outbox.
REF = "_ref"
_INPUT_COLUMNS = 5  # columns of the input that are shown
_RESULT_COLUMNS = 5  # columns of the results that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedPeriods:
    """The part of a backfill that is selected in its calendar."""

    keys: tuple[str, ...]  #: of the selected squares
    words: str  #: which periods these are
    keep: Keep  #: returns those rows of a frame that are in the part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wanted:
    """Which rows are to be shown. Each choice of the user makes another one."""

    query: RowQuery = field(default_factory=RowQuery)
    automatic: bool = True  #: the user has chosen nothing
    start: int = 0  #: the place of the first row among all of them
    again: Sequence[int] | None = None  #: refs of rows that were sent again: these are shown, whatever becomes of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Rows that are chosen by more than their state and cause."""

    refs: Sequence[int] = ()
    final: Mapping[str, int] = field(default_factory=dict)  #: how many of these are in which final state
    note: str = ""  #: when that was, if the search is not repeated by itself
    quick: bool = True  #: it is repeated when the batch has changed


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRows:
    """What the table shows."""

    wanted: Wanted = field(default_factory=Wanted)
    part: SelectedPeriods | None = None  #: what was selected in the calendar
    changed: float = -1.0  #: when the batch had been changed last
    found: Found | None = None  #: None: state and cause tell which rows these are
    columns: Sequence[str] = ()  #: of `batch.tasks()`

    @property
    def query(self) -> RowQuery:
        """State, cause and text of the rows."""
        return self.wanted.query

    @property
    def periods(self) -> str:
        """Which periods were selected in the calendar; empty for none."""
        return self.part.words if self.part else ""

    @property
    def chosen(self) -> bool:
        """Whether the user has chosen these rows, rather than the panel."""
        return not self.wanted.automatic or (self.found is not None and self.wanted.again is None)


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
        self._wanted, self.shown = Wanted(), ShownRows()
        self._choosing = threading.Lock()  # held while `_wanted` is replaced
        self._pacing = Pacing()
        self._values: dict[str, Any] = {}  # results of the rows that are shown
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
        super().__init__([self._heading, self.states, self._tools, self._pager])
        self.add_class("ctn-rows")

    @property
    def query(self) -> RowQuery:
        """State, cause and text of the rows that are to be shown."""
        return self._wanted.query

    def show(self, reader: RowReader | None) -> None:
        """Show the rows of another batch, or none."""
        self._reader, self._values, self.text.value = reader, {}, ""
        self._want(Wanted())

    def choose(self, query: RowQuery) -> None:
        """Show the rows that a query chooses; they are read by the next `draw`."""
        self._want(Wanted(query=query, automatic=False))

    def follow(self, refs: Sequence[int]) -> None:
        """Show rows that were sent again, and keep them in sight while they end."""
        self._want(Wanted(again=refs))

    def release(self) -> None:
        """Show other rows than those that were sent again; what the user has chosen stays."""
        self._want(Wanted() if self._wanted.again is not None else self._wanted)

    @property
    def followed(self) -> Mapping[str, int] | None:
        """How many of the rows that were sent again are in which state; None while no such rows are shown."""
        shown = self.shown
        if shown.found is None or shown.wanted.again is None:
            return None
        final = shown.found.final
        return {**final, "queued": len(shown.found.refs) - sum(final.values())}

    def _want(self, wanted: Wanted) -> None:
        with self._choosing:
            self._wanted = wanted
        self.clear()

    def draw(self, part: SelectedPeriods | None, changed: float, *, progress: bool = False) -> float:
        """Read the rows again if they may have changed and the last read is not too recent.

        Parameters
        ----------
        part : SelectedPeriods, optional
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
        while (reader := self._reader) is not None:
            wanted = self._asked(reader, part)
            seconds = self._draw(reader, wanted, part, changed, progress=progress)
            if wanted is self._wanted or reader is not self._reader:
                return seconds  # else the user has chosen other rows meanwhile
        return 0.0

    def final(self, shown: ShownRows) -> Mapping[str, int]:
        """Return how many of the chosen rows are in each state in which they can be sent again."""
        query = shown.query
        if shown.found is not None:
            return shown.found.final
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
        wanted = self._wanted
        self._want(replace(wanted, start=max(0, wanted.start + by * _WINDOW)))
        self._chosen()

    def _asked(self, reader: RowReader, part: SelectedPeriods | None) -> Wanted:
        """Return which rows to show; offer the states with their counts."""
        counts = reader.counts()
        with self._choosing:
            first = RowQuery(state="failed" if counts["failed"] and part is None else "")
            if self._wanted.automatic and self._wanted.again is None and self._wanted.query != first:
                self._wanted = replace(self._wanted, query=first)
            wanted = self._wanted
        query = wanted.query
        shown = [name for name in STATES if counts[name] or name == query.state]
        self.states.offer(
            [
                Choice(key=_ALL, text=_ALL, number=sum(counts.values())),
                *(Choice(key=name, text=name, number=counts[name], colour=colour(name)) for name in shown),
            ]
        )
        self.states.picked = query.state or (None if query.cause or wanted.again else _ALL)
        return wanted

    def _draw(
        self, reader: RowReader, wanted: Wanted, part: SelectedPeriods | None, changed: float, *, progress: bool
    ) -> float:
        """Read rows if they may have changed; return as `draw` does."""
        before = self.shown
        same = before.wanted is wanted and (before.part and before.part.keys) == (part and part.keys)
        if same and before.changed == changed:
            return 0.0
        if same and (wait := self._pacing.wait):
            return wait
        with self._pacing.measured(_PAUSE_FACTOR if wanted.again is None else _PAUSE_FACTOR / 4):  # they are watched
            shown = ShownRows(wanted=wanted, part=part, changed=changed)
            if same and before.found is not None and not before.found.quick:
                shown = replace(shown, found=before.found)
            elif wanted.again is not None:
                shown = replace(shown, found=Found(refs=wanted.again, final=reader.final(wanted.again)))
            elif part or wanted.query.text:
                shown = replace(shown, found=self._find(reader, shown, progress=progress))
            self._read(reader, shown)
        if not same:
            self._panel.guarded(_check_column, self.shown)
        return 0.0

    def _find(self, reader: RowReader, shown: ShownRows, *, progress: bool) -> Found:
        """Search rows; until the user stops that, or chooses other rows."""
        stopping, part = self._panel.stopping, shown.part

        def stopped() -> bool:
            return (progress and stopping.is_set()) or self._wanted is not shown.wanted

        began = time.monotonic()
        refs = reader.search(shown.query, part.keep if part else None, stopped, progress=progress)
        quick = time.monotonic() - began < _LONG_SEARCH
        zone = self._panel.footer.tzinfo
        now = self._panel.context.connection.clock.now().astimezone(zone)
        note = "" if quick else f", found at {now:%H:%M:%S} {zone}"
        note += ", and the search was stopped" if stopped() else ""
        return Found(refs=refs, final=reader.final(refs), note=note, quick=quick)

    def _read(self, reader: RowReader, shown: ShownRows) -> None:
        """Read the rows from the first one on, and show them."""
        query, start = shown.query, shown.wanted.start
        found = None if shown.found is None else shown.found.refs
        total = reader.count(query) if found is None else len(found)
        if start >= total:
            start = max(0, total - 1) // _WINDOW * _WINDOW
        end = start + _WINDOW
        refs = sorted(reader.refs(query, start, _WINDOW) if found is None else found[start:end])
        frame = reader.frame(refs)
        columns = [str(name) for name in frame.columns] if refs else self.shown.columns  # no rows have no input
        self.shown = shown = replace(shown, columns=columns)
        self._pager.layout.display = None if total > _WINDOW else "none"
        self._panel.enable(self.earlier, start > 0)
        self._panel.enable(self.later, end < total)
        missing = self._load(reader, query, frame.assign(**{REF: refs}))
        span = f", here {start + 1:,} to {start + len(frame):,}" if total > _WINDOW else ""
        words = _words(shown, frame, total, reader.causes()) + span + missing
        course, label = self.followed, "rows that were sent again"
        bar = state_bar(course, label=label, share=1 - course["queued"] / total) if course else ""
        self._heading.value = section_html(words, bar)

    def _load(self, reader: RowReader, query: RowQuery, frame: pd.DataFrame) -> str:
        """Show rows, those that succeeded with their results beside their inputs; return a note on the results."""
        inputs = frame.columns[: list(frame.columns).index("url")]
        hidden = ("start", "end") if "partition" in inputs else ()
        names = [str(name) for name in inputs if name not in hidden][:_INPUT_COLUMNS]
        columns = [Column(name, width=_INPUT_WIDTH, verbatim=True) for name in names]
        columns, note = columns if "partition" in names else [_ROW_COLUMN, *columns], ""
        if query.state == "succeeded":
            frame, results, note = self._with_results(reader, frame)
            columns += [*(Column(name, kind="json", verbatim=True) for name in results), *_SUCCESS_COLUMNS]
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
    if shown.wanted.again is not None:
        return f"{counted(total, 'rows')} that {'was' if total == 1 else 'were'} sent again"
    words = counted(total, f"{query.state} rows".lstrip())
    words += f" of {shown.periods}" if shown.periods else ""
    words += f" with the cause {mask_text(causes[query.cause].text)}" if query.cause in causes else ""
    words += f" with “{mask_text(query.text)}”" if query.text else ""
    if shown.found is None:
        return words
    words += shown.found.note
    if query.state or total > len(frame) or not total:
        return words
    states = Counter(frame["state"].tolist()).most_common()
    return f"{words}: " + ", ".join(f"{count:,} {state}" for state, count in states)


def _check_column(shown: ShownRows) -> None:
    """Refuse a search for the value of a column that the data does not have, if it found nothing else.

    Raises
    ------
    InvalidInputError
        With the column that was meant.
    """
    name, colon, _ = shown.query.text.partition(":")
    if not colon or not name.isidentifier() or shown.found is None or len(shown.found.refs) or name in shown.columns:
        return
    near = difflib.get_close_matches(name.lower(), shown.columns, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(shown.columns)}"
    raise InvalidInputError(f'the data of this batch has no column "{name}"', resource=name, hint=hint)


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
