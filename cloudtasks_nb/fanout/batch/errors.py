"""Read why rows of a batch failed, choose rows by that, send them again, and read their attempts from the log."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ATTEMPTS, ERRORS, frame
from cloudtasks_nb._names import CODES, QueueName, code_name, code_of
from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_url
from cloudtasks_nb.errors import (
    BatchNotFoundError,
    CloudTasksError,
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    QueueNotFoundError,
    StoreError,
)
from cloudtasks_nb.fanout.batch.report import RENDER, causes_text
from cloudtasks_nb.fanout.batch.row_query import alike
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.table import RowFrames
from cloudtasks_nb.fanout.batch.witnesses import Queue, pending_evidence
from cloudtasks_nb.fanout.causes import exception_line
from cloudtasks_nb.fanout.evidence import RAISED
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import LIKE_IT, Cause, Wanted, stored_key
from cloudtasks_nb.fanout.outbox.records import Choice, Scope
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.states import FINAL, State
from cloudtasks_nb.service import oplog
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.watch import Pending
from cloudtasks_nb.store.store import Store

__all__ = ["NewTries", "attempts_frame", "check_rendered", "choose", "codes_of", "errors_frame", "pending_tasks", "see"]

_CLASS = re.compile(r"[345]XX")
_LARGEST = 599  # HTTP status
_TOGETHER = 1_000  # stored errors that are read together: a traceback may have 100 KB
_SHOWN = 5  # causes that an error names
_STATUSES = 'a status is "OK", "INTERNAL", 503, "5xx", or a list of these'
_FORMS = (
    'give a status ("UNAVAILABLE", 503, "5xx"), a cause of batch.errors(), its exception ("KeyError"), '
    "a list of these, or a frame of rows"
)


def errors_frame(outbox: Outbox, results: StoredResults, scope: Scope, frames: RowFrames) -> pd.DataFrame:
    """Return a row for each cause of failures, the most frequent first, with an error that is in the store."""
    spans = outbox.causes.spans(scope)
    causes = [cause for cause in outbox.causes.found(scope) if cause.key in spans]
    refs = [spans[cause.key].ref for cause in causes]
    rows = {
        ref: (task or "", attempts, message)
        for page in outbox.rows.pages_of(scope.batch, refs)
        for ref, task, attempts, message in zip(page.refs, page.tasks, page.attempts, page.last_message, strict=True)
    }
    try:
        stored = dict(_stored_errors(results, [(task, attempts) for task, attempts, _ in rows.values() if task]))
    except StoreError as error:
        stored = {}
        notify(f"tracebacks are missing: {error.message}")
    common = alike(outbox, scope, causes)
    columns: dict[str, list[Any]] = {
        "cause": [cause.text for cause in causes],
        "rows": [cause.failed + cause.retrying for cause in causes],
        "failed": [cause.failed for cause in causes],
        "retrying": [cause.retrying for cause in causes],
        "first": [spans[cause.key].first for cause in causes],
        "last": [spans[cause.key].last for cause in causes],
        "where": [cause.where for cause in causes],
        "common": [common.get(cause.key) for cause in causes],
    }
    columns["error"] = [stored.get(task) or message for task, _, message in map(rows.__getitem__, refs)]
    return frame(ERRORS, columns).assign(row=frames.labels(refs))


def _stored_errors(results: StoredResults, attempts: Sequence[tuple[str, int | None]]) -> Iterator[tuple[str, str]]:
    """Yield tasks and stored errors of failed attempts, which are given by task and number (None: the newest).

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    if attempts:
        results.sync(failures=True)
    for page in paged(attempts, _TOGETHER):
        for (task, attempt), result in zip(page, results.read([task for task, _ in page]), strict=True):
            if result is not None and result.error and (attempt is None or result.attempt in (None, attempt)):
                yield task, result.error


