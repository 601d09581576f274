"""A budget of calls keeps within its quota, and serves its callers in turn."""

from bisect import bisect_right

import pytest

from cloudtasks_nb.service.quota import CallBudget


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def by(clock: Clock, per_minute: int, burst: int) -> CallBudget:
    """Make a budget by a clock."""
    made = CallBudget(per_minute, burst)
    made.clock = clock
    return made


@pytest.mark.parametrize(("per_minute", "burst"), [(60, 5), (60, 10), (6, 1)])
def test_no_minute_has_more_calls_than_allowed(per_minute: int, burst: int) -> None:
    """A caller that asks all the time gets a few at once, then one after the other, never more than the quota."""
    clock = Clock()
    budget, taken = by(clock, per_minute, burst), []
    for _ in range(3000):
        if budget.take():
            taken.append(clock())
        clock.now += 0.1
    assert taken[:burst] == [1000.0] + [pytest.approx(1000 + 0.1 * n) for n in range(1, burst)]
    assert max(bisect_right(taken, at + 59.99) - n for n, at in enumerate(taken)) <= per_minute
    assert len(taken) >= 5 * (per_minute - burst)


def test_the_longest_wait_is_served_first() -> None:
    """A caller that asks more often does not get more; one that leaves does not hold up the others."""
    clock = Clock()
    budget = by(clock, 60, 1)
    turns = {"quick slow quick gone": "quick", "quick gone slow quick": "slow", "slow gone quick": "quick"}
    for callers, served in turns.items():
        assert [caller for caller in callers.split() if budget.take(caller)] == [served]
        clock.now += 1.1
    budget.leave("gone")
    assert budget.take("slow")


def test_a_rest_fills_the_budget_again() -> None:
    """After a quiet minute a burst is allowed again, and no more than that."""
    clock = Clock()
    budget = by(clock, 65, 5)
    for _ in range(3):
        assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
        clock.now += 60
