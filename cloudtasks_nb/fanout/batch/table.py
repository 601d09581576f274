"""Build the frame of a batch's rows: the columns of the input, then what became of each task; and name rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb._frames import BATCH_TASKS, column, frame, is_missing
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.secrets import MASK, is_secret, mask_text
from cloudtasks_nb.fanout.causes import told
from cloudtasks_nb.fanout.evidence import RAISED, status_name
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, RowFilter, Scope, whole
from cloudtasks_nb.fanout.outbox.rows import Order, Page, Rows
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.plan.preview import StoredPreview
from cloudtasks_nb.fanout.plan.render import read_target
from cloudtasks_nb.fanout.states import RETRYING, WORDS, State
from cloudtasks_nb.service.watch import Pending

__all__ = ["InputOrder", "ReadRows", "RowFrames", "RowName", "places", "row_names", "row_texts", "rows_frame"]

_SECOND = 1_000_000
_BRIEF = ("task", "state", "last_message")


def rows_frame(
    pages: Iterable[Page],
    pending: Mapping[str, Pending],
    now: int,
    *,
    labelled: bool = False,
    brief: bool = False,
    order: InputOrder | None = None,
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
        Whether the index of the input tells all rows of the batch apart, as `RowFrames` finds out.
    brief : bool
        Of our columns only task, state and last_message.
    order : InputOrder, optional
        That of the rows; as they are stored when left out.
    """
    kinds = {name: BATCH_TASKS[name] for name in _BRIEF} if brief else BATCH_TASKS
    columns: dict[str, list[Any]] = {name: [] for name in kinds}
    read = ReadRows()
    for page in pages:
        read.add(page)
        for name, values in _columns(page, pending, now, brief=brief).items():
            columns[name] += values
    turn, positions, index = _named(read, order, labelled=labelled)
    made = pd.concat([read.stored.columns(levels=index is None), frame(kinds, columns)], axis=1)
    made = made if order is None else made.iloc[turn]
    made.index = pd.Index(positions, dtype="int64", name="row") if index is None else index
    return made


class ReadRows:
    """What is stored of the input of some rows.

    Parameters
    ----------
    pages : iterable of Page
        The rows.
    """

    def __init__(self, pages: Iterable[Page] = ()) -> None:
        self.stored = StoredPreview()  #: their columns and labels
        self.positions: list[int] = []  #: in the input
        self.refs: list[int] = []
        for page in pages:
            self.add(page)

    def add(self, page: Page) -> None:
        """Add the rows of a page."""
        self.stored.add(page.shown, page.indexes)
        self.positions += page.rows
        self.refs += page.refs


def places(rows: Rows, scope: Scope, refs: Sequence[int], positions: list[int]) -> list[int]:
    """Return the positions of rows in the input that is meant; of a batch those in the inputs that brought them."""
    order = InputOrder.of(rows, scope)
    return positions if order is None else list(order.places(refs).tolist())


