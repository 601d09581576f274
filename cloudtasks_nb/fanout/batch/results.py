"""Join the stored results of tasks to the rows of a batch, page by page, in frames that Parquet can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
from pandas.api.types import infer_dtype

from cloudtasks_nb._frames import BATCH_TASKS, SUCCESSES, column, is_missing
from cloudtasks_nb.fanout.batch.stored_results import Answers
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.plan.columns import EXACT
from cloudtasks_nb.store.encode import to_json

__all__ = ["Joined", "ReadAnswers", "ResultFrame", "join_results", "result_notes"]

#: Returns what is stored of tasks, by their ids.
ReadAnswers = Callable[[Sequence[str]], Answers]

_PAGE = 20_000  # tasks that are asked about together
#: The integers that a column of integers has, or one of integers and floats, and as many below zero.
_INTEGERS = {"integer": 2**63, "mixed-integer-float": EXACT}
_MOST_FIELDS = 1_000  # columns; results with more different fields stay dicts
_SUFFIX = "_result"
_RESULT, _ERROR = "result", "error"
_KINDS = {
    "integer": "count",
    "floating": "float",
    "mixed-integer-float": "float",
    "boolean": "ok",
    "string": "text",
}


class ResultFrame(pd.DataFrame):
    """A frame whose columns may have values of several types, which Parquet refuses."""

    @property
    def _constructor(self) -> type[ResultFrame]:
        return ResultFrame  # so that parts of it, too, can be written

    def to_parquet(self, path: Any = None, **options: Any) -> Any:
        """Write a Parquet file, with the options of pandas; a column that has no type there becomes JSON text."""
        written = self.copy(deep=False)
        for name, cells in self.items():
            if cells.dtype == object and not _has_type(cells):
                texts = [None if is_missing(cell) else to_json(cell).decode() for cell in cells]
                written[name] = pd.array(texts, dtype=pd.StringDtype())
        return super(ResultFrame, written).to_parquet(path, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Rows with their results."""

    frame: pd.DataFrame
    renamed: Mapping[str, str]  #: fields of results that have the name of another column -> the name they have now
    succeeded: int  #: rows
    missing: int  #: of these, rows without a stored result


def join_results(tasks: pd.DataFrame, read: ReadAnswers, problem: str | None = None) -> Joined:
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
    joined = ResultFrame(pd.concat([rows, pd.DataFrame(columns, copy=False).set_axis(rows.index)], axis=1))
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
    if not {*map(type, dicts)} <= {dict}:
        return {_RESULT: list(results)}
    names = dict.fromkeys(chain.from_iterable(dicts))
    if not 0 < len(names) <= _MOST_FIELDS:
        return {_RESULT: list(results)}
    return {name: [one.get(name) for one in dicts] for name in names}


def _column(values: Sequence[Any]) -> Any:
    """Return values as a column of their own type; those of several types, or of none, have any type."""
    found = infer_dtype(values, skipna=True)
    most = _INTEGERS.get(found)
    fits = most is None or all(-most <= value < most for value in values if type(value) is int)
    return column(values, _KINDS.get(found, "any") if fits else "any")


def _has_type(cells: pd.Series[Any]) -> bool:
    """Return whether a type of Parquet has all these values."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional

        found = str(pa.array(cells, from_pandas=True).type)
    except ImportError:
        return True  # pandas says what is missing, or writes the file without it
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # of which Arrow's errors are subclasses
        return False
    return "struct<>" not in found  # an empty dict, which Arrow has and Parquet has not
