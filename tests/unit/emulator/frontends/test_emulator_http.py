"""REST paths against those of Google's own client, and the endpoints for tests on a running emulator."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from filelock import FileLock
from google.cloud.tasks_v2.services.cloud_tasks.transports import rest_base as rest_v2
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import rest_base as rest_beta

from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from cloudtasks_nb.emulator import folder as folder_module
from cloudtasks_nb.emulator import server as server_module
from cloudtasks_nb.emulator.dispatch import unreachable
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.frontends import http as http_module
from cloudtasks_nb.emulator.frontends import rest
from cloudtasks_nb.emulator.frontends.admin import Admin
from cloudtasks_nb.emulator.frontends.grpc import grpc_server
from cloudtasks_nb.emulator.frontends.http import host_and_port
from cloudtasks_nb.emulator.model.protobuf import v2
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import EmulatorError, InvalidInputError, PortInUseError
from tests.unit.emulator.conftest import LOCATION, QUEUE, Service, with_settings


def rest_calls(module: Any, base: Any) -> list[tuple[str, str, str]]:
    """List method, path and name of all calls of a generated REST transport."""
    return [
        (option["method"].upper(), option["uri"], name.removeprefix("_Base"))
        for name, inner in vars(base).items()
        if name.startswith("_Base") and hasattr(inner, "_get_http_options")
        for option in inner._get_http_options()
    ]


@pytest.mark.parametrize(
    ("api", "verb", "uri", "name"),
    [("v2", *call) for call in rest_calls(rest_v2, rest_v2._BaseCloudTasksRestTransport)]
    + [("v2beta3", *call) for call in rest_calls(rest_beta, rest_beta._BaseCloudTasksRestTransport)],
)
def test_rest_paths_of_the_client(api: str, verb: str, uri: str, name: str) -> None:
    """Every path that Google's client requests leads to the call of the same name."""
    resource = re.sub(r"\{[\w.]+=([^}]*)\}", r"\1", uri).removeprefix(f"/{api}/").replace("*", "x")
    found = rest.find_route(verb, api, resource)
    assert found is not None
    route, named = found
    assert route.rpc.endswith(f"/{name}")
    assert resource.startswith(named)


