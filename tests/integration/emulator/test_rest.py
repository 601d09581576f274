"""The same API as REST: through Google's client with `transport="rest"`, and as plain JSON."""

import base64
import gzip
import http.client
import json
import socket
import zlib
from collections.abc import Callable
from urllib.request import urlopen

import pytest
from google.cloud import tasks_v2

from tests.cases import cases
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, Target
from tests.integration.emulator.conftest import NOWHERE

State = tasks_v2.Queue.State


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


@cases(
    "updateMask=rateLimits.maxDispatchesPerSecond,retryConfig.maxAttempts",
    "updateMask=rate_limits.max_dispatches_per_second,retry_config.max_attempts",
    "update_mask=rateLimits.maxDispatchesPerSecond,retry_config.max_attempts",
    "update_mask=rate_limits,retryConfig.maxAttempts",
    "updateMask=rateLimits%2CretryConfig.maxAttempts&fields=rate_limits,retryConfig",
)
def test_masks_of_updates(emulator: Emulator, queue: str, query: str) -> None:
    """An update changes the fields of its mask, which may be spelled in camel case or snake case, as its name may."""
    retry = {"maxAttempts": 5, "maxDoublings": 2}
    change = {"rateLimits": {"maxDispatchesPerSecond": 3}, "retryConfig": retry, "state": "PAUSED"}
    emulator.request("PATCH", f"/v2/{queue}?{query}", change)
    shown = emulator.request("GET", f"/v2/{queue}")
    retry = shown["retryConfig"]
    assert (shown["rateLimits"]["maxDispatchesPerSecond"], retry["maxAttempts"], retry["maxDoublings"]) == (3, 5, 16)


@pytest.mark.parametrize("mask", ["rateLimits.colour", "rate_limits.", "_x", "a_b.C", "rateLimits;state"])
def test_masks_that_name_no_field(emulator: Emulator, queue: str, mask: str) -> None:
    """A mask with a field that queues do not have is refused."""
    status, content = emulator.ask("PATCH", f"/v2/{queue}?updateMask={mask}", b"{}")
    assert (status, content["error"]["status"]) == (400, "INVALID_ARGUMENT")


@cases(
    ("?fields=name,rateLimits/maxBurstSize", {}),
    ("?%24fields=name,rate_limits(max_burst_size)", {}),
    ("", {"X-Goog-FieldMask": "name,rateLimits.maxBurstSize"}),
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
    """Locations are listed, and shown, under the path of each version."""
    first = emulator.request("GET", f"/{api}/projects/demo/locations?pageSize=2")
    assert [place["locationId"] for place in first["locations"]] == ["asia-east1", "asia-east2"]
    assert emulator.request("GET", f"/{api}/{LOCATION}")["locationId"] == "us-central1"


@pytest.mark.parametrize("path", ["/v2", ""], ids=["REST", "Firebase"])
def test_bodies_that_are_not_base64(emulator: Emulator, queue: str, path: str) -> None:
    """A task whose body is plain text, a common mistake, is refused; both alphabets of base64 are taken."""
    request = {"url": "http://127.0.0.1:9/", "headers": {"body": "{}"}}
    for body, expected in (("Pz8/", 200), ("Pz8_", 200), ("YQ", 200), ('{"a": 1}', 400)):
        task = {"task": {"httpRequest": request | {"body": body}}}
        status, content = emulator.ask("POST", f"{path}/{queue}/tasks", json.dumps(task).encode(), {})
        assert status == expected
    message = content["error"]["message"]
    assert "Invalid value at 'task.http_request.body' (TYPE_BYTES), Base64 decoding failed" in message
    batch = json.dumps({"requests": [{"parent": queue, **task}]}).encode()
    status, content = emulator.ask("POST", f"/v2/{queue}/tasks:batchCreate", batch, {})
    [violation] = content["error"]["details"][0]["fieldViolations"]
    assert (status, violation["field"]) == (400, "requests[0].task.http_request.body")


@cases(("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes))
def test_encoded_bodies(emulator: Emulator, queue: str, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """A compressed body is decoded; one that is not what its header says is refused."""
    path, headers = f"/v2/{queue}?updateMask=rateLimits", {"Content-Encoding": encoding}
    body = b'{"rateLimits": {"maxDispatchesPerSecond": 7}}'
    status, content = emulator.ask("PATCH", path, encode(body), headers)
    assert (status, content["rateLimits"]["maxDispatchesPerSecond"]) == (200, 7)
    for wrong in (b"\x00" + body, encode(body)[:-1], encode(body) + b"x"):
        status, content = emulator.ask("PATCH", path, wrong, headers)
        assert (status, content["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_a_body_that_grows(emulator: Emulator, queue: str) -> None:
    """A small body that becomes a large one is refused before it is in memory; a batch may be large."""
    headers = {"Content-Encoding": "gzip"}
    large = gzip.compress(b" " * (9 << 20) + b"{}", 1)
    status, content = emulator.ask("POST", f"/v2/{queue}:pause", large, headers)
    assert (status, content["error"]["status"]) == (413, "INVALID_ARGUMENT")
    assert emulator.ask("POST", f"/v2/{queue}/tasks:batchCreate", large, headers)[0] == 200
    huge = gzip.compress(b" " * (129 << 20), 1)
    assert emulator.ask("POST", f"/v2/{queue}/tasks:batchCreate", huge, headers)[0] == 413


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "utf-8"])
def test_unknown_encodings_of_bodies(emulator: Emulator, queue: str, encoding: str) -> None:
    """A Content-Encoding that the server cannot decode is refused, and the request changes nothing."""
    status, content = emulator.ask("POST", f"/v2/{queue}:pause", b"{}", {"Content-Encoding": encoding})
    assert (status, content["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "gzip, deflate or identity" in content["error"]["message"]
    assert emulator.request("GET", f"/v2/{queue}")["state"] == "RUNNING"


BUFFERED = f"{LOCATION}/queues/buffered"
WRITE = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n"
JSON = b"Content-Type: application/json\r\n"


@cases(
    (b"GARBAGE\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", 400),
    (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: cake\r\nConnection: close\r\n\r\n", 417),
    (b"PUT /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
    (b"GET / HTTP/1.1\r\nHost: a\xff\r\nConnection: close\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://\xff\r\nConnection: close\r\n\r\n", 403),
    (b"GET /v2/%FF HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    (WRITE % b"/v2/x" + b"Content-Type: a/\xff\r\n\r\n{}", 415),
    (WRITE % b"/v2/x" + JSON + b"Content-Encoding: \xff\r\n\r\n{}", 404),
    (WRITE % f"/v2/{BUFFERED}/tasks:buffer".encode() + b"Content-Type: a/\xff\r\n\r\n{}", 400),
    (WRITE % f"/v2/{BUFFERED}:pause".encode() + JSON + b"X-Goog-FieldMask: \xff\r\n\r\n{}", 400),
    ids=lambda value: repr(value)[:50],
)
def test_errors_below_the_api(emulator: Emulator, request_: bytes, status: int) -> None:
    """Also what is refused before the API has seen it is answered in JSON."""
    route = {"uriOverride": {"host": "example.net"}}
    emulator.request("POST", "/admin/seed", {"queues": [{"name": BUFFERED, "httpTarget": route}]})
    host, _, port = emulator.http.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(request_)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = json.loads(answer.read())
        answer.close()
    assert (answer.status, answer.headers.get_content_type()) == (status, "application/json")
    assert (content["error"]["code"], content["error"]["message"] != "") == (status, True)
