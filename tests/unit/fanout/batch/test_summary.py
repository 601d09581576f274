"""The summary of a run: throughput, durations, slowest rows, and when it is made anew."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.batch import view as module
from cloudtasks_nb.fanout.batch.view import SummaryReader, summarise
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import refs, send_all, tell

#: Ref, whether the row failed, start of its last attempt, and its duration; in microseconds.
Timing = tuple[int, int, int, int]

SECOND = 1_000_000
NOON = 1_767_355_200 * SECOND  # 2026-01-02 12:00 UTC

rows = st.tuples(st.integers(0, 1 << 40), st.integers(0, 1), st.integers(NOON, NOON + 10**14), st.integers(-1, 10**10))


def summary(pages: Sequence[Sequence[Timing]]) -> module.Summary:
    """Summarise rows, of which there is at least one."""
    found = summarise((list(zip(*page, strict=True)) for page in pages), created=NOON)
    assert found is not None
    return found


def took(seconds: Sequence[float]) -> list[Timing]:
    """Return rows that all began at noon and took so long."""
    return [(ref, 0, NOON, round(one * SECOND)) for ref, one in enumerate(seconds)]


@given(st.lists(rows, min_size=1, unique_by=lambda row: row[0]), st.integers(1, 20))
def test_every_row_is_in_one_span(found: list[Timing], size: int) -> None:
    """However the rows are paged, each is counted once, in at most 120 spans that begin and end with a row."""
    paged = summary([found[start : start + size] for start in range(0, len(found), size)])
    whole = summary([found])
    assert (paged.throughput, paged.durations) == (whole.throughput, whole.durations)
    run = whole.throughput
    assert sum(run.failed) == sum(row[1] for row in found)
    assert sum(run.succeeded) + sum(run.failed) == len(found)
    assert len(run.succeeded) == len(run.failed) <= 120
    assert run.succeeded[0] + run.failed[0] > 0 < run.succeeded[-1] + run.failed[-1]


def test_the_spans_are_parts_of_minutes_hours_and_days() -> None:
    """However long a run is, its spans begin and end on round times."""
    lengths = [round(10 ** (places / 10)) for places in range(40, 175)]  # microseconds
    runs = [summary([[(0, 0, NOON, 0), (1, 0, NOON + length, 0)]]).throughput for length in lengths]
    widths = {run.width for run in runs}
    units = [one * SECOND for one in (1, 60, 3_600, 86_400)]
    assert {*units} < widths
    assert max(len(run.succeeded) for run in runs) <= 120
    assert all(next(unit for unit in units if width <= unit) % width == 0 for width in widths if width <= units[-1])


@given(st.lists(st.floats(0.001, 10_000), min_size=1))
def test_quantiles_are_those_of_the_durations(seconds: list[float]) -> None:
    """p50 and p95 are durations that there are, and the histogram has every row."""
    found: Any = summary([took(seconds)]).durations
    exact = np.quantile(seconds, [0.5, 0.95], method="inverted_cdf")
    assert [found.p50, found.p95] == pytest.approx(exact, abs=1e-6)
    assert sum(found.counts) == len(seconds)
    assert found.edges[0] <= min(seconds) * 1.001
    assert found.edges[-1] >= max(seconds) * 0.999
    assert len(found.counts) <= 65


@cases(([0.05, 0.06, 0.07], False), ([0.05, 0.06, 90], True), ([0.001, 0.5, 0.6], True), ([2], False))
def test_the_axis_fits_the_data(seconds: list[float], *, log: bool) -> None:
    """Durations of several magnitudes have a logarithmic axis."""
    found: Any = summary([took(seconds)]).durations
    assert found.log is log


def test_the_slowest_rows_come_first() -> None:
    """The five with the longest attempts; one without a known duration is none of them."""
    found = summary([took([3, 9, 1, 8]), [(10, 1, NOON, 7 * SECOND), (11, 0, NOON, -1), (12, 0, NOON, 2 * SECOND)]])
    slowest = [(row.ref, row.seconds, row.failed) for row in found.slowest]
    assert slowest == [(1, 9, False), (3, 8, False), (10, 7, True), (0, 3, False), (12, 2, False)]
    assert found.slowest[0].ended == NOON + 9 * SECOND
    assert summary([[(11, 0, NOON, -1)]]).durations is None


def test_a_run_begins_with_its_batch() -> None:
    """It started when the batch was created, or when a row was tried before that: it was sent from elsewhere."""
    assert summary([[(1, 0, NOON + SECOND, 0)]]).started == NOON
    assert summary([[(1, 0, NOON - SECOND, 0)]]).started == NOON - SECOND
    assert summarise([], created=NOON) is None


def record(outbox: Outbox, batch: str, *numbers: int) -> None:
    """Record that rows succeeded, at noon and after so many seconds."""
    for n in numbers:
        tell(outbox, batch, refs(outbox, batch)[n], state=State.SUCCEEDED, last_attempt_time=NOON, duration=n * SECOND)


def test_a_summary_is_kept_while_nothing_changes(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read once for each change, and not more often than its time allows."""
    send_all(outbox, batch)
    reader = SummaryReader(outbox, outbox.batches.get(batch), whole(batch))
    monkeypatch.setattr(module, "row_texts", lambda *given: dict.fromkeys(given[3], (7, "x=1")))
    monkeypatch.setattr(module, "_SHARE", 0)
    assert reader.read() == (None, 0)
    record(outbox, batch, 1)
    first, _ = reader.read()
    assert first is not None
    assert (first.rows, first.started, first.slowest[0].name) == (1, NOON, "row 7: x=1")
    assert reader.read() == (first, 0)
    record(outbox, batch, 2, 3)
    monkeypatch.setattr(reader, "_fresh_until", math.inf)
    assert reader.read() == (first, math.inf)
    monkeypatch.setattr(reader, "_fresh_until", 0)
    second, _ = reader.read()
    assert second is not None
    assert [row.seconds for row in second.slowest] == [3, 2, 1]


def test_rows_without_an_end_are_left_out(outbox: Outbox, batch: str) -> None:
    """A row that is tried again is not done, and of a row that is gone no end is known."""
    send_all(outbox, batch)
    ids = refs(outbox, batch)
    tell(outbox, batch, ids[0], attempts=2, last_status=13, last_attempt_time=NOON, duration=SECOND)
    tell(outbox, batch, ids[1], state=State.GONE)
    tell(outbox, batch, ids[2], state=State.FAILED, last_attempt_time=NOON, duration=SECOND)
    tell(outbox, batch, ids[3], state=State.SUCCEEDED, last_attempt_time=NOON)
    pages = [row for page in outbox.rows.timings(whole(batch)) for row in zip(*page, strict=True)]
    assert pages == [(ids[2], 1, NOON, SECOND), (ids[3], 0, NOON, -1)]
