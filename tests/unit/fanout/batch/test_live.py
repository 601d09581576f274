"""A batch on the screen."""

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.display import browser_tab, progress_bar
from cloudtasks_nb.fanout.batch import live as live_module
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.outbox.records import Scope, whole
from tests.interrupts import interrupted_everywhere
from tests.unit.fanout.batch.conftest import progress, report

ROWS = whole("a91f03c2")


class FakeTracker:
    """A batch of ten rows, moved on by the test."""

    batch = ROWS.batch
    reading = SimpleNamespace(unread=())

    def __init__(self) -> None:
        self.reports: dict[int, Any] = {}
        self._listeners: list[Callable[[], None]] = []
        self.progress = self.at(0)
        self.end = Future[Progress]()

    def at(self, done: int) -> Progress:
        """Return the progress with so many rows succeeded."""
        return progress(state="succeeded" if done == 10 else "running", succeeded=done, ready=10 - done)

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
        if isinstance(result, Exception):
            self.end.set_exception(result)
        else:
            self.progress = result
            self.end.set_result(result)

    async def finished(self, _rows: Scope) -> Progress:
        """Wait for the end."""
        return await asyncio.shield(asyncio.wrap_future(self.end))

    def bundle(self) -> dict[str, str]:
        """Return what to show now."""
        return replace(report(), progress=self.progress).bundle()


class FakeLive:
    """An output of a notebook: what was shown, and a signal at each change."""

    def __init__(self, bundle: dict[str, str]) -> None:
        self.shown = [bundle["text/plain"]]
        self.changed = threading.Semaphore(0)

    def show(self, bundle: dict[str, str]) -> None:
        """Replace what is shown."""
        self.shown.append(bundle["text/plain"])
        self.changed.release()

    def until(self, text: str) -> None:
        """Wait until this text is shown."""
        while text not in self.shown[-1]:
            assert self.changed.acquire(timeout=240)


@pytest.fixture
def tab(monkeypatch: pytest.MonkeyPatch) -> Iterator[browser_tab.BrowserTab]:
    """Give the tab of a browser, whose title is updated at once."""
    made = browser_tab.BrowserTab()
    monkeypatch.setattr(browser_tab, "browser_tab", lambda: made)
    monkeypatch.setattr(live_module, "in_notebook", lambda: True)
    monkeypatch.setattr(live_module, "_TAB_TICK", 0)
    yield made
    made.close()


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> list[FakeLive]:
    """Be a notebook whose outputs are looked at."""
    return be_notebook(monkeypatch)


def be_notebook(monkeypatch: pytest.MonkeyPatch) -> list[FakeLive]:
    """Make a batch believe that it is shown in a notebook, and return what it shows."""
    made: list[FakeLive] = []

    def live(bundle: dict[str, str]) -> FakeLive:
        made.append(FakeLive(bundle))
        return made[-1]

    monkeypatch.setattr(live_module, "Live", live)
    monkeypatch.setattr(live_module, "in_notebook", lambda: True)
    monkeypatch.setattr(live_module, "show_in_tab", lambda _: None)
    monkeypatch.setattr(live_module, "_TICK", 0.01)
    return made


def test_a_change_before_anybody_listens_is_shown(screens: list[FakeLive]) -> None:
    """What changes between the first look at the batch and the listening to it is shown without another change."""
    tracker = FakeTracker()
    stale = tracker.bundle()
    states = iter([stale])
    tracker.progress = tracker.at(4)
    live_module.display_report(tracker, lambda: next(states, tracker.bundle()), ROWS)  # type: ignore[arg-type]  # all that it uses of one
    screens[0].until("40 %")


