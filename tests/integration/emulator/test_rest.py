"""The same API as REST: through Google's client with `transport="rest"`, and as plain JSON."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest
from google.api_core.exceptions import BadRequest, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksRestTransport
from google.longrunning.operations_pb2 import GetOperationRequest

from tests.integration.conftest import LOCATION, PATIENCE, Emulator, Enqueue, MakeQueue, Target

NOWHERE = "http://127.0.0.1:9/"
State = tasks_v2.Queue.State


@pytest.fixture(scope="module")
def rest(emulator: Emulator) -> Iterator[tasks_v2.CloudTasksClient]:
    """Give Google's own client over REST."""
    transport = CloudTasksRestTransport(host=emulator.ready["http"], credentials=AnonymousCredentials())
    with tasks_v2.CloudTasksClient(transport=transport) as client:
        yield client


def test_the_life_of_a_queue(rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient) -> None:
    """Create, get, list, update, pause, resume, purge and delete a queue."""
    name = f"{LOCATION}/queues/rest"
    made = rest.create_queue({"parent": LOCATION, "queue": {"name": name, "retry_config": {"max_attempts": 3}}})
    assert made == rest.get_queue(name=name) == client.get_queue(name=name)
    assert made.retry_config.max_attempts == 3
    assert name in [queue.name for queue in rest.list_queues(parent=LOCATION)]
    limits = tasks_v2.Queue(name=name, rate_limits={"max_dispatches_per_second": 2})
    updated = rest.update_queue({"queue": limits, "update_mask": {"paths": ["rate_limits.max_dispatches_per_second"]}})
    assert (updated.rate_limits.max_dispatches_per_second, updated.retry_config.max_attempts) == (2, 3)
    assert rest.pause_queue(name=name).state == State.PAUSED
    assert rest.resume_queue(name=name).state == State.RUNNING
    assert "purge_time" in rest.purge_queue(name=name)
    rest.delete_queue(name=name)
    with pytest.raises(NotFound):
        rest.get_queue(name=name)


def test_the_log(emulator: Emulator, make_queue: MakeQueue, enqueue: Enqueue) -> None:
    """The operations log is read with the call of Cloud Logging's REST API."""
    queue = make_queue(stackdriver_logging_config={"sampling_ratio": 1.0})
    name = enqueue(queue, NOWHERE).name
    request = {"resourceNames": ["projects/demo"], "filter": f'jsonPayload.task="{name}"', "orderBy": "timestamp asc"}
    (entry, *_) = emulator.request("POST", "/v2/entries:list", request)["entries"]
    assert (entry["jsonPayload"]["task"], entry["jsonPayload"]["taskCreationLog"]["status"]) == (name, "OK")


def test_the_life_of_a_task(
    rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient, queue: str, target: Target
) -> None:
    """Create, get, list, run and delete a task."""
    client.pause_queue(name=queue)
    http = {"url": target.url, "body": b"\x00\xff", "headers": {"X-A": "1"}, "http_method": "PUT"}
    made = rest.create_task({"parent": queue, "task": {"http_request": http}, "response_view": "FULL"})
    assert made.http_request.body == b"\x00\xff"
    assert made == client.get_task({"name": made.name, "response_view": "FULL"})
    assert rest.get_task(name=made.name) == client.get_task(name=made.name)
    assert [task.name for task in rest.list_tasks(parent=queue)] == [made.name]
    assert rest.run_task(name=made.name).name == made.name
    (request,) = target.wait()
    assert (request.method, request.body) == ("PUT", b"\x00\xff")
    other = rest.create_task({"parent": queue, "task": {"http_request": {"url": NOWHERE}}})
    rest.delete_task(name=other.name)
    with pytest.raises(NotFound):
        rest.get_task(name=other.name)


def test_batches(rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient, queue: str) -> None:
    """BatchCreate, BatchDelete and their operations."""
    client.pause_queue(name=queue)
    requests = [
        {"parent": queue, "task": {"name": f"{queue}/tasks/{one}", "http_request": {"url": NOWHERE}}} for one in "abb"
    ]
    operation = rest.batch_create_tasks({"parent": queue, "requests": requests})
    assert len(operation.result().tasks) == 2
    assert list(operation.metadata.failed_requests) == [2]
    assert rest.get_operation(GetOperationRequest(name=operation.operation.name)) == operation.operation
    rest.batch_delete_tasks({"parent": queue, "names": [f"{queue}/tasks/a", f"{queue}/tasks/b"]}).result()
    assert list(rest.list_tasks(parent=queue)) == []


