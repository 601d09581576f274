"""What tasks, logs and results cost on Google: an estimate, without what else the project uses in the month.

Prices are those of the first tier, and in us-central1 where regions differ, as documented in September 2026:

- https://cloud.google.com/tasks/pricing: operations of Cloud Tasks;
- https://cloud.google.com/stackdriver/pricing: logs;
- https://cloud.google.com/storage/pricing: objects in a bucket. Some are free in a few regions, so none count as free.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.plural import percent_text

__all__ = ["CALLS", "LOG_PRICE", "PRICING", "Item", "estimate", "log_bytes", "log_note", "operations"]

#: Where the prices stand.
PRICING = "https://cloud.google.com/tasks/pricing"
#: Calls whose results share an object: as many as a service of `ct.deploy` answers at once.
CALLS = 8

_GIB = 2**30
_FREE_OPERATIONS = 1_000_000  # a month; one is a call for one task, or one delivery
_FREE_LOG = 50 * _GIB  # a month, of all logs of a project
_DOLLARS_PER_OPERATION = 0.40 / 1e6
_DOLLARS_PER_LOG_BYTE = 0.50 / _GIB
_DOLLARS_PER_WRITE = 0.005 / 1_000  # class A: an object that is written, or a page of a listing
_DOLLARS_PER_READ = 0.0004 / 1_000  # class B: an object that is read
_LISTED = 1_000  # names on a page of a listing
_CHUNK = 32 * 1024  # bytes of a task that count as one operation
_MINUTES = 24 * 60  # of a day
_DAYS = 30  # of a month

# Characters of the entries of creation, dispatch and response of a task as JSON, without the names in them. Measured on
# the emulator's log, which has the fields of the service's; the size that Google bills is not documented more closely.
_ENTRIES = (587, 648, 678)
_TASK_ID = 31  # characters of the id of a batch's row
_TARGET = 60  # characters of a method and a usual URL


class Item(NamedTuple):
    """A line of an estimate."""

    name: str
    price: float  #: US dollars for what is above the free amounts
    why: str  #: how much is used, and what is free


def estimate(used: int, logged: float, log_ratio: float, results: int) -> Iterator[Item]:
    """Yield a line for each thing that tasks use in one month, and that has a price.

    Parameters
    ----------
    used : int
        Operations of Cloud Tasks.
    logged : float
        Bytes of the queue's log, which has the share `log_ratio` of the operations.
    results : int
        How many are stored in a bucket of Cloud Storage.
    """
    if used:
        paid = max(used - _FREE_OPERATIONS, 0)
        why = f"{used:,} operations of Cloud Tasks; the first {_FREE_OPERATIONS:,} a month are free"
        yield Item("operations", paid * _DOLLARS_PER_OPERATION, why)
    if logged:
        gib = logged / _GIB
        amount = f"about {gib:,.1f} GiB" if gib >= 0.1 else "less than 0.1 GiB"  # noqa: PLR2004 - the least shown
        amount += f" at {percent_text(log_ratio)} of the operations" if log_ratio < 1 else ""
        why = f"{amount}; the first 50 GiB of all logs a month are free"
        yield Item("queue log", max(logged - _FREE_LOG, 0) * _DOLLARS_PER_LOG_BYTE, why)
    if results:
        objects, most = -(-results // CALLS), results * _DOLLARS_PER_WRITE
        why = f"about {objects:,} objects, each of {CALLS} calls that end together; one a call: ${most:,.2f}"
        yield Item("writing results", objects * _DOLLARS_PER_WRITE, why)
        reading = -(-objects // _LISTED) * _DOLLARS_PER_WRITE + objects * _DOLLARS_PER_READ
        yield Item("reading results", reading, "once; what leaves the region of the bucket is $0.12 a GiB on top")


def operations(size: int) -> int:
    """Return the operations of a task of `size` bytes: its creation and one delivery, each 32 KB of it counted."""
    return 2 * max(1, -(-size // _CHUNK))


def log_bytes(queue: QueueName, target: int = _TARGET) -> int:
    """Return the bytes that a task adds to the log with its creation and one attempt.

    Parameters
    ----------
    target : int
        Characters of its method and URL.
    """
    names = 3 * len(queue.project) + 2 * len(queue.location) + 2 * len(queue.queue) + _TASK_ID + target
    return sum(_ENTRIES) + len(_ENTRIES) * names


#: What a queue that logs everything costs, to be shown wherever a log is advised.
_USUAL = QueueName(project="p" * 20, location="l" * 12, queue="q" * 10)
LOG_PRICE = (
    f"on Google a log costs about ${1e6 * log_bytes(_USUAL) * _DOLLARS_PER_LOG_BYTE:.2f} for a million tasks, and "
    "nothing for the first 50 GiB a month"
)


def log_note(queue: QueueName, done: int, ratio: float) -> str:
    """Return what a busy queue's log costs a day; empty if it stays within the free amount of a month.

    Parameters
    ----------
    done : int
        Attempts that ended in the last minute.
    ratio : float
        Share of the operations that the queue logs.
    """
    size = done * _MINUTES * ratio * log_bytes(queue)
    if size * _DAYS <= _FREE_LOG:
        return ""
    return (
        f"at {done:,} attempts a minute the log has about {size / _GIB:,.1f} GiB a day, which costs "
        f"${size * _DOLLARS_PER_LOG_BYTE:,.2f} a day after the first 50 GiB of a month; "
        "queue.update(log_sampling_ratio=0) turns it off, and then only handlers that store results tell outcomes"
    )
