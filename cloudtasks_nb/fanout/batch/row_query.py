"""Choose rows of a batch by state, cause and text, join their results, and tell what rows of a cause have in common."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from math import comb
from typing import Any

import pandas as pd
from pandas.api.types import infer_dtype

from cloudtasks_nb._frames import BATCH_TASKS, SUCCESSES, TASK_STATES, column, spellings
from cloudtasks_nb._frames import STATES as TRAITS
from cloudtasks_nb.display.plural import percent_text
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.fanout.batch.parquet import untyped, with_json
from cloudtasks_nb.fanout.batch.report import isolated
from cloudtasks_nb.fanout.batch.stored_results import Answers, StoredResults
from cloudtasks_nb.fanout.batch.table import InputOrder, ReadRows, places, rows_frame
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Cause, Span, stored_key
from cloudtasks_nb.fanout.outbox.records import RowFilter, Scope
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.plan.columns import EXACT
from cloudtasks_nb.fanout.states import FINAL, RETRYING, WORDS, State
from cloudtasks_nb.store.results import StoredResult

__all__ = ["STATES", "Joined", "Keep", "RowQuery", "RowReader", "StoredRow", "alike", "join_results", "result_notes"]

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
                frame = frame[_contains(frame, query.text)] if query.text else frame
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


def _contains(frame: pd.DataFrame, text: str) -> Any:
    """Return which rows of `batch.tasks()` contain a text in the input, the URL, the id or the message.

    ``column:value`` finds the rows with that value in that column. Upper and lower case are the same, and numbers are
    compared as such.

    Examples
    --------
    >>> frame = pd.DataFrame({"day": [1.0, 11.0], "task": ["a", "b"], "last_message": ["KeyError: 7", None]})
    >>> _contains(frame, "1").tolist(), _contains(frame, "day:1").tolist(), _contains(frame, "keyerror").tolist()
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


_CAUSES = 50  # for which this is found out, the most frequent ones
_ROWS, _ALL_ROWS = 100, 500  # in the sample of a cause, and in that of all
_SHARE, _FACTOR, _CHANCE = 0.8, 1.5, 0.01
_FACTS = 2
_LONGEST = 40  # characters of a value


def alike(outbox: Outbox, rows: Scope, causes: Sequence[Cause]) -> dict[str, str]:
    """Return what the rows of causes have in common, by their keys: ``shop=berlin 100 %``; without those with nothing.

    That is values of the input's columns which other rows have not. A sample of the rows of each cause is compared to
    one of all rows. Both are evenly spread over the input, and all rows if these are few. A value is told if at least
    four in five rows of the cause have it, half as many again as of all rows, and if that is hardly by chance.

    Parameters
    ----------
    causes : sequence of Cause
        The most frequent first.
    """
    numbers = {cause.key: cause.failed + cause.retrying for cause in causes[:_CAUSES]}
    samples = outbox.causes.samples(rows, {key: min(1.0, _ROWS / n) for key, n in numbers.items()})
    if all(len(refs) <= 1 for refs in samples.values()):
        return {}
    total = sum(outbox.batches.counts(rows).values())
    every = outbox.causes.sample(rows, min(1.0, _ALL_ROWS / total))
    read = ReadRows(outbox.rows.pages_of(rows.batch, {*every, *(ref for refs in samples.values() for ref in refs)}))
    cells = read.stored.columns().set_axis(read.refs)
    texts = cells.astype(str).where(cells.notna(), "missing")
    found = {key: _facts(texts.loc[refs], texts.loc[every]) for key, refs in samples.items() if len(refs) > 1}
    return {key: ", ".join(facts) for key, facts in found.items() if facts}


def _facts(some: pd.DataFrame, every: pd.DataFrame) -> list[str]:
    """Return which values some rows have much more often than all rows, the most frequent first."""
    found = []
    for name in some.columns:
        counts = some[name].value_counts()
        value, n = counts.index[0], int(counts.iloc[0])
        having = int((every[name] == value).sum())
        share, usual = n / len(some), having / len(every)
        if share >= max(_SHARE, _FACTOR * usual) and _chance(n, len(some), having, len(every)) < _CHANCE:
            cut = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
            found.append((-share, usual, f"{isolated(mask_text(f'{name}={cut}'))} {percent_text(share)}"))
    return [text for *_, text in sorted(found)[:_FACTS]]


def _chance(n: int, rows: int, having: int, every: int) -> float:
    """Return how likely at least `n` of some rows have a value by chance, which `having` of all have."""
    ways = sum(comb(having, one) * comb(every - having, rows - one) for one in range(n, rows + 1))
    return ways / comb(every, rows)


#: Returns what is stored of tasks, by their ids.
_ReadAnswers = Callable[[Sequence[str]], Answers]

