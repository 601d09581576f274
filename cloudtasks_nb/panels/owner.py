"""The owner of widgets: it collects those that are made in its `with` blocks, and closes all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import ipywidgets as widgets

__all__ = ["Owner", "unowned"]

_current: ContextVar[Owner | None] = ContextVar("cloudtasks_nb_owner", default=None)


class Owner:
    """Owns widgets and what else has to end with them.

    ipywidgets closes a widget alone: its children, its layout and its style stay, and so does what was never laid out.

    Examples
    --------
    >>> owner = Owner()
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

    def part(self) -> Owner:
        """Return an owner of widgets that may be closed before the others, and are closed with them."""
        made = Owner()
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

    def adopt(self, widget: widgets.Widget) -> None:
        """Own a widget that is being made."""
        self._widgets.add(widget)
        widget.observe(_answer_at_once, "comm")


@contextmanager
def unowned() -> Iterator[None]:
    """Make widgets inside that are of the whole process, whatever panel is the first to need them."""
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
        owner.adopt(widget)
    if _others is not None:
        _others(widget)


_others = widgets.Widget._widget_construction_callback  # noqa: SLF001 - there is one for all; another library may use it
widgets.Widget.on_widget_constructed(_made)
