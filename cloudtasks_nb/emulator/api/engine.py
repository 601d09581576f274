"""The parts of a running emulator, and the base class of the classes that execute RPCs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.emulator.api.declared_queues import DeclaredQueues
from cloudtasks_nb.emulator.api.faults import Faults
from cloudtasks_nb.emulator.api.replies import UnreadReplies
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.request import Authorize
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.model.refusal import malformed_name
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.commit import Committer
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["EMPTY", "Call", "Engine", "Service", "parse_name"]

T = TypeVar("T", QueueName, TaskName)

#: A serialized `google.protobuf.Empty`.
EMPTY = b""

#: Executes an RPC: takes the request message and returns the serialized response.
Call = Callable[[Any], Awaitable[bytes]]


class Engine:
    """The parts of a running emulator; `frontends.parts` adds those of its servers.

    Parameters
    ----------
    settings : Settings
        The options.
    folder : Path
        The data folder.
    store : Store
        Queues and tasks.
    clock : Clock
        Their time.
    """

    def __init__(self, settings: Settings, folder: Path, store: Store, clock: Clock) -> None:
        self.settings = settings
        self.folder = folder
        self.store = store
        self.clock = clock
        self.tokens = TokenSigner(folder, settings.openid_issuer, key_file=settings.openid_signing_key)
        self.faults = Faults()
        self.declared = DeclaredQueues(store, settings)
        self.unread = UnreadReplies()
        self._deliverer = self.deliverer()
        self.dispatcher = Dispatcher(store, clock, self._deliverer, self.authorize(), settings)
        self.committer = Committer(store, self.dispatcher.wake)
        self.dispatcher.changed = self.committer.commit_soon

    def authorize(self) -> Authorize:
        """Return what makes the `Authorization` header of a dispatch."""
        return self.tokens.authorize

    def deliverer(self) -> Deliverer:
        """Return what sends the requests of dispatches."""
        return Deliverer(self.settings)

    def date(self, ahead: int = 0) -> str:
        """Return the time, with microseconds added, as the header `date` of an answer has it."""
        return _http_date((self.clock.now() + ahead) // SECOND)

    async def close(self) -> None:
        """Cancel all attempts, and commit what is not on the disk."""
        async with AsyncExitStack() as stack:  # the last one is closed first
            stack.push_async_callback(self._deliverer.close)
            stack.push_async_callback(self.committer.close)
            stack.push_async_callback(self.dispatcher.close)


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Service:
    """Base class that executes RPCs of one API version: `get_task` of a subclass is ``GetTask``.

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

    def _queue(self, name: str) -> QueueState:
        """Return the queue with this resource name; a malformed name has an error of its own."""
        if name not in self._store.contents.queues:
            parse_name(QueueName, name)
        return self._store.queue(name)


def parse_name(kind: type[T], name: str) -> T:
    """Parse a resource name.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is malformed.
    """
    try:
        return kind.parse(name)
    except InvalidInputError as error:
        raise malformed_name() from error