@dataclass(kw_only=True)
class Running:
    """An emulator in this process."""

    endpoint: dict[str, Any]
    session: aiohttp.ClientSession
    stop: asyncio.Event
    server: asyncio.Task[None]

    async def http(self, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request and return status and JSON."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        async with self.session.request(verb, self.endpoint["http"] + path, data=data, headers=headers) as answer:
            return answer.status, json.loads(await answer.read())

    async def admin(self, path: str, body: Any = None) -> Any:
        """Call an endpoint for tests: GET without a body, else POST."""
        status, content = await self.http("GET" if body is None else "POST", f"/admin/{path}", body)
        assert status == 200, content
        return content


@asynccontextmanager
async def emulator(**settings: Any) -> AsyncIterator[Running]:
    """Run an emulator."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(server_module.run(Settings(**{"port": 0, **settings}), ready.set_result, stop, stop))
    await asyncio.wait([server, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await server  # raises what is wrong
    async with aiohttp.ClientSession() as session:
        try:
            yield Running(endpoint=ready.result(), session=session, stop=stop, server=server)
        finally:
            stop.set()
            await server


@pytest.fixture
def running(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Running]:
    """Give an emulator with one queue; `with_settings` changes its settings."""
    stack = AsyncExitStack()
    yield runner.run(stack.enter_async_context(emulator(**getattr(request, "param", {}))))
    runner.run(stack.aclose())


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    """After a restart on its folder an emulator has its queues, tasks and id again; the folder has its address."""
    async with emulator(data_dir=tmp_path) as first:
        assert json.loads((tmp_path / "endpoint.json").read_bytes()) == first.endpoint
        await first.admin("seed", {"queues": [{"name": QUEUE, "state": "PAUSED"}]})
        task = {"task": {"name": f"{QUEUE}/tasks/a", "httpRequest": {"url": "http://x"}}}
        status, made = await first.http("POST", f"/v2/{QUEUE}/tasks", task)
        assert (status, made["view"]) == (200, "BASIC")
    assert not (tmp_path / "endpoint.json").exists()
    async with emulator(data_dir=tmp_path) as second:
        assert second.endpoint["instance"] == first.endpoint["instance"]
        for query, method, view in (("FULL", "POST", "FULL"), ("2&$alt=json;enum-encoding=int", 1, 2)):
            _, found = await second.http("GET", f"/v2/{QUEUE}/tasks/a?responseView={query}")
            assert (found["httpRequest"]["httpMethod"], found["view"]) == (method, view)


async def test_the_garbage_collector_is_left_alone(tmp_path: Path) -> None:
    """An emulator in a process that does other things, too, takes none of its objects from the garbage collector."""
    before = gc.get_freeze_count()
    async with emulator(data_dir=tmp_path):
        assert gc.get_freeze_count() == before


@with_settings("running", queues=(QUEUE,))
async def test_instance_in_every_answer(running: Running) -> None:
    """Answers and refusals have the id, and over gRPC the HTTP port; bytes that are not a message are refused."""
    port = running.endpoint["http"].rpartition(":")[2]
    metadata = {
        INSTANCE_METADATA: running.endpoint["instance"],
        HTTP_PORT_METADATA: port,
        LOG_IMMEDIATE_METADATA: "true",
    }
    expected = tuple(metadata.items())
    async with grpc.aio.insecure_channel(running.endpoint["grpc"]) as channel:
        method = channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/GetQueue")
        queue, missing = (v2.GetQueueRequest(name=name).SerializeToString() for name in (QUEUE, f"{QUEUE}-2"))
        for wire, code in ((queue, "OK"), (missing, "NOT_FOUND"), (b"\x0a\xff", "INVALID_ARGUMENT")):
            call = method(wire)
            assert (await call.code()).name == code
            assert tuple(await call.trailing_metadata()) == expected
    async with running.session.get(f"{running.endpoint['http']}/v2/{QUEUE}") as answer:
        assert answer.headers[INSTANCE_METADATA] == running.endpoint["instance"]


@with_settings("running", queues=(QUEUE,), no_batch=True)
@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "code"),
    [
        ("GET", "/v2/nothing", None, 404, "NOT_FOUND"),
        ("PUT", f"/v2/{QUEUE}", {}, 404, "NOT_FOUND"),
        ("GET", f"/v2/{QUEUE}-2", None, 404, "NOT_FOUND"),
        ("POST", f"/v2/{LOCATION}/queues", {"name": QUEUE}, 409, "ALREADY_EXISTS"),
        ("POST", f"/v2/{LOCATION}/queues", b"{", 400, "INVALID_ARGUMENT"),
        ("POST", f"/v2/{LOCATION}/queues", [1], 400, "INVALID_ARGUMENT"),
        ("POST", f"/v2/{QUEUE}/tasks", {"tusk": {}}, 400, "INVALID_ARGUMENT"),
        ("POST", f"/v2/{QUEUE}/tasks?task.name=x", {"task": 5}, 400, "INVALID_ARGUMENT"),
        ("POST", f"/v2/{QUEUE}/tasks:buffer", b"hi", 400, "FAILED_PRECONDITION"),
        ("POST", f"/v2/{QUEUE}/tasks:batchCreate", {}, 501, "UNIMPLEMENTED"),
        ("GET", "/nothing", None, 404, "NOT_FOUND"),
        ("GET", "/", None, 404, "NOT_FOUND"),
        ("PUT", "/health", {}, 405, "FAILED_PRECONDITION"),
        ("GET", f"/v1/{LOCATION}/queues", None, 404, "NOT_FOUND"),
    ],
)
async def test_refusals_in_json(running: Running, verb: str, path: str, body: Any, status: int, code: str) -> None:
    """A refused request gets the error as Google's JSON has it."""
    found, content = await running.http(verb, path, body)
    assert (found, content["error"]["code"], content["error"]["status"]) == (status, status, code)


@with_settings("running", queues=(QUEUE,))
async def test_unexpected_errors_in_json(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that is no refusal is answered in JSON too, and logged."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody's fault")

    with monkeypatch.context() as patch:
        patch.setattr("google.protobuf.json_format.MessageToDict", broken)
        status, content = await running.http("GET", f"/v2/{QUEUE}")
    assert (status, content["error"]["code"], content["error"]["status"]) == (500, 500, "INTERNAL")
    assert content["error"]["message"] == "Unexpected ZeroDivisionError: nobody's fault"
    assert f"GET /v2/{QUEUE}" in caplog.text


async def test_errors_of_other_routes_in_json(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception on a route beside REST is answered as Google answers its own."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(TokenSigner, "keys", broken)
    status, content = await running.http("GET", "/oauth2/v3/certs", Accept="text/html")
    error = {"code": 500, "message": "Internal error encountered.", "status": "INTERNAL"}
    assert (status, content) == (500, {"error": error})


async def test_a_body_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the server reads is 413, in JSON too."""
    monkeypatch.setattr(http_module, "_MAX_BODY", 1000)
    async with emulator(queues=(QUEUE,)) as running:
        status, content = await running.http("POST", f"/v2/{QUEUE}/tasks", b" " * 1001)
    assert (status, content["error"]["code"], content["error"]["status"]) == (413, 413, "INVALID_ARGUMENT")


@with_settings("running", queues=(QUEUE,))
async def test_standard_parameters(running: Running) -> None:
    """Parameters that every REST API of Google takes are no fields of the request."""
    names = ["access_token", "callback", "key", "oauth_token", "quotaUser", "uploadType", "upload_protocol"]
    names += ["$.xgafv", "$key", "prettyPrint", "$prettyPrint"]
    query = "&".join(f"{name}=1" for name in names)
    assert (await running.http("GET", f"/v2/{QUEUE}?{query}&alt=json&fields=name"))[0] == 200
    status, content = await running.http("GET", f"/v2/{QUEUE}?colour=red")
    text = (
        "Invalid JSON payload received. Unknown name \"colour\": Cannot bind query parameter. Field 'colour' could not "
    )
    assert (status, content["error"]["message"]) == (400, f"{text}be found in request message.")
    status, content = await running.http("GET", f"/v2/{QUEUE}?alt=proto")
    assert (status, "JSON only" in content["error"]["message"]) == (400, True)


@with_settings("running", queues=(QUEUE,))
async def test_names_that_are_not_known(running: Running) -> None:
    """Every unknown name of a body is named with its place, as Google names it."""
    http = {"url": "http://x", "colour": 1, "headers": {"Colour": "any"}}
    tasks = [{"task": {"httpRequest": http, "schedule_time": "2020-01-01T00:00:00Z"}}, {"size": 1}]
    status, content = await running.http("POST", f"/v2/{QUEUE}/tasks:batchCreate", {"requests": tasks, "what": {}})
    texts = [
        "Unknown name \"colour\" at 'requests[0].task.http_request': Cannot find field.",
        "Unknown name \"size\" at 'requests[1]': Cannot find field.",
        'Unknown name "what": Cannot find field.',
    ]
    texts = [f"Invalid JSON payload received. {text}" for text in texts]
    assert (status, content["error"]["message"].splitlines()) == (400, texts)
    (detail,) = content["error"]["details"]
    assert [violation["description"] for violation in detail["fieldViolations"]] == texts


async def test_details_in_json(running: Running) -> None:
    """Details of a refusal are shown with their types."""
    _, content = await running.http("POST", f"/v2/{LOCATION}/queues", {"name": "?"})
    (detail,) = content["error"]["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.Help"


@pytest.mark.parametrize("api", ["v2", "v2beta3"])
async def test_buffered_tasks(running: Running, api: str) -> None:
    """A raw body becomes a task for the target of the queue, with or without an id."""
    override = {"host": "example.net", "scheme": "HTTP", "pathOverride": {"path": "/in"}}
    queue = {"name": QUEUE, "state": "PAUSED", "httpTarget": {"uriOverride": override}}
    await running.admin("seed", {"queues": [queue]})
    for path in ("tasks:buffer", "tasks/mine:buffer"):
        status, shown = await running.http("POST", f"/{api}/{QUEUE}/{path}", b"raw", **{"Content-Type": "x/y"})
        assert status == 200
        assert shown["task"]["httpRequest"]["url"] == "http://example.net/in"
        assert shown["task"]["httpRequest"]["headers"]["Content-Type"] == "x/y"
    assert shown["task"]["name"] == f"{QUEUE}/tasks/mine"
    _, full = await running.http("GET", f"/v2/{QUEUE}/tasks/mine?responseView=FULL")
    assert full["httpRequest"]["body"] == "cmF3"


async def ahead(running: Running) -> int:
    """Return the whole hours by which the clock is ahead of this machine's."""
    now: int = (await running.admin("clock"))["now_us"]
    return round((now - time.time_ns() // 1000) / 3_600_000_000)


async def test_the_clock_stays_with_the_folder(tmp_path: Path) -> None:
    """An advanced clock is as far ahead after a restart and after a restore; a reset brings it back."""
    async with emulator(data_dir=tmp_path) as running:
        await running.admin("snapshot", {"name": "before"})
        await running.admin("clock", {"advance_s": 10 * 3600})
        await running.admin("restore", {"name": "before"})
        assert await ahead(running) == 10
    async with emulator(data_dir=tmp_path) as running:
        assert await ahead(running) == 10
        await running.admin("reset", {})
        assert await ahead(running) == 0
        await running.admin("clock", {"advance_s": 7200})
    async with emulator(data_dir=tmp_path) as running:
        assert await ahead(running) == 2


async def test_a_restart_while_the_clock_catches_up(tmp_path: Path) -> None:
    """A task that an advance has left to be sent is still there after a restart."""
    settings: dict[str, Any] = {"queues": (QUEUE,), "data_dir": tmp_path, "wait_for_loopback": True}
    task = {"name": f"{QUEUE}/tasks/a", "httpRequest": {"url": "http://127.0.0.1:9/"}}
    async with emulator(**settings) as running:
        now = datetime.fromisoformat((await running.admin("clock"))["now"])
        due = {"scheduleTime": (now + timedelta(days=20)).isoformat()}
        await running.http("POST", f"/v2/{QUEUE}/tasks", {"task": task | due})
        await running.admin("clock", {"advance_s": 40 * 86_400})
        assert (await running.http("GET", f"/v2/{QUEUE}/tasks/a"))[0] == 200
    async with emulator(**settings) as running:
        assert (await running.http("GET", f"/v2/{QUEUE}/tasks/a"))[0] == 200


@pytest.mark.parametrize("advance", [-1, 1e15, 1e300, "inf", "-inf", "nan", "soon", None, [1]])
async def test_invalid_advances(running: Running, advance: Any) -> None:
    """An advance that is none, or beyond all calendars, is refused and does not move the clock."""
    before = await running.admin("clock")
    status, content = await running.http("POST", "/admin/clock", {"advance_s": advance})
    assert (status, list(content)) == (400, ["error"])
    after = await running.admin("clock")
    assert 0 <= after["now_us"] - before["now_us"] < 60_000_000


@with_settings("running", queues=(QUEUE,))
async def test_reset_and_seed(running: Running) -> None:
    """A reset leaves the queues of the command line; a seed makes queues, or sets them anew, also deleted ones."""
    other = f"{QUEUE}-2"
    routed = {"name": other, "appEngineRoutingOverride": {"service": "s"}, "rateLimits": {"maxBurstSize": 5}}
    assert await running.admin("seed", {"queues": [routed]}) == {"queues": [other]}
    await running.admin("seed", {"queues": [{"name": other, "state": "DISABLED"}]})
    _, shown = await running.http("GET", f"/v2/{other}")
    assert (shown["state"], "appEngineRoutingOverride" in shown) == ("DISABLED", False)
    await running.http("DELETE", f"/v2/{other}")
    await running.admin("seed", {"queues": [{"name": other}]})
    await running.admin("faults", {"method": "GetQueue", "code": "INTERNAL", "count": None})
    assert (await running.http("GET", f"/v2/{QUEUE}"))[0] == 500
    assert await running.admin("reset", {}) == {"queues": [QUEUE]}
    _, listed = await running.http("GET", f"/v2/{LOCATION}/queues")
    assert [queue["name"] for queue in listed["queues"]] == [QUEUE]


@pytest.mark.parametrize(
    "queues",
    [
        "x",
        [1],
        [{}],
        [{"name": "foo"}],
        [{"name": QUEUE, "state": "ASLEEP"}],
        [{"name": QUEUE, "retryConfig": {"maxAttempts": -2}}],
        [{"name": QUEUE, "colour": "red"}],
    ],
)
async def test_invalid_seeds(running: Running, queues: Any) -> None:
    """A seed with a queue that cannot be is refused, and makes none of the others either."""
    seed = [{"name": f"{QUEUE}-0"}, *queues] if isinstance(queues, list) else queues
    status, content = await running.http("POST", "/admin/seed", {"queues": seed})
    assert (status, list(content)) == (400, ["error"])
    assert (await running.http("GET", f"/v2/{LOCATION}/queues"))[1] == {}


@with_settings("running", queues=(QUEUE,))
async def test_snapshots(running: Running) -> None:
    """A restored snapshot has the queues of the time when it was made."""
    made = await running.admin("snapshot", {"name": "one"})
    unnamed = await running.admin("snapshot", {})
    assert made == {"name": "one"} != unnamed
    await running.http("DELETE", f"/v2/{QUEUE}")
    await running.admin("restore", {"name": "one"})
    assert (await running.http("GET", f"/v2/{QUEUE}"))[0] == 200
    assert (await running.http("POST", "/admin/restore", {"name": "two"}))[0] == 404
    assert (await running.http("POST", "/admin/restore", {"name": "../one"}))[0] == 400


async def test_a_restore_that_fails(tmp_path: Path) -> None:
    """A snapshot that cannot be used is refused, and attempts in flight are sent again."""
    arrivals: asyncio.Queue[bytes] = asyncio.Queue()
    over = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrivals.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        await over.wait()  # from Python 3.12 on a server waits for its connections when it is closed
        writer.close()

    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "bad.sqlite3").write_bytes(b"no database at all" * 100)
    async with (
        emulator(queues=(QUEUE,), data_dir=tmp_path) as running,
        await asyncio.start_server(hang, "127.0.0.1", 0) as target,
        asyncio.timeout(20),
    ):
        url = "http://127.0.0.1:{1}/".format(*target.sockets[0].getsockname())
        await running.http("POST", f"/v2/{QUEUE}/tasks", {"task": {"httpRequest": {"url": url}}})
        first = await arrivals.get()
        status, content = await running.http("POST", "/admin/restore", {"name": "bad"})
        assert (status, "bad.sqlite3 cannot be used" in content["error"]) == (400, True)
        assert await arrivals.get() == first
        over.set()


async def test_one_replacement_after_the_other(service: Service, tmp_path: Path) -> None:
    """Two resets at once run one after the other, and nothing is sent during either."""
    admin, dispatcher, held = Admin(service.engine, tmp_path), service.engine.dispatcher, []
    await service.create_queue()
    await service.create_task("a")
    dispatcher.run_now(service.engine.store.queue(QUEUE), "a")

    def change() -> None:
        held.append(not dispatcher._released.is_set())

    await asyncio.gather(admin._replace(change), admin._replace(change))
    assert held == [True, True]


@with_settings("running", queues=(QUEUE,))
async def test_faults_endpoint(running: Running) -> None:
    """Faults can be added and cleared; an invalid one is refused."""
    await running.admin("faults", {"method": "GetQueue", "code": "PERMISSION_DENIED"})
    assert (await running.http("GET", f"/v2/{QUEUE}"))[0] == 403
    assert (await running.http("GET", f"/v2/{QUEUE}"))[0] == 200
    await running.admin("faults", {"method": "*", "code": "UNAVAILABLE", "count": 5})
    assert (await running.http("DELETE", "/admin/faults"))[0] == 200
    assert (await running.http("GET", f"/v2/{QUEUE}"))[0] == 200
    for wrong in ({"code": "INTERNAL"}, b"[]", b"{"):
        assert (await running.http("POST", "/admin/faults", wrong))[0] == 400


async def test_empty_history_and_targets(running: Running) -> None:
    """History and absent targets are empty lists before anything happened."""
    assert await running.admin("history?limit=5&body=1") == {"tasks": []}
    assert await running.admin("waiting") == {"targets": []}
    for limit in ("-1", "x"):
        assert (await running.http("GET", f"/admin/history?limit={limit}"))[0] == 400


async def test_a_first_lease_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator with leases ends if no client takes one."""
    monkeypatch.setattr(http_module, "_FIRST_WITHIN", 0.01)
    async with emulator(lease=True) as running, asyncio.timeout(20):
        await running.server


@pytest.mark.parametrize("option", ["port", "http_port"])
async def test_a_port_in_use(running: Running, option: str) -> None:
    """A port that is taken is named, with the option that chooses another one."""
    protocol = "grpc" if option == "port" else "http"
    port = int(running.endpoint[protocol].rpartition(":")[2])
    settings = Settings(port=port) if option == "port" else Settings(port=0, http_port=port)
    with pytest.raises(PortInUseError, match=f"port {port} is in use") as refused:
        await server_module.run(settings, lambda _: None, asyncio.Event(), asyncio.Event())
    assert f"--{option.replace('_', '-')} 0" in (refused.value.hint or "")


def test_hosts_with_colons() -> None:
    """An IPv6 address stands in brackets before its port."""
    assert [host_and_port(host, 80) for host in ("127.0.0.1", "::1")] == ["127.0.0.1:80", "[::1]:80"]


async def test_the_http_port_is_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chosen gRPC port the HTTP port is the one after it, and after the last one any."""
    asked: list[int] = []

    async def listen(_: object, __: str, port: int, ___: object = None) -> int:
        asked.append(port)
        return port

    monkeypatch.setattr(http_module.HttpServer, "listen", listen)
    async with emulator() as running:
        port = int(running.endpoint["grpc"].rpartition(":")[2])
    async with emulator(port=port):
        pass
    monkeypatch.setattr(server_module, "grpc_server", lambda host, *_: (grpc_server(host, 0)[0], 65_535))
    async with emulator(port=65_535):
        pass
    assert asked == [0, port + 1, 0]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"queues": ("q",)}, InvalidInputError),
        ({"host": "203.0.113.1"}, EmulatorError),
        ({"data_dir": Path("/dev/null/x")}, EmulatorError),
    ],
)
async def test_errors_at_the_start(settings: dict[str, Any], error: type[Exception]) -> None:
    """A bad queue name, a foreign address and a folder that cannot be made are errors."""
    with pytest.raises(error):
        await server_module.run(Settings(**{"port": 0, **settings}), lambda _: None, asyncio.Event(), asyncio.Event())


