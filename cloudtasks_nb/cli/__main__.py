"""Runs the command line as ``python -m cloudtasks_nb.cli``."""

from __future__ import annotations

import sys

from cloudtasks_nb.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
