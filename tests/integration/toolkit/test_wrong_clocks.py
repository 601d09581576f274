"""A kernel whose clock is wrong: delays, states and bounds are by the time of the service, and `doctor()` says so."""

from collections.abc import Iterator

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import InvalidInputError
from tests.integration.conftest import LOCATION, Emulator, Move, Target

BOTH_TRANSPORTS = True
MINUTES = {"ahead": 600.0, "behind": -600.0, "far ahead": 40 * 86_400.0, "far behind": -40 * 86_400.0}
SECOND = pd.Timedelta("1s")
HOUR = pd.Timedelta("1h")
SLACK = 30 * SECOND  # a date has whole seconds, and a call takes some time


@pytest.fixture(params=list(MINUTES.values()), ids=list(MINUTES))
def off(request: pytest.FixtureRequest, move: Move, queue: ct.Queue, target: Target, emulator: Emulator) -> float:
    """Set the clock of this process by some seconds; the queue has had a task, and is paused."""
    emulator.gone(emulator.enqueue(f"{LOCATION}/queues/{queue.id}", target.url).name)
    queue.pause()
    move(request.param)
    return float(request.param)


@pytest.fixture
def wrong(off: float, emulator: Emulator, transport: str) -> Iterator[ct.Client]:
    """Connect as a new kernel does, which has not heard of the service."""
    address = emulator.ready["grpc"] if transport == "grpc" else emulator.ready["http"]
    with ct.connect("demo", "us-central1", endpoint=address, transport=transport) as tasks:
        yield tasks


def service_time(emulator: Emulator) -> pd.Timestamp:
    """Return the time of the emulator."""
    return pd.Timestamp(emulator.request("GET", "/admin/clock")["now_us"], unit="us", tz="UTC")


def test_a_delay(wrong: ct.Client, queue: ct.Queue, emulator: Emulator) -> None:
    """A task with a delay of an hour is due in an hour by the service, whether it is made alone or with others."""
    reports = wrong.queue(queue.id)
    began = service_time(emulator)
    reports.schedule("http://127.0.0.1:9/never", delay="1h")
    reports.fan_out(pd.DataFrame({"a": [1]}), url="http://127.0.0.1:9/never", delay="1h", progress=False)
    emulator.until(lambda: len(reports.tasks()) == 2)
    for due in reports.tasks()["schedule_time"]:
        assert began + HOUR - SLACK <= due <= service_time(emulator) + HOUR + SLACK


def test_a_time(wrong: ct.Client, queue: ct.Queue, emulator: Emulator) -> None:
    """What is 29 days ahead by the service can be scheduled, 31 days cannot."""
    days = pd.Timedelta("1D")
    reports, now = wrong.queue(queue.id), service_time(emulator)
    reports.schedule("http://127.0.0.1:9/never", at=now + 29 * days)
    with pytest.raises(InvalidInputError, match="more than 30 days ahead"):
        reports.schedule("http://127.0.0.1:9/never", at=now + 31 * days)


def test_the_attempts_of_the_last_minutes(wrong: ct.Client, queue: ct.Queue) -> None:
    """A duration goes back from the time of the service, also in the first call of a kernel."""
    assert wrong.queue(queue.id).attempts(since="2min")["status"].tolist() == ["OK"]


def test_a_batch(wrong: ct.Client, queue: ct.Queue, target: Target) -> None:
    """What became of its rows is known, and it was created when the service says it was."""
    reports = wrong.queue(queue.id)
    batch = reports.resume().fan_out(pd.DataFrame({"a": range(30)}), url=target.url, progress=False)
    assert batch.wait("240s").succeeded == 30
    created = wrong.batches()["created"].iloc[0]
    assert abs(created - wrong.clock.now) < pd.Timedelta("1min")
    assert len(batch.attempts()) == 30


def test_doctor(wrong: ct.Client, off: float) -> None:
    """The two clocks differ by more than a minute: one sentence says so, and how to mend it."""
    size = "10 min" if abs(off) == 600 else "40 d"
    way = "ahead of" if off > 0 else "behind"
    found = wrong.doctor()
    assert found.detail["clock"] == f"this machine's clock is {size} {way} the service's"
    assert not found.ok["clock"]
    assert "timedatectl" in found.fix["clock"]


def test_a_clock_that_is_set_right(wrong: ct.Client, queue: ct.Queue, emulator: Emulator, move: Move) -> None:
    """The time of the service is asked anew, so that the next delay is right as well."""
    reports = wrong.queue(queue.id)
    reports.schedule("http://127.0.0.1:9/never", delay="1h")
    move(0)
    due = reports.schedule("http://127.0.0.1:9/never", delay="3s")["schedule_time"].iloc[0]
    assert due <= service_time(emulator) + 3 * SECOND
    assert wrong.doctor().detail["clock"] == "0 s off"
