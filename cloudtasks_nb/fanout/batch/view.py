"""What is shown of a batch, by itself and in panels: its report, the summary of its run, the calendar of a backfill."""

from __future__ import annotations

import datetime as dt
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb.display.calendar import Calendar, Periods, Unit, band_labels, starts_in
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.run_chart import Durations, Throughput
from cloudtasks_nb.fanout.batch.errors import check_rendered
from cloudtasks_nb.fanout.batch.live import Card, end_displays, show_in_tab, wait
from cloudtasks_nb.fanout.batch.progress import Facts, Progress, Status
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.batch.row_query import RowQuery, RowReader
from cloudtasks_nb.fanout.batch.status import aged, part_of
from cloudtasks_nb.fanout.batch.table import ReadRows, row_texts
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope, whole
from cloudtasks_nb.fanout.outbox.rows import TimingsPage
from cloudtasks_nb.fanout.periods.partitions import COLUMNS, Freq, Partitions, one_zone, parse_freq, partition
from cloudtasks_nb.fanout.plan.preview import preview_names
from cloudtasks_nb.fanout.states import FINAL, WORDS

__all__ = ["BatchView", "PeriodStates", "SlowRow", "Summary", "SummaryReader", "summarise", "upcoming"]

_RELAX = 20  # a drawing is shown so many times longer than it took
_WEEK = dt.timedelta(days=7)
_YEAR = 12  # months
_MOST_BANDS = 12  # values of `across` that have a band each
_MOST_CHOICES = 1_000  # values of `across` that are offered to be shown alone


@dataclass(frozen=True, slots=True)
class _Places:
    """In which period and band the rows are."""

    rows: pd.DataFrame  #: the `band` and the `start` of each row, both as categories
    labels: list[str]  #: of the periods that have rows
    whole: Partitions  #: all periods from the first to the last


