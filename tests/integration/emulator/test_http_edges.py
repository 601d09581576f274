"""HTTP at its edges: refusals of REST and of the endpoints for tests, parameters of every call, buffered tasks."""

import json
from collections.abc import Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from google.cloud.tasks_v2 import GetQueueRequest

from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from tests.cases import cases
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, Target

QUEUES = f"/v2/{LOCATION}/queues"
#: The HTTP status of each code, as https://cloud.google.com/tasks/docs/reference/rpc/google.rpc lists them.
STATUSES = {
    "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
    "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}  # fmt: skip


NEW = f"{LOCATION}/queues/new"
NO_QUEUES: list[Any] = [
    *(1, {}, {"name": "foo"}),
    *({"name": f"{LOCATION}/queues/q", **it} for it in ({"state": "ASLEEP"}, {"colour": "red"})),
    {"name": f"{LOCATION}/queues/q", "retryConfig": {"maxAttempts": -2}},
]


def admin(emulator: Emulator, path: str, **body: Any) -> Any:
    """Call an endpoint for tests."""
    return emulator.request("POST", f"/admin/{path}", body)


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_each_code_has_its_status(emulator: Emulator, queue: str, code: str, status: int) -> None:
    """A call that is refused with a code is answered with the HTTP status of the code; the next call is as ever."""
    admin(emulator, "faults", method="GetQueue", code=code)
    found, content = emulator.ask("GET", f"/v2/{queue}")
    assert (found, content["error"]["code"], content["error"]["status"]) == (status, status, code)
    assert emulator.ask("GET", f"/v2/{queue}")[0] == 200


@cases(
    ("GET", "/v2/nothing", None, 404, "NOT_FOUND"),
    ("GET", f"/v1/{LOCATION}/queues", None, 404, "NOT_FOUND"),
    ("GET", "/nothing", None, 404, "NOT_FOUND"),
    ("PUT", "/v2/{queue}", b"{}", 404, "NOT_FOUND"),
    ("PUT", "/health", b"{}", 405, "FAILED_PRECONDITION"),
    ("POST", QUEUES, b"{", 400, "INVALID_ARGUMENT"),
    ("POST", QUEUES, b"[1]", 400, "INVALID_ARGUMENT"),
    ("POST", "/v2/{queue}/tasks?task.name=x", b'{"task": 5}', 400, "INVALID_ARGUMENT"),
    ("POST", "/v2/{queue}/tasks:buffer", b"hi", 400, "FAILED_PRECONDITION"),
)
def test_refusals_in_json(
    emulator: Emulator, queue: str, verb: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    """A request that no call takes gets the error as Google's JSON has it."""
    found, content = emulator.ask(verb, path.format(queue=queue), body)
    assert (found, content["error"]["code"], content["error"]["status"]) == (status, status, code)


def test_standard_parameters(emulator: Emulator, queue: str) -> None:
    """Parameters that every REST API of Google takes are no fields of the request; others and other formats are not."""
    names = ["access_token", "callback", "key", "oauth_token", "quotaUser", "uploadType", "upload_protocol"]
    names += ["$.xgafv", "$key", "prettyPrint", "$prettyPrint"]
    query = "&".join(f"{name}=1" for name in names)
    assert emulator.request("GET", f"/v2/{queue}?{query}&alt=json&fields=name") == {"name": queue}
    status, content = emulator.ask("GET", f"/v2/{queue}?colour=red")
    text = "Unknown name \"colour\": Cannot bind query parameter. Field 'colour' could not be found in request message."
    assert (status, content["error"]["message"]) == (400, f"Invalid JSON payload received. {text}")
    status, content = emulator.ask("GET", f"/v2/{queue}?alt=proto")
    assert (status, "JSON only" in content["error"]["message"]) == (400, True)


def test_names_that_are_not_known(emulator: Emulator, queue: str) -> None:
    """Every unknown name of a body is named with its place, as Google names it."""
    http = {"url": "http://x", "colour": 1, "headers": {"Colour": "any"}}
    tasks = [{"task": {"httpRequest": http, "schedule_time": "2020-01-01T00:00:00Z"}}, {"size": 1}]
    body = json.dumps({"requests": tasks, "what": {}}).encode()
    status, content = emulator.ask("POST", f"/v2/{queue}/tasks:batchCreate", body)
    names = ("\"colour\" at 'requests[0].task.http_request'", "\"size\" at 'requests[1]'", '"what"')
    texts = [f"Invalid JSON payload received. Unknown name {name}: Cannot find field." for name in names]
    assert (status, content["error"]["message"].splitlines()) == (400, texts)
    (detail,) = content["error"]["details"]
    assert [violation["description"] for violation in detail["fieldViolations"]] == texts


@pytest.mark.parametrize("api", ["v2", "v2beta3"])
def test_buffered_tasks(emulator: Emulator, api: str) -> None:
    """A raw body becomes a task for the target of the queue, with or without an id; a query may say how it is shown."""
    queue = f"{LOCATION}/queues/buffered-{api}"
    override = {"host": "example.net", "scheme": "HTTP", "pathOverride": {"path": "/in"}}
    admin(emulator, "seed", queues=[{"name": queue, "state": "PAUSED", "httpTarget": {"uriOverride": override}}])
    for path in ("tasks:buffer", "tasks/mine:buffer"):
        status, shown = emulator.ask("POST", f"/{api}/{queue}/{path}", b"raw", {"Content-Type": "x/y"})
        assert (status, shown["task"]["httpRequest"]["url"]) == (200, "http://example.net/in")
        assert shown["task"]["httpRequest"]["headers"]["Content-Type"] == "x/y"
    assert shown["task"]["name"] == f"{queue}/tasks/mine"
    for query, method, view in (("FULL", "POST", "FULL"), ("2&$alt=json;enum-encoding=int", 1, 2)):
        full = emulator.request("GET", f"/v2/{queue}/tasks/mine?responseView={query}")
        assert (full["httpRequest"]["body"], full["httpRequest"]["httpMethod"], full["view"]) == ("cmF3", method, view)


def test_instance_in_every_answer(emulator: Emulator, queue: str) -> None:
    """Answers and refusals have the id, and over gRPC the HTTP port; bytes that are not a message are refused."""
    expected = {INSTANCE_METADATA: emulator.ready["instance"], LOG_IMMEDIATE_METADATA: "true"}
    expected[HTTP_PORT_METADATA] = emulator.http.rpartition(":")[2]
    method = emulator.channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/GetQueue")
    known, missing = (GetQueueRequest.serialize(GetQueueRequest(name=name)) for name in (queue, f"{queue}-2"))
    for wire, code in ((known, "OK"), (missing, "NOT_FOUND"), (b"\x0a\xff", "INVALID_ARGUMENT")):
        call = method.future(wire)
        assert call.code().name == code
        assert expected.items() <= dict(call.trailing_metadata()).items()


def test_every_answer_has_a_date(emulator: Emulator, queue: str) -> None:
    """It is that of the emulator's clock, in the form of HTTP, over gRPC too."""
    call = emulator.channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/GetQueue")
    for hours in (0, 2):
        emulator.advance(hours * 3600)
        before = admin(emulator, "clock")["now_us"] // 1_000_000
        future = call.future(GetQueueRequest.serialize(GetQueueRequest(name=queue)))
        dates = [dict(future.trailing_metadata())["date"]]
        for path in (f"/v2/{queue}", "/health", "/v2/nothing"):
            with closing(HTTPConnection(emulator.http, timeout=PATIENCE)) as connection:
                connection.request("GET", path)
                dates.append(connection.getresponse().headers["Date"])
        after = admin(emulator, "clock")["now_us"] // 1_000_000
        assert all(before <= parsedate_to_datetime(date).timestamp() <= after for date in dates)
    admin(emulator, "reset")


@cases(
    ("POST", "clock", [{"advance_s": it} for it in (-1, 1e15, 1e300, "inf", "-inf", "nan", "soon", None, [1])]),
    ("POST", "seed", [{"queues": "x"}, *({"queues": [{"name": NEW}, it]} for it in NO_QUEUES)]),
    ("POST", "restore", [{"name": "../one"}]),
    ("POST", "faults", [{"code": "INTERNAL"}, [], "{"]),
    ("GET", "history?limit=-1", [{}]),
    ("GET", "history?limit=x", [{}]),
)
def test_refusals_of_the_endpoints_for_tests(emulator: Emulator, verb: str, path: str, bodies: Sequence[Any]) -> None:
    """A wrong request is refused with the reason, and does nothing: not even the valid part of it."""
    emulator.request("POST", "/admin/reset", {})
    for body in bodies:
        text = body if body == "{" else json.dumps(body)
        status, content = emulator.ask(verb, f"/admin/{path}", text.encode())
        assert (status, list(content)) == (400, ["error"])
    assert emulator.request("GET", "/admin/clock")["ahead_us"] == 0
    assert emulator.ask("GET", QUEUES) == (200, {})


def test_reset_and_seed(emulator: Emulator, paused: str) -> None:
    """A seed makes queues, or sets them anew, also deleted ones; a reset forgets all, also names and faults."""
    emulator.enqueue(paused, "http://127.0.0.1:9/")
    other = f"{LOCATION}/queues/seeded"
    routed = {"name": other, "appEngineRoutingOverride": {"service": "s"}, "rateLimits": {"maxBurstSize": 5}}
    assert admin(emulator, "seed", queues=[routed]) == {"queues": [other]}
    admin(emulator, "seed", queues=[{"name": other, "state": "DISABLED"}])
    shown = emulator.request("GET", f"/v2/{other}")
    assert (shown["state"], "appEngineRoutingOverride" in shown) == ("DISABLED", False)
    emulator.request("DELETE", f"/v2/{other}")
    admin(emulator, "seed", queues=[{"name": other}])
    admin(emulator, "faults", method="*", code="INTERNAL", count=None)
    assert [emulator.ask("GET", f"/v2/{paused}")[0] for _ in range(2)] == [500, 500]
    assert admin(emulator, "reset") == {"queues": []}
    assert emulator.ask("GET", QUEUES) == (200, {})
    emulator.client.create_queue({"parent": LOCATION, "queue": {"name": paused}})
    assert list(emulator.client.list_tasks(parent=paused)) == []
    assert emulator.request("GET", "/admin/history?limit=5&body=1") == {"tasks": []}
    assert emulator.request("GET", "/admin/waiting") == {"targets": []}


def test_a_restore_that_fails(emulator: Emulator, queue: str, target: Target) -> None:
    """A snapshot that cannot be used, or is not there, is refused, and attempts in flight are sent again."""
    assert emulator.ask("POST", "/admin/restore", b'{"name": "none"}')[0] == 404
    admin(emulator, "snapshot", name="bad")
    (Path(emulator.ready["data_dir"]) / "snapshots" / "bad.sqlite3").write_bytes(b"no database at all" * 100)
    target.script(target.hold())
    task = emulator.enqueue(queue, target.url)
    target.wait()
    status, content = emulator.ask("POST", "/admin/restore", b'{"name": "bad"}')
    assert (status, "bad.sqlite3 cannot be used" in content["error"]) == (400, True)
    emulator.gone(task.name)
    assert target.received[0] == target.received[1]
