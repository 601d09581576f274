"""What tasks and their log cost on Google: an estimate, without what else the project uses in the month.

Prices and free amounts are those of https://cloud.google.com/tasks/pricing and
https://cloud.google.com/stackdriver/pricing.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloudtasks_nb._names import QueueName

__all__ = ["FREE_OPERATIONS", "LOG_PRICE", "PRICING", "Costs", "log_bytes", "log_note", "operations"]

#: Where the prices stand.
PRICING = "https://cloud.google.com/tasks/pricing"
#: Operations that are free in a month. An operation is a call for one task, or one delivery.
FREE_OPERATIONS = 1_000_000

_GIB = 2**30
_FREE_LOG = 50 * _GIB  # a month
_DOLLARS_PER_OPERATION = 0.40 / 1e6
_DOLLARS_PER_LOG_BYTE = 0.50 / _GIB
_CHUNK = 32 * 1024  # bytes of a task that count as one operation
_MINUTES = 24 * 60  # of a day
_DAYS = 30  # of a month

# Characters of the entries of creation, dispatch and response of a task as JSON, without the names in them. Measured on
# the emulator's log, which has the fields of the service's; the size that Google bills is not documented more closely.
_ENTRIES = (587, 648, 678)
_TASK_ID = 31  # characters of the id of a batch's row
_TARGET = 60  # characters of a method and a usual URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Operations and bytes of log of one month."""

    operations: int
    log_bytes: float

    @property
    def price(self) -> float:
        """US dollars for what is above the free amounts."""
        operations = max(self.operations - FREE_OPERATIONS, 0) * _DOLLARS_PER_OPERATION
        return operations + max(self.log_bytes - _FREE_LOG, 0) * _DOLLARS_PER_LOG_BYTE


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
