"""What the handlers answered: lines of JSON, which are appended and never changed.

A handler process has one writer. It stores the results that gather while its last write is under way together: in a
bucket as one new object, ``results/<batch>/<name>``, in a folder at the end of its own file there. Results of attempts
that did not succeed are in ``results/<batch>/-e/`` in the same way. The log has a success where a function gave up; so
that the results of successes need not be read to know that, only the objects there are read for it.

A task that is no row's has objects of its own, ``results/tasks/<hash>/<name>``, one for each attempt. The hash is of
its queue and its id: a request tells no more of where it comes from.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import orjson

from cloudtasks_nb._names import ROW_TASK, TASK_ID
from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store.store import Found, Store

__all__ = [
    "FAILURES",
    "ResultWriter",
    "StoredResult",
    "pack_result",
    "result_objects",
    "result_of",
    "results_of_task",
    "tag_hash",
    "tag_of",
    "unpack_result",
]

_REDIRECTS = int(HTTPStatus.MULTIPLE_CHOICES)  # a number, which takes a tenth of the time to look up
_LARGEST = 1 << 40  # number or seconds; what is much larger does not fit into the outbox
_LARGE_WRITE = 1 << 23  # bytes: more results are in another object, because a request must end within seconds
_LONGEST = 1 << 26  # bytes of an object with a result of a task that is no row's; longer ones are none

#: The folder of results that are no successes, in that of the batch.
FAILURES = "-e/"


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
    tag: str | None = None  #: what the task had in its header, to prove that the result is of this task
    version: str | None = None  #: of the function; None: not known
    types: Any = None  #: what the result is, where JSON does not say it: a description
    revision: str | None = None  #: of the service of Cloud Run, if it was one

    @property
    def ok(self) -> bool:
        """Whether the function has succeeded."""
        return self.status < _REDIRECTS and self.gave_up is None  # Cloud Tasks counts 2xx as success

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """What makes a result of a task count instead of another one of it: the higher one counts.

        That is a success, then a reason to give up; of several, that of the latest attempt.
        """
        return self.ok, self.gave_up is not None, self.attempt or 0


class ResultWriter:
    """Stores the results of a process: those that gather during a write are stored by the next one, together.

    It is safe to use from several threads, and in processes that were forked: each has files of its own.

    Attributes
    ----------
    store : Store
        Where it writes.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        # By process as well: a forked one must not append to the files of another, nor use its locks.
        self._folders: dict[tuple[int, str], _Folder] = {}

    def put(self, result: StoredResult, queue: str | None = None) -> None:
        """Store a result; return when others can read it.

        Parameters
        ----------
        queue : str, optional
            Short id of the task's queue. Without it the result is not stored, unless the task is a row's.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        if not TASK_ID.fullmatch(result.task):  # a header may have any text
            return
        match, line = ROW_TASK.fullmatch(result.task), pack_result(result) + b"\n"
        if match is None:
            if queue is not None:
                self.store.create(f"{_folder_of(queue, result.task)}{secrets.token_hex(8)}.jsonl", line)
            return
        path = f"results/{match['batch']}/" + ("" if result.ok else FAILURES)
        key = os.getpid(), path
        folder = self._folders.get(key) or self._folders.setdefault(key, _Folder(self.store, path))
        folder.add(line)


class _Folder:
    """Where a process stores its results of one batch that did succeed, or those that did not."""

    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path = store, path
        self._gathering, self._writing = threading.Lock(), threading.Lock()
        self._next: _Group | None = None
        self._file: str | None = None  # path of the object to which the next lines are appended

    def add(self, line: bytes) -> None:
        """Store a line with those that gather until the write before it has ended; return when others can read it.

        The first thread of a group writes it. It alone waits for the write before, so that nobody overtakes it.
        """
        leads = False
        try:
            with self._gathering:
                group = self._next or _Group()
                leads, self._next = group is not self._next, group
                group.lines.append(line)
                group.size += len(line)
                if group.size >= _LARGE_WRITE:
                    self._next = None
            if leads:
                with self._writing:
                    self._close(group)
                    self._append(b"".join(group.lines))
                    group.error = None
        except StoreError as error:
            group.error = error
        finally:  # also if this thread is interrupted: nobody waits for it then
            if leads:
                group.written.set()
                self._close(group)
        group.written.wait()
        if group.error is not None:
            raise group.error

    def _close(self, group: _Group) -> None:
        with self._gathering:
            if self._next is group:
                self._next = None

    def _append(self, lines: bytes) -> None:
        """Write lines in a new object, or append them to that of this process."""
        path, self._file = self._file, None  # a failed write leaves a torn line: nothing is appended to it
        if path is None or not self._store.append(path, lines):
            path = f"{self._path}{secrets.token_hex(8)}.jsonl"
            self._store.create(path, lines)
        if self._store.appends:
            self._file = path


class _Group:
    """Lines that are written together."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.size = 0  # bytes
        self.written = threading.Event()
        #: What the other threads raise; at first, for the case that the one that writes ends by another exception.
        self.error: StoreError | None = StoreError("the write of several results was interrupted")


