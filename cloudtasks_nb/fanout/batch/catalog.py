"""All batches of a connection: making one from a DataFrame, finding one again."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cloudtasks_nb import _loop, _settings
from cloudtasks_nb._frames import BATCHES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.track import Tracker
from cloudtasks_nb.fanout.outbox.batches import choose
from cloudtasks_nb.fanout.outbox.draft import Draft
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Spooled, State
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.plan.plan import Plan, Recipe, make_plan, plan_chunks
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import queue_values

__all__ = ["Catalog", "Order", "outbox_path"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)
_LEFT = (State.FAILED, State.REJECTED, State.CANCELLED, State.GONE)  # states of known rows that are worth a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A fan-out as it was asked for."""

    queue: QueueName
    data: Any
    recipe: Recipe
    name: str | None = None
    errors: Literal["raise", "skip"] = "raise"
    send_rate: float | None = None  #: creates a second
    progress: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)  #: more for the record, JSON-able


class Catalog:
    """The batches of one connection, in the outbox of this machine.

    Parameters
    ----------
    connection : Connection
    open_panel : callable
        Makes the panel of a batch: called with the batch, and whether the panel is read-only.
    """

    def __init__(self, connection: Connection, open_panel: Callable[[Batch, bool], Any]) -> None:
        self._connection = connection
        self._open_panel = open_panel
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None
        self._trackers: dict[str, Tracker] = {}

    @property
    def outbox(self) -> Outbox:
        """The outbox; opened when first used."""
        with self._lock:
            if self._outbox is None:
                self._outbox = Outbox(outbox_path())
                note = self._outbox.note()
                if note:
                    notify(note)
            return self._outbox

    def check_reachable(self, url: Any) -> None:
        """Refuse a URL on this machine for tasks that Google's service would deliver.

        Raises
        ------
        InvalidInputError
            With the way out.
        """
        self._connection.check_reachable(url)

    def fan_out(self, order: Order) -> Batch:
        """Spool every row, then send in the background.

        Raises
        ------
        RowsError, DuplicateRowsError, BatchExistsError
            Nothing is kept then.
        QueueNotFoundError
            Before anything is planned.
        """
        limits = self._limits(order.queue)
        result = self._spool(order)
        _say(result, order)
        _warn(limits, order)
        return self._open(result.batch, sending=True, send_rate=order.send_rate)

    def dry_run(self, order: Order, submit: Callable[[], Any], verdicts: Any = None) -> Plan:
        """Render and check every row, send nothing.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates: sending would be refused.
        """
        limits = self._limits(order.queue)
        draft = Draft(
            place=self.place(order.queue),
            name=order.name,
            recipe=order.recipe.identity,
            description={**order.recipe.describe(), **order.facts},
            skip=order.errors == "skip",
        )
        with Bar("planning", _length(order.data), show=order.progress) as bar:
            return make_plan(
                order.data,
                order.recipe,
                now=dt.datetime.now(dt.UTC),
                queue=order.queue.queue,
                submit=submit,
                errors=order.errors,
                rate=limits["rate"],
                max_concurrent=limits["max_concurrent"],
                verdicts=verdicts,
                foretell=lambda asked: self.outbox.planned(draft, asked),
                halted="" if limits["state"] == "RUNNING" else limits["state"].lower(),
                on_progress=bar.add,
            )

    def get(self, batch: str | None) -> Batch:
        """Return a batch by its id (which may be shortened) or name, the newest without one; sends nothing.

        Raises
        ------
        BatchNotFoundError
            If there is none, or several.
        """
        here = self._listed()
        try:
            found = choose(here, batch)
        except BatchNotFoundError:
            if batch is None or any(record.id.startswith(batch) for record in here):
                raise
            # A queue may be named in full, and be of another project.
            found = self.outbox.batches.get(batch, endpoint=self._endpoint())
        return self._open(found.id, sending=False)

    def frame(self) -> pd.DataFrame:
        """List the batches of this connection's project and location, and what it has opened, newest first."""
        rows = [self._row(record) for record in self._listed()]
        columns = {name: [row.get(name) for row in rows] for name in BATCHES}
        return frame(BATCHES, columns, index="batch")

    def place(self, queue: QueueName) -> Place:
        """Return the queue with what the endpoint is."""
        return Place(endpoint=self._endpoint(), project=queue.project, location=queue.location, queue=queue.queue)

    async def close(self) -> None:
        """Stop sending and watching; the outbox has it all."""
        for tracker in self._trackers.values():
            await tracker.close()
        self._trackers.clear()
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None

    def _endpoint(self) -> str:
        return _loop.run(self._connection.transport.identity())

    def _listed(self) -> list[BatchRecord]:
        """Return the batches of this connection's project and location, and those of others that it has opened."""
        endpoint = self._connection.endpoint
        return [
            record
            for record in self.outbox.batches.find(endpoint=self._endpoint())
            if record.id in self._trackers
            or (endpoint.project in (None, record.place.project) and endpoint.location in (None, record.place.location))
        ]

    def _limits(self, queue: QueueName) -> dict[str, Any]:
        """Return the queue's settings; that it exists is seen before anything is planned."""
        return queue_values(self._connection.call("GetQueue", name=str(queue)))

    def _spool(self, order: Order) -> Spooled:
        recipe, now = order.recipe, dt.datetime.now(dt.UTC)
        retry = recipe.delivery.retry or {}
        description = {
            **recipe.describe(),
            "_retry": {key: value if isinstance(value, int) else str(value) for key, value in retry.items()},
            "_due": recipe.schedule.fixed(now),
            "_spread": recipe.schedule.template is not None,
            **order.facts,
        }
        spool = self.outbox.spool(
            self.place(order.queue),
            recipe_identity=recipe.identity,
            name=order.name,
            description=description,
            errors=order.errors,
        )
        with spool, Bar("planning", _length(order.data), show=order.progress) as bar:
            for chunk in plan_chunks(order.data, recipe, now=now, errors=order.errors, on_progress=bar.add):
                spool.add(chunk)
            return spool.commit()

    def _open(self, batch: str, *, sending: bool, send_rate: float | None = None) -> Batch:
        outbox = self.outbox
        with self._lock:
            tracker = self._trackers.get(batch)
            if tracker is None:
                reach = {"target": self._connection.endpoint.target, "folder": self._connection.folder}
                outbox.batches.set_setting(batch, "reach", reach)
                tracker = self._trackers[batch] = Tracker(self._connection, outbox, outbox.batches.get(batch))
        _loop.run(tracker.start(sending=sending, send_rate=send_rate))
        return Batch(self._connection, outbox, tracker, self._open_panel)

    def _row(self, record: BatchRecord) -> dict[str, Any]:
        tracker = self._trackers.get(record.id)
        pending: Mapping[str, Any] = {} if tracker is None else tracker.progress.counts()
        if not record.counts[State.SENT]:
            pending = dict.fromkeys(("scheduled", "ready", "running", "retrying"), 0)
        final = {state.name.lower(): count for state, count in record.counts.items() if state is not State.SENT}
        return {
            **pending,
            **final,
            "batch": record.id,
            "queue": record.place.queue,
            "url": record.description.get("url"),
            "created": _micros(record.created),
            "seen": _micros(record.snapshot_at),
            "total": record.total,
            "done": record.done,
        }


