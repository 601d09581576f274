"""The owner of widgets: it collects those that are made in its `with` blocks, and closes all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import ipywidgets as widgets

__all__ = ["WidgetOwner", "unowned"]

_current: ContextVar[WidgetOwner | None] = ContextVar("cloudtasks_nb_owner", default=None)


class WidgetOwner:
    """Owns widgets and what else has to end with them.

    ipywidgets closes a widget alone: its children, its layout and its style stay, and so does what was never laid out.

    Examples
    --------
    >>> owner = WidgetOwner()
    >>> with owner.making():
    ...     text = widgets.HTML("a queue")
    >>> owner.close()
    >>> text.comm is None
    True
    """

    def __init__(self) -> None:
        self._widgets: weakref.WeakSet[widgets.Widget] = weakref.WeakSet()
        self._endings: list[Callable[[], object]] = []

    @contextmanager
    def making(self) -> Iterator[None]:
        """Own the widgets that this thread makes inside; close all if an exception leaves the block."""
        before = _current.set(self)
        try:
            yield
        except BaseException:
            self.close()
            raise
        finally:
            _current.reset(before)

    def part(self) -> WidgetOwner:
        """Return an owner of widgets that may be closed before the others, and are closed with them."""
        made = WidgetOwner()
        self.at_close(made.close)
        return made

    def at_close(self, work: Callable[[], object]) -> None:
        """Call `work` before the widgets are closed."""
        self._endings.append(work)

    def close(self) -> None:
        """Close all widgets; once is enough."""
        while self._endings:
            self._endings.pop()()
        for widget in list(self._widgets):
            widget.close()

    def add(self, widget: widgets.Widget) -> None:
        """Own a widget that is being made."""
        self._widgets.add(widget)
        widget.observe(_answer_at_once, "comm")


@contextmanager
def unowned() -> Iterator[None]:
    """Make widgets inside that belong to the whole process, and to no panel."""
    before = _current.set(None)
    try:
        yield
    finally:
        _current.reset(before)


def _answer_at_once(change: dict[str, object]) -> None:
    """Handle what the browser sends to a widget while a cell runs, where the kernel has subshells.

    JupyterLab sends it to a subshell, but ipykernel 7.4 hands it to the shell that has written to the widget last: the
    main one, which waits for the cell. Without its choice the browser's counts.
    """
    comm = change["new"]
    if comm is not None:
        comm._reply_subshell_for = None  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way


def _made(widget: widgets.Widget) -> None:
    owner = _current.get()
    if owner is not None:
        owner.add(widget)
    if _previous_callback is not None:
        _previous_callback(widget)


_previous_callback = widgets.Widget._widget_construction_callback  # noqa: SLF001 - ipywidgets has one callback for all libraries
widgets.Widget.on_widget_constructed(_made)
