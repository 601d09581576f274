"""Decide when so many rows of a batch have failed that the others are cancelled: `stop_after_failures`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.request import lasting_options
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, State

__all__ = ["FailureLimit"]

_SETTING = "round"
#: `failed` rows had failed before the round; `stopped` says whether the limit was reached in it.
_FIRST_ROUND = {"number": 1, "failed": 0, "stopped": False}


class FailureLimit:
    """Counts the failures of the present round: since the last new try, or the last added row.

    What it knows is stored with the batch, so that it holds after a restart and for other processes.
    """

    def __init__(self, outbox: Outbox, batch: str) -> None:
        self._outbox = outbox
        self._batch = batch
        self._round: Mapping[str, Any] = _FIRST_ROUND
        self._limit: float | None = None
        self._reached = 0  # the last round in which `reached` returned True

    async def load(self, record: BatchRecord) -> None:
        """Read the limit and the round of a batch."""
        settings = await self._outbox.run(self._outbox.batches.settings, self._batch)
        self._limit = lasting_options(record, settings)["stop_after_failures"]
        self._round = settings.get(_SETTING, _FIRST_ROUND)
        if self._round["number"] != record.round:
            await self._store({"number": record.round, "failed": record.counts[State.FAILED], "stopped": False})

    async def reached(self, progress: Progress) -> bool:
        """Return True once in each round: when its remaining rows have to be cancelled."""
        if progress.finished or not self._exceeded(progress):
            return False
        await self.load(await self._outbox.run(self._outbox.batches.get, self._batch))  # others may begin a round
        if not self._exceeded(progress) or self._reached == self._round["number"]:
            return False
        self._reached = self._round["number"]
        await self._store({**self._round, "stopped": True})
        return True

    def note(self, progress: Progress) -> str | None:
        """Return what was done in this round, if the limit was reached."""
        if not self._round["stopped"]:
            return None
        did = f"cancelled the remaining {progress.cancelled:,} rows"
        if not progress.cancelled:
            did = "too many rows failed, and none remained"
        return f"{did}: stop_after_failures={self._limit}"

    def _exceeded(self, progress: Progress) -> bool:
        if self._limit is None:
            return False
        allowed = self._limit * progress.total if self._limit < 1 else self._limit
        return progress.failed - self._round["failed"] >= allowed

    async def _store(self, round_: Mapping[str, Any]) -> None:
        self._round = round_
        await self._outbox.run(self._outbox.batches.set_setting, self._batch, _SETTING, round_)
