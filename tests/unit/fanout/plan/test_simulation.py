"""When a plan would end. That the emulator takes as long is in `tests/unit/emulator/dispatch`."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.simulation import Simulation, simulate
from tests.cases import cases

LIMITS = {"rate": 500.0, "burst": 10, "max_concurrent": 1000}
RETRIES = {"max_attempts": 5, "max_retry_duration": 0, "min_backoff": 10, "max_backoff": 300, "max_doublings": 3}


def simulated(
    rows: int = 500, *, duration: Any = 2, failures: Any = 0, spread: float = 0, deadline: float = 600, **settings: Any
) -> Simulation:
    """Simulate a queue with so many rows."""
    every, arrivals = {**LIMITS, **RETRIES, **settings}, np.linspace(0, spread, rows)
    return simulate(every, deadline=deadline, arrivals=arrivals, duration=duration, failures=failures)


@cases(
    # 490 rows after the burst at 8 a second, and the last attempt
    ({"rate": 8}, 490 / 8 + 2, "rate"),
    # 17 rounds of 30 rows
    ({"max_concurrent": 30, "rate": 20, "burst": 40}, 17 * 2, "max_concurrent"),
    ({"max_concurrent": 40, "rate": 20}, 490 / 20 + 2, "rate"),
    ({"rows": 8, "max_concurrent": 8}, 2, "max_concurrent"),
    ({"rows": 9, "max_concurrent": 8}, 4, "max_concurrent"),
    # each place runs 750 attempts: half of the rows are tried twice
    ({"failures": 0.5, "max_attempts": 2, "max_concurrent": 1, "min_backoff": 1}, 750 * 2, "max_concurrent"),
    # three attempts and two waits, of 5 and 10 s, after the last row was first tried
    ({"failures": 1, "max_attempts": 3, "min_backoff": 5, "max_backoff": 18}, 490 / 500 + 3 * 2 + 15, "backoff"),
    ({"spread": 7200}, 7200 + 2, "due times"),
    ({"rows": 1}, 2, "durations"),
    ({"duration": "1h", "deadline": 20, "max_attempts": 2, "rows": 1}, 2 * 20 + 10, "durations"),
    ({"rows": 0}, 0, "nothing to send"),
)
def test_the_end_and_what_binds(given: dict[str, Any], seconds: float, limit: str) -> None:
    """As by hand."""
    found = simulated(**given)
    assert found.duration.total_seconds() == pytest.approx(seconds, abs=0.001)
    assert found.limit == limit


@cases(
    ({"max_doublings": 3, "max_backoff": 300}, [10, 20, 40, 80, 160, 240, 300, 300]),
    ({"max_doublings": 0, "max_backoff": 35}, [10, 20, 30, 35, 35]),
    ({"max_doublings": 2000, "max_backoff": 300}, [10, 20, 40]),
)
def test_backoff(settings: dict[str, Any], waits: list[int]) -> None:
    """The wait doubles, then it grows by the last doubling, up to the longest."""
    found = simulated(1, duration=0, failures=1, max_attempts=len(waits) + 1, **settings)
    assert found.duration.total_seconds() == sum(waits)


@cases((5, 0, 5), (-1, 60, 60), (9, 60, 60), (60, 9, 60), (-1, 0, 1000))
def test_giving_up(most: int, within: float, attempts: int) -> None:
    """Both limits have to be reached; one that is not set does not count. Without any it ends after 1,000 attempts."""
    found = simulated(1, duration=1, failures=1, max_attempts=most, max_retry_duration=within, min_backoff=0)
    assert found.duration.total_seconds() == attempts


@cases(
    ({"duration": "soon"}, "duration='soon' is not a duration"),
    ({"duration": [1, 2]}, "is not a duration"),
    *(({"failures": wrong}, f"failures={wrong!r} is not a share") for wrong in (5, -0.1, "5%", True, None)),
)
def test_wrong_arguments(given: dict[str, Any], words: str) -> None:
    """An argument that cannot be used is an error that names it."""
    with pytest.raises(InvalidInputError, match=re.escape(words)):
        simulated(**given)


def test_repr() -> None:
    """One line; any duration and any number will do."""
    found = simulated(duration=pd.Timedelta("2s"), failures=np.float32(0), max_concurrent=10)
    assert repr(found) == "ends after about 1 min 40 s (limit: max_concurrent)"