def outbox_path() -> Path:
    """Return where the outbox of this machine's user is; ``CLOUDTASKS_NB_HOME`` chooses another folder."""
    return _settings.home() / "outbox.sqlite3"


def _micros(moment: dt.datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICRO


def _length(data: Any) -> int | None:
    return len(data) if isinstance(data, pd.DataFrame) else None


def _say(result: Spooled, order: Order) -> None:
    """Say what was attached to, and what was left out."""
    batch = f"batch {result.batch}" if order.name in (None, result.batch) else f"batch {order.name} ({result.batch})"
    parts = []
    if not result.created and not (result.known or result.added or result.rejected or result.duplicates):
        parts.append(f"there are no rows here; {batch} stays as it is")
    elif not result.created:
        parts.append(f"{batch} has {result.known:,} of these rows already")
        unsent = result.left.get(State.UNSENT, 0)
        parts.append(f"{counted(result.added, 'new ones')} will be sent" if result.added else "nothing new to send")
        if unsent:
            parts.append(f"{unsent:,} of those that it has {_are(unsent)} still unsent: the sending goes on")
        left = ((count, state.name.lower()) for state, count in result.left.items() if state in _LEFT)
        parts += [f"{count:,} {state} {_are(count)} left" for count, state in left]
    if result.rejected:
        parts.append(
            f"{counted(result.rejected, 'rows')} {_are(result.rejected)} rejected: batch.tasks() has the reasons"
        )
    if result.duplicates:
        parts.append(f"{counted(result.duplicates, 'duplicates')} {_are(result.duplicates)} left out")
    if parts:
        notify("; ".join(parts))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _warn(limits: Mapping[str, Any], order: Order) -> None:
    """Say at the start what cannot be known later."""
    retry, ratio, queue = order.recipe.delivery.retry or {}, limits["log_sampling_ratio"], order.queue.queue
    if not ratio:
        notify(f"queue {queue} writes no log, so outcomes cannot be known: queue.update(log_sampling_ratio=1.0)")
    elif ratio < 1:
        notify(f"queue {queue} logs {ratio:.0%} of its operations: rows without a log entry end as gone")
    if retry.get("max_attempts", limits["max_attempts"]) == -1 or limits["max_retry_duration"]:
        notify(f"queue {queue} has no fixed number of attempts, so a row that gave up cannot be told: it ends as gone")