def choose(where: Any, outbox: Outbox, rows: Scope) -> Choice:
    """Return which failed rows a `where` of `retry_failed` chooses.

    Parameters
    ----------
    where : object
        Statuses, causes, types of exceptions, a list of these, or rows of `batch.errors()`.
    outbox, rows
        Where the failed rows are.

    Raises
    ------
    InvalidInputError
        If it is something else, or names what no failed row has.
    """
    causes = [cause for cause in outbox.causes.found(rows) if cause.failed]
    if isinstance(where, (pd.DataFrame, pd.Series)) and "cause" in where:
        given = [where["cause"]] if isinstance(where, pd.Series) else where["cause"]
        keys = [_named(text, causes) or outbox.causes.of_message(rows, text) for text in map(str, given)]
        return Choice(causes=frozenset(map(stored_key, chain(*keys))))
    choice, others = _sort_out(where, "where", _FORMS)
    found: set[str | int] = set()
    for item in others:
        same = _named(item, causes) or [cause.key for cause in causes if item == cause.kind]
        if not same:
            texts = [cause.text for cause in causes]
            raise InvalidInputError(
                f"where={item!r} is no status and no cause of a failed row{did_you_mean(str(item), texts)}",
                resource=rows.batch,
                hint=_causes_hint(outbox, rows),
            )
        found.update(map(stored_key, same))
    return replace(choice, causes=frozenset(found))


def _named(text: Any, causes: Sequence[Cause]) -> list[str]:
    """Return the keys of the causes that have a key, a text, or a text in words of some rows."""
    message = LIKE_IT.sub("", str(text))
    return [one.key for one in causes if text in (one.key, one.text) or message == one.text.removesuffix("…").rstrip()]


def _causes_hint(outbox: Outbox, rows: Scope) -> str:
    """Return the causes of the failed rows, as a hint."""
    return f"the failed rows have {causes_text(outbox.causes.failed(rows), _SHOWN)}: batch.errors()"


def codes_of(status: Any) -> list[str]:
    """Return the canonical codes that a filter of attempts names; print how HTTP statuses are read.

    Raises
    ------
    InvalidInputError
        If it names no status.
    """
    choice, others = _sort_out(status, "status", _STATUSES)
    read_as = {code_of(one or 500) for one in choice.http}  # with which a handler answers an exception
    if others or not choice.statuses | read_as:
        wrong = others[0] if others else status
        text = f"status={wrong!r} is no status{did_you_mean(str(wrong).upper(), CODES)}"
        raise InvalidInputError(text, resource="status", hint=_STATUSES)
    if read_as:
        notify(f"the log has no HTTP statuses: status={status!r} is read as {_names_of(read_as)}")
    return sorted(map(code_name, choice.statuses | read_as))


def _names_of(codes: Iterable[int]) -> str:
    """Return the names of canonical codes."""
    return ", ".join(sorted(map(code_name, codes)))


def _sort_out(given: Any, name: str, hint: str) -> tuple[Choice, list[Any]]:
    """Return a choice of the canonical codes and the HTTP statuses that are given, and what is neither."""
    codes, http, others = set[int](), set[int](), list[Any]()
    several = isinstance(given, (list, tuple, set, frozenset, pd.Series, pd.Index, np.ndarray))
    for item in given if several else [given]:
        if isinstance(item, bool) or not isinstance(item, (str, int, np.integer)):
            raise InvalidInputError(f"{name}={item!r} is no status", resource=name, hint=hint)
        text = str(item).upper()
        if text == "ERROR" and item != "Error":  # which exceptions are named, such as sqlite3.Error
            http.add(RAISED)
        elif text in CODES:
            codes.add(CODES.index(text))
        elif _CLASS.fullmatch(text):
            http.update(range(100 * int(text[0]), 100 * int(text[0]) + 100))
        elif text.isdecimal() and 100 <= int(text) <= _LARGEST:  # noqa: PLR2004 - the first HTTP status
            http.add(int(text))
        else:
            others.append(item)
    assumed = frozenset(map(code_of, http - {RAISED})) - {0}
    return Choice(statuses=frozenset(codes), http=frozenset(http), assumed=assumed), others


_SECOND = 1_000_000
_LISTED = 1000  # tasks of the queue that are listed for their messages
_MOST_PENDING = 10_000  # pending rows for which the queue is listed: more would take minutes of the list quota


