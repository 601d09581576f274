"""The command line: ``cloudtasks-nb emulator | doctor | batches | watch``; pandas is imported for the last three."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["emulator"]:
        return _emulator(given[1:])
    return int(importlib.import_module(f"{__name__}.commands").main(given))


def _emulator(arguments: Sequence[str]) -> int:  # noqa: RET503 - exec does not return
    """Replace this process by the emulator, which gets its signals and sets its exit code."""
    command = [sys.executable, "-m", "cloudtasks_nb.emulator", *arguments]
    if sys.platform == "win32":
        return subprocess.call(command)  # noqa: S603 - our own command
    os.execv(sys.executable, command)  # noqa: S606 - our own command
