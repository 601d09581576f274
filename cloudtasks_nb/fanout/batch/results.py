"""Join the stored results of tasks to the rows of a batch, page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.api.types import infer_dtype

from cloudtasks_nb._frames import BATCH_TASKS, column
from cloudtasks_nb.fanout.causes import exception_line
from cloudtasks_nb.store.results import StoredResult

__all__ = ["Joined", "ReadResults", "join_results", "result_notes"]

#: Reads the stored results of tasks by their ids, in their order; None for a task without one.
ReadResults = Callable[[Sequence[str]], Sequence[StoredResult | None]]

_PAGE = 1_000  # results that are read together
_MOST_FIELDS = 1_000  # columns; results with more different fields stay dicts
_SUFFIX = "_result"
_RESULT, _ERROR = "result", "error"
_EMPTY = "empty"  # kind of a page without values
_KINDS = {
    "empty": _EMPTY,
    "integer": "count",
    "floating": "float",
    "mixed-integer-float": "float",
    "boolean": "ok",
    "string": "text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Rows with their results."""

    frame: pd.DataFrame
    renamed: Mapping[str, str]  #: fields of results that have the name of another column -> the name they have now
    succeeded: int  #: rows
    missing: int  #: of these, rows without a stored result


def join_results(tasks: pd.DataFrame, read: ReadResults, progress: Callable[[int], None]) -> Joined:
    """Return rows with the results of their newest tasks.

    Parameters
    ----------
    tasks : DataFrame
        As `batch.tasks()` returns it.
    read : callable
        Reads stored results.
    progress : callable
        Called with the number of rows that are done.
    """
    rows = tasks.drop(columns=[name for name in BATCH_TASKS if name != "state" and name in tasks])
    ids = [None if pd.isna(task) else str(task) for task in tasks["task"]]
    done = (tasks["state"] == "succeeded").tolist()
    try:
        results, errors, missing = _collect(ids, done, read, progress, fields=True)
    except _NoFieldsError:
        results, errors, missing = _collect(ids, done, read, progress, fields=False)
    taken = {*rows.columns, *(name for name in rows.index.names if name), _ERROR}
    names: dict[str, str] = {}
    for name in results.names or [_RESULT]:
        new = name
        while new in taken:
            new += _SUFFIX
        names[name] = new
        taken.add(new)
    columns = {new: results.take(name) for name, new in names.items()} | {_ERROR: column(errors, "text")}
    joined = pd.concat([rows, pd.DataFrame(columns, copy=False).set_axis(rows.index)], axis=1)
    joined.attrs = dict(rows.attrs)
    renamed = {name: new for name, new in names.items() if name != new}
    return Joined(frame=joined, renamed=renamed, succeeded=sum(done), missing=missing)


def result_notes(joined: Joined, store: str) -> dict[str, str]:
    """Return what there is to say about results, by subject: fields that were renamed, successes without a result."""
    notes = {}
    if joined.renamed:
        names = ", ".join(f"{name} is {new}" for name, new in joined.renamed.items())
        notes["renamed"] = f"fields of the results that have the name of another column: {names}"
    if joined.missing:
        notes["missing"] = (
            f"{joined.missing:,} of {joined.succeeded:,} succeeded rows have no result in {store}: their results "
            "were deleted, or their target is no handler of this package, or it writes to another store (store= of "
            "ct.serve, handlers.app and the connection)"
        )
    return notes


def _collect(
    ids: Sequence[str | None],
    done: Sequence[bool],
    read: ReadResults,
    progress: Callable[[int], None],
    *,
    fields: bool,
) -> tuple[_Columns, list[str | None], int]:
    """Read the results of tasks into columns, one for each of their `fields`, or one in all.

    Return them with the errors, and how many of the rows that are `done` have no result.

    Raises
    ------
    _NoFieldsError
        If the results are not all dicts, or have too many fields.
    """
    results, missing = _Columns(len(ids)), 0
    errors: list[str | None] = []
    for start in range(0, len(ids), _PAGE):
        wanted = ids[start : start + _PAGE]
        known = iter(read([task for task in wanted if task is not None]))
        values: list[Mapping[str, Any]] = []
        for task, succeeded in zip(wanted, done[start : start + _PAGE], strict=True):
            found = None if task is None else next(known)
            ok = found is not None and found.ok
            missing += succeeded and not ok
            errors.append(None if found is None or ok or succeeded else exception_line(found.error or ""))
            values.append(_fields(found.result) if fields and found is not None else {_RESULT: found and found.result})
        results.add(start, values)
        if len(results.names) > _MOST_FIELDS:
            raise _NoFieldsError
        progress(min(start + _PAGE, len(ids)))
    return results, errors, missing


def _fields(result: Any) -> Mapping[str, Any]:
    """Return the fields of a result; None has none."""
    if result is not None and not isinstance(result, dict):
        raise _NoFieldsError
    return result or {}


class _NoFieldsError(Exception):
    """The results of a batch are no rows of fields."""


class _Columns:
    """Columns that are filled page by page. A page takes the memory of its dtype."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._parts: dict[str, list[tuple[int, str, Any]]] = {}  # where it begins, its kind, and its array

    @property
    def names(self) -> list[str]:
        """The names, in the order in which they came."""
        return list(self._parts)

    def add(self, start: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the values of rows that begin at a position; what a row lacks is missing."""
        for name in dict.fromkeys(name for row in rows for name in row):
            parts = self._parts.setdefault(name, [])
            values = [row.get(name) for row in rows]
            kind = _KINDS.get(infer_dtype(values, skipna=True), "any")
            if kind == _EMPTY:
                continue
            try:
                parts.append((start, kind, column(values, kind)))
            except OverflowError:  # integers beyond 64 bits
                parts.append((start, "any", column(values, "any")))

    def take(self, name: str) -> Any:
        """Return a column, and forget it; one of values of several types, or of none, has values of any type."""
        parts = self._parts.pop(name, [])
        kinds = {kind for _, kind, _ in parts}
        kind = kinds.pop() if len(kinds) == 1 else "float" if kinds == {"count", "float"} else "any"
        whole = pd.Series(column([None] * self._length, kind))
        for start, part_kind, values in parts:
            whole.iloc[start : start + len(values)] = values if part_kind == kind else values.astype(whole.dtype)
        return whole
