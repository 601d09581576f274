"""A batch on the screen."""

import asyncio
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb import _loop, errors
from cloudtasks_nb.display import browser_tab, progress_bar
from cloudtasks_nb.fanout.batch import live as live_module
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.outbox.records import Scope, whole
from tests.interrupts import interrupted_everywhere
from tests.unit.fanout.batch.conftest import progress, report

ROWS = whole("a91f03c2")


class FakeTracker:
    """A batch of ten rows, moved on by the test."""

    batch = ROWS.batch
    reading = SimpleNamespace(unread=())

    def __init__(self) -> None:
        self.displays: set[Any] = set()
        self.deleted = False
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


class View:
    """What is shown of the batch, and how often it was asked for."""

    def __init__(self, tracker: FakeTracker) -> None:
        self._tracker = tracker
        self.drawn = 0

    def progress(self) -> Progress:
        """Return how the batch is."""
        return self._tracker.progress

    def report(self, *, drawn: bool = False) -> Report:
        """Return what to show now."""
        self.drawn += drawn
        return replace(report(), progress=self._tracker.progress)

    def show_in_tab(self) -> Callable[[], None]:
        """Have no tab."""
        return lambda: None


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


def wait(tracker: Any) -> Progress:
    """Wait as `Batch.wait` does."""
    with live_module.Card(View(tracker)) as card:
        return live_module.wait(tracker, card, None, ROWS)


def test_a_change_before_anybody_listens_is_shown(screens: list[FakeLive]) -> None:
    """What changes between the first look at the batch and the listening to it is shown without another change."""
    tracker: Any = FakeTracker()

    class Stale(View):
        def report(self, *, drawn: bool = False) -> Report:
            found = super().report(drawn=drawn)
            tracker.progress = tracker.at(4)
            return found

    live_module.display(tracker, Stale(tracker))
    screens[0].until("40 %")


def test_a_displayed_batch_is_live_until_it_has_ended(screens: list[FakeLive]) -> None:
    """It follows the batch to the end, and nobody listens afterwards; what is final already is drawn once."""
    tracker: Any = FakeTracker()
    live_module.display(tracker, View(tracker))
    assert re.search(r"as of \d\d:\d\d:\d\d UTC", screens[0].shown[0])
    for done in (4, 10):
        tracker.move(done)
        screens[0].until(f"{done}0 %")
    live_module.end_displays(tracker)  # waits for the drawing
    assert (tracker._listeners, tracker.displays) == ([], set())
    live_module.display(tracker, View(tracker))
    tracker.move(7)
    assert [screen.shown[-1].count("100 %") for screen in screens] == [1, 1]


def test_new_tries_are_shown_by_their_own_cell(screens: list[FakeLive]) -> None:
    """A cell that displayed the batch keeps what it showed last before rows were tried again, with its time."""
    tracker: Any = FakeTracker()
    live_module.display(tracker, View(tracker))
    tracker.progress = tracker.at(9)
    live_module.end_displays(tracker)
    before = [*screens[0].shown]
    assert "90 %" in before[-1]
    assert "as of" in before[-1]
    tracker.move(1)
    assert tracker._listeners == []
    assert screens[0].shown == before


def test_a_display_belongs_to_its_cell(screens: list[FakeLive], monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are messages of the cell that displays the batch: nbclient drops those that have another parent."""
    cell = ContextVar("cell", default="none")
    parents: list[str] = []
    monkeypatch.setattr(FakeLive, "show", lambda *_: parents.append(cell.get()))
    tracker: Any = FakeTracker()
    cell.set("first")
    live_module.display(tracker, View(tracker))
    cell.set("second")
    live_module.end_displays(tracker)
    assert parents == ["first"] * len(parents)
    assert parents


@pytest.mark.parametrize("error", [KeyboardInterrupt(), errors.CloudTasksError("the sending ended"), None])
def test_a_card_is_drawn_a_last_time(screens: list[FakeLive], error: BaseException | None) -> None:
    """By the thread of the cell, at the end, after an error and after an interrupt; and never again."""
    tracker: Any = FakeTracker()
    threads = set[int]()

    class Seen(View):
        def report(self, *, drawn: bool = False) -> Report:
            threads.add(threading.get_ident())
            return super().report(drawn=drawn)

    def ends() -> None:
        with live_module.Card(Seen(tracker)) as card:
            tracker.progress = tracker.at(7 if error else 10)
            if error is not None:
                raise error
            assert card.draw() == tracker.at(10)

    with nullcontext() if error is None else pytest.raises(type(error)):
        ends()
    last = screens[0].shown[-1]
    assert ("70 %" in last, "as of" in last) == ((True, True) if error else (False, False))
    tracker.move(8)
    assert (screens[0].shown[-1], threads, tracker._listeners) == (last, {threading.get_ident()}, [])


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
    assert wait(tracker) == tracker.at(10)
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


def test_a_wait_returns_what_its_card_shows(screens: list[FakeLive]) -> None:
    """The card has the counts of the result at once, and keeps them when later cells try rows again."""
    tracker: Any = FakeTracker()
    tracker.finish(tracker.at(10))
    assert wait(tracker).succeeded == 10
    shown = screens[0].shown[-1]
    assert "100 %" in shown
    tracker.move(7)
    assert screens[0].shown[-1] == shown


async def test_waiting_on_the_background_loop_is_refused() -> None:
    """It would block the loop that has to do the work; the error names `await batch`."""
    tracker: Any = FakeTracker()
    with pytest.raises(RuntimeError, match="await batch"):
        wait(tracker)


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
        wait(tracker)

    monkeypatch.setattr(live_module, "_LASTING", 0.0)
    monkeypatch.setattr(progress_bar, "_DELAY", 0.0)
    monkeypatch.setattr(progress_bar, "_PACE", 0.0)
    monkeypatch.setattr(_loop, "_TICK", 60.0)
    for place in interrupted_everywhere(waits):
        assert _loop.submit(asyncio.sleep(0, "alive")).result(240) == "alive", place