class InputOrder:
    """The order and the labels of an input whose rows came with several ones, or are a part of their batch.

    Parameters
    ----------
    rows : Rows
        Those of the outbox.
    order : Order
        As it is stored.
    """

    def __init__(self, rows: Rows, order: Order) -> None:
        self._rows, self._input = rows, order.input
        self._firsts, self._lasts, self._places = np.frombuffer(order.spans, np.int64).reshape(-1, 3).T.copy()
        self._labels = np.frombuffer(order.labels, np.int64)
        self._by_ref = np.argsort(self._firsts)
        sizes = self._lasts - self._firsts + 1
        self._before = np.cumsum(sizes) - sizes  # rows before a span

    @classmethod
    def of(cls, rows: Rows, scope: Scope) -> InputOrder | None:
        """Return the order of the rows that are meant; None: as they are stored."""
        order = rows.order(scope)
        return None if order is None else cls(rows, order)

    def refs(self) -> Iterator[int]:
        """Yield the refs of the rows."""
        for first, last in zip(self._firsts.tolist(), self._lasts.tolist(), strict=True):
            yield from range(first, last + 1)

    def places(self, refs: Sequence[int]) -> Any:
        """Return the places of rows in the input."""
        spans = self._spans(refs)
        return self._places[spans] + np.asarray(refs, np.int64) - self._firsts[spans]

    def positions(self, refs: Sequence[int]) -> list[int]:
        """Return the positions of rows in the frame of all rows, which has no duplicates of known rows."""
        spans = self._spans(refs)
        found: list[int] = (self._before[spans] + np.asarray(refs, np.int64) - self._firsts[spans]).tolist()
        return found

    @property
    def has_labels(self) -> bool:
        """Whether it has labels of its own, as some of its rows came with another input."""
        return len(self._labels) > 0

    @cached_property
    def labelled(self) -> bool:
        """Whether its own labels tell its rows apart."""
        first = self._stored(self._labels[:1], [[0]])
        if first.complete or not first.labelled:
            return first.complete
        return self.index(self.places(sorted(self.refs()))) is not None

    def index(self, places: Any) -> pd.Index[Any] | None:
        """Return the labels of the rows at some places, which ascend; None if they do not tell these apart."""
        pieces = np.searchsorted(self._labels, places, side="right") - 1
        starts = np.unique(pieces)
        inside = [(places[pieces == piece] - self._labels[piece]).tolist() for piece in starts]
        return self._stored(self._labels[starts], inside).index(places.tolist())

    def _spans(self, refs: Sequence[int]) -> Any:
        """Return in which spans rows are."""
        return self._by_ref[np.searchsorted(self._firsts, refs, side="right", sorter=self._by_ref) - 1]

    def _stored(self, starts: Any, inside: Iterable[Sequence[int]]) -> StoredPreview:
        """Read pieces of labels, and of each those at some places in it."""
        found = StoredPreview()
        for labels, places in zip(self._rows.labels(self._input, starts.tolist()), inside, strict=True):
            found.add(labels, places)
        return found


def _named(
    read: ReadRows, order: InputOrder | None, *, labelled: bool
) -> tuple[list[int], list[int], pd.Index[Any] | None]:
    """Return the order of rows, and their positions and labels in that order; no labels if the rows have none."""
    if order is None:
        index = read.stored.index(read.positions) if labelled else None
        return list(range(len(read.refs))), read.positions, index
    places = order.places(read.refs)
    turn = np.argsort(places)
    places = places[turn]
    index = None
    if labelled:
        index = order.index(places) if order.has_labels else read.stored.index(places.tolist())
    return turn.tolist(), places.tolist(), index


