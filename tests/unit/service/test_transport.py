"""Channels, retries and relocation, against a small gRPC server in this process that answers from a script."""

import asyncio
import json
import os
import threading
import tomllib
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest
import requests
from google.api_core.exceptions import ServiceUnavailable
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from cloudtasks_nb import errors
from cloudtasks_nb.service import transport as transport_module
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.rpcs import METHODS
from cloudtasks_nb.service.transport import Transport
from tests.cases import cases
from tests.google_sign_in import OAUTH, GoogleSignIn
from tests.raising import raises
from tests.unit.service.conftest import QUEUE, Fakes, MakeAuth, Pauses, call, google_method, login, use

TASK = f"{QUEUE}/tasks/t"
GET = call("GetQueue", name=QUEUE)
PATIENCE = 240.0  # seconds to wait for what must happen


def test_a_raw_call_is_the_same_on_the_wire(fake: Fakes) -> None:
    """Bytes go out as they are, with the route, and the answer comes back as bytes; an error names the resource."""
    server = fake(types.Queue.pb()(name=QUEUE), DENIED)
    request = types.GetQueueRequest.serialize(types.GetQueueRequest(name=QUEUE))
    answer = use(server.port, lambda transport: transport.raw("GetQueue", request))
    assert types.Queue.deserialize(answer).name == QUEUE
    with raises(errors.PermissionDeniedError, resource=QUEUE) as caught:
        use(server.port, lambda transport: transport.raw("GetQueue", request))
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert (server.calls[0].request, server.calls[0].metadata["x-goog-request-params"]) == (request, f"name={QUEUE}")


def test_the_caller_may_name_the_resource(fake: Fakes) -> None:
    """Some requests have no field with the resource."""
    server = fake(grpc.StatusCode.PERMISSION_DENIED)
    with raises(errors.PermissionDeniedError, "the log: said", resource="the log"):
        use(server.port, call("ListLogEntries", resource_name="the log", filter="x"))
    assert "x-goog-request-params" not in server.calls[0].metadata


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_an_idempotent_call_is_repeated(fake: Fakes, code: grpc.StatusCode) -> None:
    """A service that did not answer is called again, after growing pauses."""
    server, pauses = fake(code, code, code, types.Queue.pb()(name=QUEUE)), Pauses()
    assert use(server.port, GET, sleep=pauses.sleep).name == QUEUE
    assert len(server.calls) == 4
    assert all(0 < pause <= limit for pause, limit in zip(pauses, (0.1, 0.2, 0.4), strict=True))


@cases(
    ("BatchCreateTasks", {"parent": QUEUE}, "UNAVAILABLE"),
    ("GetQueue", {"name": QUEUE}, "RESOURCE_EXHAUSTED"),
    ("PauseQueue", {"name": QUEUE}, "INVALID_ARGUMENT"),
    ("GetQueue", {"name": QUEUE}, "INTERNAL"),
)
def test_other_calls_are_made_once(fake: Fakes, rpc: str, fields: dict[str, Any], code: str) -> None:
    """A call that may have done its work, and a call that was answered, are not repeated."""
    server, pauses = fake(grpc.StatusCode[code]), Pauses()
    with raises(errors.CloudTasksError, f"said {code}", code=code, resource=QUEUE):
        use(server.port, call(rpc, **fields), sleep=pauses.sleep)
    assert ([one.name for one in server.calls], pauses) == ([rpc], [])


def test_repeating_ends_with_the_timeout(fake: Fakes) -> None:
    """`timeout` is for all tries together: after it the service's own error is raised."""
    server, clock = fake(grpc.StatusCode.UNAVAILABLE), iter(range(0, 1000, 3))
    with pytest.raises(errors.UnavailableError, match="said UNAVAILABLE"):
        use(server.port, call("GetQueue", name=QUEUE, timeout=10.0), clock=lambda: float(next(clock)))
    assert 1 <= len(server.calls) <= 3


