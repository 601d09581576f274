"""What the calls of the API work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloudtasks_nb.emulator.api.faults import Faults
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.tokens import TokenMint
from cloudtasks_nb.emulator.model.clock import Clock
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.commit import Committer
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["Call", "Engine"]

#: A call of the API: a serialized request in, a serialized response out.
Call = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The parts of a running emulator."""

    store: Store
    committer: Committer
    dispatcher: Dispatcher
    clock: Clock
    settings: Settings
    faults: Faults
    mint: TokenMint
