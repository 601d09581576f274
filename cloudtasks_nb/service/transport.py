"""Call the service's RPCs over gRPC channels, with retries. Errors of gRPC become errors of this package here."""

from __future__ import annotations

import asyncio
import json
import operator
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.api_core import grpc_helpers, grpc_helpers_async
from google.api_core.exceptions import GoogleAPICallError
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.auth.credentials import AnonymousCredentials
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport, CloudTasksRestTransport

from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from cloudtasks_nb.errors import (
    AlreadyExistsError,
    CloudTasksError,
    ConfigurationError,
    EndpointError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ServiceError,
)
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.clock import ServiceClock
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.no_connection import CONNECT_TIMEOUT, ROOTS_VARIABLE, no_connection
from cloudtasks_nb.service.refusal import lost_answer, of_call, of_status, service_error
from cloudtasks_nb.service.rest import RestChannel
from cloudtasks_nb.service.retries import LOST, backoff
from cloudtasks_nb.service.rpcs import METHODS, Method

__all__ = ["Transport"]

_NEW_QUEUE = 300.0  # seconds after its creation in which parts of the service may answer that a queue does not exist
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes by default before it reconnects; an emulator restarts within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
# Google's frontends allow a ping every 30 seconds while calls are in flight: a connection that broke without a word, as
# in the sleep of a laptop, is found within the timeout of a call, and replaced. Google's own clients have the same
# values: https://github.com/googleapis/python-bigtable/issues/181.
_SECURE_OPTIONS = [
    *_OPTIONS,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # For the ping that gRPC sends with a call to measure the bandwidth: it waits a minute by default, and no other ping
    # is sent meanwhile.
    ("grpc.http2.ping_timeout_ms", 10_000),
]
# A proxy that environment variables name is not used: it usually cannot reach an emulator on this machine.
_LOCAL_OPTIONS = [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
_STATE_TIMEOUT = 5.0  # seconds to find out whether a call was carried out
_HEALTH = "/grpc.health.v1.Health/Check"
_HEALTH_TIMEOUT = 0.5  # seconds


#: `pid` of the process that has used gRPC; a forked process inherits it.
_used_in: dict[str, int] = {}


class Transport:
    """The channels of one connection. Coroutines run on the background loop.

    Parameters
    ----------
    auth : Auth
        Not used with an emulator.
    """

    def __init__(self, endpoint: Endpoint, auth: Auth) -> None:
        self.endpoint = endpoint
        self.auth = auth
        self.connect_timeout = CONNECT_TIMEOUT  #: seconds to wait for a channel
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep  #: the pause before a retry
        self.clock = time.monotonic
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._rest: RestChannel | None = None
        self._client: CloudTasksClient | None = None
        self._credentials: Any = None  # looked up by the first call
        self._renewal: asyncio.Task[None] | None = None
        self._closed = False
        #: the clock of the service, as its answers tell it
        self.service_clock = ServiceClock(lambda: self.endpoint.target)
        self._metadata: Mapping[str, Any] = {}  # of the last answer
        self._emulator: Mapping[str, Any] | None = None  # what it says of itself; None: not asked
        self._new_queues: dict[str, float] = {}  # full name -> time until which the queue counts as new
        self._deleted_queues = set[str]()  # full names

    @property
    def google(self) -> bool:
        """Whether this is Google's own service."""
        return self.endpoint.universe is not None

    def mark_new(self, queue: str) -> None:
        """Remember that we have just created this queue: the service may answer NOT_FOUND for some minutes."""
        self._new_queues[queue] = self.clock() + _NEW_QUEUE
        self._deleted_queues.discard(queue)

    def forget_new(self, queue: str) -> None:
        """Forget that we created this queue: NOT_FOUND now means that it was deleted."""
        self._new_queues.pop(queue, None)

    def mark_deleted(self, queue: str) -> None:
        """Remember that we have deleted this queue: its name is blocked."""
        self._deleted_queues.add(queue)

    def is_new(self, queue: str) -> bool:
        """Return whether we created this queue within the last five minutes."""
        return self.clock() < self._new_queues.get(queue, 0.0)

    async def call(
        self, rpc: str, /, *, timeout: float = 20.0, resource_name: str | None = None, read: Any = None, **fields: Any
    ) -> Any:
        """Call an RPC with the given request fields and return the raw response; `read` is another class for it.

        While the service does not answer, for at most `timeout` seconds in all, the call is repeated: an idempotent one
        and one with a `request_id` always, another one only if the state shows that it was not carried out.

        Raises
        ------
        CloudTasksError
            The subclass that fits the status. It names `resource_name`, by default the resource of the request.
            UnavailableError says what is not known when the answer was lost.
        """
        method = METHODS[rpc]
        request = method.request(**fields)
        routed = operator.attrgetter(method.route)(request) if method.route else ""
        resource = resource_name or routed
        repeatable = method.idempotent or bool(getattr(request, "request_id", ""))
        before, data = await self._state_before(method, request), request.SerializeToString()
        deadline = self.clock() + timeout
        lost: CloudTasksError | None = None
        pauses = backoff(0.1, 2.0)
        while True:
            pause = next(pauses)
            try:
                left = max(0.1, deadline - self.clock())
                answer = await self._once(method, data, timeout=left, routed=routed, resource=resource)
                return (read or method.response).FromString(answer)
            except EndpointError as error:  # the call was not sent, but an earlier one may have been
                if lost is None or method.lost is None:
                    raise
                raise lost_answer(lost, method=method, request=request) from error
            except CloudTasksError as error:
                if error.code not in LOST:
                    if lost is None:
                        raise
                    return _answer_to_repeated(error, method)
                lost = error
                if not repeatable and (found := await self._result(method, request, before, lost)) is not None:
                    return found
                if self.clock() + pause > deadline:
                    if method.lost is None:
                        raise
                    raise lost_answer(lost, method=method, request=request) from error
            await self.sleep(pause)

    async def _state_before(self, method: Method, request: Any) -> Any:
        """Read the resource that a call changes, if that can show later what the call did; None if it is not known."""
        if method.lost is None or not method.lost.before:
            return None
        try:
            return await self._state(method.lost.read, request)
        except (PermissionDeniedError, ServiceError):
            return None

    async def _result(self, method: Method, request: Any, before: Any, lost: CloudTasksError) -> Any:
        """Return the resource if it shows that a call was carried out, None if it shows that it was not.

        Raises
        ------
        UnavailableError
            If the state cannot show it.
        """
        unknown = lost_answer(lost, method=method, request=request)
        if method.lost is None or not method.lost.read:
            raise unknown from lost
        try:
            # Another emulator may leave out of the state what is compared with the time before.
            foreign = method.lost.before and await self.identity() == self.endpoint.target
            after = await self._state(method.lost.read, request)
        except NotFoundError:
            after = None
        except CloudTasksError as error:
            raise unknown from error
        done = method.lost.was_done(request, before, after)
        if done is None or (foreign and not done):
            raise unknown from lost
        return after if done else None

    async def _state(self, read: str, request: Any) -> Any:
        name = request.queue.name if hasattr(request, "queue") else request.name
        return await self.call(read, timeout=_STATE_TIMEOUT, name=name)

    async def raw(self, rpc: str, request: bytes, *, resource_name: str = "") -> bytes:
        """Call an RPC once with a serialized request and return the serialized response.

        An error names `resource_name`, by default the resource of the request.
        """
        method = METHODS[rpc]
        # Each request that is sent as bytes has the name or parent that routes it in the field 1, as this one has.
        routed = METHODS["GetOperation"].request.FromString(request).name
        return await self._once(method, request, timeout=20.0, routed=routed, resource=resource_name or routed)

    def refused(self, rpc: str, status: Any, *, resource_name: str) -> CloudTasksError:
        """Return the error for a raw ``google.rpc.Status`` in the answer to an RPC."""
        return self.error(of_status(status), METHODS[rpc], resource_name)

    def error(
        self, refusal: GoogleAPICallError, method: Method, resource: str, timeout: float | None = None
    ) -> CloudTasksError:
        """Return the error for a refused call, which names the caller if calls have credentials."""
        if refusal.grpc_status_code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout is not None:
            refusal.message = f"no answer within {timeout:.3g} s: {refusal.message}"
        member = (None if self.endpoint.local else self.auth.member()) or "user:YOU"
        name = resource or self.endpoint.target
        deleted, endpoint = name in self._deleted_queues, self.endpoint
        return service_error(refusal, method=method, resource=name, endpoint=endpoint, member=member, deleted=deleted)

    async def pages(
        self, rpc: str, /, items: str, *, limit: int | None, page_size: int, **fields: Any
    ) -> AsyncIterator[Sequence[Any]]:
        """Call a List RPC page after page and yield each page's items, at most `limit` items in all."""
        token, left = "", sys.maxsize if limit is None else limit
        while True:
            answer = await self.call(rpc, page_size=min(page_size, left), page_token=token, **fields)
            found = getattr(answer, items)
            yield found if len(found) <= left else found[:left]
            token, left = answer.next_page_token, max(0, left - len(found))
            if not token or left == 0:
                return

    async def identity(self) -> str:
        """Return ``google``, the instance id of an emulator of ours, or ``host:port`` of another emulator.

        Raises
        ------
        CloudTasksError
            If the emulator does not answer.
        """
        if self.google:
            return "google"
        return str((await self._facts()).get(INSTANCE_METADATA, self.endpoint.target))

    async def _facts(self) -> Mapping[str, Any]:
        """Return what an emulator says of itself in the metadata of an answer; it is asked once."""
        if self._emulator is None:
            await self.ask()
            self._emulator = self._metadata
        return self._emulator

    async def ask(self) -> None:
        """Have the service answer, and so say what it is and what time it has; raise if it does not."""
        method, parent = METHODS["ListQueues"], self.endpoint.parent()
        request, target = method.request(parent=parent, page_size=1).SerializeToString(), self.endpoint.target
        try:
            await self._once(method, request, timeout=_STATE_TIMEOUT, routed=parent, resource=target)
        except CloudTasksError as error:
            # Without an answer it is not known whether an emulator is ours.
            if error.code in {None, *LOST} and INSTANCE_METADATA not in self._metadata:
                raise

    async def http(self) -> str | None:
        """Return ``http://host:port`` of an emulator of ours; None for Google's service and other emulators."""
        if self.google or self.endpoint.http is not None:
            return self.endpoint.http
        scheme, target, facts = "http" if self.endpoint.local else "https", self.endpoint.target, await self._facts()
        if self.endpoint.rest:
            return f"{scheme}://{target}" if INSTANCE_METADATA in facts else None
        port = facts.get(HTTP_PORT_METADATA)
        return f"{scheme}://{target.rpartition(':')[0]}:{port}" if port else None

    @property
    def logs_at_once(self) -> bool:
        """Whether the last answer said what `log_is_immediate` asks for."""
        return self._metadata.get(LOG_IMMEDIATE_METADATA) == "true"

    async def log_is_immediate(self) -> bool:
        """Return whether each log entry can be read as soon as its operation is done: an emulator may say so."""
        return not self.google and (await self._facts()).get(LOG_IMMEDIATE_METADATA) == "true"

    def client(self) -> CloudTasksClient:
        """Return Google's own client for the same endpoint with the same credentials."""
        if self._client is None:
            credentials = _Caller(self.endpoint) if self.endpoint.local else self._load_credentials()
            target = self.endpoint.target
            if self.endpoint.rest:
                host = f"{'http' if self.endpoint.local else 'https'}://{target}"
                made: Any = CloudTasksRestTransport(host=host, credentials=credentials)
            else:
                made = CloudTasksGrpcTransport(channel=self._client_channel(credentials))
            self._client = CloudTasksClient(transport=made)
        return self._client

    def _client_channel(self, credentials: Any) -> grpc.Channel:
        """Return a channel whose calls come with what an emulator asks for."""
        channel, metadata = self._open(grpc, self.endpoint.target, credentials), self.endpoint.metadata
        if metadata:
            plain = channel.unary_unary
            channel.unary_unary = lambda *given, **options: _WithMetadata(plain(*given, **options), metadata)
        return channel

    def check_open(self) -> None:
        """Raise PreconditionError if the connection is closed."""
        if self._closed:
            raise PreconditionError(
                "this connection is closed",
                resource=self.endpoint.target,
                hint="make a new one: ct.connect() or ct.local()",
            )

    def refuse(self) -> None:
        """Refuse new calls from now on; calls in flight may end."""
        self._closed = True

    async def close(self) -> None:
        """Close all channels and refuse later calls."""
        self.refuse()
        if self._client is not None:
            self._client.transport.close()
        if self._rest is not None:
            self._rest.close()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _once(self, method: Method, request: bytes, *, timeout: float, routed: str, resource: str) -> bytes:
        for _ in range(2):
            self.check_open()
            if not self.endpoint.local:
                await self._refresh_credentials()
            token = self.auth.token()
            try:
                return await self._sent(method, request, timeout, routed)
            except (grpc.aio.AioRpcError, GoogleAPICallError) as error:
                refusal = of_call(error) if isinstance(error, grpc.aio.AioRpcError) else error
                refused, cause = self.error(refusal, method, resource, timeout), error
            except (asyncio.CancelledError, grpc.aio.UsageError):  # gRPC's answers to calls of a channel that is closed
                task = asyncio.current_task()
                if task is None or not task.cancelling():
                    self.check_open()
                raise
            # The token may have been revoked before its time; the call was not carried out.
            if refused.code != "UNAUTHENTICATED" or not self.auth.drop_token(token):
                break
        raise refused from cause

    async def _sent(self, method: Method, request: bytes, timeout: float, routed: str) -> bytes:
        """Send a request once, and return the answer; take over what it says of the service's clock."""
        self.check_open()  # it may have been closed while the call waited for credentials
        if self.endpoint.rest:
            if self._rest is None:
                self._rest = RestChannel(self.endpoint, self._credentials, self._heard)
            return await self._rest.call(method, request, timeout=timeout)
        channel = await self._channel(method)
        sent = time.monotonic()
        metadata: Any = _metadata(self.endpoint, method.route, routed)
        call = channel.unary_unary(method.path)(request, timeout=timeout, metadata=metadata)
        with suppress(grpc.aio.AioRpcError):
            await call
        answered = dict([*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())])
        if answered or await call.code() is grpc.StatusCode.OK:  # a refusal is an answer too
            self._heard(answered, time.monotonic() - sent)
        return bytes(await call)

    def _heard(self, metadata: Mapping[str, Any], elapsed: float) -> None:
        """Take over what the metadata of an answer say, which came some seconds after its call was sent."""
        self._metadata = metadata
        self.service_clock.learn(metadata, elapsed)

    async def _channel(self, method: Method) -> grpc.aio.Channel:
        """Return the connected channel for a method.

        Raises
        ------
        EndpointError
            If nothing answers within the connect timeout.
        PreconditionError
            In a process that was forked.
        """
        _check_process()
        logging = method.path.startswith("/google.logging.")
        target = self.endpoint.log_target if logging else self.endpoint.target
        if target not in self._channels:
            self._channels[target] = self._open(grpc.aio, target, self._credentials)
        channel = self._channels[target]
        if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            try:
                await self._wait_ready(channel, target)
            except EndpointError:
                if not await self._follow(target):
                    raise
                return await self._channel(method)
        return channel

    async def _follow(self, target: str) -> bool:
        """Change to the new address of a restarted emulator; return whether there is one."""
        if target == self.endpoint.target:
            moved = await asyncio.to_thread(self._moved_endpoint)
            if moved is None or moved.target == target:
                return False
            self.endpoint = moved
            if self._client is not None:
                self._client.transport.close()
                self._client = None
        return True

    def _moved_endpoint(self) -> Endpoint | None:
        """Read the emulator's address from its folder: after a restart it has other ports."""
        if self.endpoint.folder is None:
            return None
        try:
            facts = json.loads((Path(self.endpoint.folder) / "endpoint.json").read_text(encoding="utf-8"))
            target, http, instance = str(facts["grpc"]), str(facts["http"]), facts["instance"]
            token = facts.get("token")
        except (OSError, ValueError, LookupError, TypeError):  # the emulator does not run
            return None
        # Another emulator in the same folder does not have our tasks.
        if self._emulator is not None and self._emulator.get(INSTANCE_METADATA) != instance:
            return None
        return replace(self.endpoint, target=target, http=http, token=token)

    async def _wait_ready(self, channel: grpc.aio.Channel, target: str) -> None:
        try:
            async with asyncio.timeout(self.connect_timeout):
                await channel.channel_ready()
        except TimeoutError:
            details = await _connection_error(channel)
            if details is not None:
                raise no_connection(self.endpoint, target, details) from None

    async def _refresh_credentials(self) -> None:
        """Look for credentials, and renew expired ones here: gRPC reports a failed renewal as an unavailable service.

        Calls that need it at the same time wait for one renewal, and have its result or its error.
        """
        if self._credentials is not None and self._credentials.valid:
            return
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(asyncio.to_thread(self._renew))
            self._renewal.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may be cancelled
        await asyncio.shield(self._renewal)  # a call that is cancelled leaves the renewal to the others

    def _renew(self) -> None:
        self._credentials = self._load_credentials()
        if not self._credentials.valid:
            self.auth.renew()

    def _load_credentials(self) -> Any:
        """Return the credentials. The default endpoint becomes that of their universe domain.

        Raises CredentialsError if there are none, or if the endpoint is of another universe domain.
        """
        self.endpoint = self.endpoint.in_universe(self.auth.universe())
        return self.auth.credentials()

    def _open(self, library: Any, target: str, credentials: Any) -> Any:
        """Return a channel of `grpc` or of `grpc.aio`."""
        if self.endpoint.local:
            return library.insecure_channel(target, options=_LOCAL_OPTIONS)
        helpers = grpc_helpers if library is grpc else grpc_helpers_async
        roots = grpc.ssl_channel_credentials(_trusted_roots())
        return helpers.create_channel(target, credentials, ssl_credentials=roots, options=_SECURE_OPTIONS)