LOST, DENIED, MISSING = (grpc.StatusCode[name] for name in ("UNAVAILABLE", "PERMISSION_DENIED", "NOT_FOUND"))
FOUND, FASTER = (types.Queue.pb()(name=QUEUE, rate_limits={"max_dispatches_per_second": rate}) for rate in (1, 3))
#: By name, for `lost_answers.toml`; those of another emulator have nothing of ours.
ANSWERS: dict[str, Any] = {"LOST": LOST, "DENIED": DENIED, "MISSING": MISSING, "FOUND": FOUND, "FASTER": FASTER}
ANSWERS |= {"PURGED": types.Queue.pb()(name=QUEUE, purge_time={"seconds": 1}), "CANCELLED": grpc.StatusCode.CANCELLED}
ANSWERS |= {name: types.Task.pb()(name=TASK, dispatch_count=times) for times, name in enumerate(("READY", "RAN"), 1)}
ANSWERS["ANOTHER"] = empty_pb2.Empty()
FIELDS: dict[str, dict[str, Any]] = {
    **{rpc: {"name": QUEUE} for rpc in ("PurgeQueue", "PauseQueue", "DeleteQueue")},
    **{rpc: {"name": TASK} for rpc in ("RunTask", "DeleteTask")},
    "CreateQueue": {"queue": {"name": QUEUE}},
    "UpdateQueue": {"queue": FASTER, "update_mask": {"paths": ["rate_limits"]}},
    "BatchCreateTasks": {"parent": QUEUE},
}
LOST_ANSWERS = tomllib.loads(Path(__file__).with_name("lost_answers.toml").read_text(encoding="utf-8"))


@cases(*map(tuple, LOST_ANSWERS["known"]))
def test_a_lost_answer(fake: Fakes, rpc: str, script: str, calls: str) -> None:
    """A call is made again if that does no harm, or if the state shows that it was not carried out."""
    server = fake(*(ANSWERS[name] for name in script.split()), instance="ours")
    use(server.port, call(rpc, **FIELDS[rpc]), sleep=Pauses().sleep)
    assert [one.name for one in server.calls] == calls.split()


def test_a_task_whose_creation_was_repeated(fake: Fakes) -> None:
    """The error says whose the task with this id may be."""
    server = fake(LOST, grpc.StatusCode.ALREADY_EXISTS)
    with pytest.raises(errors.AlreadyExistsError, match="that call may have created it"):
        use(server.port, call("CreateTask", parent=QUEUE, task={"name": TASK}))


@cases(*map(tuple, LOST_ANSWERS["unknown"]))
def test_what_is_not_known(fake: Fakes, rpc: str, script: str, calls: str) -> None:
    """A call that the state does not explain is not repeated; another emulator's state is no proof of a change."""
    server = fake(*(ANSWERS[name] for name in script.split()))
    code = "CANCELLED" if rpc == "BatchCreateTasks" else "UNAVAILABLE"
    with raises(errors.UnavailableError, "it is not known whether .*\n  → .", code=code):
        use(server.port, call(rpc, **FIELDS[rpc]))
    made = [one.name for one in server.calls]
    assert (" ".join(made).startswith(calls), made.count(rpc)) == (True, 1)


def test_a_lost_answer_of_an_endpoint_that_went_away(fake: Fakes) -> None:
    """The call may have been carried out before nothing answered any more."""
    server = fake(LOST)

    async def story(transport: Transport) -> None:
        async def stop(_: float) -> None:
            await server.server.stop(None)
            transport.connect_timeout = 0.2

        transport.sleep = stop
        await transport.call("DeleteQueue", name=QUEUE)

    with pytest.raises(errors.UnavailableError, match="not known whether it was deleted") as caught:
        use(server.port, story, connect_timeout=PATIENCE)
    assert isinstance(caught.value.__cause__, errors.EndpointError)


def test_a_request_id_allows_a_repetition(fake: Fakes) -> None:
    """The service carries out a call once for each id, so that the same id goes out again."""
    server = fake(LOST, operations_pb2.Operation(name="o"))
    fields = {"parent": QUEUE, "names": [TASK], "request_id": "1"}
    assert use(server.port, call("BatchDeleteTasks", **fields)).name == "o"
    assert len({one.request for one in server.calls}) == 1 < len(server.calls)


