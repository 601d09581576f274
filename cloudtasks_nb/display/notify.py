"""Messages and progress: in the notebook's output, on stderr of a script, or in the panel that works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TextIO

from cloudtasks_nb.display.secrets import escape_controls, mask_text

__all__ = ["Output", "current_output", "in_notebook", "note_stream", "notes_on", "notify", "printable", "redirect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Functions that show messages and progress in place of the notebook's output."""

    message: Callable[[str], object]  #: called with each line
    progress: Callable[[str, int, int | None], object]  #: called with the name of the work, the count, and the total


#: Each thread has its own value, so that a panel's background thread does not redirect the output of a running cell.
_current: ContextVar[Output | None] = ContextVar("cloudtasks_nb_output", default=None)
#: Where the notes of this thread are printed; None: `note_stream` chooses.
_stream: ContextVar[TextIO | None] = ContextVar("cloudtasks_nb_stream", default=None)


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


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
    """Show one line in the output to which this thread is redirected, or else in the stream of notes."""
    line, output = mask_text(line), current_output()
    if output is None:
        print(printable(line), file=note_stream(), flush=True)
    else:
        output.message(line)


def note_stream() -> TextIO:
    """Return where notes are printed: in a notebook's output; elsewhere on stderr, as stdout is for a script's data."""
    return _stream.get() or (sys.stdout if in_notebook() else sys.stderr)


@contextmanager
def notes_on(stream: TextIO) -> Iterator[None]:
    """Print the notes of this thread on a stream inside the block: a command's notes are its own output."""
    token = _stream.set(stream)
    try:
        yield
    finally:
        _stream.reset(token)


def printable(line: str) -> str:
    """Return a line with escapes for control characters, and for those that the stream lacks: an arrow on Windows."""
    encoding = getattr(note_stream(), "encoding", None) or "utf-8"
    return escape_controls(line).encode(encoding, "backslashreplace").decode(encoding)
