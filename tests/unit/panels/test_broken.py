"""A panel that could not be made leaves nothing behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ipywidgets.widgets.widget import _instances

from cloudtasks_nb.panels import (
    AttemptsPanel,
    BackfillPanel,
    BatchesPanel,
    Dashboard,
    FanOutPanel,
    Panel,
    QueuesPanel,
    TasksPanel,
    _acting,
)
from tests.unit.panels.conftest import Stage, Watching

__all__: list[str] = []

MAKERS: dict[str, Callable[[Stage], Panel]] = {
    "attempts": lambda stage: AttemptsPanel(stage, queue="reports"),
    "backfill": lambda stage: BackfillPanel(stage, queue="reports"),
    "batches": lambda stage: BatchesPanel(stage, queue="reports"),
    "dashboard": Dashboard,
    "fan-out": lambda stage: FanOutPanel(stage, queue="reports"),
    "queues": QueuesPanel,
    "tasks": lambda stage: TasksPanel(stage, queue="reports"),
}
each_panel = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class BrokenError(Exception):
    """What goes wrong while a panel is made."""


def broken(*_: object, **__: object) -> Any:
    """Stand for a part that cannot be made."""
    raise BrokenError


def left_by(make: Callable[[Stage], Panel], stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fail to make a panel; return its open widgets and what its end raised."""
    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: unraisable.append(repr(found.exc_value)))
    gc.collect()
    before = set(_instances)
    with pytest.raises(BrokenError):
        make(stage)
    open_now = [type(_instances[name]).__name__ for name in set(_instances) - before]
    gc.collect()
    return open_now + unraisable


@each_panel
def test_one_without_a_foot(make: Callable[[Stage], Panel], stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part that all panels have cannot be made."""
    monkeypatch.setattr(_acting, "Told", broken)
    assert left_by(make, stage, monkeypatch) == []


@each_panel
def test_one_with_nothing_to_show(
    make: Callable[[Stage], Panel], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts are made and laid out, and then something cannot be read."""
    fill = Panel.fill

    def fill_and_break(*args: Any, **words: Any) -> None:
        fill(*args, **words)
        broken()

    monkeypatch.setattr(Panel, "fill", fill_and_break)
    assert left_by(make, stage, monkeypatch) == []


def test_one_that_fails_at_the_end(stage: Stage, watcher: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen and watches already: the watcher forgets it."""

    class Late(QueuesPanel):
        def __init__(self, scene: Stage) -> None:
            super().__init__(scene)
            self.shown()
            assert watcher.subscribed
            raise BrokenError

    assert left_by(Late, stage, monkeypatch) == []
    assert watcher.subscribed == []


def test_one_that_was_called_wrongly(stage: Stage) -> None:
    """It is a TypeError as of any class."""
    with pytest.raises(TypeError, match="queue"):
        TasksPanel(stage)  # type: ignore[call-arg]  # that is the mistake
