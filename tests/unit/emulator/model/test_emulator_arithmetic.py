"""The clock, backoff, tokens and due times: arithmetic without anything around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.emulator.dispatch.dispatch import TokenBucket
from cloudtasks_nb.emulator.model.clock import DAY, SECOND, Clock
from cloudtasks_nb.emulator.store.state import DueTimes
from tests.cases import cases
from tests.unit.emulator.conftest import NOW


def test_clock_advances_and_tells() -> None:
    """An advance moves the clock and calls every listener, the latest first."""
    clock, calls = Clock(source=lambda: 0), []
    clock.subscribe(lambda by: calls.append(("first", by, clock.now())))
    clock.subscribe(lambda by: calls.append(("second", by, clock.now())))
    clock.advance(5)
    assert calls == [("second", 5, 5), ("first", 5, 5)]


def test_clock_goes_on_when_it_is_set_back() -> None:
    """When the system's clock is set back, the emulator's time does not run backwards."""
    readings = iter([10_000_000, 4_000_000, 4_001_000])
    clock = Clock(source=lambda: next(readings))
    assert [clock.now() for _ in range(3)] == [10_000, 10_000, 10_001]


def test_a_clock_that_was_set_back_is_not_advanced() -> None:
    """How far the clock was moved does not count by how much the system's clock was set back."""
    readings = iter([10_000_000, 4_000_000, 5_000_000, 6_000_000])
    clock = Clock(source=lambda: next(readings), advanced=7)
    assert (clock.now(), clock.now(), clock.advanced) == (10_007, 10_007, 7)
    clock.advance(5)
    assert (clock.now(), clock.advanced) == (12_012, 12)
    clock.reset()
    assert clock.advanced == 0


def test_clock_refuses_to_go_back() -> None:
    """The clock cannot be moved into the past."""
    with pytest.raises(ValueError, match="forward"):
        Clock().advance(-1)


def new_bucket(rate: float, burst: int) -> TokenBucket:
    """Make a token bucket."""
    bucket = TokenBucket()
    bucket.configure(rate, burst, NOW)
    return bucket


@cases(
    (4, 2, [(0, 0), (0, 0), (0, SECOND // 4), (SECOND // 4 - 1, 1), (SECOND // 4, 0)]),  # full, then at the rate
    (100, 3, [(DAY, 0), (DAY, 0), (DAY, 0), (DAY, SECOND // 100)]),  # an idle day does not save up tokens
    (4, 1, [(-DAY, 0), (-DAY, SECOND // 4), (SECOND // 4 - DAY, 0)]),  # the clock was reset
    (0.1, 0, [(0, 0), (0, 10 * SECOND), (10 * SECOND, 0)]),  # a tenth of a dispatch a second is one in ten seconds
)
def test_a_bucket_says_how_long_to_wait(rate: float, burst: int, steps: list[tuple[int, int]]) -> None:
    """At each instant there is a token, or the time to wait for it is known."""
    bucket = new_bucket(rate, burst)
    for at, wait in steps:
        assert bucket.wait(NOW + at) == wait
        if not wait:
            bucket.take()


def test_bucket_takes_back_and_is_configured() -> None:
    """A token that was not used is there again, and a smaller burst drops what does not fit."""
    bucket = new_bucket(1, 1)
    bucket.take()
    bucket.give_back()
    assert bucket.wait(NOW) == 0
    bucket.configure(rate=1, burst=50, now=NOW)
    bucket.take()
    assert bucket.wait(NOW) == SECOND


@given(st.floats(0.01, 500), st.integers(1, 500), st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=60))
def test_bucket_keeps_the_rate(rate: float, burst: int, pauses: list[int]) -> None:
    """However dispatches are spread, no more are let through than the burst and the rate allow."""
    bucket, now, taken = new_bucket(rate, burst), NOW, 0
    for pause in pauses:
        now += pause
        if not bucket.wait(now):
            bucket.take()
            taken += 1
    assert taken <= burst + (now - NOW) * rate / SECOND + 1e-6


def test_due_tasks_come_in_the_order_of_their_times() -> None:
    """What is due comes first, what was put back before all else, then what becomes due, in that order."""
    due, order = DueTimes(), []
    for number, at in ((1, NOW + 30), (2, NOW), (3, NOW + 10), (4, NOW - 5)):
        due.add([number], [at], NOW)
    due.put_back(7)
    for now in (NOW, NOW, NOW, NOW, NOW + 30):
        order.append(due.first(now))
        due.drop_first()
    assert order == [(7, NOW), (2, NOW), (4, NOW), (3, NOW + 10), (1, NOW + 30)]
    assert due.first(NOW) is None
