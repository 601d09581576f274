"""Where messages and progress of a thread go: to the notebook's output, or to the panel that works in this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Output", "current_output", "notify", "redirect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Functions that show messages and progress in place of the notebook's output."""

    message: Callable[[str], object]  #: called with each line
    progress: Callable[[str, int, int | None], object]  #: called with the name of the work, the count, and the total


#: Each thread has its own: what a panel does in the background does not redirect the cell that runs meanwhile.
_current: ContextVar[Output | None] = ContextVar("cloudtasks_nb_output", default=None)


def current_output() -> Output | None:
    """Return the output to which this thread is redirected; None: lines are printed and bars drawn."""
    return _current.get()


@contextmanager
def redirect(output: Output) -> Iterator[None]:
    """Send the messages and the progress of this thread to `output` inside the block."""
    token = _current.set(output)
    try:
        yield
    finally:
        _current.reset(token)


def notify(line: str) -> None:
    """Show one line: in the panel that works in this thread, else in the notebook's output."""
    output = current_output()
    if output is None:
        print(line, flush=True)  # noqa: T201 - the toolkit reports to the notebook's output
    else:
        output.message(line)
