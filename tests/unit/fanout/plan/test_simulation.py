"""The simulated run of a plan. That it agrees with the emulator is in `tests/unit/emulator/dispatch`."""

import datetime as dt
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.queue_model import QueueModel, Try, draw, run
from cloudtasks_nb.fanout.plan.simulation import Simulation, simulate
from tests.cases import cases

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LIMITS = {"rate": 500.0, "burst": 100, "max_concurrent": 1000}
RETRIES = {"max_attempts": 5, "max_retry_duration": 0, "min_backoff": 10, "max_backoff": 300, "max_doublings": 3}


def model(rows: int = 100, *, deadline: float = 600, spread: float = 0, **settings: Any) -> QueueModel:
    """Make a model of a queue with so many rows."""
    return QueueModel.of({**LIMITS, **RETRIES, **settings}, deadline=deadline, arrivals=np.linspace(0, spread, rows))


def simulated(rows: int = 100, duration: Any = 2, failures: float | None = 0, seed: int = 0, **more: Any) -> Simulation:
    """Simulate a queue with so many rows."""
    given: Any = {"queue": "reports", "start": NOON, "price": lambda attempts: attempts / 1000}
    return simulate(model(rows, **more), duration=duration, failures=failures, seed=seed, **given)


@cases((3, 300, [10, 20, 40, 80, 160, 240, 300, 300]), (0, 35, [10, 20, 30, 35]), (2000, 300, [10, 20, 40]))
def test_backoff(doublings: int, longest: int, waits: list[int]) -> None:
    """The wait doubles, then it grows by the last doubling, up to the longest."""
    queue = model(max_doublings=doublings, max_backoff=longest)
    assert [queue.wait(number) for number in range(1, len(waits) + 1)] == waits
    assert queue.wait(999) == longest


@cases(
    (5, 0, 5, 0, True),
    (5, 0, 4, 1e6, False),
    (-1, 60, 900, 59, False),
    (-1, 60, 1, 60, True),
    (5, 60, 9, 59, False),
    (5, 60, 4, 61, False),
    (-1, 0, 999, 1e9, False),
    (-1, 0, 1000, 0, True),
)
def test_giving_up(most: int, within: float, attempts: int, since: float, *, given_up: bool) -> None:
    """Both limits have to be reached; one that is not set does not count. Without any it ends after 1,000 attempts."""
    assert model(max_attempts=most, max_retry_duration=within).gives_up(attempts, since) is given_up


BATCH = SimpleNamespace(
    id="a91f03c2",
    tasks=lambda: pd.DataFrame(
        {
            "state": ["succeeded", "failed", "succeeded", "unsent"],
            "attempts": pd.array([1, 5, 2, None], dtype="Int64"),
            "duration": pd.to_timedelta([3, 3, None, 9], unit="s"),
        }
    ),
)
UNMEASURED = SimpleNamespace(id="a91f03c2", tasks=lambda: BATCH.tasks().tail(2))


@cases(
    ("2s", None, 2, 0.05),
    (pd.Timedelta("3s"), 0.5, 3, 0.5),
    ([1, 3], 0, 2, 0),
    (pd.Series(pd.to_timedelta(["1s", "3s"])), 0, 2, 0),
    ([dt.timedelta(seconds=4)], 1, 4, 1),
    (lambda rng, size: rng.exponential(2, size), 0, 2, 0),
    ("20min", 0, 600, 1),
    (BATCH, None, 3, 6 / 8),
    (BATCH, 0.1, 3, 0.1),
)
def test_durations_and_failures(duration: Any, failures: float | None, mean: float, share: float) -> None:
    """Each kind of duration is drawn from; longer than the deadline is a failure; a batch tells both."""
    draws = draw(duration, failures, 600, np.random.default_rng(0))
    assert (draws.mean, draws.share) == pytest.approx((mean, share), rel=0.03)


@cases(
    ("soon", 0, "duration='soon' is not a duration"),
    ([1, None], 0, "one that is missing or no duration"),
    (["1s"], 0, "one that is missing or no duration"),
    ([], 0, "too few values"),
    (lambda _rng, _size: [1.0, -1.0], 0, "no duration"),
    (lambda _rng, _size: [1.0, 2.0], 0, "too few values"),
    (lambda _rng, _size: np.ones((2, 200_000)), 0, "no duration"),
    (lambda _rng: 2, 0, "duration cannot be called: <lambda>() takes 1 positional argument"),
    (UNMEASURED, None, "of no row of batch a91f03c2"),
    ("2s", 5, "failures=5 is not a share"),
    ("2s", "5%", "failures='5%' is not a share"),
)
def test_wrong_arguments(duration: Any, failures: Any, words: str) -> None:
    """An argument that cannot be used is an error that names it."""
    with pytest.raises(InvalidInputError, match=re.escape(words)):
        simulated(duration=duration, failures=failures)


@cases("one", -1, 1.5)
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    """The error is ours, and not one of numpy."""
    with pytest.raises(InvalidInputError, match="is not a whole number from 0 on"):
        simulated(seed=seed)


