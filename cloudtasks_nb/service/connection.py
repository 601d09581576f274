"""Hold what the verbs and panels of a connection share: transport, watcher, store, and the last errors of tasks."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName, account_project
from cloudtasks_nb._settings import store_place
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.secrets import mask_url
from cloudtasks_nb.errors import InvalidInputError, PermissionDeniedError, QueueNotFoundError
from cloudtasks_nb.service.absent_handlers import absent_handlers
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.clock import ServiceClock
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.refusal import IAM
from cloudtasks_nb.service.transport import Transport
from cloudtasks_nb.service.watch import Watcher
from cloudtasks_nb.store.store import Store

__all__ = ["Connection"]

T = TypeVar("T")

_MAX_MESSAGES = 100_000  # error messages that are kept; the oldest are dropped
_GOOGLE_READS = 60  # reads of the log a minute (https://cloud.google.com/logging/quotas)
_EMULATOR_READS = 60_000  # an emulator has no quota
_NEW_QUEUE_PAUSE = 2.0  # seconds between two calls for a queue that was just created


class Connection:
    """The transport, the watcher and the store of one connection, and the last error messages of its tasks.

    Attributes
    ----------
    restart : callable, optional
        Starts the emulator again that it was made for; None where that is not ours, or would be an empty one.
    """

    restart: Callable[[], object] | None = None

    def __init__(self, endpoint: Endpoint, auth: Auth, *, store: str | os.PathLike[str] | None = None) -> None:
        self.auth = auth
        self.store = Store(store_place(store), auth.storage_token)
        self.transport = Transport(endpoint, auth)
        self.watcher = Watcher(self.transport, log_reads=_EMULATOR_READS if endpoint.local else _GOOGLE_READS)
        self._messages: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> Endpoint:
        """The service that the connection calls."""
        return self.transport.endpoint

    @property
    def clock(self) -> ServiceClock:
        """The clock of the service."""
        return self.transport.service_clock

    def service_now(self) -> dt.datetime:
        """Return the time of the service, which is asked if it has not told it since this machine's clock was set.

        Raises
        ------
        UnavailableError
            If it does not answer.
        """
        if not self.clock.is_known:
            _loop.run(self.transport.ask())
        return self.clock.now()

    @property
    def certs_url(self) -> str | None:
        """URL of the certificates of the endpoint's OIDC tokens; None: Google's.

        Raises
        ------
        CloudTasksError
            If the emulator does not answer.
        """
        http = _loop.run(self.transport.http())
        return http and f"{http}/oauth2/v1/certs"

    def absent_handlers(self, queue: str) -> list[str]:
        """Return ``host:port`` of the handlers that tasks of a queue (full name) wait for in the embedded emulator."""
        return absent_handlers(self.endpoint, queue)

    def check_target(self, queue: QueueName, url: Any, service_account: Any = None) -> None:
        """Refuse a target that Google's service cannot call for a queue, or not with a token of the account.

        Parameters
        ----------
        url : str, Handler or Deployment
            What is called.
        service_account : str, optional
            Who signs; by default the account that a Deployment names.

        Raises
        ------
        InvalidInputError
            If the URL is on this machine, or the account is of another project than the queue: see OidcToken in
            https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2#oidctoken.
        """
        account = service_account or getattr(url, "service_account", None)
        project = account_project(account) if isinstance(account, str) else None
        if not self.endpoint.local and project not in {None, queue.project} and not queue.project.isdigit():
            raise InvalidInputError(
                f"{account} is of the project {project}: Cloud Tasks makes tokens of accounts of the queue's project, "
                f"{queue.project}, only",
                resource=account,
                hint=f"gcloud iam service-accounts create caller --project={queue.project} makes one there; give "
                "it the rights that this one has",
            )
        address = getattr(url, "url", url)
        if self.transport.google and isinstance(address, str) and _is_loopback(address):
            raise InvalidInputError(
                f"Google cannot reach {mask_url(address)}: it is an address on this machine",
                resource=address,
                hint="ct.deploy(fn) makes a service for Cloud Run of the function; or rehearse with ct.local()",
            )

    def check_store(self, url: Any) -> None:
        """Print a note if a handler or deployment stores results where this connection does not read them."""
        place = getattr(url, "store", self.store.url)
        if place not in ("", self.store.url):
            notify(
                f"{url.name} stores results in {place}, but batch.results() of this connection reads {self.store.url}: "
                f'give both the same store=, in ct.connect(…, store="{place}") or where {url.name} was made'
            )

    def call(self, rpc: str, /, **fields: Any) -> Any:
        """Call an RPC and return the raw response; waits for a new queue as `wait_for` does."""
        return self.wait_for(lambda: self.transport.call(rpc, **fields))

    def read_queue(self, queue: QueueName, unknown: str) -> Any:
        """Return a queue as the service has it; None, with a note, if this account may not read it.

        Creating tasks needs no right to read their queue.

        Parameters
        ----------
        unknown : str
            What is not known then, for the note.
        """
        try:
            return self.call("GetQueue", name=str(queue))
        except PermissionDeniedError as error:
            if error.reason not in {None, IAM}:  # a policy or a project refuses all calls
                raise
            notify(f"queue {queue.queue} cannot be read, so {unknown}: {error}")
            return None

    def wait_for(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine and return its result.

        For five minutes after we created a queue, parts of the service may not find it. During this time the coroutine
        is run again, and a note explains the delay to the user.
        """
        notified = False
        while True:
            try:
                return _loop.run(work())
            except QueueNotFoundError as error:
                if error.resource is None or not self.transport.is_new(error.resource):
                    raise
                if not notified:
                    notified = True
                    notify(f"waiting for the new queue {error.resource}: it can take minutes to become available")
            _loop.run(asyncio.sleep(_NEW_QUEUE_PAUSE))

    def remember(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Keep the error messages of the tasks in these columns: the log does not contain them."""
        names = ("queue", "task", "attempts", "last_message")
        with self._lock:
            for queue, task, attempts, message in zip(*(columns[name] for name in names), strict=True):
                if message:
                    self._messages[queue, task] = (attempts, message)
                    self._messages.move_to_end((queue, task))
            while len(self._messages) > _MAX_MESSAGES:
                self._messages.popitem(last=False)

    def message(self, queue: str, task: str, attempt: int) -> str | None:
        """Return the error message of an attempt; None if it is unknown or not of the task's newest known attempt.

        Queue and task are given by their short ids.
        """
        seen, message = self._messages.get((queue, task), (0, None))
        return message if seen == attempt else None

    def close(self) -> None:
        """Stop watching and close the channels."""
        _loop.run(self.watcher.close())
        _loop.run(self.transport.close())


def _is_loopback(address: str) -> bool:
    try:
        host = urllib.parse.urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or no URL, which the check of URLs reports later
        return False
