"""Summarise the run of a batch: when rows were tried, how long their last attempts took, and which were the slowest."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cloudtasks_nb.display.axis import round_step, time_step
from cloudtasks_nb.display.run_chart import Durations, Throughput
from cloudtasks_nb.fanout.batch.row_names import row_texts
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope
from cloudtasks_nb.fanout.outbox.rows import TimingsPage

__all__ = ["SlowRow", "Summary", "SummaryReader", "summarise"]

_SECOND = 1_000_000  # microseconds
_MOST_SPANS = 120
_SHORTEST_SPAN = _SECOND  # or a burst of a few tasks would look like thousands a second
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
    known = np.maximum(duration[duration >= 0], _SHORTEST) / _SECOND
    return Summary(
        rows=len(ref),
        started=min(created, int(start.min())),
        ended=int(ended.max()),
        throughput=_throughput(ended, failed),
        durations=_histogram(known) if len(known) else None,
        slowest=[
            SlowRow(ref=ref, seconds=duration / _SECOND, failed=bool(failed), ended=ended)
            for ref, failed, duration, ended in slowest
            if duration >= 0
        ],
    )


def _throughput(ended: _Ints, failed: _Ints) -> Throughput:
    """Count last attempts in at most `_MOST_SPANS` spans of a round length."""
    first, last = int(ended.min()), int(ended.max())
    least = max(_SHORTEST_SPAN, (last - first) / (_MOST_SPANS - 1))
    width = time_step(least)
    width *= math.ceil(least / width)  # of more than 119 years: clocks of handlers may be wrong
    spans = ended // width - first // width
    counts = np.bincount(2 * spans + failed, minlength=2 * int(spans.max()) + 2)
    start = first // width * width
    succeeded, broken = counts[::2].tolist(), counts[1::2].tolist()
    return Throughput(start=start, width=width, succeeded=succeeded, failed=broken)


def _histogram(seconds: npt.NDArray[np.float64]) -> Durations:
    p50, p95 = np.quantile(seconds, [0.5, 0.95], method="inverted_cdf").tolist()
    shortest, longest = float(seconds.min()), float(seconds.max())
    edges, log = _edges(shortest, longest, p50)
    counts = np.histogram(np.clip(seconds, edges[0], edges[-1]), edges)[0].tolist()
    return Durations(edges=edges, counts=counts, log=log, p50=p50, p95=p95, longest=longest)


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
