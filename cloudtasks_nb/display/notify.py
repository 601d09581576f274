"""Who hears what is said and how far things are, in place of the notebook's output: a panel, while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Listener", "hearing", "listener", "notify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Somebody who shows it elsewhere."""

    said: Callable[[str], object]  #: called with each line
    moved: Callable[[str, int, int | None], object]  #: called with what goes on, how many are done, and of how many


#: A thread has its own: what a panel does in the background is not heard by the cell that runs meanwhile.
_current: ContextVar[Listener | None] = ContextVar("cloudtasks_nb_listener", default=None)


def listener() -> Listener | None:
    """Return who listens in this thread; None: lines are printed and bars drawn."""
    return _current.get()


@contextmanager
def hearing(who: Listener) -> Iterator[None]:
    """Let `who` hear, inside the block and in this thread, what would be printed and drawn."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)


def notify(line: str) -> None:
    """Show the analyst one line: in the panel that is working in this thread, else printed."""
    who = listener()
    if who is not None:
        who.said(line)
        return
    print(line, flush=True)  # noqa: T201 - the toolkit reports to the notebook's output
