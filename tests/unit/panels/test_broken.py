"""A constructor of a panel that raises leaves nothing behind."""

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cloudtasks_nb.errors import PreconditionError
from cloudtasks_nb.panels import Dashboard, FanOutPanel, Panel, QueuesPanel, TasksPanel, panel
from tests.unit.panels.conftest import FakeContext, FakeWatcher, Harness, open_widgets

MAKERS: dict[str, Callable[[FakeContext], Panel]] = {
    "dashboard": Dashboard,
    "fan-out": lambda context: FanOutPanel(context, queue="reports"),
}


class BrokenError(Exception):
    """The constructor fails."""


def broken(*_: object, **__: object) -> Any:
    """Replace a part of a panel, and raise."""
    raise BrokenError


def left_by(make: Callable[[FakeContext], Panel], context: FakeContext, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a constructor fail. Return the open widgets, and what the garbage collector raised."""
    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: unraisable.append(repr(found.exc_value)))
    gc.collect()
    before = set(open_widgets())
    with pytest.raises(BrokenError):
        make(context)
    open_now = [type(open_widgets()[name]).__name__ for name in set(open_widgets()) - before]
    gc.collect()
    return open_now + unraisable


def without_footer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the footer, the first part of each panel, be one that cannot be made."""
    monkeypatch.setattr(panel, "Footer", broken)


def without_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the constructor raise after the layout, as when the content cannot be read."""
    fill = Panel.fill

    def fill_and_break(*args: Any, **words: Any) -> None:
        fill(*args, **words)
        broken()

    monkeypatch.setattr(Panel, "fill", fill_and_break)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("breaks", [without_footer, without_content])
def test_a_panel_that_breaks(
    make: Callable[[FakeContext], Panel],
    breaks: Callable[[pytest.MonkeyPatch], None],
    context: FakeContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No panel leaves a widget behind."""
    breaks(monkeypatch)
    assert left_by(make, context, monkeypatch) == []


def test_a_panel_that_fails_at_the_end(
    context: FakeContext, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The constructor raises when the panel is subscribed already: the subscription is closed."""

    class Late(QueuesPanel):
        def __init__(self, context: FakeContext) -> None:
            super().__init__(context)
            self.assume_visible()
            assert watcher.subscribed
            raise BrokenError

    assert left_by(Late, context, monkeypatch) == []
    assert watcher.subscribed == []


def test_a_missing_argument(context: FakeContext) -> None:
    """A missing argument raises a TypeError, as for any class."""
    with pytest.raises(TypeError, match="queue"):
        TasksPanel(context)  # type: ignore[call-arg]  # that is the mistake


def test_a_panel_that_still_reads_when_its_connection_is_closed(harness: Harness) -> None:
    """It opens no outbox: nobody would close it."""
    harness.days()
    harness.close()
    with pytest.raises(PreconditionError, match="this connection is closed"):
        _ = harness.catalog.outbox