def test_plain_json(emulator: Emulator, queue: str, target: Target) -> None:
    """What curl sends, with camelCase names, enum names and base64, is understood and answered alike."""
    http = {"url": target.url, "httpMethod": "PATCH", "body": base64.b64encode(b"hello").decode()}
    task = {"task": {"httpRequest": http, "scheduleTime": "2020-01-01T00:00:00Z"}}
    made = emulator.request("POST", f"/v2/{queue}/tasks", task)
    assert made["httpRequest"]["httpMethod"] == "PATCH"
    assert made["view"] == "BASIC"
    (request,) = target.wait()
    assert (request.method, request.body) == ("PATCH", b"hello")
    shown = emulator.request("GET", f"/v2/{queue}")
    assert shown["state"] == "RUNNING"
    assert shown["retryConfig"]["minBackoff"] == "0.100s"


def test_header_names_are_checked(
    rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient, queue: str
) -> None:
    """A header that HTTP has no name for is refused when the task or the queue is created, by both protocols."""
    target = {"header_overrides": [{"header": {"key": "X A", "value": "1"}}]}
    for either in (rest, client):
        with pytest.raises(BadRequest, match='"X A" is not the name of an HTTP header'):
            either.create_task({"parent": queue, "task": {"http_request": {"url": NOWHERE, "headers": {"X A": "1"}}}})
        with pytest.raises(BadRequest, match='"X A" is not the name of an HTTP header'):
            either.create_queue({"parent": LOCATION, "queue": {"name": f"{queue}-odd", "http_target": target}})


MASKS = [
    "updateMask=rateLimits.maxDispatchesPerSecond,retryConfig.maxAttempts",
    "updateMask=rate_limits.max_dispatches_per_second,retry_config.max_attempts",
    "update_mask=rateLimits.maxDispatchesPerSecond,retry_config.max_attempts",
    "update_mask=rate_limits,retryConfig.maxAttempts",
    "updateMask=rateLimits%2CretryConfig.maxAttempts&fields=rate_limits,retryConfig",
]


@pytest.mark.parametrize("query", MASKS)
def test_masks_of_updates(emulator: Emulator, queue: str, query: str) -> None:
    """An update changes the fields of its mask, which may be spelled in camel case or snake case, as its name may."""
    change = {
        "rateLimits": {"maxDispatchesPerSecond": 3},
        "retryConfig": {"maxAttempts": 5, "maxDoublings": 2},
        "state": "PAUSED",
    }
    emulator.request("PATCH", f"/v2/{queue}?{query}", change)
    shown = emulator.request("GET", f"/v2/{queue}")
    retry = shown["retryConfig"]
    assert (shown["rateLimits"]["maxDispatchesPerSecond"], retry["maxAttempts"], retry["maxDoublings"]) == (3, 5, 16)


@pytest.mark.parametrize("mask", ["rateLimits.colour", "rate_limits.", "_x", "a_b.C", "rateLimits;state"])
def test_masks_that_name_no_field(emulator: Emulator, queue: str, mask: str) -> None:
    """A mask with a field that queues do not have is refused."""
    status, content = emulator.ask("PATCH", f"/v2/{queue}?updateMask={mask}", b"{}")
    assert (status, content["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?fields=name,rateLimits/maxBurstSize", {}),
        ("?%24fields=name,rate_limits(max_burst_size)", {}),
        ("", {"X-Goog-FieldMask": "name,rateLimits.maxBurstSize"}),
    ],
)
def test_a_partial_response(emulator: Emulator, queue: str, query: str, headers: dict[str, str]) -> None:
    """The answer has the fields that the request asks for, by parameter or header."""
    shown = emulator.request("GET", f"/v2/{queue}{query}", headers=headers)
    assert shown == {"name": queue, "rateLimits": {"maxBurstSize": 100}}


