"""Choose rows of a batch by state, cause and text, and read them page by page, however many there are."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import STATES as TRAITS
from cloudtasks_nb._frames import TASK_STATES, spellings
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.fanout.batch.alike import alike
from cloudtasks_nb.fanout.batch.results import join_results
from cloudtasks_nb.fanout.batch.stored_results import Answers, StoredResults
from cloudtasks_nb.fanout.batch.table import InputOrder, places, rows_frame
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Cause, Span, stored_key
from cloudtasks_nb.fanout.outbox.records import RowFilter, Scope
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.states import FINAL, RETRYING, WORDS, State
from cloudtasks_nb.store.results import StoredResult

__all__ = ["STATES", "Keep", "RowQuery", "RowReader", "StoredRow", "contains"]

_SCANNED = 2_000  # rows that are searched together

_FILTERS = {
    WORDS[RETRYING]: RowFilter(states=frozenset({State.UNSENT, State.SENT}), tried=True),
    State.SENT.word: RowFilter(states=frozenset({State.SENT}), tried=False),
    State.UNSENT.word: RowFilter(states=frozenset({State.UNSENT}), tried=False),
} | {state.word: RowFilter(states=frozenset({state})) for state in FINAL}
#: The states by which rows are chosen, those that need attention first.
STATES = dict(sorted(_FILTERS.items(), key=lambda item: -TRAITS[item[0]].need))
_WITH_CAUSE = (State.FAILED.word, WORDS[RETRYING])

#: Returns those rows of a frame that are wanted.
Keep = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """Which rows of a batch are shown: those for which all of this is true."""

    state: str = ""  #: one of `STATES`; empty: any
    cause: str = ""  #: of rows that failed or are tried again: its key; empty: any
    text: str = ""  #: what a row contains, or ``column:value``; empty: anything

    @property
    def filters(self) -> tuple[RowFilter, ...]:
        """What the outbox is asked for; the rows of all of them are chosen."""
        if not self.cause:
            return (STATES[self.state] if self.state else RowFilter(),)
        states = [self.state] if self.state in _WITH_CAUSE else _WITH_CAUSE
        cause = stored_key(self.cause)
        return tuple(replace(STATES[name], cause=cause) for name in states)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """What this machine and the store have of one row and its newest task."""

    row: int  #: position in the input
    state: str
    url: str
    message: str | None  #: the last error that is known
    result: StoredResult | None  #: what the handler stored


class RowReader:
    """Reads and chooses rows of one batch from the outbox; it never calls the service.

    Parameters
    ----------
    outbox : Outbox
    rows : Scope
        Those that are wanted.
    results : StoredResults
        Those of the batch.
    now : callable
        Returns the time of the service in microseconds since 1970.
    """

    def __init__(self, outbox: Outbox, rows: Scope, results: StoredResults, now: Callable[[], int]) -> None:
        self._now = now
        self._outbox, self._rows, self._results = outbox, rows, results

    def counts(self) -> dict[str, int]:
        """Return how many rows are in each of `STATES`. Reads counters only."""
        counts = self._outbox.batches.counts(self._rows)
        retrying = sum(self._outbox.causes.retrying(self._rows).values())
        found = {name: sum(counts[state] for state in STATES[name].states) for name in STATES}
        return {**found, WORDS[RETRYING]: retrying, State.SENT.word: max(0, counts[State.SENT] - retrying)}

    def causes(self) -> dict[str, Cause]:
        """Return the causes by their keys, the most frequent first. Reads counters only."""
        return {cause.key: cause for cause in self._outbox.causes.found(self._rows)}

    def cause_spans(self) -> dict[str, Span]:
        """Return the times of the attempts and the first row of each cause. Reads the outcomes of all rows."""
        return self._outbox.causes.spans(self._rows)

    def common(self) -> dict[str, str]:
        """Return what the rows of each cause have in common, by its key. Reads a sample of the rows."""
        return alike(self._outbox, self._rows, list(self.causes().values()))

    def count(self, query: RowQuery) -> int:
        """Return how many rows a query without a text chooses. Reads counters only."""
        counts = self.counts()
        if query.cause:
            cause = self.causes().get(query.cause)
            counts = {name: getattr(cause, name, 0) for name in _WITH_CAUSE}
        return counts.get(query.state, sum(counts.values()))

    def each(self, query: RowQuery, together: int = 10_000) -> Iterator[int]:
        """Yield the refs of all rows that a query without a text chooses; so many are read `together`."""
        for one in query.filters:
            yield from self._outbox.rows.matching(self._rows, one, together)

    def refs(self, query: RowQuery, start: int = 0, size: int | None = None) -> list[int]:
        """Return the refs of rows that a query without a text chooses: `size` of them from the one at `start`."""
        if size is None:
            return list(self.each(query))
        return list(islice(self.each(query, start + size), start, start + size))

    def search(self, query: RowQuery, keep: Keep | None, stopped: Callable[[], bool], *, progress: bool) -> array[int]:
        """Return the refs of the rows that a query chooses; a bar shows how far the search is.

        Parameters
        ----------
        query : RowQuery
        keep : callable, optional
            Of these rows only those that it returns.
        stopped : callable
            Whether to end early, with the rows that are found until then.
        progress : bool
            Show the bar.
        """
        found = array("q")
        with Bar("searching", self.count(query), show=progress) as bar:
            for refs in paged(self.each(query), _SCANNED):
                if stopped():
                    break
                frame = self.frame(refs).set_axis(sorted(refs))
                frame = frame if keep is None else keep(frame)
                frame = frame[contains(frame, query.text)] if query.text else frame
                found.extend(frame.index.tolist())
                bar.add(len(refs))
        return found

    def ordered(
        self, refs: Sequence[int], column: str, stopped: Callable[[], bool], *, descending: bool, progress: bool
    ) -> list[int]:
        """Return rows sorted by a column of `batch.tasks()`, their place in the input, or a field of known results.

        Missing values are last.

        A bar shows how far that is; what is not read when it is `stopped` is left out.
        """
        parts: list[pd.Series[Any]] = []
        with Bar("sorting", len(refs), show=progress) as bar:
            for some in paged(sorted(refs), _SCANNED):
                if stopped():
                    break
                frame = self.frame(some)
                if column not in frame and column not in frame.index.names:
                    frame = join_results(frame, self._results.answers).frame
                values = frame.reset_index().get(column, pd.Series(pd.NA, range(len(some)), dtype=object))
                parts.append(values.set_axis(some))
                bar.add(len(some))
        if not parts:
            return []
        values = pd.concat(parts)
        return values.sort_values(ascending=not descending, kind="stable", key=_comparable).index.tolist()

    def frame(self, refs: Iterable[int]) -> pd.DataFrame:
        """Return rows with the columns of `batch.tasks()`, by ascending refs, and their positions in the input."""
        rows, some = self._outbox.rows, sorted(refs)
        made = rows_frame(rows.pages_of(self._rows.batch, some, wire=True), {}, self._now())
        made.index = pd.Index(places(rows, self._rows, some, made.index.tolist()), dtype="int64", name="row")
        return made

    def answers(self, tasks: Sequence[str]) -> Answers:
        """Return what tasks have come to, as far as results are stored.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        if tasks:
            self._results.sync()
        return self._results.answers(tasks)

    def stored(self, task: str) -> StoredRow | None:
        """Return what is known of the row whose newest task this is; None if there is none.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        found = self.frame(self._outbox.rows.locate(self._rows.batch, [task]).values())
        if found.empty:
            return None
        state, url, message = found[["state", "url", "last_message"]].iloc[0]
        known = None if pd.isna(message) else message
        self._results.sync()
        [result] = self._results.read([task])
        return StoredRow(row=found.index[0], state=state, url=url, message=known, result=result)

    def task(self, ref: int) -> str | None:
        """Return the newest task of a row; None if there never was one."""
        return next(iter(self._outbox.rows.tasks(self._rows.batch, [ref])), None)

    def positions(self, refs: Iterable[int]) -> Iterator[int]:
        """Yield the places of rows in `batch.tasks()`, from 0."""
        order = InputOrder.of(self._outbox.rows, self._rows)
        if order is not None:
            yield from order.positions(list(refs))
            return
        parts = self._outbox.rows.parts(self._rows.batch)
        before = accumulate((last - first + 1 for first, last in parts), initial=0)
        shifts = [(last, place - first) for (first, last), place in zip(parts, before, strict=False)]
        for ref in refs:
            yield ref + next(shift for last, shift in shifts if ref <= last)

    def ended(self, refs: Iterable[int]) -> list[int]:
        """Return those of these rows that can be sent again."""
        states = [self._outbox.rows.states_of(page) for page in paged(refs, _SCANNED)]
        return [ref for page in states for ref, state in page.items() if state in FINAL]

    def final(self, refs: Iterable[int]) -> dict[str, int]:
        """Return how many of these rows are in each state in which they can be sent again."""
        found: Counter[str] = Counter()
        for page in paged(refs, _SCANNED):
            found.update(state.word for state in self._outbox.rows.states_of(page).values() if state in FINAL)
        return dict(found)


def contains(frame: pd.DataFrame, text: str) -> Any:
    """Return which rows of `batch.tasks()` contain a text in the input, the URL, the id or the message.

    ``column:value`` finds the rows with that value in that column. Upper and lower case are the same, and numbers are
    compared as such.

    Examples
    --------
    >>> frame = pd.DataFrame({"day": [1.0, 11.0], "task": ["a", "b"], "last_message": ["KeyError: 7", None]})
    >>> contains(frame, "1").tolist(), contains(frame, "day:1").tolist(), contains(frame, "keyerror").tolist()
    ([True, True], [True, False], [True, False])
    """
    name, colon, value = text.partition(":")
    if colon and name in frame.columns:
        return frame[name].astype(str).str.lower().isin(spellings(value.strip().lower()))
    searched = frame.loc[:, :"task"].assign(message=frame["last_message"])
    return searched.apply(lambda column: column.astype(str).str.contains(text, case=False, regex=False)).any(axis=1)


def _comparable(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return values that can be compared: states in the order of a task's life, values of several types as text."""
    if values.name == "state":
        return values.map(TASK_STATES.index)
    found = values.convert_dtypes()
    return found.astype("string") if found.dtype == object else found
