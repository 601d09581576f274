"""The limit of failures after which the other rows of a batch are cancelled: `stop_after_failures`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudtasks_nb.fanout.states import State

__all__ = ["FailureLimit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimit:
    """The limit of a batch, and the round in which failures count."""

    limit: float | None = None  #: rows, or below 1 a share of all rows; None: there is no limit
    round: int = 1
    failed: int = 0  #: rows that had failed before failures began to count
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