def test_an_endpoint_of_a_killed_emulator_is_removed(tmp_path: Path) -> None:
    """What a killed emulator wrote about itself is not believed."""
    (tmp_path / "endpoint.json").write_text("{}")
    with folder_module.Folder(tmp_path):
        assert not (tmp_path / "endpoint.json").exists()


def test_folders_of_killed_emulators_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only temporary ones, and none whose emulator runs or is just beginning."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = ("cloudtasks-killed", "cloudtasks-runs", "cloudtasks-new", "cloudtasks-mine")
    killed, runs, new, mine = (tmp_path / name for name in names)
    for folder in (killed, runs, new, mine):
        folder.mkdir()
        if folder is not mine:
            (folder / "temporary").touch()
        if folder is not new:
            os.utime(folder, (1, 1))
    with FileLock(runs / "emulator.lock"):
        os.utime(runs, (1, 1))
        with folder_module.Folder(None) as found:
            assert set(tmp_path.iterdir()) == {runs, new, mine, found.path}


async def test_probes_end_with_the_dispatcher() -> None:
    """The probes of unreachable targets stop when they are closed."""
    targets = unreachable.UnreachableTargets(lambda _: None)
    targets.add("127.0.0.1:9")
    targets.add("127.0.0.1:9")
    assert targets
    await targets.close()
    assert "127.0.0.1:9" not in targets
