"""The command line: ``cloudtasks-nb emulator | doctor | batches | watch``; pandas is imported for the last three."""

from __future__ import annotations

import _thread
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["main"]

_INTERRUPTED = 130  # exit code of a program that was interrupted, as shells report it
_PAUSE = 0.05  # seconds after which a dropped interrupt is sent again: what has dropped it has ended then


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["emulator"]:
        return _emulator(given[1:])
    with _keep_interrupts():
        try:
            return int(importlib.import_module(f"{__name__}.commands").main(given))
        except KeyboardInterrupt:
            return _INTERRUPTED


@contextmanager
def _keep_interrupts() -> Iterator[None]:
    """Send an interrupt again that Python drops, because it came in a finalizer or a callback, as imports have them."""
    before = sys.unraisablehook

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            timer = threading.Timer(_PAUSE, _thread.interrupt_main)
            timer.daemon = True
            timer.start()
        else:
            before(dropped)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _emulator(arguments: Sequence[str]) -> int:  # noqa: RET503 - exec does not return
    """Replace this process by the emulator, which gets its signals and sets its exit code."""
    command = [sys.executable, "-m", "cloudtasks_nb.emulator", *arguments]
    if sys.platform == "win32":
        return subprocess.call(command)  # noqa: S603 - our own command
    os.execv(sys.executable, command)  # noqa: S606 - our own command
