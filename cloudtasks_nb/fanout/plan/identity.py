"""Derive the ids of batches, tasks and requests from their content, so that the same content has the same ids."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, count
from operator import mul

from cloudtasks_nb._names import ROW_TASK

__all__ = [
    "KEY_SIZE",
    "Place",
    "batch_ids",
    "batch_of",
    "completion_id",
    "key_head",
    "named_identity",
    "request_id",
    "round_of",
    "row_sum",
    "rows_identity",
    "task_id",
    "task_ids",
]

#: Bytes of a row's key.
KEY_SIZE = 16

_BATCH_ID = re.compile(r"(?=.*[a-f])[0-9a-f]{8}")
_HEAD = 10  # bytes of the key that a task id shows, as hex
_COMPLETION_ID = re.compile(r"[0-9a-f]{20}-[0-9a-f]{8}-complete-(?P<round>[1-9][0-9]*)")
_SUM_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The queue that a batch belongs to, on the endpoint where it was sent."""

    endpoint: str  #: ``google``, the instance id of an emulator, or host:port of a foreign one
    project: str
    location: str
    queue: str  #: the short id

    @property
    def queue_name(self) -> str:
        """The queue's resource name."""
        return f"projects/{self.project}/locations/{self.location}/queues/{self.queue}"


def row_sum(keys: Sequence[bytes], digests: Sequence[int]) -> int:
    """Return a number that the same rows give in any order; sums of parts add up to the sum of all.

    Keys and digests are digests already: a product binds each pair, and a sum of products is as good as a hash of the
    sorted list, without the sort.
    """
    return sum(map(mul, map(int.from_bytes, keys), [2 * digest + 1 for digest in digests]))


def rows_identity(place: Place, recipe: bytes, total: int) -> bytes:
    """Return what identifies a batch without a name: its rows (a `row_sum`), their recipe and their place."""
    return _digest("rows", place, recipe, (total % (1 << 8 * _SUM_SIZE)).to_bytes(_SUM_SIZE, "big"))


def named_identity(place: Place, name: str) -> bytes:
    """Return what identifies a batch with a name."""
    return _digest("name", place, name.encode())


def batch_ids(identity: bytes, name: str | None = None) -> Iterator[str]:
    """Yield the ids that a batch may have: the second is used if another batch has the first, and so on.

    A name that is an id comes first: so a batch without a name is found on another disk, where nothing is known of it.
    An id has a letter, so that it is no date, which many give as a name.
    """
    ids = (blake2b(identity, digest_size=4, salt=attempt.to_bytes(4, "big")).hexdigest() for attempt in count())
    return filter(_BATCH_ID.fullmatch, chain([name or ""], ids))


def task_ids(batch: str, keys: bytes, attempt: int) -> list[str]:
    """Return the ids of many rows' tasks for one try; `keys` are the rows' keys, concatenated.

    The head is the key under a mask of batch and try: as evenly spread as the key, and from a task's id alone its row
    is found again through the index of keys, so that no second index is needed.
    """
    rows = len(keys) // KEY_SIZE
    mask = int.from_bytes(_mask(batch, attempt) * rows)
    heads = (int.from_bytes(keys) ^ mask).to_bytes(len(keys)).hex()
    tail = f"-{batch}-{attempt}"
    return [heads[at : at + 2 * _HEAD] + tail for at in range(0, len(heads), 2 * KEY_SIZE)]


def task_id(batch: str, key: bytes, attempt: int) -> str:
    """Return the id of a row's task: ``<20 hex digits>-<batch>-<try>``."""
    return task_ids(batch, key, attempt)[0]


def key_head(task: str) -> bytes:
    """Return the first 10 bytes of the key of the row whose task has this id."""
    match = ROW_TASK.fullmatch(task)
    if match is None:
        return b""
    mask = int.from_bytes(_mask(match["batch"], int(match["try"]))[:_HEAD])
    return (int(match["head"], 16) ^ mask).to_bytes(_HEAD)


def batch_of(task: str) -> str | None:
    """Return the batch that a task id names; None if it is not the id of a batch's row."""
    match = ROW_TASK.fullmatch(task)
    return match["batch"] if match else None


def completion_id(batch: str, url: str, round_: int) -> str:
    """Return the id of the task that notifies a URL that a round of a batch is complete; the same on every machine."""
    head = blake2b(f"{batch}/complete/{url}/{round_}".encode(), digest_size=_HEAD).hexdigest()
    return f"{head}-{batch}-complete-{round_}"


def round_of(task: str) -> int | None:
    """Return the round whose end a task notifies; None if it is not the id of a notification."""
    match = _COMPLETION_ID.fullmatch(task)
    return int(match["round"]) if match else None


def request_id(batch: str, seq: int, tasks: Sequence[str]) -> str:
    """Return the ``request_id`` of a batch call: the same for the same tasks sent again, different for any others.

    The tasks are part of it because an outbox may be deleted: the numbers then start again, and the service would take
    a new request for one that it has answered.
    """
    text = f"{batch}/{seq}/" + ",".join(tasks)
    return str(uuid.UUID(bytes=blake2b(text.encode(), digest_size=16).digest(), version=4))


@lru_cache(maxsize=64)
def _mask(batch: str, attempt: int) -> bytes:
    return blake2b(f"{batch}/{attempt}".encode(), digest_size=KEY_SIZE).digest()


def _digest(kind: str, place: Place, *parts: bytes) -> bytes:
    words = (kind, place.endpoint, place.project, place.location, place.queue)
    sized = (len(part).to_bytes(4, "big") + part for part in (*map(str.encode, words), *parts))
    return blake2b(b"".join(sized), digest_size=_SUM_SIZE).digest()