def attempts_frame(
    connection: Connection,
    queue: QueueName,
    outbox: Callable[[], Outbox],
    wanted: oplog.Wanted,
    limit: int | None,
    *,
    method: str = "",
    secrets: bool = False,
    keep: Callable[[list[Entry]], list[Entry]] = list,
) -> pd.DataFrame:
    """Read the newest attempts of a queue, as `oplog.read`; return a row for each.

    The log has no messages: they are those of the newest attempts of tasks in the queue, and those in the outbox.

    Parameters
    ----------
    outbox : callable
        Returns the outbox; it is not opened unless it may know something.
    method : str
        With it a note says that there are more, and that it reads them.
    secrets : bool
        Show secrets in URLs.
    keep : callable
        As for `oplog.read`.

    Raises
    ------
    CloudTasksError
        If the log cannot be read.
    """
    if wanted.batch is not None and wanted.tasks is not None:
        wanted = replace(wanted, tasks=[task for task in wanted.tasks if batch_of(task) == wanted.batch])
    found = _loop.run(oplog.read(connection.transport, queue, wanted, None if limit is None else limit + 1, keep))
    entries, truncated = found[:limit], limit is not None and len(found) > limit
    if truncated and method:
        notify(f"the newest {limit:,} attempts; there are more: {method}(limit=None)")
    _see_messages(connection, queue, outbox, entries)
    stored = _stored_messages(connection.store, outbox, entries)
    names = ("time", "task", "queue", "attempt", "duration", "retry_time")
    columns: dict[str, Sequence[Any]] = {name: [getattr(entry, name) for entry in entries] for name in names}
    columns["status"] = [entry.status or None for entry in entries]
    columns["message"] = [
        stored.get((entry.task, entry.attempt)) or connection.message(entry.queue, entry.task, entry.attempt)
        for entry in entries
    ]
    columns["wait"] = [_wait(entry) for entry in entries]
    columns["url"] = [entry.url if secrets else mask_url(entry.url or "") for entry in entries]
    made = frame(ATTEMPTS, columns)
    made.attrs.update(fetched_at=connection.clock.now().isoformat(), truncated=truncated)
    return made


def _wait(entry: Entry) -> float | None:
    """Return the seconds between the time for which an attempt was scheduled and its start."""
    if entry.due is None or entry.duration is None:
        return None
    return max(0.0, (entry.time - entry.due) / _SECOND - entry.duration)


def _see_messages(
    connection: Connection, queue: QueueName, outbox: Callable[[], Outbox], entries: Sequence[Entry]
) -> None:
    """List tasks that will be tried again, for their messages; without entries check at least that the queue exists."""
    name = str(queue)
    if not entries:
        with contextlib.suppress(PermissionDeniedError):
            connection.call("GetQueue", name=name)
    elif any(entry.retry_time for entry in entries):
        # The queue may be deleted, and some may read its log only.
        with contextlib.suppress(QueueNotFoundError, PermissionDeniedError):
            at = connection.clock.micros()
            call = connection.transport.call("ListTasks", parent=name, page_size=_LISTED, resource_name=name)
            tasks = _loop.run(call).tasks
            see(connection, outbox, task_columns(tasks, now=connection.clock.micros()), at)


def see(connection: Connection, outbox: Callable[[], Outbox], columns: Mapping[str, Sequence[Any]], at: int) -> None:
    """Keep the error messages of tasks that were in a queue at a time; those of batches also in the outbox."""
    connection.remember(columns)
    batches = defaultdict[str, dict[str, Pending]](dict)
    names = ("state", "attempts", "schedule_time", "last_status", "last_message")
    for row, (task, status) in enumerate(zip(columns["task"], columns["last_status"], strict=True)):
        if status and (batch := batch_of(task)):
            batches[batch][task] = Pending(**{name: columns[name][row] for name in names})
    for batch, pending in batches.items():
        with contextlib.suppress(BatchNotFoundError):  # it was made elsewhere
            _record(outbox(), batch, pending, at)


