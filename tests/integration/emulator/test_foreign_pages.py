"""HTTP requests that a page of another site has a browser send: they are refused, whatever they ask for."""

import http.client
import socket
from collections.abc import Mapping
from contextlib import closing

from tests.integration.conftest import LOCATION, NO_HEADERS, PATIENCE, Emulator

QUEUE = f"{LOCATION}/queues/mine"
JSON = {"Content-Type": "application/json"}


def ask(emulator: Emulator, method: str, path: str, headers: Mapping[str, str] = NO_HEADERS, body: bytes = b"") -> int:
    """Send a request, and return the status of its answer."""
    with closing(http.client.HTTPConnection(emulator.http, timeout=PATIENCE)) as connection:
        connection.request(method, path, body, headers)
        return connection.getresponse().status


def test_a_link_to_the_console_may_stand_on_any_page(emulator: Emulator) -> None:
    """What a click on another site opens is answered."""
    clicked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Accept": "text/html"}
    assert ask(emulator, "GET", "/", clicked) == 200


def test_a_local_page_cannot_write_without_asking(emulator: Emulator) -> None:
    """A page can send a request without a kind, with a body or without; it creates, purges and adds nothing."""
    page = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
    paths = (f"/v2/{QUEUE}:purge", f"/v2/{QUEUE}:pause", f"/v2/{QUEUE}/tasks:buffer", f"/v2/{LOCATION}/queues")
    assert {ask(emulator, "POST", path, page) for path in paths} == {415}
    assert ask(emulator, "POST", "/admin/clock", body=b'{"advance_s": 9}') == 415


def test_writes_without_a_body(emulator: Emulator) -> None:
    """A write without a body needs no content type, as DELETE has none."""
    emulator.request("POST", f"/v2/{LOCATION}/queues", {"name": QUEUE})
    assert ask(emulator, "POST", f"/v2/{QUEUE}:pause") == 200
    assert ask(emulator, "DELETE", f"/v2/{QUEUE}") == 200


def test_grpc_understands_no_browser(emulator: Emulator) -> None:
    """The gRPC port closes a connection that does not begin as HTTP/2, which browsers use over TLS only."""
    host, port = emulator.ready["grpc"].rsplit(":", 1)
    path = "/google.cloud.tasks.v2.CloudTasks/ListQueues"
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/grpc-web", "Content-Length: 5"]
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + bytes(5))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"HTTP/1.1 200" not in answer
    assert b"grpc-status" not in answer
