"""Make the batches of a connection, and find them again in the outbox of this machine."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import platform
import reprlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import pandas as pd

from cloudtasks_nb import _loop, _settings
from cloudtasks_nb._frames import BATCHES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted, percent_text
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.display.secrets import mask_url
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.deletion import Others, delete, delete_old, notify_deleted
from cloudtasks_nb.fanout.batch.gate import read_batch
from cloudtasks_nb.fanout.batch.live import read_first
from cloudtasks_nb.fanout.batch.outcome_tracker import NO_LOG, names_handler, unseen_note
from cloudtasks_nb.fanout.batch.progress import NOT_READ, Progress
from cloudtasks_nb.fanout.batch.request import FanOutRequest
from cloudtasks_nb.fanout.batch.sharing import Sharing, has_others
from cloudtasks_nb.fanout.batch.status import aged, stored_progress
from cloudtasks_nb.fanout.batch.table import RowName, row_names
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.batch.versions import computed_note, difference_to, give_function, notify_spooled
from cloudtasks_nb.fanout.disk import temporary_kind
from cloudtasks_nb.fanout.outbox.outbox import Outbox, choose
from cloudtasks_nb.fanout.outbox.records import MADE_BY, BatchFacts, BatchRecord, Reached, Scope, Spooled, whole
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.periods.partitions import COLUMNS
from cloudtasks_nb.fanout.plan.identity import Place, batch_of
from cloudtasks_nb.fanout.plan.inputs import length
from cloudtasks_nb.fanout.plan.plan import Plan, Trial, make_plan
from cloudtasks_nb.fanout.plan.recipe import Recipe
from cloudtasks_nb.fanout.plan.render import Forecast, plan_chunks
from cloudtasks_nb.fanout.plan.simulation import check_drain
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.absent_handlers import has_ended
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import queue_values
from cloudtasks_nb.service.oplog import RETENTION, Wanted
from cloudtasks_nb.store.batches import read_claim

__all__ = ["Catalog", "outbox_path"]

_DISPATCH_DEADLINE = dt.timedelta(minutes=10)  # of a task without one
_LOOK_SECONDS = 5.0  # for which a dry run looks for what was sent from elsewhere
_LAST_SECONDS = 10.0  # that jobs have at the end of a connection or of the process


_catalogs: WeakSet[Catalog] = WeakSet()


class Catalog:
    """The batches of one connection, in the outbox of this machine.

    Parameters
    ----------
    open_panel : callable
        Makes the panel of a batch: called with the batch and the options of `Batch.panel`.
    """

    def __init__(self, connection: Connection, open_panel: Callable[..., Any]) -> None:
        self._connection = connection
        self._open_panel = open_panel
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None
        self._trackers: WeakValueDictionary[str, Tracker] = WeakValueDictionary()  # a tracker with work keeps itself
        self._opened: set[str] = set()  # ids of the batches that were opened here
        _catalogs.add(self)

    @cached_property
    def _sharing(self) -> Sharing:
        return Sharing(self.outbox, self._connection.store)

    @property
    def outbox(self) -> Outbox:
        """The outbox; opened when first used, but not after the connection was closed: nobody would close it."""
        with self._lock:
            if self._outbox is None:
                self._connection.transport.check_open()
                self._outbox = Outbox(outbox_path())
                if self._outbox.note:
                    notify(self._outbox.note)
                if self._connection.endpoint.temporary:
                    _report_ended(self._outbox)
            return self._outbox

    def fan_out(self, request: FanOutRequest, *, grows: bool = False) -> Batch:
        """Store every row in the outbox, then send in the background.

        Parameters
        ----------
        grows : bool
            Whether it is no surprise if the batch is there and has none of the rows.

        Raises
        ------
        RowsError, DuplicateRowsError, BatchExistsError, QueueNotFoundError
            Nothing is stored then.
        InvalidInputError
            If the queue is too slow to dispatch the rows before they expire; nothing is stored then.
        """
        limits, check = self._limits(request)
        result, first = self._spool(request, check)
        if not result.created:
            self.outbox.batches.change(result.batch, lambda facts: replace(facts, options=request.lasting))
            result = self._read_known(result)
        held, shared = read_batch(self.outbox, result.batch)[1].held, self._sharing.active
        strange = not result.created and result.added and not (result.known or grows)
        same = COLUMNS[:-1] if request.series else ()  # the last one says the same of a period
        why = difference_to(self.outbox, result.batch, first, same) if strange else None
        notify_spooled(result, request.options["name"], held=held, shared=shared, strange=why)
        _warn_about_outcomes(limits, request)
        if result.created and not self._sharing.active:
            self._warn_about_others(limits, request)
        _warn_about_disk(self.outbox.path, self._connection.endpoint.folder)
        batch = self._open(result.scope or whole(result.batch), sending=True, shown=first)
        batch_view(batch).before = computed_note(result)
        self._sharing.publish(result.batch)
        if request.function is not None:
            give_function(self._trackers[result.batch], request.function, result)
        return batch

    def dry_run(
        self, request: FanOutRequest, submit: Callable[[], Any] | None = None, *, verdicts: bool = False
    ) -> Plan:
        """Render and check every row, and send nothing.

        Parameters
        ----------
        submit : callable, optional
            What `Plan.submit` does; `fan_out` when left out.
        verdicts : bool
            As for `make_plan`.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        """
        limits, check = self._limits(request)
        bar = Bar("planning", length(request.data), show=request.options["progress"])
        spec = self._spec(request)
        with self.outbox.dry_run(spec) as dry_run, bar:

            def forecast(keys: Sequence[bytes]) -> Forecast:
                found = dry_run.forecast(keys)
                if found.new is not None:
                    self._notify_not_compared(found.new, request.queue)
                return found

            return make_plan(
                request.data,
                request.recipe,
                add=dry_run.add,
                forecast=forecast,
                now=self._now(request.recipe),
                queue=request.queue,
                submit=submit or (lambda: self.fan_out(request)),
                send=lambda task: _try(task, request.recipe),
                errors=request.options["errors"],
                send_rate=request.options["send_rate"],
                limits=limits,
                check=check,
                priced=not self._connection.endpoint.local,
                stored=self._connection.store.url.startswith("gs://"),
                verdicts=verdicts,
                on_progress=bar.add,
                on_note=notify,
            )

    async def settle(self, waiting: Collection[str] | None, seconds: float) -> bool:
        """Wait until the batches that are open here have sent their rows; return whether that was within the time.

        Parameters
        ----------
        waiting : collection of str, optional
            Full names of the queues that have tasks. Of batches in others it is also waited until every row that was
            sent is final, and the notifications of the end are created.
        seconds : float
            The longest wait.
        """
        with self._lock:
            trackers = list(self._trackers.values())
        try:
            async with asyncio.timeout(seconds):
                for tracker in trackers:
                    await tracker.settle(drained=waiting is not None and str(tracker.queue) not in waiting)
        except TimeoutError:
            return False
        return True

    def row_names(self, tasks: Collection[str]) -> dict[str, RowName]:
        """Return the rows of batches that tasks belong to, by task id; reads only from this machine."""
        return row_names(self.outbox, tasks) if any(map(batch_of, tasks)) else {}

    def get(self, batch: str | None) -> Batch:
        """Return a batch by its id (which may be shortened) or name, or the newest batch; sends nothing.

        Raises
        ------
        BatchNotFoundError
            If there is none, or several.
        """
        found = self._find(batch)
        self._sharing.update(found.id)
        opened = self._open(found.whole, sending=False, adopting=has_others(self.outbox.batches.get(found.id)))
        self._sharing.publish(found.id)
        return opened

    def progress(self) -> list[tuple[BatchRecord, Progress]]:
        """Return the batches of this connection's project and location, and those it has opened, newest first.

        Each comes with how it is. Reads only from this machine, and no rows.
        """
        return [(record, self._progress(record)) for record in self._listed()]

    def frame(self, *, shared: bool = False) -> pd.DataFrame:
        """List the batches of `progress`.

        Parameters
        ----------
        shared : bool
            Also those of other homes in a shared store.
        """
        listed = self.progress()
        rows = [_facts(record) | _states(record, progress) for record, progress in listed]
        if shared:
            known, store = {record.id for record, _ in listed}, self._connection.store.url
            others = (record for record in self._others() if record.id not in known)
            rows += [_facts(record) | {"where": store, "reason": NOT_READ} for record in others]
            rows.sort(key=lambda row: -row["created"])
            owners = self._sharing.owners([row["batch"] for row in rows])
            rows = [row | {"owner": owners.get(row["batch"])} for row in rows]
        sizes = self.outbox.batches.sizes()
        columns = {name: [row.get(name) for row in rows] for name in BATCHES}
        columns["bytes"] = [sizes.get(row["batch"]) for row in rows]
        return frame(BATCHES, columns, index="batch")

    def queues(self) -> dict[QueueName, bool]:
        """Return the queues of the listed batches, and whether a batch of each is not done."""
        found: dict[QueueName, bool] = {}
        for record in self._listed():
            name = QueueName.parse(record.place.queue_name)
            found[name] = found.get(name, False) or not record.done
        return found

    def delete(self, batch: str, others: Others) -> None:
        """Delete a batch and its results, and say how much that was.

        Raises
        ------
        BatchNotFoundError, PreconditionError, StoreError
            As for `Batch.delete`.
        """
        self._sharing.update(batch)
        record = self.outbox.batches.get(batch)
        notify_deleted(f"batch {batch}: {counted(record.total, 'rows')}", self._delete(record, others))

    def delete_old(self, older_than: Any, *, dry_run: bool) -> pd.DataFrame:
        """Delete the listed batches that did not change for a time; return them as `frame` listed them."""
        records, before = self._listed(), self.frame()
        delete_one = partial(self._delete, others="leave")
        deleted = delete_old(self.outbox, records, delete_one, older_than=older_than, dry_run=dry_run)
        if not dry_run:
            self._sharing.sweep()
        return before.loc[[record.id for record in deleted]]

    def place(self, queue: QueueName) -> Place:
        """Return the endpoint, project, location and id of a queue."""
        return Place(endpoint=self._endpoint(), project=queue.project, location=queue.location, queue=queue.queue)

    def finish_jobs(self, *, cancels: bool, seconds: float | None = None) -> None:
        """Give what this process has to do some seconds, and say what stays undone after that.

        Parameters
        ----------
        cancels : bool
            Wait for cancels only, else also for the sending of rows.
        seconds : float, optional
            Ten, when left out.
        """
        with self._lock:
            trackers = list(self._trackers.values())
        busy = [tracker for tracker in trackers if tracker.job(cancels=cancels)]

        async def wait() -> None:
            await asyncio.gather(*(tracker.job_done(cancels=cancels) for tracker in busy), return_exceptions=True)

        if busy:
            with suppress(TimeoutError):
                _loop.run(wait(), _LAST_SECONDS if seconds is None else seconds)
        for line in filter(None, (tracker.job(cancels=False) for tracker in trackers)):
            notify(line)

    async def close(self) -> None:
        """Stop sending and watching, and close the outbox."""
        for tracker in list(self._trackers.values()):
            await tracker.close()
        self._trackers.clear()
        with self._lock:
            outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.close()

    def _delete(self, record: BatchRecord, others: Others) -> int:
        owner = known.owner if (known := self._trackers.get(record.id)) else self._sharing.owner(record.id)
        results = delete(self.outbox, self._connection.store, record, others, owner)
        self._sharing.forget(record.id)
        with self._lock:
            tracker = self._trackers.pop(record.id, None)
        if tracker is not None:
            tracker.deleted = True
            _loop.run(tracker.close())
        return results

    def _endpoint(self) -> str:
        return _loop.run(self._connection.transport.identity())

    def _find(self, batch: str | None) -> BatchRecord:
        """Return the record of a batch of this home; one that only the store has is brought here."""
        if batch is not None and not (isinstance(batch, str) and batch):
            raise InvalidInputError(
                f"{reprlib.repr(batch)} is neither the id nor the name of a batch",
                resource="id",
                hint='tasks.batches() lists the batches: tasks.batch("a91f03c2") or tasks.batch("march")',
            )
        # A queue may be named in full, and be of another project.
        for source in (self._listed, lambda: self.outbox.batches.find(endpoint=self._endpoint()), self._others):
            found = source()
            if any(batch is None or record.id.startswith(batch) or record.name == batch for record in found):
                break
        record = choose(found, batch)
        if not self.outbox.batches.find(batch=record.id):
            self._sharing.fetch(record.id)
        return self.outbox.batches.get(record.id)

    def _listed(self) -> list[BatchRecord]:
        """Return the records of this home that `frame` lists."""
        records = self.outbox.batches.find(endpoint=self._endpoint())
        return [record for record in records if record.id in self._opened or self._is_here(record)]

    def _others(self) -> list[BatchRecord]:
        """Return the records of the store for this endpoint, project and location, the newest first."""
        endpoint = self._endpoint()
        found = [one for one in self._sharing.records() if one.place.endpoint == endpoint and self._is_here(one)]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def _is_here(self, record: BatchRecord) -> bool:
        endpoint, place = self._connection.endpoint, record.place
        return endpoint.project in (None, place.project) and endpoint.location in (None, place.location)

    def _limits(self, request: FanOutRequest) -> tuple[Mapping[str, Any], Callable[[int], None]]:
        """Return the settings of a queue, and a check of how many tasks they allow; raises if the queue does not exist.

        An account that may only create tasks cannot read them: a note says so, and they are empty.
        """
        found = self._connection.read_queue(request.queue, "its limits and what it logs are not known")
        limits = {} if found is None else queue_values(found)
        queue, rate, send_rate = request.queue.queue, limits.get("rate"), request.options["send_rate"]
        return limits, lambda tasks: check_drain(tasks, queue, rate, send_rate)

    def _now(self, recipe: Recipe) -> dt.datetime:
        """Return the time of the service, which is asked for it if tasks are due by it."""
        return self._connection.clock.now() if recipe.schedule.immediate else self._connection.service_now()

    def _spec(self, request: FanOutRequest) -> BatchSpec:
        return BatchSpec(
            place=self.place(request.queue),
            recipe=request.recipe.identity,
            name=request.options["name"],
            description=request.description,
            skip=request.options["errors"] == "skip",
            clock=lambda: self._connection.clock.micros() / 1e6,
        )

    def _spool(self, request: FanOutRequest, check: Callable[[int], None]) -> tuple[Spooled, bytes]:
        """Store the rows; return what became of them, and what is shown of the first ones."""
        spec, recipe, options = self._spec(request), request.recipe, request.options
        now = self._now(recipe)
        about = {
            "_retry": recipe.retry or {},
            MADE_BY: _settings.user(),
            "_due": recipe.schedule.fixed(now),
            "_spread": recipe.schedule.template is not None,
        }
        facts = BatchFacts(options=request.lasting)

        def join(batch: str) -> Callable[[int], None]:
            tracker = self._trackers.get(batch)
            return self._sharing.join(batch, None if tracker is None else tracker.owner, check)

        spec = replace(spec, description={**spec.description, **about}, facts=facts, check=join)
        self._sharing.check(spec)
        with self.outbox.spool(spec) as spool, Bar("storing", length(request.data), show=options["progress"]) as bar:
            chunks = plan_chunks(
                request.data, recipe, now=now, errors=options["errors"], on_progress=bar.add, on_note=notify
            )
            first = b""
            for chunk in chunks:
                first = first or chunk.shown
                spool.add(chunk)
            return spool.commit(), first

    def _read_known(self, result: Spooled) -> Spooled:
        """Read what others did with a batch that this home has; return what became of its rows as it is now."""
        counts, rows = self.outbox.batches.counts, whole(result.batch)
        before = counts(rows)
        batch = self._open(rows, sending=False)  # keeps its tracker
        read_first(self._trackers[batch.id], whole=True)
        if result.added:  # which may have been sent since, by a batch that is open: they cannot be told from the known
            return result if counts(rows) == before else replace(result, left={})
        new = Counter({State.REJECTED: result.rejected + result.duplicates})
        return replace(result, left=Counter(counts(result.scope or rows)) - new)

    def _notify_not_compared(self, batch: str, queue: QueueName) -> None:
        """Say that a dry run is not compared with what another home has sent of a batch, if that may be something."""
        wanted = Wanted(since=self._connection.clock.micros() - RETENTION, batch=batch)
        why = "another home has sent rows of it"
        try:
            if read_claim(self._connection.store, batch) is None and not _loop.run(
                self._connection.watcher.is_logged(queue, wanted), _LOOK_SECONDS
            ):
                return
        except TimeoutError:
            why = f"the log was not read to its end in {_LOOK_SECONDS:.0f} s"
        except CloudTasksError as error:
            why = error.message
        notify(
            f"the plan is not compared with what was sent of batch {batch} from elsewhere: {why}; the fan-out reads "
            "that first, and sends only the other rows"
        )

    def _warn_about_others(self, limits: Mapping[str, Any], request: FanOutRequest) -> None:
        """Print before the first batch on a queue is sent that it cannot be known what was sent from elsewhere."""
        ratio, place = limits.get("log_sampling_ratio", 1), self.place(request.queue)
        if (
            ratio < 1
            and sum(record.place == place for record in self.outbox.batches.find(endpoint=place.endpoint)) == 1
        ):
            notify(unseen_note(ratio))

    def _open(self, rows: Scope, *, sending: bool, adopting: bool = False, shown: bytes = b"") -> Batch:
        outbox, batch = self.outbox, rows.batch
        with self._lock:
            tracker = self._trackers.get(batch)
            if tracker is None or tracker.deleted:  # by another kernel, and made anew
                self._opened.add(batch)
                endpoint = self._connection.endpoint
                reached = Reached(
                    target=endpoint.target,
                    folder=endpoint.folder,
                    store=self._connection.store.url,
                    machine=platform.node() if endpoint.temporary else None,
                )
                outbox.batches.change(batch, lambda facts: replace(facts, reached=reached))
                tracker = self._trackers[batch] = Tracker(self._connection, outbox, outbox.batches.get(batch))
                if tracker.owner is not None:
                    tracker.owner.looked = self._sharing.looks.pop(batch, None)
        _loop.run(tracker.start(sending=sending, adopting=adopting))
        return Batch(tracker, self._open_panel, self.delete, rows, shown)

    def _progress(self, record: BatchRecord) -> Progress:
        tracker = self._trackers.get(record.id)
        now = self._connection.clock.now()
        return stored_progress(self.outbox, record, now) if tracker is None else aged(tracker.progress, now)


def _finish_all_jobs() -> None:
    until = time.monotonic() + _LAST_SECONDS
    for catalog in tuple(_catalogs):
        catalog.finish_jobs(cancels=False, seconds=max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):  # a forked process has the catalogs of its parent, whose jobs are not its own
    os.register_at_fork(after_in_child=_catalogs.clear)
# Functions that are registered with `atexit` are called when threads take no more work.
threading._register_atexit(_finish_all_jobs)  # type: ignore[attr-defined]  # noqa: SLF001


def _facts(record: BatchRecord) -> dict[str, Any]:
    """Return what is known of a batch without the states of its rows."""
    return {
        "batch": record.id,
        "name": record.given_name,
        "who": record.made_by,
        "queue": record.place.queue,
        "url": mask_url(str(record.description.get("url") or "")) or None,
        "created": _micros(record.created),
        "total": record.total,
    }


def _states(record: BatchRecord, known: Progress) -> dict[str, Any]:
    """Return how a batch is."""
    status = {"state": known.state, "reason": known.reason, "seen": _micros(known.at)}
    return {**known.counts(), **status, "done": record.done}


def _try(task: Any, recipe: Recipe) -> Trial:
    """Send the request of a raw Task, and return the answer."""
    from cloudtasks_nb.handlers.call import decode  # noqa: PLC0415 - loads aiohttp, which only handlers need
    from cloudtasks_nb.handlers.send import send  # noqa: PLC0415 - same

    request = task.http_request
    timeout = recipe.dispatch_deadline or _DISPATCH_DEADLINE
    answer = send(recipe.method, request.url, dict(request.headers), request.body, timeout.total_seconds())
    account = recipe.service_account
    return Trial(
        status=answer.status or None,
        result=decode(answer.result or b""),
        error=answer.error,
        duration=answer.duration,
        request=f"{recipe.method} {request.url} {request.body.decode(errors='replace')}".rstrip(),
        note=f"sent without the token of {account}, which Cloud Tasks adds" if account else "",
    )


def _report_ended(outbox: Outbox) -> None:
    """Say once which batches were lost with a temporary emulator, as after a restart of the kernel."""
    # Machines may share the outbox; what runs on another one is not known here.
    found = {record.id: record.facts.reached for record in outbox.batches.find()}
    here = {batch: at for batch, at in found.items() if at.machine == platform.node() and not at.ended}
    ended = set(filter(has_ended, {at.target for at in here.values()}))
    batches = [batch for batch, at in here.items() if at.target in ended]
    if not batches:
        return
    for batch in batches:
        outbox.batches.change(batch, lambda facts: replace(facts, reached=replace(facts.reached, ended=True)))
    notify(
        "ct.local() without a folder is temporary: an earlier emulator has ended with its queues, its tasks and "
        f'{counted(len(batches), "batches")}, and the same cells send their rows again; ct.local("folder") keeps them'
    )


@cache
def _warn_about_disk(outbox: Path, folder: str | None) -> None:
    """Say, once in each process, what is lost with a temporary disk and how to keep it."""
    kind = temporary_kind(outbox)
    if kind is None:
        return
    lost = "the rows that are not sent yet, and the states, outcomes and columns of all batches"
    if folder is not None and temporary_kind(Path(folder) / "tasks") is not None:
        lost += f", and the queues and tasks in {folder}"
    place = (
        'mount Google Drive and set CLOUDTASKS_NB_HOME to a folder in "/content/drive/MyDrive"'
        if "COLAB_RELEASE_TAG" in os.environ
        else "set CLOUDTASKS_NB_HOME to a folder on a disk that stays"
    )
    notify(
        f"{outbox.parent} is on a temporary disk ({kind}). When the machine or container ends, this is lost: {lost}\n"
        f"  → {place} before the kernel starts"
    )


def outbox_path() -> Path:
    """Return the path of the outbox: in the user's data folder, or in ``CLOUDTASKS_NB_HOME``."""
    return _settings.home() / "outbox.sqlite3"


def _micros(moment: dt.datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000_000)


def _warn_about_outcomes(limits: Mapping[str, Any], request: FanOutRequest) -> None:
    """Print at the start which outcomes cannot be known with the queue's settings."""
    if not limits or names_handler(request.description):
        return  # a note said that they are not known; a handler stores results, from which outcomes are known
    queue, ratio = request.queue.queue, limits["log_sampling_ratio"]
    if not ratio:
        notify(NO_LOG.format(queue=f"queue {queue}"))
    elif ratio < 1:
        notify(f"queue {queue} logs {percent_text(ratio)} of its operations: rows without a log entry end as gone")
