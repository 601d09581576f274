"""What the checks of a connection share: the calls that they make, and what earlier checks have found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.google_apis import GoogleApis
from cloudtasks_nb.service.principal import explained
from cloudtasks_nb.service.refusal import grant_command

__all__ = ["CheckContext", "Finding", "Target"]

_TIMEOUT = 10.0  # seconds a call may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of a check."""

    ok: bool
    detail: str
    fix: str | None = None  #: a command or a line of Python; None: there is nothing to fix
    blocks: bool = True  #: if it is not ok: later checks that depend on it say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the tasks of the user call: the arguments of `doctor`."""

    url: Any = None
    service_account: str | None = None
    audience: str | None = None


class CheckContext:
    """Shared by all checks of one run.

    Parameters
    ----------
    used_queues : callable
        Returns the queues that this toolkit uses, and whether each one must exist. Blocks.
    """

    def __init__(
        self, connection: Connection, used_queues: Callable[[], Mapping[QueueName, bool]], target: Target
    ) -> None:
        self.auth = connection.auth
        self.connection = connection
        self.endpoint: Endpoint = connection.endpoint  #: its project is that of the credentials if none was given
        self.google = GoogleApis(connection.transport)
        self.locations: list[str] = []  #: where the project can have queues; empty: not known
        self.queues: dict[QueueName, Any] = {}  #: the used queues that exist, as raw messages
        self.unreadable: list[QueueName] = []  #: the used queues that the caller may not read
        self.target = target
        self.used_queues = used_queues

    async def call(self, rpc: str, /, **fields: Any) -> Any:
        """Call an RPC of Cloud Tasks."""
        return await self.connection.transport.call(rpc, timeout=_TIMEOUT, **fields)

    def grant(self, roles: Iterable[str], resources: Sequence[QueueName | str | None]) -> str:
        """Return the commands that give the principal roles on queues or on an account; on the project for None."""
        member = self.auth.member() or "user:YOU"
        project = self.endpoint.project
        lines = (grant_command(str(one or ""), role, project, member) for role in roles for one in resources)
        return explained(" && ".join(lines))
