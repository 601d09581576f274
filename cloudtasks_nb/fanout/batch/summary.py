"""Summarise the run of a batch: when rows were done, how long their last attempts took, and which were the slowest."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cloudtasks_nb.display.axis import round_step
from cloudtasks_nb.display.run_chart import Durations, Throughput
from cloudtasks_nb.fanout.batch.table import row_names
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.outbox.timings import TimingsPage

__all__ = ["SlowRow", "Summary", "SummaryReader", "summarise"]

_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000  # microseconds
#: Spans of the throughput: each is a multiple of the one before, so that counts of short spans add up to longer ones.
_WIDTHS = (
    *(number * 1_000 for number in (1, 5, 10, 50, 100, 500)),
    *(number * _SECOND for number in (1, 5, 15, 30)),
    *(number * _MINUTE for number in (1, 5, 15, 30)),
    *(number * _HOUR for number in (1, 3, 6, 12)),
    *(number * _DAY for number in (1, 7, 28, 364)),
)
_MOST_SPANS = 120
_FINE = 512  # bins for each doubling of a duration: 0.14 % wide
_FINE_BINS = 45 * _FINE  # up to a year
_SHORTEST = 100  # microseconds; shorter durations are shown as this
_MOST_BINS = 30  # of the histogram
_LOG_FROM = 10  # the longest duration is so many times the median: then the axis is logarithmic
_PER_DECADE = 10  # bins of a logarithmic axis
_SLOWEST = 5
_SHARE = 20  # a new summary is made at most after this many times the seconds that the last one took
_PAUSE = 1.0  # seconds between two summaries at least

_Ints = npt.NDArray[np.int64]


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
    """Summarises a batch anew when it has changed, and so rarely that this takes less than 5 % of a core."""

    def __init__(self, outbox: Outbox, record: BatchRecord) -> None:
        self._outbox = outbox
        self._batch = record.id
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
            version, began = self._outbox.batches.changed(self._batch), time.monotonic()
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
        found = summarise(self._outbox.timings.pages(self._batch), created=self._created)
        if found is None:
            return None
        names = row_names(self._outbox.rows, self._batch, [row.ref for row in found.slowest])
        return replace(found, slowest=[replace(row, name=names[row.ref]) for row in found.slowest])


def summarise(pages: Iterable[TimingsPage], *, created: int) -> Summary | None:
    """Summarise rows page by page, in bounded memory; return None if there are none."""
    times, durations = _TimeBins(), _DurationBins()
    slowest: list[list[int]] = []
    rows, started = 0, created
    for page in pages:
        ref, failed, start, duration = np.array(page, dtype=np.int64)
        rows += len(ref)
        started = min(started, int(start.min()))
        ended = start + np.maximum(duration, 0)
        times.add(ended, failed)
        durations.add(duration[duration >= 0])
        longest = np.argsort(duration)[-_SLOWEST:]
        slowest += np.stack([duration, -ref, failed, ended])[:, longest].T.tolist()
        slowest = heapq.nlargest(_SLOWEST, slowest)
    if not rows:
        return None
    return Summary(
        rows=rows,
        started=started,
        ended=times.last,
        throughput=times.throughput(),
        durations=durations.histogram(),
        slowest=[
            SlowRow(ref=-ref, seconds=duration / _SECOND, failed=bool(failed), ended=ended)
            for duration, ref, failed, ended in slowest
            if duration >= 0
        ],
    )


class _TimeBins:
    """Counts rows in spans of time, which grow so that there are at most `_MOST_SPANS`."""

    def __init__(self) -> None:
        self._widths = iter(_WIDTHS)
        self._width = next(self._widths)
        self._counts: Counter[int] = Counter()  # by the number of the span times two, plus one for rows that failed
        self._first: int | None = None
        self.last = 0  #: when the last row was done

    def add(self, ended: _Ints, failed: _Ints) -> None:
        low = int(ended.min())
        self._first = low if self._first is None else min(self._first, low)
        self.last = max(self.last, int(ended.max()))
        while self.last // self._width - self._first // self._width >= _MOST_SPANS:
            before, self._width = self._width, next(self._widths, 2 * self._width)
            wider: Counter[int] = Counter()
            for key, count in self._counts.items():
                wider[2 * (key // 2 * before // self._width) + key % 2] += count
            self._counts = wider
        keys, counts = np.unique(ended // self._width * 2 + failed, return_counts=True)
        self._counts.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    def throughput(self) -> Throughput:
        first, last = (self._first or 0) // self._width, self.last // self._width
        spans = range(2 * first, 2 * last + 1, 2)
        return Throughput(
            start=first * self._width,
            width=self._width,
            succeeded=[self._counts[key] for key in spans],
            failed=[self._counts[key + 1] for key in spans],
        )


class _DurationBins:
    """Counts durations in many narrow bins, of which quantiles and a histogram are made."""

    def __init__(self) -> None:
        self._counts = np.zeros(_FINE_BINS, dtype=np.int64)
        self._longest = 0

    def add(self, durations: _Ints) -> None:
        if len(durations):
            self._longest = max(self._longest, int(durations.max()))
            fine = (np.log2(np.maximum(durations, _SHORTEST)) * _FINE).astype(np.int64)
            self._counts += np.bincount(np.minimum(fine, _FINE_BINS - 1), minlength=_FINE_BINS)

    def histogram(self) -> Durations | None:
        if not self._counts.any():
            return None
        used = np.flatnonzero(self._counts)
        counts = self._counts[used]
        seconds = 2 ** ((used + 0.5) / _FINE) / _SECOND
        p50, p95 = seconds[np.searchsorted(counts.cumsum(), counts.sum() * np.array([0.5, 0.95]))].tolist()
        longest = self._longest / _SECOND
        edges, log = _edges(float(seconds[0]), float(seconds[-1]), p50)
        found = np.histogram(seconds, edges, weights=counts)[0]
        return Durations(
            edges=edges,
            counts=found.round().astype(int).tolist(),
            log=log,
            p50=min(p50, longest),
            p95=min(p95, longest),
            longest=longest,
        )


def _edges(shortest: float, longest: float, median: float) -> tuple[list[float], bool]:
    """Return round edges of bins from the shortest to the longest duration, and whether the axis is logarithmic."""
    log = longest > _LOG_FROM * median or median > _LOG_FROM * shortest
    if log:
        low, high = (math.log10(one) * _PER_DECADE for one in (shortest, longest))
        each = math.ceil((high - low) / (2 * _MOST_BINS))
        numbers = range(math.floor(low / each), math.floor(high / each) + 2)
        return [10 ** (number * each / _PER_DECADE) for number in numbers], True
    step = round_step(max(longest - shortest, longest / _MOST_BINS), _MOST_BINS)
    numbers = range(math.floor(shortest / step), math.floor(longest / step) + 2)
    return [number * step for number in numbers], False