ODD = "projects/example.com:p p/locations/l/queues/q"
#: The fields of a request of each RPC, with a resource that has to be encoded.
REQUESTS: dict[str, dict[str, Any]] = {
    **{rpc: {method.route: ODD} for rpc, method in METHODS.items()},
    "CreateQueue": {"parent": ODD, "queue": {"name": "other"}},
    "UpdateQueue": {"queue": {"name": ODD}},
    "CreateTask": {"parent": ODD, "task": {"name": "other"}},
    "ListLogEntries": {"resource_names": [ODD]},
}


async def by_google(transport: Transport, rpc: str, fields: dict[str, Any]) -> None:
    """Call an RPC with the client that Google generated for its service."""
    with grpc.insecure_channel(transport.endpoint.target) as channel:
        await asyncio.to_thread(google_method(rpc, "grpc", channel=channel), request=fields)


@pytest.mark.parametrize("rpc", METHODS)
def test_the_route_is_the_one_of_googles_client(fake: Fakes, rpc: str) -> None:
    """The metadata name the resource of the request, encoded as Google's client encodes it, also of bytes."""
    server = fake(empty_pb2.Empty())
    fields = REQUESTS[rpc]
    request = METHODS[rpc].request(**fields)
    use(server.port, lambda transport: by_google(transport, rpc, fields))
    use(server.port, call(rpc, **fields, resource_name="of the caller"))
    if METHODS[rpc].route in ("name", "parent"):
        use(server.port, lambda transport: transport.raw(rpc, request.SerializeToString(), resource_name="other"))
    sent = [one.metadata.get("x-goog-request-params") for one in server.calls if one.name == server.calls[0].name]
    assert set(sent) == {sent[0]}
    assert (sent[0] is None) == (rpc == "ListLogEntries")


@pytest.mark.parametrize("rpc", METHODS)
def test_what_googles_client_repeats_is_idempotent(fake: Fakes, rpc: str) -> None:
    """Five RPCs more are: two read, two set a state, and tasks that the toolkit creates have names."""
    server = fake(LOST, empty_pb2.Empty())
    with suppress(ServiceUnavailable):
        use(server.port, lambda transport: by_google(transport, rpc, REQUESTS[rpc]))
    more = rpc in ("CreateTask", "GetOperation", "ListLocations", "PauseQueue", "ResumeQueue")
    assert METHODS[rpc].idempotent == (more or len(server.calls) == 2)


PAGES = {"all": (None, [(2, ""), (2, "more")]), "up to a limit": (3, [(2, ""), (1, "more")])}


@pytest.mark.parametrize(("limit", "asked"), PAGES.values(), ids=PAGES)
def test_pages(fake: Fakes, limit: int | None, asked: list[tuple[int, str]]) -> None:
    """Each request carries the token of the page before; no more is requested, and returned, than the limit."""
    tasks = [{"name": f"{TASK}{n}"} for n in range(2)]
    first = types.ListTasksResponse.pb()(tasks=tasks, next_page_token="more")  # noqa: S106 - no password
    server = fake(first, first if limit else types.ListTasksResponse.pb()(tasks=tasks[:1]))

    async def read(transport: Transport) -> list[int]:
        found = transport.pages("ListTasks", "tasks", limit=limit, page_size=2, parent=QUEUE, resource_name=QUEUE)
        return [len(page) async for page in found]

    assert use(server.port, read) == [2, 1]
    requests = [types.ListTasksRequest.deserialize(one.request) for one in server.calls]
    assert [(one.page_size, one.page_token) for one in requests] == asked


@pytest.mark.parametrize("instance", ["0b7c", None])
def test_identity_of_an_emulator(fake: Fakes, instance: str | None) -> None:
    """Our emulator sends its instance id, another one is known by its address; one call is enough, even if it fails."""
    server = fake(grpc.StatusCode.INTERNAL, instance=instance)

    async def twice(transport: Transport) -> list[str]:
        return [await transport.identity() for _ in range(2)]

    assert use(server.port, twice) == [instance or f"127.0.0.1:{server.port}"] * 2
    assert [one.name for one in server.calls] == ["ListQueues"]