class _Caller(AnonymousCredentials):
    """What Google's client needs to call an emulator over REST."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # google-auth annotates little
        self._endpoint = endpoint

    def before_request(self, request: Any, method: Any, url: Any, headers: Any) -> None:  # noqa: ARG002 - google-auth's
        """Add the headers of a call."""
        headers.update(self._endpoint.metadata)


class _WithMetadata:
    """An RPC of a channel whose calls come with metadata; an interceptor of gRPC takes longer."""

    def __init__(self, call: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._call = call
        self._metadata = metadata

    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None, **options: Any) -> Any:
        return self._call(request, timeout=timeout, metadata=(*(metadata or ()), *self._metadata), **options)

    def with_call(self, request: Any, timeout: Any = None, metadata: Any = None, **options: Any) -> Any:
        """Return the answer and the call."""
        return self._call.with_call(request, timeout=timeout, metadata=(*(metadata or ()), *self._metadata), **options)


@lru_cache(maxsize=1_024)
def _metadata(endpoint: Endpoint, route: str, routed: str) -> tuple[tuple[str, str], ...]:
    """Return what an emulator asks for, and what tells Google's frontends which resource a request is for."""
    return (*endpoint.metadata, *((to_grpc_metadata(((route, routed),)),) if routed and route else ()))