def result_objects(store: Store, batch: str, *, failures: bool) -> Iterator[list[Found]]:
    """Return the objects with results of a batch in no order, page by page; `failures`: only those without successes.

    New is an object that is not known by its path, or of which fewer bytes were read than it has.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    return store.found(f"results/{batch}/" + (FAILURES if failures else ""))


def results_of_task(store: Store, queue: str, task: str) -> list[StoredResult]:
    """Return the results of a task that is no row's, in no order, by the short ids of its queue and of the task.

    Whoever can write to the store can have written them. Objects that are no results are left out.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    listed = [path for page in store.found(_folder_of(queue, task)) for path, size in page if size < _LONGEST]
    results = []
    for data in store.get_many(listed):
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            results.append(unpack_result(data or b""))
    return [result for result in results if result.task == task]


def _folder_of(queue: str, task: str) -> str:
    digest = hashlib.sha256(f"{queue}/{task}".encode("utf-8", "replace")).hexdigest()
    return f"results/tasks/{digest[:32]}/"


def pack_result(result: StoredResult) -> bytes:
    """Return a result as one line, without the end of the line."""
    failure = {"error": _text(result.error), "gave_up": _text(result.gave_up), "upstream": result.upstream}
    return orjson.dumps(
        {
            "task": result.task,
            "attempt": result.attempt,
            "status": result.status,
            "started": result.started,
            "duration": result.duration,
            "tag": _text(result.tag),
            "version": result.version,
            **({"revision": result.revision} if result.revision else {}),
            **({"types": result.types} if result.ok and result.types is not None else {}),
            **({"result": result.result} if result.ok else failure),
        }
    )


def unpack_result(line: bytes) -> StoredResult:
    """Return the result that a line has, which anybody may have written who can write to the store.

    Raises
    ------
    ValueError, TypeError, KeyError
        If it is none.
    """
    return result_of(parse_json(line))


def result_of(fields: Mapping[str, Any]) -> StoredResult:
    """Return the result that the parsed JSON of a line has; raises as `unpack_result`."""
    attempt, status, duration = fields["attempt"], fields["status"], fields["duration"]
    error, gave_up, upstream, tag = (fields.get(name) for name in ("error", "gave_up", "upstream", "tag"))
    version, revision = fields.get("version"), fields.get("revision")
    whole, texts = (attempt, upstream), (fields["task"], error, gave_up, tag, version, revision)
    if not (isinstance(status, int) and all(isinstance(one, int | None) for one in whole)):
        raise TypeError(f"{status!r}, {attempt!r} or {upstream!r} is no whole number")
    if not all(isinstance(one, str | None) for one in texts):
        raise TypeError(f"the task, {error!r}, {gave_up!r}, {tag!r}, {version!r} or {revision!r} is no text")
    if not all(0 <= number < _LARGEST for number in (status, *whole, duration) if number is not None):
        raise ValueError(f"{status}, {attempt}, {upstream} or {duration} is too large")
    return StoredResult(
        task=fields["task"],
        attempt=attempt,
        status=status,
        started=datetime.fromisoformat(fields["started"]),
        duration=duration,
        result=fields.get("result"),
        types=fields.get("types"),
        error=error,
        gave_up=gave_up,
        upstream=upstream,
        tag=tag,
        version=version,
        revision=revision,
    )


def tag_hash(key: bytes) -> blake2b:
    """Return the hash that makes the tag of a task of its id, by the key of its batch."""
    return blake2b(key=key, digest_size=16)


def tag_of(key: bytes, task: str) -> str:
    """Return the tag of a task, by the key of its batch."""
    made = tag_hash(key)
    made.update(task.encode())
    return made.hexdigest()


def _text(text: str | None) -> str | None:
    """Return a text as JSON can hold it: that of an exception may hold half a surrogate pair."""
    return None if text is None else text.encode("utf-8", "replace").decode()