class PeriodStates:
    """Counts the rows of one backfill, as the outbox has them, by period and state.

    Parameters
    ----------
    rows : Scope
        Those that are shown.
    series : mapping
        `freq` and `tz` of its partitions, and the columns of `across`.
    clock : callable
        Seconds that only go forward.
    """

    def __init__(
        self, outbox: Outbox, rows: Scope, series: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._rows = rows
        self._freq = parse_freq(series["freq"])
        self._tz = series["tz"]
        self._zone = one_zone(series["tz"])  # None: each row has its own, and the calendar shows local times
        across = map(str, series.get("across", ()))
        self._across = [name for given, name in preview_names([*COLUMNS, *across]).items() if given not in COLUMNS]
        self._read: _Places | None = None
        self._drawn: tuple[str, str] | None = None
        self._until = 0.0

    def draw(self, *, fresh: bool) -> tuple[str, str] | None:
        """Return which partitions these are, and their calendar as HTML; None if the batch has no rows.

        Parameters
        ----------
        fresh : bool
            Whether it has to be of this moment; else a drawing that took long is shown for a while.
        """
        began = self._clock()
        if not fresh and began < self._until:
            return self._drawn
        found = self.periods()
        if found is not None:
            self._drawn = found.line, Calendar(found).html()
        now = self._clock()
        self._until = now + _RELAX * (now - began)
        return self._drawn

    def periods(self, bands: Sequence[str] = ()) -> Periods | None:
        """Return the partitions as they are now; None if the batch has no rows, or gets new ones this moment.

        Parameters
        ----------
        bands : sequence of str
            The labels of the bands to return; none for all, in one band if there are more than 12.
        """
        states = np.frombuffer(self._outbox.rows.states(self._rows), dtype=np.uint8)
        if not len(states):
            return None
        read = self._places(len(states))
        rows, across = read.rows, self._across
        if len(rows) != len(states):  # rows came in between
            return None
        choices: list[str] = rows["band"].cat.categories.tolist()
        if bands:
            rows = rows.assign(band=rows["band"].cat.set_categories(bands))
        elif len(choices) > _MOST_BANDS:
            rows, across = rows.assign(band=pd.Categorical([""]).take(np.zeros(len(rows), dtype=np.intp))), []
        words = pd.Index(WORDS.values())
        rows = rows.assign(state=pd.Categorical(states, categories=list(map(int, WORDS))))
        counts = rows.groupby(["band", "start", "state"], observed=False).size().to_numpy().reshape(-1, len(words))
        starts, names = (rows[name].cat.categories for name in ("start", "band"))
        return Periods(
            starts=pd.DatetimeIndex(starts),
            labels=read.labels,
            unit=_unit(self._freq),
            counts=pd.DataFrame(counts, pd.MultiIndex.from_product([names, starts], names=["band", "start"]), words),
            line=self._line(len(starts), read),
            counted=self._freq.counted,
            across=across,
            choices=choices[:_MOST_CHOICES] if len(choices) > _MOST_BANDS else (),
        )

    def _places(self, rows: int) -> _Places:
        """Read in which period and band each row is, unless that is known of so many rows: they only get more."""
        if self._read is None or len(self._read.rows) != rows:
            columns = ReadRows(self._outbox.rows.pages(self._rows)).stored.columns()
            moments = pd.Categorical(starts_in(columns["start"], self._zone))
            labels = band_labels(columns, self._across) if self._across else [""] * len(columns)
            bands = pd.Categorical(labels, categories=list(dict.fromkeys(labels)))
            starts = pd.DatetimeIndex(moments.categories)
            self._read = _Places(
                rows=pd.DataFrame({"band": bands, "start": moments}),
                labels=self._freq.labels(starts),
                whole=partition(starts[0], starts[-1], freq=self._freq.name, tz=self._tz).among(columns),
            )
        return self._read

    def _line(self, count: int, read: _Places) -> str:
        every, zone, notes = read.whole, self._zone or dt.UTC, list[str]()
        total = sum(self._outbox.batches.counts(whole(self._rows.batch)).values())
        asked = self._outbox.batches.facts(self._rows.batch).periods
        if asked is not None and len(read.rows) == total:  # it was asked for all rows
            first, last = (pd.Timestamp(moment).tz_convert(zone) for moment in asked)
            notes = replace(every, requested=(first, last)).notes
        holes = len(every) - count if self._zone else 0
        between = [f"{holes:,} between them are not in this batch"] if holes else []
        return "; ".join([str(every), *between, *notes])


def _unit(freq: Freq) -> Unit:
    if freq.step is None:
        return "month" if freq.months < _YEAR else "year"
    if not freq.dated:
        return "time"
    return "day" if freq.step % _WEEK else "week"


def upcoming(partitions: Partitions, across: pd.DataFrame | None, before: PeriodStates | None) -> Periods:
    """Return the partitions that a backfill would make: what is new, and the states of what its batch has already.

    Parameters
    ----------
    across : DataFrame or None
        The combinations with which each partition is crossed, a row each.
    before : PeriodStates or None
        The batch; None if there is none yet.
    """
    starts = partitions.starts
    rows = Counter([""] if across is None else band_labels(across, list(across.columns)))  # of a partition in each band
    asked = pd.Series(rows).repeat(len(starts))
    asked.index = pd.MultiIndex.from_product([rows, starts], names=["band", "start"])
    found = None if before is None else before.periods(list(rows))
    counts = pd.DataFrame(index=asked.index) if found is None else found.counts.reindex(asked.index, fill_value=0)
    counts = counts.loc[:, counts.any()].assign(new=(asked - counts.sum(axis=1)).clip(lower=0))
    banded = across is not None and len(rows) <= _MOST_BANDS
    if not banded:
        counts = counts.groupby(level="start").sum()
        counts.index = pd.MultiIndex.from_product([[""], starts], names=["band", "start"])
    return Periods(
        starts=starts,
        labels=partitions.freq.labels(starts),
        unit=_unit(partitions.freq),
        counts=counts,
        line=str(partitions),
        counted=partitions.freq.counted,
        across=tuple(across.columns) if banded and across is not None else (),
    )


_SECOND = 1_000_000  # microseconds
_SLOWEST = 5
_NAMED_BY = 3  # columns of the input that are in the name of a row
_SHARE = 20  # a new summary is made at most after this many times the seconds that the last one took
_PAUSE = 1.0  # seconds between two summaries at least


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRow:
    """One of the rows whose last attempts took longest."""

    ref: int
    seconds: float
    failed: bool
    ended: int  #: microseconds since 1970
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The run of a batch, by the rows that succeeded or failed and of which it is known when."""

    rows: int
    started: int  #: when the batch was created or, if that was earlier, its first row tried; microseconds since 1970
    ended: int  #: when the last of these rows was done
    throughput: Throughput
    durations: Durations | None  #: None: no duration is known
    slowest: Sequence[SlowRow]


class SummaryReader:
    """Summarises a batch anew when it has changed, and so rarely that this takes less than 5 % of a core.

    Parameters
    ----------
    outbox, record
        The batch, and where it is.
    rows : Scope
        Those of its rows that are summarised.
    """

    def __init__(self, outbox: Outbox, record: BatchRecord, rows: Scope) -> None:
        self._outbox = outbox
        self._rows = rows
        self._record = record
        self._created = round(record.created.timestamp() * _SECOND)
        self._lock = threading.Lock()
        self._version: float | None = None
        self._fresh_until = 0.0
        self._summary: Summary | None = None

    def read(self) -> tuple[Summary | None, float]:
        """Return the summary, and the seconds after which a newer one can be made; 0: it is up to date.

        There is no summary before a row is done. The call blocks while it reads the outbox.
        """
        with self._lock:
            version, began = self._outbox.batches.changed(self._record.id), time.monotonic()
            if version == self._version:
                return self._summary, 0.0
            if began < self._fresh_until:
                return self._summary, self._fresh_until - began
            self._version, self._summary = version, self._read()
            ended = time.monotonic()
            pause = 0.0 if self._summary is None else _PAUSE  # what is done first is shown at once
            self._fresh_until = ended + max(pause, _SHARE * (ended - began))
            return self._summary, 0.0

    def _read(self) -> Summary | None:
        found = summarise(self._outbox.rows.timings(self._rows), created=self._created)
        if found is None:
            return None
        texts = row_texts(self._outbox, self._record, self._rows, [row.ref for row in found.slowest], _NAMED_BY)
        names = {ref: f"row {place}: {text}" if text else f"row {place}" for ref, (place, text) in texts.items()}
        return replace(found, slowest=[replace(row, name=names[row.ref]) for row in found.slowest])


def summarise(pages: Iterable[TimingsPage], *, created: int) -> Summary | None:
    """Summarise rows, in less than 100 bytes of memory a row; return None if there are none.

    Parameters
    ----------
    pages : iterable of TimingsPage
        The last attempts on rows that succeeded or failed.
    created : int
        When the batch was created, microseconds since 1970.
    """
    columns = [array("q") for _ in range(4)]
    for page in pages:
        for column, values in zip(columns, page, strict=True):
            column.extend(values)
    ref, failed, start, duration = (np.frombuffer(column, dtype=np.int64) for column in columns)
    if not len(ref):
        return None
    ended = start + np.maximum(duration, 0)
    longest = np.argsort(-duration, kind="stable")[:_SLOWEST]
    slowest = zip(*(values[longest].tolist() for values in (ref, failed, duration, ended)), strict=True)
    known = duration[duration >= 0]
    return Summary(
        rows=len(ref),
        started=min(created, int(start.min())),
        ended=int(ended.max()),
        throughput=Throughput.of(ended, failed),
        durations=Durations.of(known) if len(known) else None,
        slowest=[
            SlowRow(ref=ref, seconds=duration / _SECOND, failed=bool(failed), ended=ended)
            for ref, failed, duration, ended in slowest
            if duration >= 0
        ],
    )


_LOG = "https://console.cloud.google.com/logs/query;query="


class BatchView:
    """What is shown of a batch, by itself and in panels. Only `send_again` calls the service."""

    code = "batch"  #: as in `Report`
    before: str | None = None  #: which rows had succeeded before this input was given

    def __init__(self, tracker: Tracker, rows: Scope) -> None:
        self._tracker, self._outbox = tracker, tracker.outbox
        self._rows = rows  # those that are shown
        self._counted: tuple[float, Progress, Facts, Progress] | None = None  # when, of which progress of the batch
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
        return self._seen()[1]

    def status(self) -> Status:
        """Return how the batch is; never calls the service."""
        return aged(self._tracker.there().progress, self._tracker.connection.clock.now()).status

    def _seen(self) -> tuple[Facts, Progress]:
        """Return what is known of the rows, and how they are."""
        facts, whole, now = self._tracker.facts, self._tracker.progress, self._tracker.connection.clock.now()
        if self.part is None:
            return facts, aged(whole, now)
        changed = self.changed()
        if self._counted is None or self._counted[:2] != (changed, whole):
            self._counted = changed, whole, *part_of(self._outbox, facts, whole.status, self._rows)
        return self._counted[2], aged(self._counted[3], now)

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

    def wait(self, card: Card, seconds: float | None = None) -> Progress:
        """Wait until every row is final, as `Batch.wait`, and show the progress on a card."""
        return wait(self._tracker.there(), card, seconds, self._rows)

    def show_in_tab(self) -> Callable[[], None]:
        """Show the progress in the title of the browser's tab; return a function that ends that."""
        return show_in_tab(self._tracker)

    def send_again(self, query: RowQuery, refs: Sequence[int] | None) -> int:
        """Make a new try for the final rows that a query chooses, or for rows by their refs; return how many.

        Raises
        ------
        PreconditionError
            If this home did not render some of them.
        """
        tracker = self._tracker.there()
        tracker.connection.transport.check_open()
        chosen = list(self.reader.each(query)) if refs is None else refs
        whole, rows = tracker.record.whole, [(ref, None) for ref in chosen]
        check_rendered(self._outbox, whole, FINAL, rows)
        end_displays(tracker)
        opened = self._outbox.outcomes.new_try(whole, rows, FINAL)
        _loop.run(tracker.start(sending=True))
        return opened

    def periods(self, bands: Sequence[str]) -> Periods | None:
        """Return the partitions, in these bands; None if it is no backfill."""
        self._tracker.there()
        return self._periods.periods(bands) if self._periods else None

    def report(self, *, drawn: bool = False) -> Report:
        """Return the state of the batch; `drawn` is with the picture of its partitions."""
        tracker = self._tracker.there()
        record, (facts, progress) = tracker.record, self._seen()
        troubles = [line for line in tracker.blockers() if line != progress.reason]
        local = tracker.connection.endpoint.local
        calendar = self._periods.draw(fresh=progress.finished) if drawn and self._periods else None
        partitions, grid = calendar or (None, "")
        return Report(
            batch=record.id,
            name=record.name,
            queue=tracker.queue.queue,
            badge="LOCAL" if local else record.place.project,
            facts=facts,
            progress=progress,
            part=self.part,
            retry_note=tracker.outcomes.retry_note(self.now()),
            notes=[*filter(None, [self.before]), *troubles, *tracker.notes()],
            log_url=None if local else f"{_LOG}resource.type%3D%22cloud_tasks_queue%22%20%22{record.id}%22",
            partitions=partitions,
            grid=grid,
            code=self.code,
        )
