"""HTTP at its edges: encodings, metadata of answers, and what is refused below the API."""

import gzip
import http.client
import json
import socket
import tomllib
import zlib
from collections.abc import Callable
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from google.cloud.tasks_v2 import GetQueueRequest

from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from tests.cases import cases
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, Target


def admin(emulator: Emulator, path: str, **body: Any) -> Any:
    """Call an endpoint for tests."""
    return emulator.request("POST", f"/admin/{path}", body)


@pytest.mark.parametrize(
    ("query", "text"), [("", b'{\n  "state": "RUNNING"\n}'), ("&prettyPrint=false", b'{"state":"RUNNING"}')]
)
def test_formats_of_answers(emulator: Emulator, queue: str, query: str, text: bytes) -> None:
    """JSON is indented or not."""
    with urlopen(f"http://{emulator.http}/v2/{queue}?fields=state{query}", timeout=PATIENCE) as answer:
        assert answer.read() == text


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


BUFFERED = f"{LOCATION}/queues/buffered"
RAW = tomllib.loads(Path(__file__).with_name("raw_requests.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("request_", "status"), RAW["rows"])
def test_errors_below_the_api(emulator: Emulator, request_: str, status: int) -> None:
    """Also what is refused before the API has seen it is answered in JSON."""
    route = {"uriOverride": {"host": "example.net"}}
    emulator.request("POST", "/admin/seed", {"queues": [{"name": BUFFERED, "httpTarget": route}]})
    host, _, port = emulator.http.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(request_.replace("MANY", "x" * 20_000).replace("BUFFERED", BUFFERED).encode("latin-1"))
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = json.loads(answer.read())
        answer.close()
    assert (answer.status, answer.headers.get_content_type()) == (status, "application/json")
    assert (content["error"]["code"], content["error"]["message"] != "") == (status, True)


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


def test_a_restore_that_fails(emulator: Emulator, queue: str, target: Target) -> None:
    """A snapshot that cannot be used is refused, and attempts in flight are sent again."""
    admin(emulator, "snapshot", name="bad")
    (Path(emulator.ready["data_dir"]) / "snapshots" / "bad.sqlite3").write_bytes(b"no database at all" * 100)
    target.script(target.hold())
    task = emulator.enqueue(queue, target.url)
    target.wait()
    status, content = emulator.ask("POST", "/admin/restore", b'{"name": "bad"}')
    assert (status, "bad.sqlite3 cannot be used" in content["error"]) == (400, True)
    emulator.gone(task.name)
    assert target.received[0] == target.received[1]
