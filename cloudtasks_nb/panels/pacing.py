"""A pause between two readings of what may be large."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Pacing"]


class Pacing:
    """Tells when something may be done again: after a pause in proportion to how long it took the last time."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def wait(self) -> float:
        """Seconds until it may be done again; 0: now."""
        return max(0.0, self._until - time.monotonic())

    @contextmanager
    def measured(self, factor: float) -> Iterator[None]:
        """Do it inside; the pause is so many times as long as that takes."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._until = ended + factor * (ended - began)
