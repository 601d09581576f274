"""The limit of failures after which the other rows of a batch are cancelled: `stop_after_failures`.

It counts the failures of the present round: since the last new try, or the last added row. The round is stored with the
batch, so that the limit holds after a restart and for other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudtasks_nb.fanout.batch.request import lasting_options
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import State

__all__ = ["FailureLimit", "load_limit", "store_limit"]

_SETTING = "round"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimit:
    """The limit of a batch, and the round in which failures count."""

    limit: float | None = None  #: rows, or below 1 a share of all rows; None: there is no limit
    round: int = 1
    failed: int = 0  #: rows that had failed before the round
    stopped: bool = False  #: the limit was reached in this round

    def exceeded(self, counts: Mapping[State, int]) -> bool:
        """Return whether so many rows have failed in this round."""
        if self.limit is None:
            return False
        allowed = self.limit * sum(counts.values()) if self.limit < 1 else self.limit
        return counts[State.FAILED] - self.failed >= allowed

    def note(self, cancelled: int) -> str | None:
        """Return what was done in this round, if the limit was reached."""
        if not self.stopped:
            return None
        did = f"cancelled the remaining {cancelled:,} rows" if cancelled else "too many rows failed, and none remained"
        return f"{did}: stop_after_failures={self.limit}"


def load_limit(outbox: Outbox, batch: str) -> FailureLimit:
    """Read the limit and the round of a batch; if a round has begun, store how many rows had failed before it."""
    record, settings = outbox.batches.get(batch), outbox.batches.settings(batch)
    limit = lasting_options(record, settings)["stop_after_failures"]
    found = FailureLimit(limit=limit, **settings.get(_SETTING, {}))
    if found.round == record.round:
        return found
    begun = FailureLimit(limit=limit, round=record.round, failed=record.counts[State.FAILED])
    store_limit(outbox, batch, begun)
    return begun


def store_limit(outbox: Outbox, batch: str, limit: FailureLimit) -> None:
    """Store the round of a batch."""
    stored = {"round": limit.round, "failed": limit.failed, "stopped": limit.stopped}
    outbox.batches.set_setting(batch, _SETTING, stored)