class RowFrames:
    """The rows of a batch as frames, with the index of the input if that tells all rows of the batch apart.

    Parameters
    ----------
    rows : Rows
        Those of the outbox.
    scope : Scope
        The rows that are wanted.
    now : callable
        Returns the time of the service in microseconds since 1970.
    framed : bool
        Whether the rows are of frames of an analyst, which could be joined by their index; those of a backfill are not.
    shown : bytes
        What is shown of the columns of an input without rows; empty if it has rows, or is not known.
    """

    def __init__(
        self, rows: Rows, scope: Scope, now: Callable[[], int], *, framed: bool = True, shown: bytes = b""
    ) -> None:
        self._rows, self._scope, self._now, self._framed = rows, scope, now, framed
        self._without = [Page.without_rows(shown)] if shown else []
        self._known: tuple[list[tuple[int, int]], bool] | None = None

    def frame(
        self,
        states: Collection[State] | None = None,
        pending: Mapping[str, Pending] | None = None,
        *,
        refs: Iterable[int] | None = None,
        brief: bool = False,
    ) -> pd.DataFrame:
        """Return all rows, or those in some states, or those with some refs.

        Parameters
        ----------
        states : collection of State, optional
        pending : mapping, optional
            What is known of tasks that are in the queue.
        refs : iterable of int, optional
        brief : bool
            Of our columns only task, state and last_message.
        """
        pages = self._rows.pages(self._scope, states=states, wire=True)
        if refs is not None:
            pages = self._rows.pages_of(self._scope.batch, refs, wire=True)
        made = self._made(pages, pending or {}, brief=brief)
        if made.empty:  # with the columns of the input all the same, so that batch.failed()["day"] works on a good day
            first = self._without or islice(self._rows.pages(whole(self._scope.batch), wire=True), 1)
            labelled = self._labelled(self._order())
            made = rows_frame(first, {}, self._now(), labelled=labelled, brief=brief).head(0)
        return made

    def failed(self) -> pd.DataFrame:
        """Return the rows in state `failed`, as `Batch.failed` describes."""
        rows = self.frame({State.FAILED})
        errors = [None if is_missing(message) else told(message) for message in rows["last_message"]]
        return rows.assign(error=column(errors, "text"))

    def pages(self, size: int) -> Iterator[pd.DataFrame]:
        """Yield all rows with task, state and last_message, so many at a time, without a look into the queue."""
        order = self._order()
        for refs in paged(self._rows.matching(self._scope, RowFilter()) if order is None else order.refs(), size):
            yield self._made(self._rows.pages_of(self._scope.batch, refs, wire=True), {}, brief=True)

    def labels(self, refs: Sequence[int | None]) -> Any:
        """Return the labels of rows as a column: those of the index of the input, else the positions in it."""
        read = ReadRows(self._rows.pages_of(self._scope.batch, {ref for ref in refs if ref is not None}))
        order = self._order()
        turn, positions, index = _named(read, order, labelled=self._labelled(order))
        found = positions if index is None else index.tolist()
        known: dict[int | None, Any] = dict(zip((read.refs[at] for at in turn), found, strict=True))
        labels = [known.get(ref) for ref in refs]
        if any(isinstance(label, tuple) for label in labels):  # of several levels
            return column(labels, "any")
        return pd.Series(labels).array

    def _made(self, pages: Iterable[Page], pending: Mapping[str, Pending], *, brief: bool = False) -> pd.DataFrame:
        order = self._order()
        labelled = self._labelled(order)
        return rows_frame(pages, pending, self._now(), labelled=labelled, brief=brief, order=order)

    def _order(self) -> InputOrder | None:
        return InputOrder.of(self._rows, self._scope)

    def _labelled(self, order: InputOrder | None) -> bool:
        """Return whether the index does; print once if rows of several inputs have the same labels or positions."""
        if order is not None and order.has_labels:
            return order.labelled
        parts = self._rows.parts(self._scope.batch) if order is None else [(next(order.refs(), 0), 0)]
        if self._known is None or self._known[0] != parts:
            self._known = parts, self._tells_apart(parts)
        return self._known[1]

    def _tells_apart(self, parts: Sequence[tuple[int, int]]) -> bool:
        pages = (self._without or islice(self._rows.pages(self._scope, after=first - 1), 1) for first, _ in parts)
        firsts = [ReadRows(page).stored for page in pages]
        if len(firsts) == 1 and firsts[0].complete:
            return True
        if any(stored.labelled for stored in firsts):
            read = ReadRows(self._rows.pages(self._scope))
            if read.stored.index(read.positions) is not None:
                return True
        elif len(firsts) == 1 or not self._framed or not self._rows.repeated(self._scope):
            return False
        notify(
            f"batch {self._scope.batch} was made of several inputs that have index labels in common, or labels of "
            "different kinds. The index of batch.tasks() and results() is therefore the position of each row in its "
            "own input, which several rows may share, and a join by index is wrong: join by columns, "
            "df.merge(batch.results(), on=[...])"
        )
        return False


