"""The verb that does something for every period of a range of dates: a fan-out over partitions, nothing more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, Unpack, overload

import orjson
import pandas as pd

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.calendar import ASKED
from cloudtasks_nb.fanout.batch.catalog import Order
from cloudtasks_nb.fanout.batch.verbs import FanOut, Shared, Words, make_order, refuse
from cloudtasks_nb.fanout.outbox.draft import Draft
from cloudtasks_nb.fanout.outbox.known import SENT_BY_THE_SAME_CELL, why
from cloudtasks_nb.fanout.periods.across import cross
from cloudtasks_nb.fanout.periods.partitions import COLUMNS, Partitions, parse_freq, partition
from cloudtasks_nb.fanout.plan.plan import Plan, Recipe

__all__ = ["Backfill", "series_name"]


class Backfill(FanOut):
    """What a queue does with a range of dates."""

    @overload
    def backfill(
        self,
        start: Any,
        end: Any,
        *,
        freq: Any,
        url: Any,
        across: Any = None,
        tz: Any = "UTC",
        newest_first: bool = False,
        dry_run: Literal[False] = False,
        **words: Unpack[Shared],
    ) -> Batch: ...

    @overload
    def backfill(
        self,
        start: Any,
        end: Any,
        *,
        freq: Any,
        url: Any,
        across: Any = None,
        tz: Any = "UTC",
        newest_first: bool = False,
        dry_run: Literal[True],
        **words: Unpack[Shared],
    ) -> Plan: ...

    def backfill(  # noqa: PLR0913 - the words of `fan_out` and those of a range, keyword-only behind the second
        self,
        start: Any,
        end: Any,
        *,
        freq: Any,
        url: Any,
        across: Any = None,
        tz: Any = "UTC",
        newest_first: bool = False,
        body: Any = None,
        at: Any = None,
        delay: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
        service_account: str | None = None,
        audience: str | None = None,
        dispatch_deadline: Any = None,
        retry: Mapping[str, Any] | None = None,
        name: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        send_rate: float | None = None,
        stop_after_failures: float | None = None,
        progress: bool = True,
        dry_run: bool = False,
        **unknown: Any,
    ) -> Batch | Plan:
        """Make one task of each period of a range; returns when all are safe in the outbox, sends in the background.

        The columns are `start`, `end` (where the next period starts), `partition` (a short label) and those of
        `across`. The same templates, `freq`, `tz` and columns of `across` are one batch, to which a longer range, or
        another value of `across`, adds what it does not have: run the cell again with other dates. Some again:
        ``batch.resend(rows)``; all again: a new `name`.

        Parameters
        ----------
        start, end : str, date, datetime or Timestamp
            Both are included, as in `pd.date_range`; every period that touches the range is taken whole.
        freq : str or pandas offset
            ``"D"``, ``"h"``, ``"15min"``, ``"W"`` (from Sundays), ``"W-MON"``, ``"MS"``, ``"QS"``, ``"YS"`` or a
            multiple; ``"ME"``, ``"QE"`` and ``"YE"`` mean the same periods as ``"MS"``, ``"QS"`` and ``"YS"``.
        url : str, Handler or callable
            As for `fan_out`: ``"https://svc/day/{partition}"``, ``"https://svc/{start:%Y}/{start:%j}"``.
        across : mapping of name to values, or DataFrame, optional
            Each period is crossed with each combination of these.
        tz : str or tzinfo
            On whose clock the periods start; the zone of times without one.
        newest_first : bool
            Create the newest first. Cloud Tasks promises no order.
        stop_after_failures : int or float, optional
            Cancel the rest after so many failed rows, or (below 1) such a share of all.
        dry_run : bool
            Send nothing; return the `Plan`, whose frame has a `verdict` (``send`` or ``skip``) and the reason why.
        body, at, delay, headers, method, service_account, audience, dispatch_deadline, retry : optional
            As for `fan_out`; ``body=None`` is the whole row.
        name, errors, send_rate, progress : optional
            As for `fan_out`. How many run at once is the queue's to say: ``queue.update(max_concurrent=8)``.

        Raises
        ------
        InvalidInputError, TemplateError, BatchExistsError, QueueNotFoundError
            Nothing is sent, and nothing kept.
        TypeError
            For an unknown word; the key of a backfill is always (`start`, those of `across`).
        """
        if unknown:
            refuse("backfill", unknown, ["freq", "url", "across", "tz", "newest_first", *Shared.__annotations__])
        words: Words = {
            "body": body,
            "at": at,
            "delay": delay,
            "tz": tz,
            "headers": headers,
            "method": method,
            "service_account": service_account,
            "audience": audience,
            "dispatch_deadline": dispatch_deadline,
            "retry": retry,
            "name": name,
            "errors": errors,
            "send_rate": send_rate,
            "stop_after_failures": stop_after_failures,
            "progress": progress,
        }
        partitions = partition(start, end, freq=freq, tz=tz)
        rows = cross(partitions.frame(newest_first=newest_first), across)
        order = self._order(partitions, rows, url, words)
        return self._dry_run(order, partitions) if dry_run else self._send(order, partitions)

    def _order(self, partitions: Partitions, rows: pd.DataFrame, url: Any, words: Words) -> Order:
        names = [name for name in rows.columns if name not in COLUMNS]
        words["key"] = ["start", *names]
        words["tz"] = partitions.bounds.tz
        order = make_order(self._catalog, self._name, rows, url=url, words=words)
        series = {"freq": partitions.freq.name, "tz": partitions.tz, "across": names}
        return replace(
            order,
            name=order.name or series_name(order.recipe, partitions, names),
            facts={**order.facts, "backfill": series},
        )

    def _send(self, order: Order, partitions: Partitions) -> Batch:
        self._check_series(order)
        if partitions.notes:
            notify("; ".join(partitions.notes))
        batch = self._catalog.fan_out(order)
        outbox = self._catalog.outbox
        asked = [moment.tz_convert("UTC").isoformat() for moment in partitions.asked]
        before = outbox.batches.settings(batch.id).get(ASKED, asked)
        outbox.batches.set_setting(batch.id, ASKED, [min(asked[0], before[0]), max(asked[1], before[1])])
        return batch

    def _dry_run(self, order: Order, partitions: Partitions) -> Plan:
        before = self._check_series(order)
        draft = Draft(
            place=self._catalog.place(order.queue),
            name=order.name,
            recipe=order.recipe.identity,
            description={**before, **order.recipe.describe()},
            skip=order.errors == "skip",
        )

        def verdicts(keys: Sequence[bytes]) -> dict[str, list[Any]]:
            states = self._catalog.outbox.known(draft, keys)
            return {
                "partition": order.data["partition"].tolist(),
                "verdict": ["send" if state in SENT_BY_THE_SAME_CELL else "skip" for state in states],
                "why": [why(state) for state in states],
            }

        plan = self._catalog.dry_run(order, lambda: self._send(order, partitions), verdicts)
        bad = plan.frame["problem"].notna()
        plan.frame.loc[bad, ["verdict", "why"]] = ["skip", "problem"]
        return replace(plan, about=_about(order, partitions, plan.frame[~bad]))

    def _check_series(self, order: Order) -> Mapping[str, Any]:
        """Refuse to mix partitions of different lengths or zones in one batch; return what is known of that batch."""
        series = order.facts["backfill"]
        for record in self._catalog.outbox.batches.find(**asdict(self._catalog.place(order.queue))):
            if order.name not in (record.name, record.id):
                continue
            before = record.description.get("backfill")
            if before != series:
                raise BatchExistsError(
                    f"the batch {record.name or record.id} is {_say_series(before)}, this is {_say_series(series)}",
                    resource=record.id,
                    hint="nothing was sent; leave name= out, or take a new one",
                )
            return record.description
        return {}


def series_name(recipe: Recipe, partitions: Partitions, across: Iterable[str]) -> str:
    """Return the name of a backfill that was given none: the same for all ranges and all values of `across`."""
    parts = [recipe.identity.hex(), partitions.freq.name, partitions.tz, list(across)]
    return f"backfill-{hashlib.blake2b(orjson.dumps(parts), digest_size=4).hexdigest()}"


def _about(order: Order, partitions: Partitions, frame: pd.DataFrame) -> dict[str, str]:
    """Say what a plan is of, and which rows are left out because the batch has them."""
    about = {"batch": str(order.name), "partitions": str(partitions)}
    if partitions.notes:
        about["note"] = "; ".join(partitions.notes)
    known = frame.loc[frame["verdict"] == "skip", "why"].value_counts(sort=False)
    if len(known):
        about["known"] = ", ".join(f"{count:,} {why}" for why, count in known.items())
    return about


def _say_series(series: Mapping[str, Any] | None) -> str:
    if series is None:
        return "no backfill"
    across = f" across {', '.join(series['across'])}" if series["across"] else ""
    return f"a backfill of {parse_freq(series['freq']).plural} in {series['tz']}{across}"
