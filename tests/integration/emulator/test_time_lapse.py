"""The emulator's clock moves from dispatch to dispatch: no attempt of the time that passes is left out."""

from typing import Any

import pytest

from tests.integration.conftest import Emulator, Target

SECOND = 1_000_000
HOUR = 3600


@pytest.fixture(autouse=True)
def _empty(emulator: Emulator) -> None:
    """Begin without queues, and with the right time."""
    emulator.request("POST", "/admin/reset", {})


def run(emulator: Emulator, hours: float = 24, *, idle: bool = True) -> dict[str, Any]:
    """Move the clock until no task is due within some hours, or by these hours."""
    until = emulator.request("GET", "/admin/clock")["now_us"] + round(hours * HOUR * SECOND)
    return emulator.until(lambda: done(emulator, until, idle=idle))


def done(emulator: Emulator, until: int, *, idle: bool) -> dict[str, Any] | None:
    """Move the clock for a moment; return the answer if there is no more to do."""
    answer = emulator.request("POST", "/admin/clock/run", {"until_us": until, "idle": idle, "seconds": 0.2})
    return dict(answer) if answer["done"] else None


def test_a_rate_holds_while_the_clock_moves(emulator: Emulator, target: Target) -> None:
    """Of 15 tasks in a queue of one a second, 10 are the burst, and the clock is moved by a second for each other."""
    queue = emulator.make_queue(rate_limits={"max_dispatches_per_second": 1})
    for _ in range(15):
        emulator.enqueue(queue, target.url)
    answer = run(emulator)
    assert len(target.received) == 15
    assert 4 * SECOND <= answer["ahead_us"] <= 5 * SECOND


def test_the_clock_waits_for_attempts(emulator: Emulator, target: Target) -> None:
    """While an attempt runs, the clock is not moved to the next dispatch: its deadline would pass."""
    held = target.hold()
    target.script(held)
    queue = emulator.make_queue()
    emulator.enqueue(queue, target.url)
    target.wait(1)
    now = emulator.request("GET", "/admin/clock")["now_us"]
    emulator.enqueue(queue, target.url, schedule_time={"seconds": now // SECOND + HOUR})
    until = now + 2 * HOUR * SECOND
    assert done(emulator, until, idle=True) is None
    assert emulator.request("GET", "/admin/clock")["ahead_us"] == 0
    held.release()
    run(emulator)
    assert len(target.received) == 2
    emulator.drained(queue)


@pytest.mark.parametrize(("idle", "moved"), [("true", False), ("false", True)])
def test_idle_in_the_query(emulator: Emulator, idle: str, *, moved: bool) -> None:
    """A query holds texts: ``idle=false`` moves the clock although no task waits."""
    until = emulator.request("GET", "/admin/clock")["now_us"] + HOUR * SECOND
    answer = emulator.request("POST", f"/admin/clock/run?until_us={until}&seconds=1&idle={idle}")
    assert answer["done"]
    assert (answer["now_us"] >= until) == moved
