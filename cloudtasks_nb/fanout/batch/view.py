"""What is shown of a batch, by itself and in panels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from cloudtasks_nb import _loop
from cloudtasks_nb.display.calendar import Periods
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.live import show_in_tab
from cloudtasks_nb.fanout.batch.period_states import PeriodStates
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.batch.resend import RESEND
from cloudtasks_nb.fanout.batch.row_query import RowQuery, RowReader
from cloudtasks_nb.fanout.batch.status import progress_of_part
from cloudtasks_nb.fanout.batch.summary import SummaryReader
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.batch.trust import Foreign, check_trusted, find_foreign
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = ["BatchView"]

_LOG = "https://console.cloud.google.com/logs/query;query="


class BatchView:
    """What is shown of a batch, by itself and in panels. Only `send_again` calls the service."""

    code = "batch"  #: as in `Report`

    def __init__(self, tracker: Tracker, rows: Scope) -> None:
        self._tracker, self._outbox = tracker, tracker.outbox
        self._rows = rows  # those that are shown
        self._counted: tuple[float, Progress, Progress] | None = None  # when, of which progress of the batch
        series = tracker.record.description.get("backfill")
        self._periods = PeriodStates(self._outbox, rows, series) if series else None
        self.now = tracker.connection.clock.micros  #: the time of the service, microseconds since 1970
        self.reader = RowReader(self._outbox, rows, tracker.outcomes.stored, self.now)
        self.summary = SummaryReader(self._outbox, tracker.record, rows).read
        self.listen = tracker.listen

    @property
    def part(self) -> str | None:
        """Which rows of the batch are shown, such as "6 of the 12 rows of batch march"; None: all."""
        record, total = self._tracker.record, self._tracker.progress.total
        if self._rows.covers(total):
            return None
        return f"{self._rows.rows:,} of the {counted(total, 'rows')} of batch {record.name or record.id}"

    def progress(self) -> Progress:
        """Return how the rows are; never calls the service."""
        whole = self._tracker.progress
        if self.part is None:
            return whole
        changed = self.changed()
        if self._counted is None or self._counted[:2] != (changed, whole):
            counts, causes = self._outbox.batches.counts(self._rows), self._outbox.causes
            failed, lost = causes.failed(self._rows), causes.lost(self._rows)
            self._counted = changed, whole, progress_of_part(whole, counts, failed, lost)
        return self._counted[2]

    def working(self) -> bool:
        """Return whether this process works on the batch, as `Tracker.sending`."""
        return self._tracker.sending

    def waiting(self) -> int:
        """Return how many rows `Batch.resume` would send, or look up first; 0 if this process sends them."""
        if self._tracker.sending:
            return 0
        return (self._tracker.progress.unsent or 0) + self._tracker.record.doubtful

    def changed(self) -> float:
        """Return when a row was changed last, in seconds since 1970."""
        return self._outbox.batches.changed(self._tracker.batch)

    def limit(self) -> float | None:
        """Return the tasks that the queue dispatches in a second at most; None if that is not known here."""
        return self._tracker.queue_values().get("rate")

    def show_in_tab(self) -> Callable[[], None]:
        """Show the progress in the title of the browser's tab; return a function that ends that."""
        return show_in_tab(self._tracker)

    def foreign(self, states: Collection[State], refs: Iterable[int] | None = None) -> Foreign | None:
        """Return the rows in some states, of all or of these, that this home did not render and nobody trusts."""
        rows = None if refs is None else ((ref, None) for ref in refs)
        return find_foreign(self._outbox, self._tracker.record.whole, states, rows)

    def trust(self, foreign: Foreign) -> None:
        """Have these rows sent as they are, because somebody has seen what they do."""
        self._outbox.trust.trust(foreign.refs)

    def send_again(self, query: RowQuery, refs: Sequence[int] | None) -> int:
        """Make a new try for the final rows that a query chooses, or for rows by their refs; return how many.

        Raises
        ------
        PreconditionError
            If nobody trusts some of them.
        """
        tracker = self._tracker.there()
        tracker.connection.transport.check_open()
        chosen = list(self.reader.each(query)) if refs is None else refs
        check_trusted(self._outbox, self.foreign(FINAL, chosen), RESEND, trust=False)
        opened = self._outbox.outcomes.new_try(tracker.record.whole, ((ref, None) for ref in chosen), FINAL)
        _loop.run(tracker.start(sending=True))
        return opened

    def periods(self, bands: Sequence[str]) -> Periods | None:
        """Return the partitions, in these bands; None if it is no backfill."""
        self._tracker.there()
        return self._periods.periods(bands) if self._periods else None

    def report(self, *, drawn: bool = False) -> Report:
        """Return the state of the batch; `drawn` is with the picture of its partitions."""
        tracker = self._tracker.there()
        record, rows, progress, causes = tracker.record, self._rows, self.progress(), self._outbox.causes
        troubles = [line for line in tracker.blockers() if line != progress.reason]
        local = tracker.connection.endpoint.local
        calendar = self._periods.draw(fresh=progress.finished) if drawn and self._periods else None
        partitions, grid = calendar or (None, "")
        return Report(
            batch=record.id,
            name=record.name,
            queue=tracker.queue.queue,
            badge="LOCAL" if local else record.place.project,
            progress=progress,
            part=self.part,
            causes=causes.failed(rows) if progress.failed else {},
            retry_causes={} if progress.finished else causes.retrying(rows),
            lost=causes.lost(rows) if progress.gone else {},
            retry_note=tracker.outcomes.retry_note(self.now()),
            notes=[*troubles, *tracker.notes()],
            log_url=None if local else f"{_LOG}resource.type%3D%22cloud_tasks_queue%22%20%22{record.id}%22",
            partitions=partitions,
            grid=grid,
            code=self.code,
        )
