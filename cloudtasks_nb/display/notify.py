"""Messages and progress: shown in the notebook's output, or by the panel that redirects those of its thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cloudtasks_nb.display.secrets import escape_controls, mask_text

__all__ = ["Output", "current_output", "notify", "printable", "redirect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Functions that show messages and progress in place of the notebook's output."""

    message: Callable[[str], object]  #: called with each line
    progress: Callable[[str, int, int | None], object]  #: called with the name of the work, the count, and the total


#: Each thread has its own value, so that a panel's background thread does not redirect the output of a running cell.
_current: ContextVar[Output | None] = ContextVar("cloudtasks_nb_output", default=None)


def current_output() -> Output | None:
    """Return the output to which this thread is redirected; None for the notebook's own output."""
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
    """Show one line in the output to which this thread is redirected, or else in the notebook's output."""
    line, output = mask_text(line), current_output()
    if output is None:
        print(printable(line), flush=True)  # noqa: T201 - the toolkit reports to the notebook's output
    else:
        output.message(line)


def printable(line: str) -> str:
    """Return a line with escapes for control characters, and for those that the output lacks: an arrow on Windows."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escape_controls(line).encode(encoding, "backslashreplace").decode(encoding)
