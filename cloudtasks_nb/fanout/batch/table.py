"""Build the frame of a batch's rows: the columns of the input, then what became of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import BATCH_TASKS, column, frame
from cloudtasks_nb._names import code_name
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.fanout.outbox.records import Page, State
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.plan.preview import StoredPreview
from cloudtasks_nb.fanout.plan.render import read_task
from cloudtasks_nb.service.convert import http_status
from cloudtasks_nb.service.watch import Pending

__all__ = ["IndexLabels", "RowFrames", "label_column", "row_names", "rows_frame"]

_WORDS = {state: state.name.lower() for state in State}
_SECOND = 1_000_000
_NAMED_BY = 3  # columns of the input that are in the name of a row


def rows_frame(
    pages: Iterable[Page],
    pending: Mapping[str, Pending | None],
    now: int,
    *,
    labelled: bool = False,
) -> pd.DataFrame:
    """Return one row a row of the batch; the index is `row` (position in the input), or that of the input.

    Parameters
    ----------
    pages : iterable of Page
        With the rendered tasks.
    pending : mapping
        What is known of tasks that are in the queue, by short id.
    now : int
        Microseconds since 1970, to distinguish `scheduled` from `ready` for rows that were not looked up.
    labelled : bool
        Whether the index of the input tells all rows of the batch apart, as `IndexLabels` finds out.
    """
    columns: dict[str, list[Any]] = {name: [] for name in BATCH_TASKS}
    stored = StoredPreview()
    rows: list[int] = []
    for page in pages:
        stored.add(page.shown, page.indexes)
        rows += page.rows
        for name, values in _page(page, pending, now).items():
            columns[name] += values
    index = stored.index(rows) if labelled else None
    shown = stored.columns(levels=index is None)
    ours = frame(BATCH_TASKS, columns)
    made = pd.concat([shown, ours], axis=1)
    made.index = pd.Index(rows, dtype="int64", name="row") if index is None else index
    return made


class IndexLabels:
    """Find out whether the index of the input tells all rows of a batch apart.

    Parameters
    ----------
    rows : Rows
        Those of the outbox.
    batch : str
        Its id.
    framed : bool
        Whether the rows are of frames of an analyst, which could be joined by their index; those of a backfill are not.
    """

    def __init__(self, rows: Rows, batch: str, *, framed: bool = True) -> None:
        self._rows = rows
        self._framed = framed
        self._batch = batch
        self._known: tuple[list[tuple[int, int]], bool] | None = None

    def usable(self) -> bool:
        """Return whether it does; print once if rows of several inputs have the same labels or positions."""
        parts = self._rows.parts(self._batch)
        if self._known is None or self._known[0] != parts:
            self._known = parts, self._usable(parts)
        return self._known[1]

    def of(self, refs: Iterable[int]) -> dict[int, Any]:
        """Return the labels of some rows by their refs: those of the index of the input, else the positions in it."""
        stored, positions, found = _read(self._rows.pages_of(self._batch, refs))
        index = stored.index(positions) if self.usable() else None
        return dict(zip(found, positions if index is None else index.tolist(), strict=True))

    def _usable(self, parts: Sequence[tuple[int, int]]) -> bool:
        firsts = [_read(islice(self._rows.pages(self._batch, after=first - 1), 1)) for first, _ in parts]
        if len(firsts) == 1 and firsts[0][0].complete:
            return True
        if any(stored.labelled for stored, *_ in firsts):
            stored, rows, _ = _read(self._rows.pages(self._batch))
            if stored.index(rows) is not None:
                return True
        elif len(firsts) == 1 or not self._framed or not self._rows.repeated(self._batch):
            return False
        notify(
            f"batch {self._batch} was made of several inputs that have index labels in common, or labels of different "
            "kinds. The index of batch.tasks() and results() is therefore the position of each row in its own input, "
            "which several rows may share, and a join by index is wrong: join by columns, "
            "df.merge(batch.results(), on=[...])"
        )
        return False


class RowFrames:
    """The rows of a batch as frames.

    Parameters
    ----------
    rows, batch
        As for `IndexLabels`.
    labels : IndexLabels
        Decides about the index.
    now : callable
        Returns the time of the service in microseconds since 1970.
    """

    def __init__(self, rows: Rows, batch: str, labels: IndexLabels, now: Callable[[], int]) -> None:
        self._rows, self._batch, self._labels, self._now = rows, batch, labels, now

    def all(self, look_up: Callable[[], Mapping[str, Pending | None]]) -> pd.DataFrame:
        """Return all rows; `look_up` tells what is known of the tasks that are in the queue."""
        return self._frame(None, look_up())

    def of(self, states: set[State]) -> pd.DataFrame:
        """Return the rows in some states."""
        return self._frame(states, {})

    def pages(self, size: int) -> Iterator[pd.DataFrame]:
        """Yield all rows, so many at a time, without a look into the queue."""
        after = 0
        while True:
            pages, count = [], 0
            for page in self._rows.pages(self._batch, after=after, wire=True):
                pages.append(page)
                count += len(page.refs)
                if count >= size:
                    break
            if not pages:
                return
            after = pages[-1].refs[-1]
            made = rows_frame(pages, {}, self._now(), labelled=self._labels.usable())
            yield from (made.iloc[start : start + size] for start in range(0, count, size))

    def _frame(self, states: set[State] | None, pending: Mapping[str, Pending | None]) -> pd.DataFrame:
        labelled = self._labels.usable()
        made = rows_frame(
            self._rows.pages(self._batch, states=states, wire=True), pending, self._now(), labelled=labelled
        )
        if made.empty:  # with the columns of the input all the same, so that batch.failed()["day"] works on a good day
            first = islice(self._rows.pages(self._batch, wire=True), 1)
            made = rows_frame(first, {}, self._now(), labelled=labelled).head(0)
        return made


def row_names(rows: Rows, batch: str, refs: Iterable[int]) -> dict[int, str]:
    """Return the names of some rows by their refs: ``row 7: day=2013-01-08, origin=JFK``."""
    stored, positions, found = _read(rows.pages_of(batch, refs))
    shown = stored.columns().iloc[:, :_NAMED_BY]
    values = [", ".join(f"{name}={value}" for name, value in row.items()) for row in shown.to_dict("records")]
    names = [
        f"row {position}: {text}" if text else f"row {position}"
        for position, text in zip(positions, values or [""] * len(positions), strict=True)
    ]
    return dict(zip(found, names, strict=True))


def label_column(labels: Sequence[Any]) -> Any:
    """Return labels of rows as a column with their own dtype; those of several levels as values of any type."""
    return column(labels, "any") if any(isinstance(label, tuple) for label in labels) else pd.Series(labels).array


def _read(pages: Iterable[Page]) -> tuple[StoredPreview, list[int], list[int]]:
    """Return what is shown of the rows of pages, their positions and their refs."""
    stored = StoredPreview()
    positions: list[int] = []
    refs: list[int] = []
    for page in pages:
        stored.add(page.shown, page.indexes)
        positions += page.rows
        refs += page.refs
    return stored, positions, refs


def _page(page: Page, pending: Mapping[str, Pending | None], now: int) -> dict[str, list[Any]]:
    read = [read_task(wire) if wire else (None, b"", None) for wire in page.wire]
    due = [retry if retry is not None else first for retry, (_, _, first) in zip(page.schedule_time, read, strict=True)]
    found = [pending.get(task) if task is not None else None for task in page.tasks]
    states = [
        _state(State(code), there, attempts, at, now)
        for code, there, attempts, at in zip(page.states, found, page.attempts, due, strict=True)
    ]
    return {
        "url": [url for url, _, _ in read],
        "task": list(page.tasks),
        "try": [number or None for number in page.tries],
        "state": states,
        "attempts": [
            there.attempts if there is not None else attempts
            for there, attempts in zip(found, page.attempts, strict=True)
        ],
        "last_status": [
            there.last_status if there is not None and there.last_status else None if code is None else code_name(code)
            for there, code in zip(found, page.last_status, strict=True)
        ],
        "last_http_status": [
            http_status(there.last_message) if there is not None and there.last_status else status
            for there, status in zip(found, page.http_status, strict=True)
        ],
        "last_message": [
            reason or message or (there.last_message if there is not None else None)
            for there, message, reason in zip(found, page.last_message, page.reasons, strict=True)
        ],
        "schedule_time": [
            there.schedule_time if there is not None else at for there, at in zip(found, due, strict=True)
        ],
        "last_attempt_time": list(page.last_attempt_time),
        "duration": [None if span is None else span / _SECOND for span in page.duration],
    }


def _state(state: State, there: Pending | None, attempts: int | None, due: int | None, now: int) -> str:
    if state is not State.SENT:
        return _WORDS[state]
    if there is not None:
        return there.state
    if attempts:
        return "retrying"
    return "scheduled" if due is not None and due > now else "ready"
