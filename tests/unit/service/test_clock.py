"""The time of the service is learnt from the dates of its answers, as far as these can tell it."""

import time
from collections.abc import Iterator
from email.utils import formatdate
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.service import clock as module
from cloudtasks_nb.service.clock import ServiceClock, bounds

SECOND = 1_000_000
START = 1_800_000_000 * SECOND  #: the time of the service
TARGETS = count()


class World:
    """A service whose clock is right, and this machine, whose clock is not."""

    def __init__(self, off: float) -> None:
        target = f"service:{next(TARGETS)}"
        self.clock = ServiceClock(lambda: target)
        self.passed = 0
        self.set(off)

    def set(self, off: float) -> None:
        """Set the clock of this machine so that it is ahead by some seconds."""
        self.off = round(off * SECOND)

    def answer(self, there: float = 0.05, back: float = 0.05, **metadata: str) -> None:
        """Make a call that takes some seconds to the service and back."""
        self.passed += round(there * SECOND)
        date = formatdate((START + self.passed) // SECOND, usegmt=True)
        self.passed += round(back * SECOND)
        self.clock.learn({"date": date, **metadata}, there + back)

    def wrong_by(self) -> float:
        """Return by how many seconds what the clock says is ahead of the time of the service."""
        return (self.clock.micros() - START - self.passed) / SECOND


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Make a machine whose clock is ten minutes ahead."""
    made = World(600)
    monkeypatch.setattr(module, "now_micros", lambda: START + made.passed + made.off)
    monkeypatch.setattr(time, "monotonic_ns", lambda: made.passed * 1000)
    yield made
    module._known.clear()


def known(world: World) -> bool:
    """Return whether the time is known, which changes."""
    return world.clock.is_known


@pytest.mark.parametrize("off", [600, -600, 172_800, -40 * 86_400, 40 * 86_400, -1_700_000_000])
def test_one_answer_tells_the_time(world: World, off: float) -> None:
    """However wrong the clock of this machine is, the time is right to a second and the way there and back."""
    world.set(off)
    assert known(world) is False
    world.answer()
    assert known(world) is True
    assert abs(world.wrong_by()) <= 1.1


def test_more_answers_tell_it_better(world: World) -> None:
    """Dates have whole seconds, but answers come at all times of a second: the error becomes that of the way."""
    errors = []
    for _ in range(40):
        world.passed += 137_000
        world.answer()
        errors.append(abs(world.wrong_by()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 0.2


def test_right_clocks_are_left_alone(world: World) -> None:
    """Nothing is taken over that the date of an answer does not tell: the difference stays exactly 0."""
    world.set(0)
    for number in range(100):
        world.passed += 91_000
        world.answer(there=0.001, back=0.01 * (number % 7))
        assert world.clock.ahead == 0
    assert world.clock.warning is None


def test_a_clock_that_is_set(world: World) -> None:
    """After this machine's clock was set, the time is not known until the service has answered again."""
    world.answer()
    world.set(0)
    assert known(world) is False
    world.answer()
    assert known(world) is True
    assert (world.wrong_by(), world.clock.warning) == (0, None)


def test_a_clock_that_is_set_during_a_call(world: World) -> None:
    """The duration of a call is not measured with the clock that is set."""
    world.answer()
    date = formatdate((START + world.passed) // SECOND, usegmt=True)
    world.set(-3600)
    world.clock.learn({"date": date}, 0.1)
    assert abs(world.wrong_by()) <= 1.1


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Nov 2026 10:00:00 GMT", "0"])
def test_without_a_date(world: World, date: str | None) -> None:
    """A service that does not say the time counts as having this machine's clock, or the one that is known."""
    world.clock.learn({} if date is None else {"date": date}, 0.1)
    assert (world.clock.ahead, world.clock.is_known) == (0, True)
    world.answer()
    before = world.clock.ahead
    world.clock.learn({} if date is None else {"date": date}, 0.1)
    assert world.clock.ahead == before


def test_a_clock_that_was_moved(world: World) -> None:
    """An emulator says how far its clock was moved, which is exact; it may be wrong besides."""
    world.set(0)
    world.answer()
    date = formatdate((START + world.passed) // SECOND + 7200, usegmt=True)
    world.clock.learn({"date": date, "x-cloudtasks-clock-ahead": str(7200 * SECOND)}, 0.1)
    known = world.clock.known
    assert (world.clock.ahead, known.advanced, known.skew) == (7200 * SECOND, 7200 * SECOND, 0)
    assert world.clock.warning is None
    world.answer()
    assert world.clock.ahead == 0


def test_an_answer_that_was_overtaken(world: World) -> None:
    """It says how far the clock had been moved before; only the answer to a call that is sent later may say less."""
    world.set(0)
    world.answer()
    world.passed += 2 * SECOND
    world.clock.move(7200 * SECOND)
    late = {"date": formatdate((START + world.passed) // SECOND, usegmt=True)}
    world.clock.learn(late, 1.0)
    assert world.clock.ahead == 7200 * SECOND
    world.passed += 2 * SECOND
    world.answer()
    assert world.clock.ahead == 0


def test_connections_to_one_service_share_it(world: World) -> None:
    """What one connection of this process has heard, all know."""
    world.answer()
    other, foreign = ServiceClock(world.clock._target), ServiceClock(lambda: "elsewhere:1")
    assert (other.ahead, foreign.ahead) == (world.clock.ahead, 0)


WARNINGS = [
    (59, None),
    (-59, None),
    (363, "this machine's clock is 6 min ahead of the service's"),
    (-363, "this machine's clock is 6 min behind the service's"),
    (40 * 86_400, "this machine's clock is 40 d ahead of the service's"),
]


@pytest.mark.parametrize(("off", "warning"), WARNINGS)
def test_the_warning(world: World, off: float, warning: str | None) -> None:
    """If the clocks differ by more than a minute, one sentence says so."""
    world.set(off)
    world.answer()
    assert world.clock.warning == warning


@given(
    ahead=st.integers(-(10**15), 10**15),
    sent=st.integers(0, 10**16),
    there=st.integers(0, 10**9),
    back=st.integers(0, 10**9),
)
def test_the_truth_is_within_the_bounds(ahead: int, sent: int, there: int, back: int) -> None:
    """Whatever the clocks and the ways are, the true difference is not excluded."""
    date = (sent + there + ahead) // SECOND * SECOND
    least, most = bounds(date, sent + there + back, there + back)
    assert least <= ahead <= most
    assert most - least == SECOND + there + back
