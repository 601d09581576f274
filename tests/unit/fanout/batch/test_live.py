"""A batch on the screen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import STATES
from cloudtasks_nb.errors import ServiceError
from cloudtasks_nb.fanout.batch import live as live_module
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.report import Report


class FakeTracker:
    """A batch of ten rows, moved on by the test."""

    batch = "a91f03c2"
    watching = False

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []
        self.progress = self.at(0)
        self.end: asyncio.Future[Progress] = _loop.run(self._future())

    def at(self, done: int) -> Progress:
        """Return the progress with so many rows succeeded."""
        counts: dict[str, Any] = dict.fromkeys(STATES, 0)
        return Progress(total=10, **{**counts, "succeeded": done, "ready": 10 - done})

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Hold a listener, as trackers do."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def move(self, done: int) -> None:
        """Let rows succeed, and notify the listeners."""
        self.progress = self.at(done)
        for listener in tuple(self._listeners):
            _loop.call_soon(listener)

    def finish(self, result: Progress | Exception) -> None:
        """End what `finished` waits for."""
        setter = self.end.set_exception if isinstance(result, Exception) else self.end.set_result
        _loop.call_soon(setter, result)

    async def finished(self) -> Progress:
        """Wait for the end."""
        return await asyncio.shield(self.end)

    @staticmethod
    async def _future() -> asyncio.Future[Progress]:
        return asyncio.get_running_loop().create_future()

    def report(self) -> Report:
        """Return what to show now."""
        facts: dict[str, Any] = {
            "batch": self.batch,
            "name": None,
            "queue": "q",
            "badge": "LOCAL",
            "sending": False,
            "causes": {},
        }
        return Report(progress=self.progress, **facts)


class FakeLive:
    """An output of a notebook: what was shown, and a signal at each change."""

    def __init__(self, bundle: dict[str, str]) -> None:
        self.shown = [bundle["text/plain"]]
        self.changed = threading.Semaphore(0)

    def show(self, bundle: dict[str, str]) -> None:
        """Replace what is shown."""
        self.shown.append(bundle["text/plain"])
        self.changed.release()


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> list[FakeLive]:
    """Be a notebook whose outputs are looked at."""
    made: list[FakeLive] = []

    def live(bundle: dict[str, str]) -> FakeLive:
        made.append(FakeLive(bundle))
        return made[-1]

    monkeypatch.setattr(live_module, "Live", live)
    monkeypatch.setattr(live_module, "in_notebook", lambda: True)
    monkeypatch.setattr(live_module, "_TICK", 0.01)
    return made


def test_what_is_shown_follows_the_batch(screens: list[FakeLive]) -> None:
    """Each change is shown soon after."""
    tracker = FakeTracker()
    shown = live_module.LiveReport(tracker, tracker.report)  # type: ignore[arg-type]  # all that it uses of one
    tracker.move(4)
    while "40 %" not in screens[0].shown[-1]:
        assert screens[0].changed.acquire(timeout=30)
    shown.close()


def test_after_the_end_nothing_older_or_newer_comes_on_top(screens: list[FakeLive]) -> None:
    """What a cell has shown last stays, also when the batch goes on in another cell."""
    tracker = FakeTracker()
    shown = live_module.LiveReport(tracker, tracker.report)  # type: ignore[arg-type]  # all that it uses of one
    _loop.call_soon(shown._changed)
    tracker.progress = tracker.at(10)
    shown.close()
    tracker.progress = tracker.at(3)
    _loop.run(shown._update())
    assert "100 %" in screens[0].shown[-1]


def test_waiting_shows_the_batch_and_returns_its_progress(screens: list[FakeLive]) -> None:
    """The last state is what stays on the screen."""
    tracker = FakeTracker()
    tracker.progress = tracker.at(10)
    tracker.finish(tracker.progress)
    assert live_module.wait(tracker, tracker.report, None).succeeded == 10  # type: ignore[arg-type]  # as above
    assert "100 %" in screens[0].shown[-1]


def test_waiting_ends_with_its_time_or_with_an_error(screens: list[FakeLive]) -> None:
    """After its time waiting raises TimeoutError, and what ended the sending is raised as well."""
    tracker: Any = FakeTracker()
    with pytest.raises(TimeoutError):
        live_module.wait(tracker, tracker.report, 0.02)
    tracker.finish(ServiceError("no"))
    with pytest.raises(ServiceError, match="no"):
        live_module.wait(tracker, tracker.report, None)


def test_waiting_on_the_background_loop_is_refused() -> None:
    """It would block the loop that has to do the work; the error names `await batch`."""
    tracker: Any = FakeTracker()

    async def callback() -> None:
        live_module.wait(tracker, tracker.report, None)

    with pytest.raises(RuntimeError, match="await batch"):
        _loop.run(callback(), 30)
