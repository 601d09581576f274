"""Channels, error mapping, retries: against a tiny gRPC server in this process that answers from a script."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import google.auth.credentials
import google.auth.exceptions
import grpc
import grpc.aio
import pytest
from google.cloud.tasks_v2 import types

from cloudtasks_nb import _loop, errors
from cloudtasks_nb._names import CODES, INSTANCE_METADATA
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.service import transport as transport_module
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.rpcs import METHODS
from cloudtasks_nb.service.transport import Transport

PARENT = "projects/p/locations/l"
QUEUE = f"{PARENT}/queues/q"
TASK = f"{QUEUE}/tasks/t"

T = TypeVar("T")
Fakes = Callable[..., "Fake"]


@dataclass(slots=True, kw_only=True)
class Call:
    """A call as the server saw it."""

    name: str
    request: bytes
    metadata: dict[str, str]


@dataclass(slots=True)
class Fake(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A server that answers every call from its script, the last answer again and again."""

    script: list[Any]
    instance: str | None = None
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    server: Any = None

    async def start(self) -> None:
        """Listen at a free port."""
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers([self])
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    def service(self, handler_call_details: Any) -> Any:
        """Take any method."""
        name = handler_call_details.method.rpartition("/")[2]

        async def answer(request: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            self.calls.append(Call(name=name, request=request, metadata=metadata))
            if self.instance is not None:
                await context.send_initial_metadata([(INSTANCE_METADATA, self.instance)])
            found = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(found, grpc.StatusCode):
                await context.abort(found, f"said {found.name}")
            return bytes(found.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def fake() -> Iterator[Fakes]:
    """Start servers on the background loop; they are stopped after the test."""
    started: list[Fake] = []

    def start(*script: Any, instance: str | None = None) -> Fake:
        server = Fake([*script] or [types.Queue.pb()(name=QUEUE)], instance)
        _loop.run(server.start())
        started.append(server)
        return server

    yield start
    for server in started:
        _loop.run(server.server.stop(None))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no retry wait; keep how long it would have."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(transport_module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    return pauses


def use(port: int, work: Callable[[Transport], Awaitable[T]], **endpoint: Any) -> T:
    """Run work with a transport to a port of this machine, and close it."""

    async def run() -> T:
        place = {"project": "p", "location": "l", "target": f"127.0.0.1:{port}", "local": True, **endpoint}
        transport = Transport(Endpoint(**place), Auth())
        try:
            return await work(transport)
        finally:
            await transport.close()

    return _loop.run(run())


def call(rpc: str, **fields: Any) -> Callable[[Transport], Awaitable[Any]]:
    """Give a call as work."""
    return lambda transport: transport.call(rpc, **fields)


def test_a_call_carries_its_route(fake: Fakes) -> None:
    """Fields become the request, and the resource is repeated in the metadata as the service wants it."""
    server = fake(types.Queue.pb()(name=QUEUE, state=2))
    answer = use(server.port, call("GetQueue", name=QUEUE))
    use(server.port, call("UpdateQueue", queue={"name": QUEUE}, update_mask={"paths": ["state"]}))
    assert (answer.name, answer.state) == (QUEUE, 2)
    assert types.GetQueueRequest.deserialize(server.calls[0].request).name == QUEUE
    assert [one.metadata["x-goog-request-params"] for one in server.calls] == [f"name={QUEUE}", f"queue.name={QUEUE}"]


def test_a_raw_call_is_the_same_on_the_wire(fake: Fakes) -> None:
    """Bytes go out as they are, with the route, and the answer comes back as bytes."""
    server = fake(types.Queue.pb()(name=QUEUE))
    request = types.GetQueueRequest.serialize(types.GetQueueRequest(name=QUEUE))
    answer = use(server.port, lambda transport: transport.raw("GetQueue", request, resource_name=QUEUE))
    assert types.Queue.deserialize(answer).name == QUEUE
    assert (server.calls[0].request, server.calls[0].metadata["x-goog-request-params"]) == (request, f"name={QUEUE}")


@pytest.mark.parametrize(
    ("code", "rpc", "kind", "hint"),
    [
        ("NOT_FOUND", "GetQueue", errors.QueueNotFoundError, 'tasks.queue("q", create=True)'),
        ("NOT_FOUND", "GetTask", errors.TaskNotFoundError, "queue.attempts()"),
        ("NOT_FOUND", "GetOperation", errors.ServiceError, None),
        ("ALREADY_EXISTS", "GetQueue", errors.AlreadyExistsError, None),
        ("INVALID_ARGUMENT", "GetQueue", errors.InvalidInputError, "quotas"),
        ("OUT_OF_RANGE", "GetQueue", errors.InvalidInputError, None),
        ("FAILED_PRECONDITION", "GetQueue", errors.PreconditionError, None),
        ("PERMISSION_DENIED", "GetQueue", errors.PermissionDeniedError, "--role=roles/cloudtasks.viewer"),
        ("PERMISSION_DENIED", "GetTask", errors.PermissionDeniedError, "cloudtasks.tasks.get"),
        ("RESOURCE_EXHAUSTED", "GetQueue", errors.QuotaError, "quotas"),
        ("UNAUTHENTICATED", "GetQueue", errors.CredentialsError, "gcloud auth application-default login"),
        ("UNIMPLEMENTED", "GetQueue", errors.ServiceError, "does not know the call"),
        ("INTERNAL", "GetQueue", errors.ServiceError, None),
        ("UNKNOWN", "GetQueue", errors.ServiceError, None),
        ("DATA_LOSS", "GetQueue", errors.ServiceError, None),
        ("ABORTED", "GetQueue", errors.ServiceError, None),
    ],
)
def test_errors_of_the_service_become_ours(
    fake: Fakes, code: str, rpc: str, kind: type[errors.CloudTasksError], hint: str | None
) -> None:
    """The class fits the code; resource, code and next step are facts; the service's own error stays the cause."""
    server = fake(grpc.StatusCode[code])
    name = {"GetQueue": QUEUE, "GetTask": TASK, "GetOperation": f"{PARENT}/operations/o"}[rpc]
    with pytest.raises(errors.CloudTasksError) as caught:
        use(server.port, call(rpc, name=name))
    error = caught.value
    assert (type(error), error.code, error.resource) == (kind, code, name)
    assert (hint or "") in (error.hint or "")
    assert (error.hint is None) == (hint is None)
    assert name.rpartition("/")[2] in error.message
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    assert len(server.calls) == 1


def test_about_names_the_resource(fake: Fakes) -> None:
    """Where the request does not say what it is about, the caller does."""
    server = fake(grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(errors.PermissionDeniedError, match="the log: said") as caught:
        use(server.port, call("ListLogEntries", resource_name="the log", filter="x"))
    assert caught.value.resource == "the log"
    assert "x-goog-request-params" not in server.calls[0].metadata


def test_every_code_is_mapped() -> None:
    """Whatever the service answers becomes one of ours with its code."""
    transport = Transport(Endpoint(project="p", location="l", target="t", local=True), Auth())
    for code in CODES[1:]:
        made = transport._refusal(code, None, METHODS["GetQueue"], QUEUE)
        assert (made.code, made.resource) == (code, QUEUE)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_what_is_safe_to_repeat_is_repeated(fake: Fakes, no_pauses: list[float], code: grpc.StatusCode) -> None:
    """A service that did not answer is asked again, with growing pauses."""
    server = fake(code, code, code, types.Queue.pb()(name=QUEUE))
    assert use(server.port, call("GetQueue", name=QUEUE)).name == QUEUE
    assert len(server.calls) == 4
    assert len(no_pauses) == 3
    assert all(0 < pause <= limit for pause, limit in zip(no_pauses, (0.1, 0.16, 0.256), strict=True))


@pytest.mark.parametrize(
    ("rpc", "fields"), [("CreateQueue", {"parent": PARENT, "queue": {"name": QUEUE}}), ("RunTask", {"name": TASK})]
)
def test_what_is_not_safe_to_repeat_is_not(
    fake: Fakes, no_pauses: list[float], rpc: str, fields: dict[str, Any]
) -> None:
    """A call whose first try may have done its work is not done again."""
    server = fake(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(errors.UnavailableError) as caught:
        use(server.port, call(rpc, **fields))
    assert type(caught.value) is errors.UnavailableError
    assert [one.name for one in server.calls] == [rpc]
    assert no_pauses == []


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "INTERNAL", "INVALID_ARGUMENT"])
def test_an_answer_is_an_answer(fake: Fakes, no_pauses: list[float], code: str) -> None:
    """Only a service that did not answer is asked again."""
    server = fake(grpc.StatusCode[code])
    with pytest.raises(errors.CloudTasksError):
        use(server.port, call("GetQueue", name=QUEUE))
    assert len(server.calls) == 1


def test_repeating_ends_with_the_timeout(fake: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` is for all tries together: after it the service's own error is raised."""
    server = fake(grpc.StatusCode.UNAVAILABLE)
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(transport_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(errors.UnavailableError, match="said UNAVAILABLE"):
        use(server.port, call("GetQueue", name=QUEUE, timeout=10.0))
    assert 1 <= len(server.calls) <= 3


def test_pages(fake: Fakes) -> None:
    """Page after page until there is no token; each request carries the one before's."""
    pages = [
        types.ListTasksResponse.pb()(tasks=[{"name": f"{TASK}{n}"} for n in range(2)], next_page_token="more"),  # noqa: S106 - no password
        types.ListTasksResponse.pb()(tasks=[{"name": f"{TASK}2"}]),
    ]
    server = fake(*pages)

    async def read(transport: Transport) -> list[int]:
        found = transport.pages("ListTasks", "tasks", limit=None, page_size=2, parent=QUEUE, resource_name=QUEUE)
        return [len(page) async for page in found]

    assert use(server.port, read) == [2, 1]
    asked = [types.ListTasksRequest.deserialize(one.request) for one in server.calls]
    assert [(one.page_size, one.page_token) for one in asked] == [(2, ""), (2, "more")]


def test_pages_stop_at_the_limit(fake: Fakes) -> None:
    """No more is asked for than is wanted, and no more is given."""
    page = types.ListTasksResponse.pb()(tasks=[{"name": f"{TASK}{n}"} for n in range(2)], next_page_token="more")  # noqa: S106 - no password
    server = fake(page)

    async def read(transport: Transport) -> list[int]:
        found = transport.pages("ListTasks", "tasks", limit=3, page_size=2, parent=QUEUE)
        return [len(page) async for page in found]

    assert use(server.port, read) == [2, 1]
    assert [types.ListTasksRequest.deserialize(one.request).page_size for one in server.calls] == [2, 1]


@pytest.mark.parametrize(("instance", "expected"), [("0b7c", "0b7c"), (None, "host:port")])
def test_identity_of_an_emulator(fake: Fakes, instance: str | None, expected: str) -> None:
    """Ours tells its instance id, a foreign one is known by its address; it is asked once, and an error tells too."""
    server = fake(grpc.StatusCode.INTERNAL, instance=instance)

    async def twice(transport: Transport) -> tuple[str, str]:
        return await transport.identity(), await transport.identity()

    told = use(server.port, twice)
    assert told == (expected.replace("host:port", f"127.0.0.1:{server.port}"),) * 2
    assert [one.name for one in server.calls] == ["ListQueues"]


def test_identity_of_google() -> None:
    """Google's own service is not asked."""
    assert use(1, lambda transport: transport.identity(), local=False) == "google"


def test_identity_is_not_guessed(fake: Fakes) -> None:
    """An emulator that did not answer is not taken for a stranger, then or later."""
    server = fake(grpc.StatusCode.UNAVAILABLE)

    async def later(transport: Transport) -> str:
        with pytest.raises(errors.UnavailableError):
            await transport.identity()
        server.instance = "0b7c"
        return await transport.identity()

    assert use(server.port, later) == "0b7c"


@pytest.fixture
def silent() -> Iterator[int]:
    """Give a port at which somebody takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """Give a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_an_endpoint_that_does_not_answer(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is named, with the way to start an emulator; the wait for it is bounded, whatever the call allows."""
    monkeypatch.setattr(transport_module, "_CONNECT_TIMEOUT", 0.2)
    port = request.getfixturevalue(kind)
    with pytest.raises(errors.EndpointError, match=f"nothing answers at 127.0.0.1:{port}") as caught:
        use(port, call("GetQueue", name=QUEUE, timeout=3600.0))
    assert caught.value.resource == f"127.0.0.1:{port}"
    assert "ct.local()" in (caught.value.hint or "")


def test_the_wait_for_an_endpoint_is_short() -> None:
    """An analyst hears within five seconds that nobody answers."""
    assert transport_module._CONNECT_TIMEOUT < 5


def test_an_endpoint_that_went_away(fake: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks later is said as well, and one that comes back is used again."""
    monkeypatch.setattr(transport_module, "_CONNECT_TIMEOUT", 0.3)
    server = fake()

    async def story(transport: Transport) -> str:
        await transport.call("GetQueue", name=QUEUE)
        await server.server.stop(None)
        with pytest.raises(errors.EndpointError):
            await transport.call("GetQueue", name=QUEUE)
        await server.start()
        monkeypatch.setattr(transport_module, "_CONNECT_TIMEOUT", 20.0)
        return str((await transport.call("GetQueue", name=QUEUE)).name)

    assert use(server.port, story) == QUEUE


def test_a_proxy_is_not_asked_for_an_emulator(fake: Fakes, monkeypatch: pytest.MonkeyPatch, closed: int) -> None:
    """The proxy of a company's network does not stand between a kernel and its own machine."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed}")
    assert use(fake().port, call("GetQueue", name=QUEUE)).name == QUEUE


def test_a_closed_connection_stays_closed(fake: Fakes) -> None:
    """A verb after `close()` is refused, instead of a channel that nobody will close."""
    server = fake()

    async def story(transport: Transport) -> None:
        await transport.call("GetQueue", name=QUEUE)
        await transport.close()
        await transport.call("GetQueue", name=QUEUE)

    with pytest.raises(errors.PreconditionError, match="this connection is closed"):
        use(server.port, story)
    assert len(server.calls) == 1


def test_googles_client_beside(fake: Fakes) -> None:
    """Google's own client talks to the same endpoint, is made once, and is closed with the connection."""
    server = fake(types.Queue.pb()(name=QUEUE))

    async def story(transport: Transport) -> Any:
        assert transport.client() is transport.client()
        found = await asyncio.to_thread(transport.client().get_queue, name=QUEUE)
        assert found.name == QUEUE
        return transport.client()

    client = use(server.port, story)
    with pytest.raises(ValueError, match="closed channel"):
        client.get_queue(name=QUEUE)


class Refreshing(google.auth.credentials.Credentials):
    """Credentials that have run out, and whose renewal ends as told."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # google-auth annotates little
        self.error = error
        self.refreshed = 0

    def refresh(self, request: Any) -> None:  # noqa: ARG002 - the base's signature
        """Renew, or fail."""
        self.refreshed += 1
        if self.error is not None:
            raise self.error
        self.token = "token"  # noqa: S105 - nobody's


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (google.auth.exceptions.RefreshError("expired"), errors.CredentialsError, "application-default login"),
        (google.auth.exceptions.TransportError("no route"), errors.EndpointError, "is there a network"),
    ],
)
def test_credentials_that_cannot_be_renewed(error: Exception, kind: type[errors.CloudTasksError], hint: str) -> None:
    """An expired login is told apart from a service that is down."""

    async def work() -> None:
        endpoint = Endpoint(project="p", location="l", target="127.0.0.1:1", local=False)
        await Transport(endpoint, Auth(Refreshing(error))).call("GetQueue", name=QUEUE)

    with pytest.raises(kind) as caught:
        _loop.run(work())
    assert type(caught.value) is kind
    assert hint in (caught.value.hint or "")


def test_credentials_go_to_google_only_over_tls(fake: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With credentials the channel is secure: a server without TLS is not spoken to, and the hint is another one."""
    monkeypatch.setattr(transport_module, "_CONNECT_TIMEOUT", 0.2)
    server = fake()
    credentials = Refreshing(None)

    async def work() -> None:
        endpoint = Endpoint(project="p", location="l", target=f"127.0.0.1:{server.port}", local=False)
        transport = Transport(endpoint, Auth(credentials))
        try:
            await transport.call("GetQueue", name=QUEUE)
        finally:
            await transport.close()

    with pytest.raises(errors.EndpointError) as caught:
        _loop.run(work())
    assert "is there a network" in (caught.value.hint or "")
    assert (credentials.refreshed, server.calls) == (1, [])


def test_a_queue_is_fresh_for_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a queue that we made, and only for as long as the service may need."""
    now = [100.0]
    monkeypatch.setattr(transport_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    transport = Transport(Endpoint(project="p", location="l", target="t", local=True), Auth())
    transport.mark_new(QUEUE)
    assert (transport.is_new(QUEUE), transport.is_new(f"{QUEUE}2")) == (True, False)
    now[0] += 299
    assert transport.is_new(QUEUE)
    now[0] += 2
    assert not transport.is_new(QUEUE)