def test_identity_is_not_guessed(fake: Fakes) -> None:
    """An emulator that did not answer is not taken for a stranger, then or later; Google's own service is not asked."""
    server = fake(grpc.StatusCode.UNAVAILABLE)

    async def later(transport: Transport) -> str:
        with pytest.raises(errors.UnavailableError):
            await transport.identity()
        server.instance = "0b7c"
        return await transport.identity()

    assert use(server.port, later) == "0b7c"
    google = {"local": False, "universe": "googleapis.com"}
    assert use(1, lambda transport: transport.identity(), place=google) == "google"


@pytest.mark.parametrize(("kind", "rest"), [("silent", False), ("closed", False), ("closed", True)])
def test_an_endpoint_that_does_not_answer(request: pytest.FixtureRequest, kind: str, *, rest: bool) -> None:
    """The error names it and the way to start an emulator, within five seconds, whatever the call's timeout is."""
    port = request.getfixturevalue(kind)
    address = f"127.0.0.1:{port}"
    with raises(errors.EndpointError, f"nothing answers at {address}", resource=address, hint="ct.local()"):
        use(port, call("GetQueue", name=QUEUE, timeout=3600.0), place={"rest": rest}, connect_timeout=0.2)
    assert Transport(Endpoint(project="p", location="l", target="t", local=True), Auth()).connect_timeout < 5


def test_an_endpoint_that_went_away(fake: Fakes, closed: int) -> None:
    """A connection that breaks later raises too, and one that comes back is used again."""
    server = fake(port=closed)

    async def story(transport: Transport) -> str:
        await GET(transport)
        await server.server.stop(None)
        transport.connect_timeout = 0.3
        with pytest.raises(errors.EndpointError):
            await GET(transport)
        await server.start()
        transport.connect_timeout = PATIENCE
        return str((await GET(transport)).name)

    assert use(server.port, story, connect_timeout=PATIENCE) == QUEUE


@cases((True, "ours", True), (False, "ours", True), (True, "another", False))
def test_a_restarted_emulator(
    fake: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, asked: bool, instance: str, followed: bool
) -> None:
    """It is followed to its new port; another emulator in the same folder does not have our tasks."""
    old, new = fake(instance="ours"), fake(instance=instance)

    async def story(transport: Transport) -> str:
        if asked:
            await transport.identity()
        await old.server.stop(None)
        facts = {"grpc": f"127.0.0.1:{new.port}", "http": "http://127.0.0.1:3", "instance": instance}
        (tmp_path / "endpoint.json").write_text(json.dumps(facts), encoding="utf-8")
        moved = transport._moved_endpoint

        def follow() -> Endpoint | None:
            transport.connect_timeout = PATIENCE  # something answers at the new address
            return moved()

        monkeypatch.setattr(transport, "_moved_endpoint", follow)
        transport.connect_timeout = 0.3
        await GET(transport)
        return str(await transport.http())

    place = {"folder": str(tmp_path), "http": "http://127.0.0.1:2"}
    with nullcontext() if followed else pytest.raises(errors.EndpointError):
        assert use(old.port, story, place=place, connect_timeout=PATIENCE) == "http://127.0.0.1:3"
    assert len(new.calls) == followed