def test_many_waits_and_displays_listen_once(screens: list[FakeLive]) -> None:
    """All outputs of a batch show the same, so that it is rendered once for a change, and heard of once."""
    tracker: Any = FakeTracker()
    tracker.finish(tracker.at(10))
    rendered: list[int] = []

    def bundle() -> dict[str, str]:
        rendered.append(tracker.progress.done)
        return tracker.bundle()  # type: ignore[no-any-return]  # all that it uses of one

    for _ in range(31):
        live_module.wait(tracker, bundle, None, ROWS, lambda: tracker.progress)
    for _ in range(30):
        live_module.display_report(tracker, bundle, ROWS)
    assert len(tracker._listeners) == 1
    for done in (4, 7):
        tracker.move(done)
        for screen in screens[-50:]:
            screen.until(f"{done}0 %")
        assert rendered.count(done) <= 2  # once more if the change came while the batch was rendered


@pytest.mark.parametrize("prompt", [False, True])
def test_a_script_keeps_the_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, prompt: bool
) -> None:
    """The bar disappears, so the counts are printed; a prompt shows what `wait` returns."""
    tracker: Any = FakeTracker()
    tracker.finish(tracker.at(10))
    monkeypatch.delattr(sys, "ps1", raising=False)  # IPython, which other tests load, has one
    if prompt:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert live_module.wait(tracker, tracker.bundle, None, ROWS, lambda: tracker.progress) == tracker.at(10)
    assert capsys.readouterr() == ("", "" if prompt else "10 rows: 10 succeeded\n")


def test_the_browsers_tab_shows_a_batch_while_somebody_looks(tab: browser_tab.BrowserTab) -> None:
    """Two who look count as one batch; the end is shown when the last one leaves, and stays."""
    tracker: Any = FakeTracker()
    shown: queue.Queue[str] = queue.Queue()
    tab.observe(lambda change: shown.put(change.new), "text")
    first, second = live_module.show_in_tab(tracker), live_module.show_in_tab(tracker)
    tracker.move(4)
    while shown.get(timeout=240) != "40 %":
        pass
    first()
    assert tab.text == "40 %"
    tracker.progress = tracker.at(10)
    for _ in range(2):
        second()
        assert tab.text == "\u2713 10 succeeded"


def test_a_cell_that_has_ended_shows_that_rows_are_tried_again(screens: list[FakeLive]) -> None:
    """It shows the end at once when the waiting ends, and goes on when the batch does, in whichever cell."""
    tracker = FakeTracker()
    tracker.finish(tracker.at(10))
    assert live_module.wait(tracker, tracker.bundle, None, ROWS, lambda: tracker.progress).succeeded == 10  # type: ignore[arg-type]  # all that it uses of one
    assert "100 %" in screens[0].shown[-1]
    tracker.move(7)
    screens[0].until("70 %")


async def test_waiting_on_the_background_loop_is_refused() -> None:
    """It would block the loop that has to do the work; the error names `await batch`."""
    tracker: Any = FakeTracker()
    with pytest.raises(RuntimeError, match="await batch"):
        live_module.wait(tracker, tracker.bundle, None, ROWS, lambda: tracker.progress)


@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited")
def test_an_interrupt_of_wait_is_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes, it ends the waiting, and the background loop goes on with the batch."""

    class Blocked(FakeTracker):
        looks = 0

        def blockers(self) -> list[str]:
            self.looks += 1
            if self.looks == 2:  # two bars are drawn, and a line above them
                _loop._TICK = 60.0
                self.finish(self.at(10))
            return ["the queue is paused"]

    def waits() -> None:
        _loop._TICK = 60.0
        tracker: Any = Blocked()
        _loop._TICK = 0.0
        live_module.wait(tracker, tracker.bundle, None, ROWS, lambda: tracker.progress)

    monkeypatch.setattr(live_module, "_LASTING", 0.0)
    monkeypatch.setattr(progress_bar, "_DELAY", 0.0)
    monkeypatch.setattr(progress_bar, "_PACE", 0.0)
    monkeypatch.setattr(_loop, "_TICK", 60.0)
    for place in interrupted_everywhere(waits):
        assert _loop.submit(asyncio.sleep(0, "alive")).result(240) == "alive", place