async def _connection_error(channel: grpc.aio.Channel) -> str | None:
    """Return what gRPC says of a connection that did not come about; None if it is there by now.

    gRPC tells it only to a call that does not wait for the connection.
    """
    try:
        await channel.unary_unary(_HEALTH)(b"", timeout=_HEALTH_TIMEOUT, wait_for_ready=False)
    except grpc.aio.AioRpcError as error:
        if channel.get_state() is not grpc.ChannelConnectivity.READY:
            return error.details() or error.code().name
    return None


def _trusted_roots() -> bytes | None:
    """Return the authorities that an environment variable names: gRPC reads it only once in a process.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    """
    path = os.environ.get(ROOTS_VARIABLE)
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise ConfigurationError(
            f"{ROOTS_VARIABLE} names {path}, which cannot be read: {error.strerror}",
            resource=path,
            hint="set it to a PEM file with the certificates of the authorities, or unset it",
        ) from error


def _answer_to_repeated(error: CloudTasksError, method: Method) -> Any:
    """Return the answer to a call whose repetition had this error, or raise the error."""
    if error.code == "NOT_FOUND" and method.lost is not None and method.lost.absent_is_done:
        return method.response()
    if isinstance(error, AlreadyExistsError):
        text = f"{error.message}; the answer to the same call before was lost, and that call may have created it"
        raise AlreadyExistsError(text, resource=error.resource, code=error.code, hint=error.hint) from error
    raise error


def _check_process() -> None:
    """Refuse calls in a process that was forked after gRPC was used: gRPC would hang or abort there.

    Raises
    ------
    PreconditionError
        See https://github.com/grpc/grpc/blob/master/doc/fork_support.md.
    """
    process = os.getpid()
    if _used_in.setdefault("pid", process) != process:
        raise PreconditionError(
            f"process {process} was forked from one that had called Cloud Tasks, and gRPC does not work in it",
            hint='start it anew: multiprocessing.get_context("spawn"), or connect only after the fork',
        )