def test_fields_that_are_not_there(emulator: Emulator) -> None:
    """A call that asks for fields which its answer does not have is refused, and does nothing."""
    name = f"{LOCATION}/queues/partial"
    status, content = emulator.ask("POST", f"/v2/{LOCATION}/queues?fields=colour", f'{{"name": "{name}"}}'.encode())
    description = "Error expanding 'fields' parameter. Cannot find matching fields for path 'colour'."
    (detail,) = content["error"]["details"]
    assert (status, content["error"]["message"]) == (400, "Request contains an invalid argument.")
    assert detail["fieldViolations"] == [{"field": "colour", "description": description}]
    assert emulator.ask("GET", f"/v2/{name}")[0] == 404


def test_formats_of_answers(emulator: Emulator, queue: str) -> None:
    """Enums are shown as names or numbers, JSON indented or not; requests may have either kind of enum."""
    ask = f"/v2/{queue}?fields=state"
    assert emulator.request("GET", f"{ask}&alt=json&key=mine") == {"state": "RUNNING"}
    assert emulator.request("GET", f"{ask}&%24alt=json%3Benum-encoding%3Dint") == {"state": 1}
    for query, text in (("", b'{\n  "state": "RUNNING"\n}'), ("&prettyPrint=false", b'{"state":"RUNNING"}')):
        with urlopen(f"http://{emulator.http}{ask}{query}", timeout=PATIENCE) as answer:
            assert answer.read() == text
    for method in ("PUT", 4, "4"):
        task = {"task": {"httpRequest": {"url": NOWHERE, "httpMethod": method}}, "responseView": 2}
        made = emulator.request("POST", f"/v2/{queue}/tasks", task)
        assert (made["httpRequest"]["httpMethod"], made["view"]) == ("PUT", "FULL")


@pytest.mark.parametrize("api", ["v1", "v2", "v2beta3"])
def test_locations(emulator: Emulator, api: str) -> None:
    """Locations are listed in pages, and shown, under the path of each version."""
    first = emulator.request("GET", f"/{api}/projects/demo/locations?pageSize=2")
    assert [place["name"] for place in first["locations"]] == [
        f"projects/demo/locations/asia-east{one}" for one in (1, 2)
    ]
    second = emulator.request("GET", f"/{api}/projects/demo/locations?pageToken={first['nextPageToken']}")
    assert second["locations"][0] not in first["locations"]
    assert emulator.request("GET", f"/{api}/{LOCATION}")["locationId"] == "us-central1"
    assert emulator.ask("GET", f"/{api}/projects/demo/locations/nowhere")[0] == 404


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_encoded_bodies(emulator: Emulator, queue: str, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """A compressed body is decoded; one that is not what its header says is refused."""
    path, headers = f"/v2/{queue}?updateMask=rateLimits", {"Content-Encoding": encoding}
    body = b'{"rateLimits": {"maxDispatchesPerSecond": 7}}'
    status, content = emulator.ask("PATCH", path, encode(body), headers)
    assert (status, content["rateLimits"]["maxDispatchesPerSecond"]) == (200, 7)
    status, content = emulator.ask("PATCH", path, b"\x00" + body, headers)
    assert (status, content["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "utf-8"])
def test_unknown_encodings_of_bodies(emulator: Emulator, queue: str, encoding: str) -> None:
    """A Content-Encoding that the server cannot decode is refused, and the request changes nothing."""
    status, content = emulator.ask("POST", f"/v2/{queue}:pause", b"{}", {"Content-Encoding": encoding})
    assert (status, content["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "gzip, deflate or identity" in content["error"]["message"]
    assert emulator.request("GET", f"/v2/{queue}")["state"] == "RUNNING"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: cake\r\nConnection: close\r\n\r\n", 417),
        (b"PUT /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_errors_below_the_api(emulator: Emulator, request_: bytes, status: int) -> None:
    """Also what is refused before the API has seen it is answered in JSON."""
    host, _, port = emulator.http.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(request_)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = json.loads(answer.read())
        answer.close()
    assert (answer.status, answer.headers.get_content_type()) == (status, "application/json")
    assert (content["error"]["code"], content["error"]["message"] != "") == (status, True)
