"""A backfill: a fan-out with one row for each period of a range of dates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import orjson
import pandas as pd

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.calendar import Periods
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.request import BatchOptions, make_request
from cloudtasks_nb.fanout.batch.view import PeriodStates, upcoming
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord
from cloudtasks_nb.fanout.periods.partitions import COLUMNS, Partitions, combinations, one_zone, parse_freq, period_rows
from cloudtasks_nb.fanout.plan.plan import Plan

__all__ = ["Backfill"]


class Backfill:
    """A fan-out over periods.

    All ranges, and all values of `across`, of the same templates, frequency, zone and columns are one series: one
    batch, which grows.

    Parameters
    ----------
    partitions : Partitions
        The periods.
    options : mapping
        `url` and `BackfillKeywords`; key and zone are those of the periods.

    Raises
    ------
    InvalidInputError, TemplateError
        Naming the argument that is wrong.
    """

    def __init__(self, catalog: Catalog, queue: QueueName, partitions: Partitions, options: Mapping[str, Any]) -> None:
        self._catalog = catalog
        self._across = options.get("across")
        rows = period_rows(partitions, self._across, newest_first=options.get("newest_first", False))
        self._partitions = partitions.among(rows)
        columns = [name for name in rows.columns if name not in COLUMNS]
        request = make_request(queue, rows, {**options, "key": ["start", *columns], "tz": one_zone(partitions.tz)})
        recipe = replace(request.recipe, shown=tuple(map(str, rows.columns)))
        parts = [request.recipe.identity.hex(), partitions.freq.name, partitions.tz, columns]
        digest = hashlib.blake2b(orjson.dumps(parts), digest_size=4).hexdigest()
        self._grows = request.options["name"] is None  # a series, and not a batch that the user has named
        self._name = request.options["name"] or f"backfill-{digest}"
        self._series = {"freq": partitions.freq.name, "tz": partitions.tz, "across": columns}
        named = BatchOptions(**{**request.options, "name": self._name})
        self._request = replace(request, recipe=recipe, options=named, series=self._series)

    def send(self) -> Batch:
        """Spool every row, then send in the background.

        Raises
        ------
        BatchExistsError
            If the batch of this name is of another series, or of other templates; nothing is kept then.
        """
        self.known()
        if self._partitions.notes:
            notify("; ".join(self._partitions.notes))
        batch = self._catalog.fan_out(self._request, grows=self._grows)
        outbox = self._catalog.outbox
        first, last = (moment.tz_convert("UTC").isoformat() for moment in self._partitions.requested)

        def widen(facts: BatchFacts) -> BatchFacts:
            begin, end = facts.periods or (first, last)
            return replace(facts, periods=(min(first, begin), max(last, end)))

        outbox.batches.change(batch.id, widen)
        return batch

    def plan(self) -> Plan:
        """Plan every row and send nothing; `Plan.frame` has a verdict for each period.

        Raises
        ------
        BatchExistsError
            If the batch of this name is of another series, or of other templates.
        """
        self.known()
        plan = self._catalog.dry_run(self._request, self.send, verdicts=True)
        partitions = self._request.data["partition"].tolist()
        plan.frame.insert(list(plan.frame).index("verdict"), "partition", partitions)
        return replace(plan, about={**plan.about, **self._about(plan.frame[plan.frame["problem"].isna()])})

    def upcoming(self, record: BatchRecord | None) -> Periods:
        """Return the periods to be sent, and the states of those that the batch has, as `known` returned it."""
        before = None if record is None else PeriodStates(self._catalog.outbox, record.whole, self._series)
        return upcoming(self._partitions, combinations(self._across), before)

    def known(self) -> BatchRecord | None:
        """Return the record of the batch to which the rows would be added; None if it does not exist yet.

        Raises
        ------
        BatchExistsError
            If the batch of this name is of another series: periods of different lengths or zones are not mixed.
        """
        there = self._catalog.outbox.batches.find(**asdict(self._catalog.place(self._request.queue)))
        record = next((one for one in there if self._name in (one.name, one.id)), None)
        before = self._series if record is None else record.description.get("backfill")
        if record is not None and before != self._series:
            raise BatchExistsError(
                f"the batch {record.name or record.id} is {_describe(before)}, this is {_describe(self._series)}",
                resource=record.id,
                hint="nothing was sent; leave name= out, or use a new one",
            )
        return record

    def _about(self, frame: pd.DataFrame) -> dict[str, str]:
        """Return what the plan covers, and how many rows are left out because the batch has them."""
        about = {"batch": self._name, "partitions": str(self._partitions)}
        if self._partitions.notes:
            about["note"] = "; ".join(self._partitions.notes)
        known = frame.loc[frame["verdict"] == "skip", "why"].value_counts(sort=False)
        if len(known):
            about["known"] = ", ".join(f"{count:,} {reason}" for reason, count in known.items())
        return about


def _describe(series: Mapping[str, Any] | None) -> str:
    if series is None:
        return "no backfill"
    across = f" across {', '.join(series['across'])}" if series["across"] else ""
    return f"a backfill of {parse_freq(series['freq']).plural} in {series['tz']}{across}"
