"""What the handlers answered: one object for each task of a batch, ``results/<batch>/<task id>.json``.

The log has a success where a function gave up. So that the results of successes need not be read to know them, such a
task also has an object ``results/<batch>-e/<task id>``: a listing of these has all such tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

import orjson

from cloudtasks_nb._names import ROW_TASK
from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.store.store import Store

__all__ = ["StoredResult", "given_up_tasks", "read_results", "result_tasks", "write_result"]

_LOGGER = logging.getLogger(__name__)

_REDIRECTS = int(HTTPStatus.MULTIPLE_CHOICES)  # a number, which takes a tenth of the time to look up
_LARGEST = 1 << 40  # number or seconds; what is much larger does not fit into the outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """What a handler answered to one attempt of a task."""

    task: str  #: short id
    attempt: int | None  #: 1 for the first
    status: int  #: HTTP status
    started: datetime  #: with a time zone
    duration: float | None  #: seconds in the function; None: it was not called
    result: Any  #: a JSON value; when it is written also an `orjson.Fragment`
    error: str | None  #: the traceback, or why the function was not called
    gave_up: str | None = None  #: why the function has failed for good; None: it has not
    upstream: int | None = None  #: HTTP status with which a service made the function fail

    @property
    def ok(self) -> bool:
        """Whether the function has succeeded."""
        return self.status < _REDIRECTS and self.gave_up is None  # Cloud Tasks counts 2xx as success


def write_result(store: Store, result: StoredResult) -> None:
    """Store a result if its task is a row's task of a batch; else do nothing.

    An error does not replace a success, nor a reason to give up, nor the error of a later attempt.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    match = ROW_TASK.fullmatch(result.task)  # the id may be any text
    if match is None:
        return
    path = f"results/{match['batch']}/{result.task}.json"
    failure = {"error": _text(result.error), "gave_up": _text(result.gave_up), "upstream": result.upstream}
    data = orjson.dumps(
        {
            "task": result.task,
            "attempt": result.attempt,
            "status": result.status,
            "started": result.started,
            "duration": result.duration,
            **({"result": result.result} if result.ok else failure),
        }
    )
    if result.ok:
        store.put(path, data)
    else:
        store.put_unless(path, data, lambda stored: _outranks(_parse(store, path, stored), result))
    if result.gave_up is not None:
        store.put(_marks(match["batch"]) + result.task, b"{}")  # last: whoever sees it reads the result


def read_results(store: Store, batch: str, tasks: Sequence[str]) -> list[StoredResult | None]:
    """Return the results of tasks of a batch, in the order of the tasks; None for those that have none.

    An object that is no result, because it is damaged for example, counts as none.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    paths = [f"results/{batch}/{task}.json" for task in tasks]
    found = store.get_many(paths)
    return [None if data is None else _parse(store, path, data) for path, data in zip(paths, found, strict=True)]


def result_tasks(store: Store, batch: str) -> Iterator[list[str]]:
    """Return the tasks of a batch that have a result in no order, page by page; the results are not read.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    prefix = f"results/{batch}/"
    for page in store.pages(prefix):
        yield [path.removeprefix(prefix).removesuffix(".json") for path in page]


def given_up_tasks(store: Store, batch: str) -> Iterator[list[str]]:
    """Return the tasks of a batch that their handlers gave up in no order, page by page; the results are not read.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    for page in store.pages(_marks(batch)):
        yield [path.removeprefix(_marks(batch)) for path in page]


def _marks(batch: str) -> str:
    return f"results/{batch}-e/"


def _text(text: str | None) -> str | None:
    """Return a text as JSON can hold it: that of an exception may hold half a surrogate pair."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _outranks(stored: StoredResult | None, new: StoredResult) -> bool:
    return stored is not None and (stored.ok or _rank(stored) > _rank(new))


def _rank(failed: StoredResult) -> tuple[bool, int]:
    return failed.gave_up is not None, failed.attempt or 0


def _parse(store: Store, path: str, data: bytes) -> StoredResult | None:
    """Return a result; None, with a line in the log, for an object that is none."""
    try:
        return _from_fields(parse_json(data))
    except (ValueError, TypeError, KeyError):
        _LOGGER.warning(
            "%s in %s is not a result of a task: another program wrote it, or the disk is damaged", path, store.url
        )
        return None


def _from_fields(fields: Mapping[str, Any]) -> StoredResult:
    """Return the result that an object has, which anybody may have written who can write to the store."""
    attempt, status, duration = fields["attempt"], fields["status"], fields["duration"]
    error, gave_up, upstream = (fields.get(name) for name in ("error", "gave_up", "upstream"))
    whole, texts = (attempt, upstream), (error, gave_up)
    if not (isinstance(status, int) and all(isinstance(one, int | None) for one in whole)):
        raise TypeError(f"{status!r}, {attempt!r} or {upstream!r} is no whole number")
    if not all(isinstance(one, str | None) for one in texts):
        raise TypeError(f"{error!r} or {gave_up!r} is no text")
    if not all(0 <= number < _LARGEST for number in (status, *whole, duration) if number is not None):
        raise ValueError(f"{status}, {attempt}, {upstream} or {duration} is too large")
    return StoredResult(
        task=fields["task"],
        attempt=attempt,
        status=status,
        started=datetime.fromisoformat(fields["started"]),
        duration=duration,
        result=fields.get("result"),
        error=error,
        gave_up=gave_up,
        upstream=upstream,
    )