def test_a_proxy_is_not_asked_for_an_emulator(fake: Fakes, monkeypatch: pytest.MonkeyPatch, closed: int) -> None:
    """The proxy of a company's network does not stand between a kernel and its own machine."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed}")
    assert use(fake().port, GET).name == QUEUE


def test_a_closed_connection_stays_closed(fake: Fakes) -> None:
    """A verb after `close()` is refused, instead of a channel that nobody will close."""
    server = fake()

    async def story(transport: Transport) -> None:
        await GET(transport)
        await transport.close()
        await GET(transport)

    with pytest.raises(errors.PreconditionError, match="this connection is closed"):
        use(server.port, story)
    assert len(server.calls) == 1


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_connection_that_is_closed_during_a_call(fake: Fakes, *, cancelled: bool) -> None:
    """What gRPC cancels is an error of the connection, and no cancel of who waits for the answer."""
    called = asyncio.Event()

    async def story(transport: Transport) -> BaseException | None:
        calling = asyncio.ensure_future(GET(transport))
        await called.wait()
        if cancelled:
            calling.cancel()
        await transport.close()
        await asyncio.wait([calling])
        return None if calling.cancelled() else calling.exception()

    found = use(fake(called).port, story)
    assert found is None if cancelled else isinstance(found, errors.PreconditionError)


def test_a_connection_that_is_closed_while_it_is_made(silent: int) -> None:
    """What gRPC says of a channel that is closed is an error of the connection too."""

    async def story(transport: Transport) -> None:
        calling = asyncio.ensure_future(GET(transport))
        await asyncio.sleep(0)  # the call waits for its channel now
        await transport.close()
        await calling

    with pytest.raises(errors.PreconditionError, match="this connection is closed"):
        use(silent, story)


@pytest.mark.parametrize("rest", [False, True])
def test_a_connection_that_is_closed_while_a_token_is_renewed(closed: int, monkeypatch: Any, *, rest: bool) -> None:
    """The call that waits for the token is not sent, over no channel that nobody would close."""
    auth, renewing, go = login(), threading.Event(), threading.Event()
    credentials = auth.credentials()
    token = credentials.token
    answer = Mock(status_code=200, content=b"{}", headers={})
    monkeypatch.setattr(requests.Session, "request", Mock(return_value=answer))

    def universe() -> str:
        renewing.set()
        assert go.wait(PATIENCE)
        credentials.token = token
        return "googleapis.com"

    async def story(transport: Transport) -> None:
        if rest:
            await GET(transport)
        credentials.token = None
        monkeypatch.setattr(auth, "universe", universe)
        calling = asyncio.ensure_future(GET(transport))
        assert await asyncio.to_thread(renewing.wait, PATIENCE)
        await transport.close()
        go.set()
        await calling

    with pytest.raises(errors.PreconditionError, match="this connection is closed"):
        use(closed, story, place={"local": False, "rest": rest}, auth=auth)


@pytest.mark.parametrize(("refused", "kind"), [(False, errors.EndpointError), (True, errors.CredentialsError)])
def test_concurrent_calls_renew_a_token_once(
    sign_in: GoogleSignIn, make_auth: MakeAuth, monkeypatch: Any, closed: int, kind: Any, *, refused: bool
) -> None:
    """A hundred calls without credentials look for them once and make one request of a token, also if it is refused."""
    auth = make_auth("user")
    look = Mock(wraps=auth.universe)
    monkeypatch.setattr(auth, "universe", look)
    if refused:
        sign_in.answers[OAUTH] = 400, {"error": "invalid_grant"}

    async def together(transport: Transport) -> list[Any]:
        calls = (transport.call("GetQueue", name=QUEUE) for _ in range(100))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = use(closed, together, place={"local": False}, auth=auth, connect_timeout=0.2)
    assert ({type(one) for one in found}, look.call_count, len(sign_in.asked)) == ({kind}, 1, 1)


def test_a_refused_token_is_replaced_once(fake: Fakes, make_auth: MakeAuth) -> None:
    """If the service refuses the new token too, the call fails."""
    refused, auth = grpc.StatusCode.UNAUTHENTICATED, make_auth("user")
    auth.credentials()
    server = fake(refused, refused, refused, FOUND)
    with raises(errors.CredentialsError, code="UNAUTHENTICATED"):
        use(server.port, GET, auth=auth)
    assert len(server.calls) == 2
    assert use(server.port, GET, auth=auth).name == QUEUE


def test_a_queue_is_new_for_five_minutes() -> None:
    """Only a queue that we created, unless it was deleted."""
    now = [100.0]
    transport = Transport(Endpoint(project="p", location="l", target="t", local=True), Auth())
    transport.clock = lambda: now[0]
    transport.mark_new(QUEUE)
    assert (transport.is_new(QUEUE), transport.is_new(f"{QUEUE}2")) == (True, False)
    for seconds, new in ((299, True), (2, False)):
        now[0] += seconds
        assert transport.is_new(QUEUE) is new
    transport.mark_new(QUEUE)
    transport.forget_new(QUEUE)
    assert not transport.is_new(QUEUE)


def test_a_forked_process_is_refused(fake: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that was forked from one that has made calls gRPC would hang or abort; the error says what works."""
    monkeypatch.setitem(transport_module._used_in, "pid", os.getppid())
    with pytest.raises(errors.PreconditionError, match=r'was forked[\s\S]*multiprocessing.get_context\("spawn"\)'):
        use(fake().port, GET)
