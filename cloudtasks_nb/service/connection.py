"""What all parts of one connection share: channels, the watcher, and what was last seen of a task's message."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, QueueNotFoundError
from cloudtasks_nb.service.absent_handlers import AbsentHandlers
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.transport import Transport
from cloudtasks_nb.service.watch import Watcher

__all__ = ["Connection"]

T = TypeVar("T")

_MESSAGES = 100_000  # newest messages kept
_GOOGLE_READS = 60  # of the log a minute (https://cloud.google.com/logging/quotas)
_EMULATOR_READS = 1200  # it has no quota: 5,000 outcomes are six pages, which need not take six seconds
_CERTS = "/oauth2/v1/certs"  # of an emulator's HTTP face
_PATIENCE = 2.0  # seconds between two looks for a queue that was just made


class Connection:
    """Channels, watcher and memory of one connection.

    Parameters
    ----------
    where : Endpoint
    auth : Auth
    certs_url : str, optional
        Where the endpoint publishes the certificates of its OIDC tokens; asked for when left out.
    folder : str, optional
        The folder of the embedded emulator, by which it can be started again.
    http : str, optional
        ``http://127.0.0.1:PORT`` of the embedded emulator, which tells who does not listen.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        auth: Auth,
        *,
        certs_url: str | None = None,
        folder: str | None = None,
        http: str | None = None,
    ) -> None:
        self.auth = auth
        self._certs_url = certs_url
        self.folder = folder
        self.absent_handlers = AbsentHandlers(http)
        self.transport = Transport(endpoint, auth, relocate=self._relocate)
        self.watcher = Watcher(self.transport, log_reads=_EMULATOR_READS if endpoint.local else _GOOGLE_READS)
        self._messages: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> Endpoint:
        """What the connection talks to."""
        return self.transport.endpoint

    @property
    def certs_url(self) -> str | None:
        """Where the endpoint publishes the certificates of its OIDC tokens; None: Google's.

        Raises
        ------
        CloudTasksError
            If an emulator has to be asked for it, and does not answer.
        """
        if self._certs_url is None:
            http = _loop.run(self.transport.http())
            self._certs_url = http and http + _CERTS
        return self._certs_url

    def check_reachable(self, url: Any) -> None:
        """Refuse a URL (or Handler) on this machine for tasks that Google's service would deliver.

        Raises
        ------
        InvalidInputError
            With the way out.
        """
        address = getattr(url, "url", url)
        if self.transport.google and isinstance(address, str) and _loopback(address):
            raise InvalidInputError(
                f"Google cannot reach {address}: it is an address on this machine",
                resource=address,
                hint="deploy the function: cloudtasks_nb.handlers.app(fn, audience=…, service_account=…) is a WSGI "
                "application for Cloud Run; or rehearse with ct.local()",
            )

    def call(self, rpc: str, /, **fields: Any) -> Any:
        """Call an RPC and wait for the raw answer; patient with a new queue, as `wait_for` is."""
        return self.wait_for(lambda: self.transport.call(rpc, **fields))

    def wait_for(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine and wait for its result.

        For five minutes after we made a queue, a service that does not know it yet is asked again, and a line says so.
        """
        said = False
        while True:
            try:
                return _loop.run(work())
            except QueueNotFoundError as error:
                if error.resource is None or not self.transport.is_new(error.resource):
                    raise
                if not said:
                    said = True
                    notify(f"waiting for the new queue {error.resource}: the service needs a minute or more to know it")
            _loop.run(asyncio.sleep(_PATIENCE))

    def gather(self, coroutines: Iterable[Any]) -> list[Any]:
        """Run coroutines side by side and return results or errors of ours, in order."""

        async def together() -> list[Any]:
            return await asyncio.gather(*coroutines, return_exceptions=True)

        found = _loop.run(together())
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, CloudTasksError):
                raise one
        return found

    def remember(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Keep the messages of the tasks in these columns: the log has none."""
        names = ("queue", "task", "attempts", "last_message")
        with self._lock:
            for queue, task, attempts, message in zip(*(columns[name] for name in names), strict=True):
                if message:
                    self._messages[queue, task] = (attempts, message)
                    self._messages.move_to_end((queue, task))
            while len(self._messages) > _MESSAGES:
                self._messages.popitem(last=False)

    def message(self, queue: str, task: str, attempt: int) -> str | None:
        """Return the message that was last seen on a task (short ids), if it is the one of this attempt."""
        seen, message = self._messages.get((queue, task), (0, None))
        return message if seen == attempt else None

    def _relocate(self) -> str | None:
        """Tell where the emulator of the folder listens now: started again, it has other ports."""
        if self.folder is None:
            return None
        try:
            facts = json.loads((Path(self.folder) / "endpoint.json").read_text(encoding="utf-8"))
            target, http, instance = str(facts["grpc"]), str(facts["http"]), facts["instance"]
        except (OSError, ValueError, LookupError, TypeError):  # it does not run
            return None
        if self.transport.instance not in {None, instance}:  # another one, on the same folder: it knows nothing of ours
            return None
        if target != self.endpoint.target:
            self.absent_handlers = AbsentHandlers(http)
            self._certs_url = http + _CERTS
        return target

    def close(self) -> None:
        """Stop watching and close the channels."""

        async def shut() -> None:
            await self.watcher.close()
            await self.transport.close()

        _loop.run(shut())


def _loopback(address: str) -> bool:
    try:
        host = urllib.parse.urlsplit(address).hostname or ""
    except ValueError:  # no URL at all, which others say better
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
