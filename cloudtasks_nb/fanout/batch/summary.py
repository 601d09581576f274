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
from cloudtasks_nb.fanout.batch.row_names import row_texts
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.outbox.rows import TimingsPage

__all__ = ["SlowRow", "Summary", "SummaryReader", "summarise"]

_SECOND = 1_000_000  # microseconds
_UNITS = {
    1_000: (1, 5, 10, 50, 100, 500),
    _SECOND: (1, 5, 15, 30),
    60 * _SECOND: (1, 5, 15, 30),
    3_600 * _SECOND: (1, 3, 6, 12),
    86_400 * _SECOND: (1, 7, 28, 364),
}
#: Spans of the throughput: each is a multiple of the one before, so that counts of short spans add up to longer ones.
_WIDTHS = tuple(number * unit for unit, numbers in _UNITS.items() for number in numbers)
_MOST_SPANS = 120
_FINE = 512  # bins for each doubling of a duration: 0.14 % wide
_FINE_BINS = 45 * _FINE  # up to a year
_SHORTEST = 100  # microseconds; shorter durations are shown as this
_MOST_BINS = 30  # of the histogram
_LOG_FROM = 10  # the longest duration is so many times the median: then the axis is logarithmic
_PER_DECADE = 10  # bins of a logarithmic axis
_SLOWEST = 5
_NAMED_BY = 3  # columns of the input that are in the name of a row
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
        found = summarise(self._outbox.rows.timings(self._record.id), created=self._created)
        if found is None:
            return None
        texts = row_texts(self._outbox, self._record, [row.ref for row in found.slowest], _NAMED_BY)
        names = {ref: f"row {place}: {text}" if text else f"row {place}" for ref, (place, text) in texts.items()}
        return replace(found, slowest=[replace(row, name=names[row.ref]) for row in found.slowest])


def summarise(pages: Iterable[TimingsPage], *, created: int) -> Summary | None:
    """Summarise rows page by page, in bounded memory; return None if there are none."""
    spans, fine = _Spans(), np.zeros(_FINE_BINS, dtype=np.int64)
    slowest: list[list[int]] = []
    rows, started = 0, created
    for page in pages:
        ref, failed, start, duration = np.array(page, dtype=np.int64)
        rows += len(ref)
        started = min(started, int(start.min()))
        ended = start + np.maximum(duration, 0)
        spans.add(ended, failed)
        fine += _fine_bins(duration[duration >= 0])
        longest = np.argsort(duration)[-_SLOWEST:]
        slowest += np.stack([duration, -ref, failed, ended])[:, longest].T.tolist()
        slowest = heapq.nlargest(_SLOWEST, slowest)
    if not rows:
        return None
    slow = [
        SlowRow(ref=-ref, seconds=duration / _SECOND, failed=bool(failed), ended=ended)
        for duration, ref, failed, ended in slowest
        if duration >= 0
    ]
    return Summary(
        rows=rows,
        started=started,
        ended=spans.last,
        throughput=spans.throughput(),
        durations=_histogram(fine, slow[0].seconds) if slow else None,
        slowest=slow,
    )


class _Spans:
    """Counts rows in spans of time, which grow so that there are at most `_MOST_SPANS`."""

    def __init__(self) -> None:
        self._widths = iter(_WIDTHS)
        self._width = next(self._widths)
        self._counts: Counter[int] = Counter()  # by the start of the span times two, plus one for rows that failed
        self._first = 1 << 62
        self.last = 0  #: when the last row was done

    def add(self, ended: _Ints, failed: _Ints) -> None:
        self._first, self.last = min(self._first, int(ended.min())), max(self.last, int(ended.max()))
        while self.last // self._width - self._first // self._width >= _MOST_SPANS:
            self._width = next(self._widths, 2 * self._width)
            wider: Counter[int] = Counter()
            for key, count in self._counts.items():
                wider[2 * (key // 2 // self._width * self._width) + key % 2] += count
            self._counts = wider
        keys, counts = np.unique(ended // self._width * self._width * 2 + failed, return_counts=True)
        self._counts.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    def throughput(self) -> Throughput:
        start = self._first // self._width * self._width
        keys = range(2 * start, 2 * self.last + 1, 2 * self._width)
        succeeded, failed = ([self._counts[key + one] for key in keys] for one in (0, 1))
        return Throughput(start=start, width=self._width, succeeded=succeeded, failed=failed)


def _fine_bins(durations: _Ints) -> _Ints:
    """Return how many durations are in each of many narrow bins, of which quantiles and a histogram are made."""
    fine = (np.log2(np.maximum(durations, _SHORTEST)) * _FINE).astype(np.int64)
    return np.bincount(np.minimum(fine, _FINE_BINS - 1), minlength=_FINE_BINS)


def _histogram(fine: _Ints, longest: float) -> Durations:
    used = np.flatnonzero(fine)
    counts = fine[used]
    seconds = 2 ** ((used + 0.5) / _FINE) / _SECOND
    p50, p95 = seconds[np.searchsorted(counts.cumsum(), counts.sum() * np.array([0.5, 0.95]))].tolist()
    edges, log = _edges(float(seconds[0]), float(seconds[-1]), p50)
    found = np.histogram(seconds, edges, weights=counts)[0].round().astype(int).tolist()
    return Durations(edges=edges, counts=found, log=log, p50=min(p50, longest), p95=min(p95, longest), longest=longest)


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
