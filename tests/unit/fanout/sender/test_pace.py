"""How fast to send: concurrency that adapts, pauses with jitter, the ramp of a cold queue."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.sender.pace import Concurrency, Meter, ramp
from tests.cases import cases


@cases(
    (2, "+++", 5),
    (2, 20 * "+", 16),
    (16, "-", 8),
    (16, "-" + 8 * "+", 8),
    (16, "-" + 9 * "+", 9),
    (16, "--", 4),
    (16, 16 * "=", 8),
)
def test_how_many_calls_are_in_flight(start: int, answers: str, limit: int) -> None:
    """Each answer makes room for a call more; a failure halves it, then it grows by one for each full round of answers.

    Calls that fail together, here ``=``, halve it once.
    """
    pace = Concurrency(16, start=start)
    first = pace.epoch
    for answer in answers:
        if answer == "+":
            pace.succeeded()
        else:
            pace.failed(first if answer == "=" else pace.epoch)
    assert pace.limit == limit


def test_a_lower_limit_holds_at_once() -> None:
    """Places that were free before the limit was halved are no longer there."""

    async def run() -> None:
        pace = Concurrency(4, start=4)
        async with pace as epoch:
            pace.failed(epoch)
            async with pace:
                third = asyncio.ensure_future(pace.__aenter__())
                await asyncio.sleep(0)
                assert not third.done()
            await third

    asyncio.run(run())


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 64))
def test_the_limit_stays_within_its_bounds(answers: list[bool], ceiling: int) -> None:
    """Whatever happens, at least one call is made and never more than the ceiling."""
    pace = Concurrency(ceiling)
    for fine in answers:
        if fine:
            pace.succeeded()
        else:
            pace.failed(pace.epoch)
        assert 1 <= pace.limit <= ceiling


@cases((-5, 500), (0, 500), (299, 500), (300, 750), (599, 750), (600, 1125), (5400, pytest.approx(738_946, rel=0.001)))
def test_the_ramp_is_500_and_half_as_much_again_every_five_minutes(elapsed: float, rate: float) -> None:
    """The service's own rule for queues that were idle: 90 minutes reach about 740,000 a second."""
    assert ramp(elapsed) == rate


def test_a_meter_saves_nothing_up() -> None:
    """After a long silence it goes on at the same rate, not with a burst."""
    meter = Meter(lambda _: 100.0, 0.0)
    meter.spend(100, 1_000.0)
    assert meter.wait(1_000.0) == pytest.approx(1.0)


def test_a_meter_on_the_ramp_lets_150_000_rows_through_in_five_minutes() -> None:
    """What leaves in the first five minutes, and in the next five, is what the ramp says."""
    meter, now, sent = Meter(ramp, 0.0), 0.0, [0, 0]
    while now < 600:
        meter.spend(100, now)
        sent[int(now // 300)] += 100
        now += meter.wait(now)
    assert sent[0] == pytest.approx(150_000, rel=0.01)
    assert sent[1] == pytest.approx(225_000, rel=0.01)