_PAGE = 20_000  # tasks that are asked about together
#: The integers that a column of integers has, or one of integers and floats, and as many below zero.
_INTEGERS = {"integer": 2**63, "mixed-integer-float": EXACT}
_MOST_FIELDS = 1_000  # columns; results with more different fields stay dicts
_SUFFIX = "_result"
_RESULT, _ERROR = "result", "error"
_KINDS = {"integer": "count", "floating": "float", "mixed-integer-float": "float", "boolean": "ok", "string": "text"}


class _ResultFrame(pd.DataFrame):
    """A frame whose columns may have values of several types, which Parquet refuses."""

    @property
    def _constructor(self) -> type[_ResultFrame]:
        return _ResultFrame  # so that parts of it, too, can be written

    def to_parquet(self, path: Any = None, **options: Any) -> Any:
        """Write a Parquet file, with the options of pandas; a column that has no type there becomes JSON text."""
        return super(_ResultFrame, with_json(self, untyped(self))).to_parquet(path, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Rows with their results."""

    frame: pd.DataFrame
    renamed: Mapping[str, str]  #: fields of results that have the name of another column -> the name they have now
    succeeded: int  #: rows
    missing: int  #: of these, rows without a stored result


def join_results(tasks: pd.DataFrame, read: _ReadAnswers, problem: str | None = None) -> Joined:
    """Return rows with the results of their newest tasks.

    Parameters
    ----------
    tasks : DataFrame
        As `batch.tasks()` returns it.
    read : callable
        Reads stored results.
    problem : str, optional
        Why results may be missing: what `error` says of rows that have succeeded without a result.
    """
    rows = tasks.drop(columns=[name for name in BATCH_TASKS if name != "state" and name in tasks])
    ids = [task if isinstance(task, str) else "" for task in tasks["task"].tolist()]
    done = tasks["state"].isin(SUCCESSES).tolist()
    values, failures = dict[str, Any](), dict[str, str]()
    for page in paged(filter(None, ids), _PAGE):
        found = read(page)
        values |= found.results
        failures |= found.errors
    lost = [ok and task not in values for task, ok in zip(ids, done, strict=True)]
    errors = [
        (problem if missing else None) if ok else failures.get(task, message)
        for task, ok, missing, message in zip(ids, done, lost, tasks["last_message"].tolist(), strict=True)
    ]
    results = [values.get(task) for task in ids]
    fields = _fields(results)
    # Also what is left out: the table of a panel has these columns, and a column "task" is what resend() sends again.
    taken = {*tasks.columns, *(name for name in rows.index.names if name), _ERROR}
    names: dict[str, str] = {}
    for name in fields:
        new = name
        while new in taken:
            new += _SUFFIX
        names[name] = new
        taken.add(new)
    columns = {names[name]: _column(values) for name, values in fields.items()}
    columns[_ERROR] = column(errors, "text")
    joined = _ResultFrame(pd.concat([rows, pd.DataFrame(columns, copy=False).set_axis(rows.index)], axis=1))
    joined.attrs = dict(rows.attrs)
    renamed = {name: new for name, new in names.items() if name != new}
    return Joined(frame=joined, renamed=renamed, succeeded=sum(done), missing=sum(lost))


def result_notes(joined: Joined, store: str, problem: str | None = None, *, handler: bool = True) -> dict[str, str]:
    """Return what there is to say about results, by subject: fields that were renamed, successes without a result.

    `problem` is why results may be missing, if that is known. `handler` is whether the target stores results.
    """
    notes = {}
    if joined.renamed:
        names = ", ".join(f"{name} is {new}" for name, new in joined.renamed.items())
        notes["renamed"] = f"fields of the results that have the name of another column: {names}"
    if problem and not joined.missing:  # of failed rows the errors may be missing, and somebody may have forged results
        notes["problem"] = f"{store}: {problem}"
    if joined.missing:
        other = "another store (store= of ct.serve, handlers.app and the connection)"
        why = f"their results were deleted, or their handler writes to {other}"
        if not handler:
            why = "the target is no handler of this package and stores no results"
        rows = f"{joined.missing:,} of {joined.succeeded:,} succeeded rows"
        notes["missing"] = f"{rows} have no result in {store}: {problem or why}"
    return notes


def _fields(results: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the values of each field; the results themselves if not all are dicts, or there are too many fields."""
    dicts = [{} if one is None else one for one in results]
    names = dict.fromkeys(chain.from_iterable(dicts)) if {*map(type, dicts)} <= {dict} else {}
    if not 0 < len(names) <= _MOST_FIELDS:
        return {_RESULT: list(results)}
    return {name: [one.get(name) for one in dicts] for name in names}


def _column(values: Sequence[Any]) -> Any:
    """Return values as a column of their own type; those of several types, or of none, have any type."""
    found = infer_dtype(values, skipna=True)
    if found.startswith(("datetime", "timedelta")):
        with suppress(ValueError, TypeError):  # of several zones
            return pd.Series([*values]).array
    most = _INTEGERS.get(found)
    fits = most is None or all(-most <= value < most for value in values if type(value) is int)
    return column(values, _KINDS.get(found, "any") if fits else "any")
