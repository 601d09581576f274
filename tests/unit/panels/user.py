"""What a user of panels does: clicks, fills forms in, and answers questions; each waits until the work is done."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.panels import Panel
from cloudtasks_nb.panels.widgets.footer import Question

Shown = TypeVar("Shown", bound=Panel)
PATIENCE = 240.0  # seconds


def send_message(widget: Any, *buffers: bytes, **content: Any) -> None:
    """Send a message from the browser to a widget."""
    data = {"method": "custom", "content": content}
    widget._handle_msg({"content": {"data": data}, "buffers": list(buffers)})


def show(panel: Shown, *, visible: bool = True) -> Shown:
    """Make a panel visible, or not, as the browser reports it, and return it."""
    send_message(panel.footer, do="visible", visible=visible)
    panel.settle()
    return panel


def look_at(table: Any, key: Any) -> None:
    """Click a row of a table, which selects nothing."""
    send_message(table, do="show", key=str(key))


def click(panel: Panel, *buttons: Any) -> None:
    """Click buttons of a panel one after another, and wait until the work is done."""
    for button in buttons:
        button.click()
        panel.settle()


def fill(panel: Any, **values: Any) -> None:
    """Fill the fields of a form in by their names, and wait until the first tasks are there."""
    parts = [getattr(panel, "range", None), panel.request, panel.limits, panel]
    for name, value in values.items():
        field = next(getattr(part, name) for part in parts if hasattr(part, name))
        field.value = dt.date.fromisoformat(value) if name in ("start", "end") else value
    panel.settle()


def plan(panel: Any, **values: Any) -> None:
    """Fill fields of a form in, and make the plan."""
    fill(panel, **values)
    click(panel, panel.make_plan)


def use(panel: Panel, queue: str) -> None:
    """Choose a queue, and wait until it is shown."""
    panel.use(queue)
    panel.settle()


def send(panel: Any) -> Batch:
    """Plan and send what a form describes, and return the batch."""
    click(panel, panel.make_plan, panel.send)
    batch = panel.view.batch
    assert isinstance(batch, Batch)
    return batch


def asked(panel: Panel, *buttons: Any) -> Question:
    """Click buttons of a panel as `click` does, and return the question that it asks."""
    click(panel, *buttons)
    assert panel.prompt.question is not None
    return panel.prompt.question


def confirm(panel: Panel, typed: str = "") -> Question:
    """Confirm the question of a panel, wait until the work is done, and return the question."""
    question = asked(panel)
    reply(panel, typed)
    return question


def reply(panel: Panel, typed: str | None) -> None:
    """Answer the question of a panel as the dialog does: with what was typed, or None to cancel it."""
    send_message(panel.footer, do="answer", typed=typed)
    panel.settle()


@contextmanager
def wait_for(widget: Any, trait: str, wanted: Callable[[Any], object]) -> Iterator[None]:
    """Wait at the end of the block until the value of a trait is wanted."""
    event = threading.Event()

    def show(_change: object = None) -> None:
        if wanted(getattr(widget, trait)):
            event.set()

    widget.observe(show, trait)
    try:
        yield
        show()
        assert event.wait(PATIENCE), f"{trait} is {getattr(widget, trait)!r}"
    finally:
        widget.unobserve(show, trait)