def pending_tasks(connection: Connection, queue: QueueName, outbox: Outbox, rows: Scope) -> dict[str, Pending]:
    """Ask the queue for the tasks of rows that are not final; nothing where it does not answer, or there are many."""
    if not 0 < outbox.batches.counts(rows)[State.SENT] <= _MOST_PENDING:
        return {}
    pages = outbox.rows.pages(rows, states={State.SENT})
    waiting = [task for page in pages for task in page.tasks if task is not None]
    at = connection.clock.micros()
    witness = Queue(connection.watcher, queue, rows.batch)

    async def read() -> dict[str, Pending]:
        return {task: one async for page in witness.pending(waiting) for task, one in page.items()}

    try:
        found = _loop.run(read())
    except CloudTasksError:
        return {}
    _record(outbox, rows.batch, found, at)
    return found


def _record(outbox: Outbox, batch: str, pending: Mapping[str, Pending], at: int) -> None:
    """Record what the queue tells, at a time, of the last attempts of rows that are in it."""
    tried = [(task, one) for task, one in pending.items() if one.last_status]
    outbox.outcomes.record(batch, [pending_evidence(task, one, at) for task, one in tried])


def _stored_messages(
    store: Store, outbox: Callable[[], Outbox], entries: Sequence[Entry]
) -> dict[tuple[str, int], str]:
    """Return what is stored of failed attempts by task and number: in the outbox, else what the handler stored."""
    batches: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in entries:  # newest first
        batch = batch_of(entry.task)
        if batch is not None and entry.status != "OK":
            batches[batch].setdefault(entry.task, entry.attempt)
    found: dict[tuple[str, int], str] = {}
    for batch, newest in batches.items():
        with contextlib.suppress(BatchNotFoundError):  # it was made elsewhere
            rows = outbox().rows
            for page in rows.pages_of(batch, set(rows.locate(batch, newest).values())):
                for task, attempts, message in zip(page.tasks, page.attempts, page.last_message, strict=True):
                    if task is not None and attempts is not None and message is not None:
                        found[task, attempts] = message
        unknown = [(task, attempt) for task, attempt in newest.items() if (task, attempt) not in found]
        with contextlib.suppress(StoreError, BatchNotFoundError):  # the messages are an addition
            for task, error in _stored_errors(StoredResults(outbox(), store, batch), unknown):
                found[task, newest[task]] = exception_line(error)
    return found