def _columns(page: Page, pending: Mapping[str, Pending], now: int, *, brief: bool) -> dict[str, Sequence[Any]]:
    """Return our columns of the rows of a page."""
    # Only of a row in the queue does its state depend on when it is due.
    wires = [b""] * len(page.wire) if brief and State.SENT not in page.states else page.wire
    sent = [read_target(wire) if wire else (None, None) for wire in wires]  # URL and schedule time
    there = [None if task is None else pending.get(task) for task in page.tasks]
    retries = (one.schedule_time if one else retry for one, retry in zip(there, page.schedule_time, strict=True))
    due = [first if retry is None else retry for retry, (_, first) in zip(retries, sent, strict=True)]
    attempts = [one.attempts if one else known for one, known in zip(there, page.attempts, strict=True)]
    found: dict[str, Sequence[Any]] = {
        "task": page.tasks,
        "state": [
            State(code).word if code != State.SENT else one.state if one else _waiting(known, at, now)
            for code, one, known, at in zip(page.states, there, attempts, due, strict=True)
        ],
        "last_message": [reason or said for reason, said in zip(page.reasons, page.last_message, strict=True)],
    }
    if brief:
        return found
    return found | {
        "url": [url for url, _ in sent],
        "try": [number or None for number in page.tries],
        "attempts": attempts,
        "last_status": list(map(status_name, page.last_status, page.http_status)),
        "last_http_status": [None if http == RAISED else http for http in page.http_status],
        "schedule_time": due,
        "last_attempt_time": page.last_attempt_time,
        "duration": [None if span is None else span / _SECOND for span in page.duration],
    }


def _waiting(attempts: int | None, due: int | None, now: int) -> str:
    """Return the state of a task that was not looked for in the queue."""
    if attempts:
        return WORDS[RETRYING]
    return "scheduled" if due is not None and due > now else "ready"


_LONGEST = 200  # characters of a value


@dataclass(frozen=True, slots=True, kw_only=True)
class RowName:
    """The row of a batch, as people recognise it."""

    batch: str  #: its name, else its id
    text: str  #: ``order_id=4711 · day=2013-01-01``; without secrets


def row_names(outbox: Outbox, tasks: Iterable[str]) -> dict[str, RowName]:
    """Return the rows that tasks belong to, by task id; tasks of no batch of this outbox are left out."""
    found: dict[str, RowName] = {}
    for batch, group in groupby(sorted(tasks, key=_batch), _batch):
        ids = list(group)
        for record in outbox.batches.find(batch=batch):
            refs = outbox.rows.locate(batch, ids, any_try=True)
            texts = row_texts(outbox, record, record.whole, set(refs.values()))
            name = record.name or record.id
            for task, ref in refs.items():
                position, text = texts[ref]
                found[task] = RowName(batch=name, text=text or f"row={position}")
    return found


def _batch(task: str) -> str:
    return batch_of(task) or ""


def row_texts(
    outbox: Outbox, record: BatchRecord, rows: Scope, refs: Collection[int], most: int | None = None
) -> dict[int, tuple[int, str]]:
    """Return the positions of rows of a batch in the input of `rows`, and their values, by their refs.

    The columns of the key come first, or the label of the period, then those of body, URL and headers; `most` is how
    many there are at most. The text of a row without columns is empty.
    """
    read = ReadRows(outbox.rows.pages_of(record.id, refs))
    values = read.stored.columns()
    key: Any = record.description.get("key")
    if "backfill" in record.description and "partition" in values:
        key = ["partition"]
        values = values.drop(columns=["start", "end"], errors="ignore")  # the label of the period says both
    first = [name for name in (key if isinstance(key, list) else ()) if name in values]
    names = list(dict.fromkeys([*first, *values.columns]))[:most]
    cells = values[names].to_numpy(dtype=object)
    texts = (" · ".join(filter(None, map(_pair, names, row))) for row in cells)
    found = places(outbox.rows, rows, read.refs, read.positions)
    return dict(zip(read.refs, zip(found, texts, strict=True), strict=True))


def _pair(name: str, value: Any) -> str:
    """Return a field as ``name=value``; empty if the value is missing."""
    if is_missing(value):
        return ""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        value = value.date()
    return f"{name}={MASK if is_secret(name) else mask_text(str(value))[:_LONGEST]}"
