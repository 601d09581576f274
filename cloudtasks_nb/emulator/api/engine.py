"""What the calls of the API work on, and the base of the classes that answer them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.emulator.api.faults import Faults
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.clock import Clock
from cloudtasks_nb.emulator.model.protobuf import beta, v2
from cloudtasks_nb.emulator.model.refusal import malformed_name
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.commit import Committer
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["EMPTY", "Call", "Engine", "Service", "parse_name"]

T = TypeVar("T", QueueName, TaskName)

#: A `google.protobuf.Empty` on the wire.
EMPTY = b""

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
    tokens: TokenSigner


class Service:
    """Answers calls of one version of the API: each public coroutine of a subclass is the RPC of the same name.

    Parameters
    ----------
    engine : Engine
        The emulator.
    api : str
        ``v2`` or ``v2beta3``.
    """

    def __init__(self, engine: Engine, api: str = "v2") -> None:
        self._engine = engine
        self._store = engine.store
        self._api = api
        self._is_v2 = api == "v2"
        self._pb = v2 if self._is_v2 else beta

    def calls(self) -> dict[str, Call]:
        """Return the calls by the names of their RPCs: `get_task` answers ``GetTask``."""
        return {
            "".join(map(str.capitalize, name.split("_"))): getattr(self, name)
            for name, _ in inspect.getmembers(type(self), inspect.iscoroutinefunction)
            if not name.startswith("_")
        }

    def _queue(self, name: str) -> QueueState:
        """Return the queue with this resource name."""
        if name not in self._store.contents.queues:
            parse_name(QueueName, name)
        return self._store.queue(name)


def parse_name(kind: type[T], name: str) -> T:
    """Parse a resource name; a malformed one is refused."""
    try:
        return kind.parse(name)
    except InvalidInputError as error:
        raise malformed_name() from error