def check_rendered(outbox: Outbox, scope: Scope, states: Collection[State], rows: Wanted = None) -> None:
    """Refuse to send rows that this home did not render: it does not have their requests.

    Parameters
    ----------
    states, rows
        As for `Outcomes.elsewhere`.

    Raises
    ------
    PreconditionError
        If there are some.
    """
    if count := outbox.outcomes.elsewhere(scope, states, rows):
        were = "was" if count == 1 else "were"
        text = f"{counted(count, 'rows')} of batch {scope.batch} {were} not rendered in this home: nothing is sent"
        raise PreconditionError(text, resource=scope.batch, hint=f"{RENDER}, then retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTries:
    """Opens a new try for rows of a batch that are final."""

    outbox: Outbox
    rows: Scope  #: those that are meant
    tasks: Callable[[], pd.DataFrame]  #: `Batch.tasks`; called only for rows of `Batch.results`, which have no tasks

    def retry_failed(self, where: Any) -> bool:
        """Open one for failed rows, as `Batch.retry_failed` describes; return whether there is something to send.

        Raises
        ------
        InvalidInputError
            If rows failed, but none of these, or if `where` is something else.
        PreconditionError
            If this home did not render some of them.
        """
        if isinstance(where, pd.DataFrame) and ("cause" not in where or {"task", "state"} & {*where}):
            self._open(self._with_tasks(where, "retry_failed"), {State.FAILED})
            return True
        if not self.outbox.batches.counts(self.rows)[State.FAILED]:
            notify(f"nothing is sent again: no row of batch {self.rows.batch} is in state failed")
            return False
        choice = None if where is None else choose(where, self.outbox, self.rows)
        if choice is not None:
            self._check_choice(choice, where)
        check_rendered(self.outbox, self.rows, {State.FAILED}, choice)
        self.outbox.outcomes.new_try(self.rows, choice)
        return True

    def resend(self, df: Any) -> None:
        """Open one for the final rows of a frame, as `Batch.resend` describes.

        Raises
        ------
        InvalidInputError
            If it is another frame.
        PreconditionError
            If this home did not render some of its rows.
        """
        self._open(self._with_tasks(df, "resend"), FINAL)

    def _check_choice(self, choice: Choice, where: Any) -> None:
        """Raise if no failed row is chosen; print what is assumed of the rows whose HTTP status is not known."""
        count = self.outbox.causes.matching(self.rows, choice)
        if not count:
            shown = "these causes" if isinstance(where, (pd.DataFrame, pd.Series)) else f"where={where!r}"
            hint = _causes_hint(self.outbox, self.rows)
            raise InvalidInputError(
                f"no failed row of batch {self.rows.batch} has {shown}", resource=self.rows.batch, hint=hint
            )
        assumed = count - self.outbox.causes.matching(self.rows, replace(choice, assumed=frozenset()))
        if assumed:
            notify(
                f"the HTTP status of {assumed:,} of the {counted(count, 'rows')} is not known; they are chosen by "
                f"their last status: {_names_of(choice.assumed)}"
            )

    def _open(self, df: pd.DataFrame, allowed: Collection[State]) -> None:
        """Open one for those rows of a frame that are in an allowed state; print which are left out, and why."""
        wanted = df["task"].dropna().unique().tolist()
        if strange := [task for task in wanted if batch_of(str(task)) != self.rows.batch]:
            raise InvalidInputError(
                f"{len(strange):,} of {len(wanted):,} tasks are not of batch {self.rows.batch}: {strange[0]}",
                resource=self.rows.batch,
                hint="take rows of batch.tasks() or batch.failed() of this batch; nothing was sent",
            )
        found = self.outbox.rows.locate(self.rows.batch, wanted)
        inside = set(self.outbox.rows.within(self.rows, found.values()))
        if outside := [task for task, ref in found.items() if ref not in inside]:
            raise InvalidInputError(
                f"{len(outside):,} of {len(wanted):,} tasks are of rows of batch {self.rows.batch} that are not in "
                f"this input: {outside[0]}",
                resource=self.rows.batch,
                hint="nothing was sent; batch.whole has the same methods for all rows of the batch",
            )
        rows = [(ref, task) for task, ref in found.items()]
        check_rendered(self.outbox, self.rows, allowed, rows)
        opened = self.outbox.outcomes.new_try(self.rows, rows, allowed)
        if opened < len(df):
            reasons = [
                (len(wanted) - len(found), "has", "have", "a newer try"),
                (len(found) - opened, "is", "are", "not final" if allowed is FINAL else "not in state failed"),
                (int(df["task"].isna().sum()), "never was", "never were", "a task"),
            ]
            why = ", ".join(f"{n:,} {one if n == 1 else several} {what}" for n, one, several, what in reasons if n)
            notify(f"{opened:,} of {len(df):,} sent again" + (f": {why}" if why else ""))

    def _with_tasks(self, df: Any, method: str) -> pd.DataFrame:
        """Return rows of `tasks()` as they are, and rows of `results()` with their tasks.

        These are found by their labels. What the frame has of the input tells rows of another batch with the same
        labels, and rows whose values were edited, which would be sent as they are stored.
        """
        if isinstance(df, pd.DataFrame) and "task" in df.columns:
            return df
        if isinstance(df, pd.DataFrame) and "error" in df.columns:
            known = self.tasks()
            inputs = known.columns[: known.columns.get_loc("url")]
            shared = [name for name in inputs if name in df.columns]
            if known.index.is_unique and df.index.isin(known.index).all() and (shared or inputs.empty):
                known = known.loc[df.index]
                if _values(known[shared]).equals(_values(df[shared])):
                    return known
        raise InvalidInputError(
            f"{method}() wants rows of tasks(), failed() or results() of this batch",
            resource=self.rows.batch,
            hint=f"failed = batch.failed(); batch.{method}(failed.head(3))",
        )


def _values(columns: pd.DataFrame) -> pd.DataFrame:
    """Return values that are equal whatever the types of their columns: a page of results may have others."""
    return pd.DataFrame(columns.astype(object).where(columns.notna(), None))
