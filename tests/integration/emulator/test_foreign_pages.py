"""HTTP requests that a page of another site has a browser send: they are refused, whatever they ask for."""

import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from tests.cases import cases
from tests.integration.conftest import LOCATION, NO_HEADERS, PATIENCE, Emulator, options

QUEUE = f"{LOCATION}/queues/mine"
JSON = {"Content-Type": "application/json"}
KEYS = ("/.well-known/openid-configuration", "/oauth2/v3/certs", "/oauth2/v1/certs")
ROUTES = [
    *(("GET", path) for path in ("/", "/health", "/lease", *KEYS, f"/v2/{QUEUE}", "/nothing")),
    *(("GET", f"/console/{path}") for path in ("console.js", "queues", "attempts")),
    *(("GET", f"/admin/{path}") for path in ("clock", "history?body=1", "waiting")),
    *(("POST", f"/admin/{path}") for path in ("clock", "reset", "seed", "snapshot", "restore", "faults")),
    *(("POST", path) for path in (f"/console/v2/{QUEUE}:purge", f"/v2/{QUEUE}/tasks:buffer")),
    *(("DELETE", path) for path in ("/admin/faults", f"/v2/{QUEUE}")),
    ("OPTIONS", f"/v2beta3/{QUEUE}/tasks"),
]
FOREIGN: list[Mapping[str, str]] = [
    *({"Origin": page} for page in ("https://evil.example", "http://localhost.evil.example:8888", "null")),
    {"Sec-Fetch-Site": "cross-site"},
    *({"Host": host} for host in ("evil.example", "localhost.evil.example:8124", "evil.example@localhost")),
]


def ask(
    emulator: Emulator, method: str, path: str, headers: Mapping[str, str] = NO_HEADERS, body: bytes = b""
) -> tuple[int, Any]:
    """Send a request; return the status and, of a refusal, the JSON."""
    with closing(http.client.HTTPConnection(emulator.http, timeout=PATIENCE)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()) if answer.status in {403, 415} else None


@cases(*((route, FOREIGN[0]) for route in ROUTES), *((ROUTES[0], foreign) for foreign in FOREIGN[1:]), ids=str)
def test_pages_of_other_sites_are_refused(
    emulator: Emulator, route: tuple[str, str], foreign: Mapping[str, str]
) -> None:
    """On every route, and for every foreign header, the answer is 403; its JSON says why and what to do."""
    status, content = ask(emulator, *route, {**JSON, **foreign})
    assert (status, content["error"]["code"], content["error"]["status"]) == (403, 403, "PERMISSION_DENIED")
    assert "--allow-host" in content["error"]["message"] or "Send it from a program" in content["error"]["message"]


def test_a_link_to_the_console_may_stand_on_any_page(emulator: Emulator) -> None:
    """What a click opens is answered; the same for any other path, or by a script, is refused."""
    clicked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Accept": "text/html"}
    for path, headers, status in (
        ("/", clicked, 200),
        ("/", clicked | {"Sec-Fetch-Dest": "iframe"}, 403),
        ("/console/queues", clicked, 403),
        ("/admin/clock", clicked, 403),
    ):
        assert ask(emulator, "GET", path, headers)[0] == status


@cases(
    *({}, {"Host": "LOCALHOST:1"}, {"Host": "[::1]:8124"}, {"Sec-Fetch-Site": "none"}),
    {"Origin": "http://localhost:8888", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost:8888", "Sec-Fetch-Site": "cross-site"},  # to 127.0.0.1, as from Jupyter's own page
    {"Origin": "https://[::1]", "Sec-Fetch-Site": "same-origin"},
    ids=str,
)
def test_programs_and_local_pages_are_answered(emulator: Emulator, own: Mapping[str, str]) -> None:
    """Programs, which have no Origin, and pages of this machine are answered, whatever their port is."""
    assert ask(emulator, "GET", "/health", own) == (200, None)
    assert ask(emulator, "POST", "/admin/clock", {**JSON, **own}, b"{}") == (200, None)


@options("--host", "127.0.0.2", "--allow-host", "Emulator", "--allow-host", "hub.example:443")
def test_names_that_are_allowed(emulator: Emulator) -> None:
    """A host of `--allow-host` may be the Host or the Origin of a request; the address listened on is known too."""
    for headers in ({"Host": "emulator:8124"}, {"Origin": "https://hub.example"}, {"Host": "127.0.0.2"}):
        assert ask(emulator, "GET", "/health", headers)[0] == 200
    status, content = ask(emulator, "GET", "/health", {"Host": "other:80"})
    assert (status, "--allow-host other" in content["error"]["message"]) == (403, True)


@cases("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "none at all")
def test_writes_are_json(emulator: Emulator, kind: str) -> None:
    """A body that a page may send without asking is refused with 415, also without an Origin."""
    headers = {} if kind == "none at all" else {"Content-Type": kind}
    for method, path in (("POST", f"/v2/{LOCATION}/queues"), ("POST", "/admin/clock"), ("PATCH", f"/v2/{QUEUE}")):
        status, content = ask(emulator, method, path, headers, b'{"name": "x", "advance_s": 9}')
        assert (status, "application/json" in content["error"]["message"]) == (415, True)


def test_a_local_page_cannot_write_without_asking(emulator: Emulator) -> None:
    """A page of another port of this machine can send a request without a body; it purges no queue and adds no task."""
    page = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
    for path in (f"/v2/{QUEUE}:purge", f"/v2/{QUEUE}:pause", f"/v2/{QUEUE}/tasks:buffer"):
        assert ask(emulator, "POST", path, page)[0] == 415


def test_writes_without_a_body(emulator: Emulator) -> None:
    """A write without a body needs no content type, as DELETE has none; JSON may name its charset."""
    emulator.request("POST", f"/v2/{LOCATION}/queues", {"name": QUEUE})
    assert ask(emulator, "POST", f"/v2/{QUEUE}:pause") == (200, None)
    charset = {"Content-Type": "application/json; charset=UTF-8"}
    assert ask(emulator, "POST", f"/v2/{QUEUE}:purge", charset, b"{}") == (200, None)
    assert ask(emulator, "DELETE", f"/v2/{QUEUE}") == (200, None)


def test_get_does_not_move_the_clock(emulator: Emulator) -> None:
    """The time that GET asks for is refused, and the clock stays; POST moves it."""
    before = emulator.request("GET", "/admin/clock")["now_us"]
    assert ask(emulator, "GET", "/admin/clock?advance_s=360000")[0] == 400
    assert emulator.request("GET", "/admin/clock")["now_us"] - before < 360_000_000_000
    assert emulator.request("POST", "/admin/clock?advance_s=360000")["now_us"] - before > 360_000_000_000


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
