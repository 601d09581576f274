"""An emulator of `ct.local()` answers the user who has started it, and nobody else on the machine."""

import http.client
import json
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb.service.endpoint import Endpoint
from tests.cases import cases
from tests.integration.conftest import NO_HEADERS, PATIENCE, StartEmulator
from tests.processes import run
from tests.raising import raises

PARENT = "projects/local/locations/us-central1"
JSON = {"Content-Type": "application/json"}

#: What somebody does who knows the ports of an emulator, and the folders where its token is.
STRANGER = """
import glob, json, os, sys
import grpc
from urllib import error, request

user, target, http, *folders = sys.argv[1:]
parent = "projects/local/locations/us-central1"

def call(method, wire):
    kind = "stream_stream" if "reflection" in method else "unary_unary"
    with grpc.insecure_channel(target) as channel:
        answer = getattr(channel, kind)(method)(iter([wire]) if kind == "stream_stream" else wire, timeout=60)
        try:
            return list(answer) if kind == "stream_stream" else "answered"
        except grpc.RpcError as refused:
            return refused.code().name

def grpc_call(method, wire):
    try:
        return call(method, wire)
    except grpc.RpcError as refused:
        return refused.code().name

def ask(method, path, body=None):
    headers = {"Content-Type": "application/json", "Accept": "text/html"}
    try:
        return request.urlopen(request.Request(http + path, body, headers, method=method), timeout=60).status
    except error.HTTPError as refused:
        return refused.code

def read(path):
    try:
        return open(path).read() if os.path.isfile(path) else os.listdir(path)
    except OSError as refused:
        return type(refused).__name__

if int(user):  # after calls that load what the other user may not be able to read
    ask("GET", "/health"), grpc_call("/grpc.health.v1.Health/Check", b"")
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
field = b"\\x0a" + bytes([len(parent)]) + parent.encode()
print(json.dumps({
    "list": grpc_call("/google.cloud.tasks.v2.CloudTasks/ListQueues", field),
    "create": grpc_call("/google.cloud.tasks.v2.CloudTasks/CreateQueue", field),
    "reflection": grpc_call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\\x3a\\x01*"),
    "health": grpc_call("/grpc.health.v1.Health/Check", b""),
    "REST": [ask("GET", f"/v2/{parent}/queues"), ask("POST", f"/v2/{parent}/queues", b"{}")],
    "admin": [ask("GET", "/admin/clock"), ask("POST", "/admin/reset", b"{}"), ask("GET", "/admin/history?body=1")],
    "console": [ask("GET", path) for path in ("/", "/?open=x", "/console/queues")],
    "links": ask("POST", "/admin/console", b"{}"),
    "lease": ask("GET", "/lease"),
    "HTTP health": ask("GET", "/health"),
    "files": [read(path) for folder in folders for path in (folder, f"{folder}/endpoint.json", f"{folder}/emulators")],
}))
"""
REFUSED = {
    **dict.fromkeys(("list", "create", "reflection"), "UNAUTHENTICATED"),
    "health": "answered",
    "REST": [401] * 2,
    "admin": [401] * 3,
    "console": [401] * 3,
    "links": 401,
    "lease": 401,
    "HTTP health": 200,
}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Give a folder that everybody can read."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def stranger(tasks: ct.Client, *folders: Path, user: int = 0) -> dict[str, Any]:
    """Return what somebody gets who has no token."""
    endpoint = tasks._connection.endpoint
    about = str(user), endpoint.target, str(endpoint.http), *map(str, folders)
    done = run(sys.executable, "-c", STRANGER, *about)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_who_has_no_token_is_refused(shared: Path) -> None:
    """On each interface; health needs none."""
    with ct.local(shared) as tasks:
        tasks.queue("mine", create=True)
        answers = stranger(tasks)
        assert {name: answers[name] for name in REFUSED} == REFUSED
        assert tasks.queues().index.tolist() == ["mine"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_the_machine_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the home nor the files of a folder that everybody can list give the token away."""
    for folder in (shared, *shared.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)  # pytest's own are for one user
    home = shared.parent / "home"
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    with ct.local(shared) as tasks:
        tasks.queue("mine", create=True)
        answers = stranger(tasks, shared, home, user=65534)
    listed, *denied = answers.pop("files")
    assert "endpoint.json" in listed
    assert denied == ["PermissionError", "FileNotFoundError", *["PermissionError"] * 3]
    assert answers == REFUSED


def ask(
    endpoint: Endpoint, method: str, path: str, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[int, http.client.HTTPMessage, str]:
    """Send a request; return status, headers and text of the answer."""
    with closing(http.client.HTTPConnection(str(endpoint.http).removeprefix("http://"), timeout=PATIENCE)) as opened:
        opened.request(method, path, "{}" if method == "POST" else None, {**JSON, **headers})
        answer = opened.getresponse()
        return answer.status, answer.headers, answer.read().decode()


@cases({}, {"x-cloudtasks-emulator-token": "wrong"}, {"authorization": "Bearer x"}, ids=str)
def test_the_token_is_a_header_of_its_own(local_emulator: ct.Client, headers: dict[str, str]) -> None:
    """A wrong one and another header are refused; `tasks.metadata` opens REST and Google's client."""
    endpoint, token = local_emulator._connection.endpoint, dict(local_emulator.metadata)
    path = f"/v2/{PARENT}/queues"
    assert [ask(endpoint, "GET", path, given)[0] for given in (headers, token)] == [401, 200]
    with grpc.insecure_channel(local_emulator.endpoint) as channel:
        client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        list(client.list_queues(parent=PARENT, metadata=local_emulator.metadata))
        with pytest.raises(Exception, match="answers only calls with its token"):
            client.list_queues(parent=PARENT, metadata=list(headers.items()))


@cases("grpc", "rest")
def test_the_port_alone_leads_to_an_emulator_of_the_same_user(shared: Path, transport: str) -> None:
    """Another connection finds the token in the home; so do Google's client and the clock that it has."""
    with ct.local(shared) as own:
        own.queue("mine", create=True)
        address = own.endpoint if transport == "grpc" else str(own._connection.endpoint.http)
        with ct.connect(endpoint=address, transport=transport) as tasks:
            assert tasks.queues().index.tolist() == ["mine"]
            assert [queue.name.rpartition("/")[2] for queue in tasks.client.list_queues(parent=PARENT)] == ["mine"]
            assert abs(tasks.clock.now - own.clock.now).total_seconds() < PATIENCE
            assert tasks.metadata == own.metadata
            assert own.metadata[0][1] not in repr(tasks._connection.endpoint)


def test_a_connection_from_another_home_is_told_what_to_do(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder opens it."""
    with ct.local(shared) as tasks, monkeypatch.context() as patch:
        patch.setenv("CLOUDTASKS_NB_HOME", str(shared / "other"))
        with (
            ct.connect(endpoint=tasks.endpoint) as other,
            raises(errors.CredentialsError, "answers only calls with its token", hint='ct.local("folder")'),
        ):
            other.queues()
        code = f"import cloudtasks_nb as ct; print(len(ct.local({str(shared)!r}).queues()))"
        assert run(sys.executable, "-c", code).stdout == "0\n"


def test_files_with_the_token_are_for_one_user(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask; those of emulators that have ended are removed when the next one starts."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home := shared.parent / "home"))
    (home / "emulators").mkdir(parents=True, mode=0o700)
    (home / "emulators" / "9.json").write_text("{}")
    before = os.umask(0)
    try:
        with ct.local(shared):
            files = [*shared.iterdir(), *(home / "emulators").iterdir()]
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files if file.is_file()}
    finally:
        os.umask(before)
    assert modes.keys() >= {"endpoint.json", "tasks.sqlite3"}
    assert {name: oct(mode) for name, mode in modes.items() if mode != 0o600} == {}
    assert "9.json" not in modes


def test_a_link_opens_the_console_once(local_emulator: ct.Client) -> None:
    """Its cookie belongs to this port, is hidden from scripts and other sites, and opens nothing but the console."""
    endpoint = local_emulator._connection.endpoint
    text = local_emulator._repr_mimebundle_()["text/plain"]
    path = text.rpartition("console: ")[2].removeprefix(str(endpoint.http))
    status, headers, page = ask(endpoint, "GET", path, {"Accept": "text/html"})
    cookie, *flags = str(headers["Set-Cookie"]).split("; ")
    assert (status, cookie.partition("=")[0]) == (200, f"cloudtasks-emulator-{str(endpoint.http).rpartition(':')[2]}")
    assert {"HttpOnly", "SameSite=Strict"} <= {*flags}
    assert 'http-equiv="refresh" content="0;url=/"' in page
    assert ask(endpoint, "GET", path)[0] == 401
    with_cookie = {"Cookie": cookie, "Accept": "text/html"}
    paths = ("/", "/console/console.js", "/console/queues", f"/v2/{PARENT}/queues", "/admin/clock")
    assert [ask(endpoint, "GET", path, with_cookie)[0] for path in paths] == [200, 200, 200, 401, 401]
    assert dict(local_emulator.metadata)["x-cloudtasks-emulator-token"] not in cookie


def test_an_emulator_without_a_token_says_so(start_emulator: StartEmulator) -> None:
    """Every user of the machine can call one that was started by hand, unless it asks for a token."""
    emulator = start_emulator()
    assert emulator.errors() == (
        "cloudtasks-nb emulator: every user of this machine can call it; --token asks callers for a token\n"
    )
    with ct.connect(endpoint=emulator.ready["grpc"]) as tasks:
        assert (tasks.metadata, tasks.queues().empty) == ([], True)