@cases((8, 2), (1000, 2), (100, 0.1), (5000, 10))
def test_groups_of_rows(places: int, seconds: float) -> None:
    """Groups that run one after the other end at most 4 % later than rows, and have as many attempts."""
    queue = model(200_000, max_concurrent=places, min_backoff=1)
    draws = draw(seconds, 0.05, 600, np.random.default_rng(0))
    groups = queue.tries(draws)
    grouped, exact = run(queue, draws, groups, 0), run(queue, draws, [Try(0, 1)] * 200_000, 0)
    assert exact.seconds * 0.99 <= grouped.seconds <= exact.seconds * 1.04
    assert grouped.attempts == pytest.approx(exact.attempts, rel=0.005)


@cases((1_000_000, 5, 0.05), (1_000_000, 20, 0.3), (20_000, 1, 1.0))
def test_a_large_plan_has_few_events(rows: int, seconds: float, failures: float) -> None:
    """So a plan of any size is simulated in seconds."""
    queue = model(rows, max_attempts=-1)
    draws = draw(seconds, failures, 600, np.random.default_rng(0))
    assert len(queue.tries(draws)) * queue.attempts(draws) <= 200_000
    assert sum(one.rows for one in queue.tries(draws)) == rows


@cases(
    ("rate", "after about 1 min 03 s; rate=8 binds, 16 would end it after 32.6 s, and still bind", {"rate": 8}),
    (
        "max_concurrent",
        "after about 34 s; max_concurrent=30 binds, 60 would end it after 25 s, then the rate binds",
        {"max_concurrent": 30, "rate": 20, "burst": 40},
    ),
    (
        "rate",
        "after about 26.5 s; rate=20 and max_concurrent both bind, 40 alone would not end it sooner",
        {"max_concurrent": 40, "rate": 20},
    ),
    (
        "max_concurrent",
        "after about 2 s; max_concurrent=8 is just enough, 16 alone would not end it sooner",
        {"rows": 8, "max_concurrent": 8},
    ),
    (
        "rate",
        "after about 3 s; rate=500 binds, and no queue has more: several queues can share the rows",
        {},
    ),
    (
        "backoff",
        (
            "after about 22 s; the backoff binds, half of it (min_backoff=2.5, max_backoff=9) would end it after "
            "14.5 s, and still bind"
        ),
        {"failures": 1, "max_attempts": 3, "min_backoff": 5, "max_backoff": 18},
    ),
    (
        "rate",
        "about 2026-01-02 01:36 UTC; rate=0.01 binds, 0.02 would end it at 18:48, and still bind",
        {"rate": 0.01},
    ),
    (None, "about 14:00 UTC; no limit of the queue binds: due times and durations decide", {"spread": 7200}),
)
def test_the_sentence(limit: str | None, sentence: str, settings: dict[str, Any]) -> None:
    """It tells the end, the limit that binds, what twice of it would bring, and what binds then."""
    found = simulated(**{"rows": 500, "burst": 10, **settings})
    assert (found.limit, found.sentence) == (limit, f"ends {sentence}")


def test_a_seed_gives_the_same() -> None:
    """The same seed gives the same figures; several runs differ if attempts fail."""
    one, same, other = (simulated(failures=0.3, seed=seed) for seed in (1, 1, 2))
    assert (one.ends, one.attempts, one.sentence) == (same.ends, same.attempts, same.sentence)
    assert one.ends != other.ends
    assert one.ends["p10"] < one.ends["p90"]


def test_the_frame() -> None:
    """The frame counts every attempt and every row; what waits and runs is never more than there is."""
    found = simulated(500, failures=0.5, max_attempts=2, max_concurrent=10)
    frame = found.frame
    assert frame.index.name == "after"
    assert len(frame) <= 61
    assert frame.index[-2] <= found.ends["p50"] <= frame.index[-1]
    assert frame["succeeded"].sum() + frame["failed"].sum() == 500
    assert frame["started"].sum() == pytest.approx(found.attempts, rel=0.1)
    assert frame["running"].max() == 10
    assert frame["waiting"].iloc[-1] == 0
    assert frame["waiting"].max() < 500
    assert simulated(100_000, max_concurrent=10).frame["running"].max() == 10  # also where rows run in groups
    assert simulated(0).sentence == "there is nothing to send"
    assert simulated(0).frame.to_numpy().tolist() == [[0] * 5]


def test_the_price_is_of_all_attempts() -> None:
    """All attempts fail; the share may be a number of numpy."""
    every: Any = np.float32(1)
    found = simulated(failures=every, max_attempts=2)
    assert (found.attempts, found.failed, found.price) == (200, 100, 0.2)


def test_repr() -> None:
    """The text has the figures and the sentence; the HTML has them with a chart."""
    found = simulated(500, max_concurrent=10)
    shown = found._repr_mimebundle_()
    assert shown["text/plain"] == repr(found)
    assert found.sentence in shown["text/html"]
    assert "attempts over time: at most 5 a second of 500 that the queue allows" in shown["text/html"]
    assert "waiting, at most 490" in shown["text/html"]
    assert "<svg" in simulated(0)._repr_mimebundle_()["text/html"]
