"""What the calls of the API work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cloudtasks_nb.emulator._clock import Clock
from cloudtasks_nb.emulator._commit import Committer
from cloudtasks_nb.emulator._faults import Faults
from cloudtasks_nb.emulator._memory import Claim, QueueState
from cloudtasks_nb.emulator._settings import Settings
from cloudtasks_nb.emulator._store import Store

__all__ = ["Call", "Dispatching", "Engine"]

#: A call of the API: a serialized request in, a serialized response out.
Call = Callable[[bytes], Awaitable[bytes]]


class Dispatching(Protocol):
    """What the calls want of the dispatcher."""

    def wake(self, queues: list[QueueState]) -> None:
        """Look at these queues: something may be due."""

    def run(self, claim: Claim) -> None:
        """Send a task now, whatever its time and the queue's limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The parts of a running emulator."""

    store: Store
    committer: Committer
    dispatcher: Dispatching
    clock: Clock
    settings: Settings
    faults: Faults
