"""Read why rows of a batch failed, and choose failed rows by that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb._frames import ERRORS, column, frame, is_missing
from cloudtasks_nb._names import CODES, code_name, code_of
from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import InvalidInputError, StoreError
from cloudtasks_nb.fanout.batch.alike import alike
from cloudtasks_nb.fanout.batch.report import causes_text
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.table import RowFrames
from cloudtasks_nb.fanout.causes import told
from cloudtasks_nb.fanout.evidence import RAISED
from cloudtasks_nb.fanout.outbox.causes import LIKE_IT, Cause, stored_key
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Choice, Scope
from cloudtasks_nb.fanout.outbox.tallies import paged
from cloudtasks_nb.fanout.states import State

__all__ = ["causes_hint", "choose", "errors_frame", "failed_frame", "names_of", "status_codes", "stored_errors"]

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
        stored = dict(stored_errors(results, [(task, attempts) for task, attempts, _ in rows.values() if task]))
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


def failed_frame(frames: RowFrames) -> pd.DataFrame:
    """Return the rows in state `failed`, as `Batch.failed` describes."""
    rows = frames.frame({State.FAILED})
    errors = [None if is_missing(message) else told(message) for message in rows["last_message"]]
    return rows.assign(error=column(errors, "text"))


def stored_errors(results: StoredResults, attempts: Sequence[tuple[str, int | None]]) -> Iterator[tuple[str, str]]:
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
                hint=causes_hint(outbox, rows),
            )
        found.update(map(stored_key, same))
    return replace(choice, causes=frozenset(found))


def _named(text: Any, causes: Sequence[Cause]) -> list[str]:
    """Return the keys of the causes that have a key, a text, or a text in words of some rows."""
    message = LIKE_IT.sub("", str(text))
    return [one.key for one in causes if text in (one.key, one.text) or message == one.text.removesuffix("…").rstrip()]


def causes_hint(outbox: Outbox, rows: Scope) -> str:
    """Return the causes of the failed rows, as a hint."""
    return f"the failed rows have {causes_text(outbox.causes.failed(rows), _SHOWN)}: batch.errors()"


def status_codes(status: Any) -> list[str]:
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
        notify(f"the log has no HTTP statuses: status={status!r} is read as {names_of(read_as)}")
    return sorted(map(code_name, choice.statuses | read_as))


def names_of(codes: Iterable[int]) -> str:
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
