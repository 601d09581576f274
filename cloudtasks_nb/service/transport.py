"""Channels, stubs and retries: the one place where a gRPC error becomes one of ours."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import google.auth.exceptions
import google.auth.transport.grpc
import google.auth.transport.requests
import grpc
import grpc.aio
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import (
    AlreadyExistsError,
    CloudTasksError,
    CredentialsError,
    EndpointError,
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    QueueNotFoundError,
    QuotaError,
    ServiceError,
    TaskNotFoundError,
    UnavailableError,
)
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.rpcs import METHODS, Method

__all__ = ["Transport"]

_LOGGING_ENDPOINT = "logging.googleapis.com"
_CONNECT_TIMEOUT = 4.0  # seconds; an analyst waits five at most to hear that nobody answers
_FRESH = 300.0  # seconds for which a queue of ours may still be unknown to parts of the service
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # An emulator that was restarted should be found again at once, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
# A proxy of the environment leads to the internet, and an emulator is not there.
_LOCAL_OPTIONS = [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
_LOGIN_HINT = "run: gcloud auth application-default login"
_NETWORK_HINT = "is there a network? tasks.doctor() tells what is wrong"
_UNANSWERED = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")

_ERRORS: dict[str, tuple[type[CloudTasksError], str | None]] = {
    "ALREADY_EXISTS": (AlreadyExistsError, None),
    "INVALID_ARGUMENT": (InvalidInputError, "what the service takes: https://cloud.google.com/tasks/docs/quotas"),
    "OUT_OF_RANGE": (InvalidInputError, None),
    "FAILED_PRECONDITION": (PreconditionError, None),
    "RESOURCE_EXHAUSTED": (QuotaError, "wait a minute; quotas: https://cloud.google.com/tasks/docs/quotas"),
    "UNAVAILABLE": (UnavailableError, "try again; if it lasts, tasks.doctor() tells what is wrong"),
    "DEADLINE_EXCEEDED": (UnavailableError, "try again; if it lasts, tasks.doctor() tells what is wrong"),
    "UNAUTHENTICATED": (CredentialsError, _LOGIN_HINT),
    "UNIMPLEMENTED": (ServiceError, "this endpoint does not know the call"),
}


class Transport:
    """The connection's channels. Coroutines run on the background loop.

    Parameters
    ----------
    endpoint : Endpoint
    auth : Auth
        Not asked for anything on an emulator.
    relocate : callable, optional
        Returns where the same service is to be found now; asked when nothing answers.
    """

    def __init__(self, endpoint: Endpoint, auth: Auth, *, relocate: Callable[[], str | None] = lambda: None) -> None:
        self.endpoint = endpoint
        self._relocate = relocate
        self.auth = auth
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[tuple[str, bool], Any] = {}
        self._client: CloudTasksClient | None = None
        self._credentials: Any = None  # looked up by the first call
        self._closed = False
        self._identity: str | None = None
        self._http_port: str | None = None
        self._fresh: dict[str, float] = {}
        self._opening = asyncio.Lock()

    @property
    def google(self) -> bool:
        """Whether this is Google's own service."""
        return not self.endpoint.local

    def mark_new(self, queue: str) -> None:
        """Remember that we have just made this queue: the service may not know it everywhere yet."""
        self._fresh[queue] = time.monotonic() + _FRESH

    def mark_deleted(self, queue: str) -> None:
        """Forget that we made this queue: if it is not known from now on, that is because it was deleted."""
        self._fresh.pop(queue, None)

    def is_new(self, queue: str) -> bool:
        """Tell whether we made this queue within the last five minutes."""
        return time.monotonic() < self._fresh.get(queue, 0.0)

    async def call(self, rpc: str, /, *, timeout: float = 20.0, resource_name: str | None = None, **fields: Any) -> Any:
        """Call an RPC with the given request fields and return the raw answer.

        Calls that are safe to repeat are repeated while the service does not answer, for at most `timeout` seconds
        in all.

        Raises
        ------
        CloudTasksError
            The subclass that fits the status, naming the resource and the next step.
        """
        method = METHODS[rpc]
        request = method.request(**fields)
        routed = _field(request, method.route)
        deadline = time.monotonic() + timeout
        pause = 0.1
        while True:
            try:
                left = max(0.1, deadline - time.monotonic())
                return await self._once(method, request, timeout=left, routed=routed, resource=resource_name or routed)
            except EndpointError:
                raise
            except UnavailableError:
                if not method.idempotent or time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
            pause = min(pause * 1.6, 2.0)

    async def raw(self, rpc: str, request: bytes, *, resource_name: str = "", timeout: float | None = 20.0) -> bytes:
        """Call an RPC once, with the request already on the wire's form, and return the answer in the same form.

        `resource_name` is the resource that the request names: the service wants it repeated in the metadata.
        """
        return await self._once(METHODS[rpc], request, timeout=timeout, routed=resource_name, resource=resource_name)

    async def pages(
        self, rpc: str, /, items: str, *, limit: int | None, page_size: int, **fields: Any
    ) -> AsyncIterator[Sequence[Any]]:
        """Call a List RPC page after page and yield each page's items, until `limit` items have come."""
        token, left = "", limit
        while True:
            size = page_size if left is None else min(page_size, left)
            answer = await self.call(rpc, page_size=size, page_token=token, **fields)
            found = getattr(answer, items)
            token = answer.next_page_token
            if left is not None:
                found = found[:left]
                left -= len(found)
            yield found
            if not token or left == 0:
                return

    @property
    def instance(self) -> str | None:
        """What `identity` has found; None before it was asked."""
        return self._identity

    async def identity(self) -> str:
        """Return what this endpoint is: ``google``, an emulator's instance id, or ``host:port`` of a foreign one."""
        if self.google:
            return "google"
        if self._identity is None:
            method = METHODS["ListQueues"]
            stub = await self._stub(method, serialized=False)
            call = stub(method.request(parent=self.endpoint.parent(), page_size=1), timeout=5.0)
            code = await call.code()
            told = dict([*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())])
            if INSTANCE_METADATA not in told and code.name in _UNANSWERED:
                # Somebody who did not answer is not known to be a stranger.
                raise self._refusal(code.name, await call.details(), method, self.endpoint.target)
            self._identity = told.get(INSTANCE_METADATA, self.endpoint.target)
            self._http_port = told.get(HTTP_PORT_METADATA)
        return self._identity

    async def http(self) -> str | None:
        """Return ``http://host:port`` of our emulator's HTTP face; None: this is Google, or a foreign emulator."""
        if self.google:
            return None
        await self.identity()
        host = self.endpoint.target.rpartition(":")[0]
        return None if self._http_port is None else f"http://{host}:{self._http_port}"

    def client(self) -> CloudTasksClient:
        """Return Google's own client for the same endpoint with the same credentials."""
        if self._client is None:
            if self.google:
                self._client = CloudTasksClient(
                    credentials=self.auth.credentials(), client_options={"api_endpoint": self.endpoint.target}
                )
            else:
                channel = grpc.insecure_channel(self.endpoint.target, options=_LOCAL_OPTIONS)
                self._client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        return self._client

    def check_open(self) -> None:
        """Refuse to go on when the connection was closed.

        Raises
        ------
        PreconditionError
            With the way out.
        """
        if self._closed:
            raise PreconditionError(
                "this connection is closed",
                resource=self.endpoint.target,
                hint="make a new one: ct.connect() or ct.local()",
            )

    def refuse(self) -> None:
        """Refuse all calls from now on; what is under way may end."""
        self._closed = True

    async def close(self) -> None:
        """Close all channels; a later call is refused."""
        self.refuse()
        if self._client is not None:
            self._client.transport.close()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._stubs.clear()

    async def _once(self, method: Method, request: Any, *, timeout: float | None, routed: str, resource: str) -> Any:
        stub = await self._stub(method, serialized=isinstance(request, bytes))
        metadata = (("x-goog-request-params", f"{method.route}={routed}"),) if routed and method.route else ()
        try:
            return await stub(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error.code().name, error.details(), method, resource) from error

    async def _stub(self, method: Method, *, serialized: bool) -> Any:
        key = (method.path, serialized)
        channel = await self._channel(method)
        if key not in self._stubs:
            self._stubs[key] = channel.unary_unary(
                method.path,
                request_serializer=None if serialized else method.request.SerializeToString,
                response_deserializer=None if serialized else method.response.FromString,
            )
        return self._stubs[key]

    async def _channel(self, method: Method) -> grpc.aio.Channel:
        """Return the open channel for a method; waits for the connection at most a few seconds.

        Raises
        ------
        EndpointError
            If nothing answers there.
        PreconditionError
            If the connection is closed.
        """
        self.check_open()
        target = self.endpoint.target
        if self.google:
            await self._freshen()
            target = _LOGGING_ENDPOINT if method.path.startswith("/google.logging.") else target
        if target not in self._channels:
            async with self._opening:
                if target not in self._channels:
                    self._channels[target] = await self._open(target)
        channel = self._channels[target]
        if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            try:
                await self._ready(channel, target)
            except EndpointError:
                if not await self._follow(target):
                    raise
                return await self._channel(method)
        return channel

    async def _follow(self, target: str) -> bool:
        """Turn to where an emulator has moved to; return whether it is elsewhere."""
        if self.google:
            return False
        now = await asyncio.to_thread(self._relocate) if target == self.endpoint.target else self.endpoint.target
        if now is None or now == target:
            return False
        self.endpoint = replace(self.endpoint, target=now)
        self._stubs.clear()
        if self._client is not None:
            self._client.transport.close()
            self._client = None
        return True

    async def _ready(self, channel: grpc.aio.Channel, target: str) -> None:
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_TIMEOUT)
        except TimeoutError:
            named = f", which {self.endpoint.named_by} names" if self.endpoint.named_by else ""
            raise EndpointError(
                f"nothing answers at {target}{named}",
                resource=target,
                code="UNAVAILABLE",
                hint="is the emulator running there? ct.local() starts one; cloudtasks-nb emulator --port 8123 too"
                if self.endpoint.local
                else _NETWORK_HINT,
            ) from None

    async def _freshen(self) -> None:
        """Renew credentials that have run out here: inside gRPC a refusal looks like a service that is down."""
        if self._credentials is None:
            self._credentials = await asyncio.to_thread(self.auth.credentials)
        credentials = self._credentials
        if credentials.valid:
            return
        async with self._opening:
            try:
                await asyncio.to_thread(credentials.refresh, google.auth.transport.requests.Request())
            except google.auth.exceptions.TransportError as error:
                raise EndpointError(f"Google's sign-in does not answer: {error}", hint=_NETWORK_HINT) from error
            except google.auth.exceptions.GoogleAuthError as error:
                raise CredentialsError(f"the credentials were refused: {error}", hint=_LOGIN_HINT) from error

    async def _open(self, target: str) -> grpc.aio.Channel:
        if self.endpoint.local:
            return grpc.aio.insecure_channel(target, options=_LOCAL_OPTIONS)
        request = google.auth.transport.requests.Request()
        plugin = google.auth.transport.grpc.AuthMetadataPlugin(self._credentials, request)
        composite = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(), grpc.metadata_call_credentials(plugin)
        )
        return grpc.aio.secure_channel(target, composite, options=_OPTIONS)

    def _refusal(self, code: str, details: str | None, method: Method, resource: str) -> CloudTasksError:
        """Return our error for the service's."""
        text = details or code
        what = resource or self.endpoint.target
        if code == "NOT_FOUND":
            return _not_found(text, method, what, self.endpoint)
        if code == "PERMISSION_DENIED":
            return PermissionDeniedError(
                f"{what}: {text}",
                resource=what,
                code=code,
                hint=f"{method.permission} is needed, {method.role} has it: gcloud projects add-iam-policy-binding "
                f"{self.endpoint.project} --member=user:YOU --role={method.role}",
            )
        kind, hint = _ERRORS.get(code, (ServiceError, None))
        return kind(f"{what}: {text}", resource=what, code=code, hint=hint)


def _not_found(text: str, method: Method, what: str, endpoint: Endpoint) -> CloudTasksError:
    short = what.rpartition("/")[2]
    if method.resource == "queue":
        ours = what == f"projects/{endpoint.project}/locations/{endpoint.location}/queues/{short}"
        makes = f'tasks.queue("{short if ours else what}", create=True) makes it'
        return QueueNotFoundError(
            f'there is no queue "{short}" ({what})',
            resource=what,
            code="NOT_FOUND",
            hint=f"{makes}; tasks.queues() shows those there are" if ours else makes,
        )
    if method.resource == "task":
        return TaskNotFoundError(
            f'task "{short}" is not in its queue: {text}',
            resource=what,
            code="NOT_FOUND",
            hint="a task leaves its queue when it succeeds and when it gives up: queue.attempts() tells which",
        )
    return ServiceError(f"{what}: {text}", resource=what, code="NOT_FOUND")


def _field(request: Any, path: str) -> str:
    value = request
    for part in path.split(".") if path else ():
        value = getattr(value, part)
    return value if isinstance(value, str) else ""
