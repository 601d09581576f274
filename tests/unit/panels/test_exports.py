"""A saved notebook without a kernel: a table, not a dead widget."""

import importlib
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import IPython.display
import pytest
from IPython.core.formatters import DisplayFormatter

from cloudtasks_nb.panels import Dashboard, Panel, QueuesPanel, static_copy
from cloudtasks_nb.panels import panel as panel_module
from tests.unit.panels.conftest import FakeContext, Harness

#: What GitHub shows of an output that has several forms; the first is the richest.
GITHUB = ("text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain")
AS_OF = r"as of (<time [^>]*>)?\d{4}-\d\d-\d\d \d\d:\d\d UTC(</time>)?; run this cell again for the live panel"


class Cell:
    """The outputs of a notebook's cell, each as it is now."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.updated = threading.Semaphore(0)

    def display(self, bundle: dict[str, str], *, update: bool = False, display_id: Any = None, **_: Any) -> Any:
        """Add an output, or replace one."""
        if update:
            self.outputs[display_id] = bundle
            self.updated.release()
        else:
            self.outputs.append(bundle)
        return SimpleNamespace(display_id=len(self.outputs) - 1)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Run in a notebook."""
    made = Cell()
    monkeypatch.setattr(IPython.display, "display", made.display)
    monkeypatch.setattr(panel_module, "in_notebook", lambda: True)
    return made


@pytest.fixture(params=["queues", "dashboard", "batch"])
def panel(request: pytest.FixtureRequest, harness: Harness) -> Panel:
    """Make a panel of each kind, with something to see."""
    makers: dict[str, Callable[[], Panel]] = {
        "queues": lambda: QueuesPanel(harness.context()),
        "dashboard": lambda: Dashboard(harness.context()),
        "batch": lambda: harness.days(name="reports of January").panel(),
    }
    made: Panel = makers[request.param]()
    return made


def write_notebook(outputs: list[dict[str, str]]) -> Any:
    """Write a notebook with these outputs."""
    v4: Any = importlib.import_module("nbformat.v4")  # takes 2 s, which the collection of tests does not need
    made = [v4.new_output("display_data", data=one) for one in outputs]
    return v4.new_notebook(cells=[v4.new_code_cell("tasks.panel()", outputs=made)])


@pytest.mark.parametrize("exporter", ["html", "markdown"])
def test_exports_show_the_copy(exporter: str, cell: Cell, panel: Panel) -> None:
    """What nbconvert makes of the cell has the content, its age and the badge, and no place for a widget."""
    nbconvert: Any = importlib.import_module("nbconvert")  # takes 2 s, which the collection of tests does not need
    panel._ipython_display_()
    page, _ = nbconvert.get_exporter(exporter)().from_notebook_node(write_notebook(cell.outputs))
    assert re.search(AS_OF, page)
    for words in ("reports", "LOCAL"):
        assert words in page
    assert "widget-view" not in page
    assert "Panel" not in re.sub(r"(?s)<style.*?</style>", "", page).replace("lm-Panel", "")


def test_github_shows_the_copy(cell: Cell, panel: Panel) -> None:
    """It takes the richest form that it knows of each output: nothing of the widget, all of the copy."""
    panel._ipython_display_()
    widget, copy = [next(one[kind] for kind in GITHUB if kind in one) for one in cell.outputs]
    assert widget == ""
    assert re.search(AS_OF, copy)
    assert panel.static_html() in copy
    assert "application/vnd.jupyter.widget-view+json" in cell.outputs[0]
    assert "application/vnd.jupyter.widget-view+json" not in cell.outputs[1]


def test_a_terminal_and_a_closed_panel_have_one_output(
    cell: Cell, context: FakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPython shows the one of `_repr_mimebundle_`; that of a closed panel has its content."""
    panel = QueuesPanel(context)
    panel.close()
    assert set(DisplayFormatter().format(panel)[0]) == {"text/plain", "text/html"}
    monkeypatch.setattr(panel_module, "in_notebook", lambda: False)
    assert "text/plain" in DisplayFormatter().format(QueuesPanel(context))[0]
    assert cell.outputs == []


def test_the_copy_follows_the_panel(cell: Cell, context: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced when other content was read, with the time of that; the same content changes no file."""
    monkeypatch.setattr(static_copy, "_PACE", 0.0)
    panel = QueuesPanel(context)
    panel._ipython_display_()
    panel.table.patch({"queue": ["reports"], "tasks": [4321]})
    panel.footer.at = 1_767_312_000.0
    assert cell.updated.acquire(timeout=240)
    assert "4,321" in cell.outputs[1]["text/html"]
    assert "2026-01-02 00:00 UTC" in cell.outputs[1]["text/html"]
    panel.copy._update()
    panel.close()
    panel.copy._update()
    assert not cell.updated.acquire(blocking=False)
