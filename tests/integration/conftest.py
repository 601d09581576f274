"""Fixtures of the integration tests: an emulator, an HTTP target that records, a connection of the toolkit."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import grpc
import pandas as pd
import pytest
from google.api_core.exceptions import GoogleAPICallError, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2

import cloudtasks_nb as ct
from cloudtasks_nb import testing
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import resolve
from cloudtasks_nb.service.transport import Transport
from tests import processes, web

#: Where the tests' queues are; the emulator takes any project and location.
LOCATION = "projects/demo/locations/us-central1"
#: Longest that a test waits for anything, in seconds; what is right takes milliseconds, on a crowded machine seconds.
PATIENCE = 240.0
#: The deadline of a call, in seconds: Cloud Tasks refuses more than 30.
DEADLINE = 29.0
NO_HEADERS: Mapping[str, str] = {}

T = TypeVar("T")
StartEmulator = Callable[..., "Emulator"]
#: Is called in place of each RPC, with a function that does the call, the name of the RPC and its fields.
Hook = Callable[[Callable[[], Awaitable[Any]], str, dict[str, Any]], Awaitable[Any]]
Intercept = Callable[[Hook], None]
#: Sets the clock of this process so that it is ahead of the right time by some seconds.
Move = Callable[[float], None]
_numbers = itertools.count(1)


def until(condition: Callable[[], T | None], errors: Callable[[], str] = str) -> T:
    """Return the first true value of `condition`, asked again and again: the API has no call that waits."""
    end = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {PATIENCE} s in vain; {errors()}"
        pause.wait(0.005)
    return value


def refusal(error: GoogleAPICallError) -> tuple[str, str]:
    """Return the canonical code and the text of an error, as the emulator has sent them over gRPC or REST."""
    if isinstance(error.response, grpc.RpcError):
        return error.response.code().name, error.message
    sent = error.response.json()["error"]
    return sent["status"], sent["message"]


class Emulator:
    """A child ``python -m cloudtasks_nb.emulator`` that has printed its ready line.

    Parameters
    ----------
    *arguments : str
        Command line after ``--port 0``.
    transport : str
        What Google's clients use: ``"grpc"`` or ``"rest"``.
    command : sequence of str, optional
        What starts another installation of the emulator.
    environment : mapping, optional
        Its environment variables.
    running : testing.Emulator, optional
        The emulator of the pytest plugin to use in place of a new one; it is not ended.
    """

    def __init__(
        self,
        *arguments: str,
        transport: str = "grpc",
        command: Sequence[str] = (sys.executable, "-m", "cloudtasks_nb.emulator"),
        environment: Mapping[str, str] | None = None,
        running: testing.Emulator | None = None,
    ) -> None:
        self._transport = transport
        self._stack = ExitStack()
        # Appended to, because both processes share its position; a pipe that nobody reads would block the child.
        self._errors = self._stack.enter_context(tempfile.TemporaryFile("a+"))  # noqa: SIM115 - the stack closes it
        self.ready: Mapping[str, Any]
        if running is None:
            self.process = subprocess.Popen(
                [*command, "--port", "0", "--grace", "0", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
            self._stack.callback(processes.end, self.process)
            self.ready = processes.ready_line(self.process, PATIENCE)
            if not self.ready:
                errors = self.errors()
                self._stack.close()
                pytest.fail(f"the emulator did not get ready:\n{errors}")
        else:
            self.process, self.ready = running._process, running._facts
        self.http = urlsplit(self.ready["http"]).netloc
        # Frames of 100 tasks in FULL view are larger than the 4 MiB that a bare channel receives.
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = self._stack.enter_context(grpc.insecure_channel(self.ready["grpc"], options=options))
        self.client: tasks_v2.CloudTasksClient = self.connect(tasks_v2.CloudTasksClient)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def connect(self, kind: Any) -> Any:
        """Return a client of one of Google's classes, over the emulator's transport."""
        make = kind.get_transport_class(self._transport)
        if self._transport == "grpc":
            return kind(transport=make(channel=self.channel))
        transport = make(host=self.ready["http"], credentials=AnonymousCredentials())
        return self._stack.enter_context(kind(transport=transport))

    def errors(self) -> str:
        """Return what the process wrote to its standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Stop the process gracefully, close all that belongs to it and return its exit status."""
        self._stack.close()
        return int(self.process.returncode)

    def request(self, method: str, path: str, body: object = None, headers: Mapping[str, str] = NO_HEADERS) -> Any:
        """Send one HTTP request and return the decoded JSON answer."""
        status, content = self.ask(method, path, None if body is None else json.dumps(body).encode(), headers)
        assert status < 300, f"{method} {path}: {status} {content!r}"
        return content

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> tuple[int, Any]:
        """Send one HTTP request and return status and decoded JSON, also of a refusal."""
        with closing(http.client.HTTPConnection(self.http, timeout=PATIENCE)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None

    def make_queue(self, **fields: object) -> str:
        """Create a queue from the fields given, under a name of its own, and return its name."""
        name = f"{LOCATION}/queues/q-{next(_numbers)}"
        self.client.create_queue({"parent": LOCATION, "queue": {"name": name, **fields}})
        return name

    def enqueue(
        self, queue: str, url: str, http: Mapping[str, object] | None = None, **fields: object
    ) -> tasks_v2.Task:
        """Create an HTTP task: its queue, its URL, further fields of the request in `http`, of the task by name."""
        task = {"http_request": {"url": url, **(http or {})}, **fields}
        return self.client.create_task({"parent": queue, "task": task})

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock forward."""
        self.request("POST", "/admin/clock", {"advance_s": seconds})

    def until(self, condition: Callable[[], T | None]) -> T:
        """Return the first true value of `condition`, as `until` does; a failure shows the emulator's errors."""
        return until(condition, lambda: f"emulator's errors:\n{self.errors()}")

    def answered(self, name: str, responses: int) -> tasks_v2.Task:
        """Return the task as soon as the given number of its attempts was answered."""
        get = self.client.get_task
        return self.until(lambda: task if (task := get(name=name)).response_count >= responses else None)

    def tried(self, name: str) -> tasks_v2.Task:
        """Return the task as soon as its last attempt has ended, answered or not."""
        get = self.client.get_task
        return self.until(lambda: task if "response_status" in (task := get(name=name)).last_attempt else None)

    def drained(self, queue: str) -> None:
        """Wait until the queue has no tasks."""
        self.until(lambda: not list(self.client.list_tasks(parent=queue)))

    def gone(self, name: str) -> str:
        """Wait until the task has left its queue and return the text of the error that says so."""

        def gone() -> str:
            try:
                self.client.get_task(name=name)
            except NotFound as error:
                return str(error.message)
            return ""

        return self.until(gone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(web.Reply):
    """What a target replies to one request."""

    hold: threading.Event | None = None  #: the reply waits for this event

    def release(self) -> None:
        """Let the reply go."""
        if self.hold is not None:
            self.hold.set()


class _Server(web.Server):
    daemon_threads = False
    request_queue_size = 256

    def __init__(self, port: int) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), web.Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        # Idle keep-alive connections would keep their threads, and so server_close(), waiting. Only their reading ends:
        # an answer that is on its way is still sent, also with TLS, whose own shutdown() would end it.
        self.shutdown()
        for connection in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RD)
        self.server_close()


class Target:
    """A loopback HTTP server that records requests and answers them from a script, then with 200.

    Parameters
    ----------
    port : int
        Port to listen at; 0 takes a free one.
    certificate, key : Path, optional
        Files of the certificate with which it speaks TLS.
    """

    def __init__(self, port: int = 0, *, certificate: Path | None = None, key: Path | None = None) -> None:
        self.received: list[web.Request] = []
        self._script: deque[Answer] = deque()
        self._held: list[Answer] = []
        self._changed = threading.Condition()
        self._server = _Server(port)
        self._server.answer = self._answer
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/job"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for answer in self._held:
            answer.release()
        self._server.close()
        self._thread.join()

    def script(self, *answers: int | Answer) -> None:
        """Answer the next requests with these, one after the other."""
        with self._changed:
            self._script.extend(a if isinstance(a, Answer) else Answer(status=a) for a in answers)

    def hold(self) -> Answer:
        """Return an answer for the script that is held back until it is released, at the latest when the test ends."""
        self._held.append(Answer(hold=threading.Event()))
        return self._held[-1]

    def _answer(self, request: web.Request) -> Answer:
        answer = self.take(request)
        if answer.hold is not None:
            answer.hold.wait(PATIENCE)
        return answer

    def take(self, request: web.Request) -> Answer:
        """Record a request and return its answer."""
        with self._changed:
            self.received.append(request)
            self._changed.notify_all()
            return self._script.popleft() if self._script else Answer()

    def wait(self, count: int = 1) -> list[web.Request]:
        """Return all requests as soon as there are `count` of them."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.received) >= count, PATIENCE)
            assert arrived, f"{len(self.received)} of {count} requests arrived within {PATIENCE} s"
            return list(self.received)


def options(*arguments: str) -> pytest.MarkDecorator:
    """Give the emulator of a test, or of all tests of a file, a command line of their own."""
    return pytest.mark.parametrize("cloud_tasks_emulator_arguments", [list(arguments)], ids=[" ".join(arguments)])


def dtypes(made: pd.DataFrame) -> dict[str, str]:
    """Name the dtypes of the columns, in their order."""
    return {str(name): str(dtype) for name, dtype in made.dtypes.items()}


def attempted(emulator: Emulator, queue: ct.Queue, count: int) -> pd.DataFrame:
    """Wait until the log has so many attempts of a queue, and return them."""
    emulator.until(lambda: len(queue.attempts()) >= count)
    return queue.attempts()


def impatient(project: str | None = None, location: str | None = None, endpoint: str | None = None) -> ct.Client:
    """Connect as `ct.connect` does, but wait only a moment for an endpoint that does not answer."""
    connection = Connection(resolve(project, location, endpoint), Auth())
    connection.transport.connect_timeout = 0.3
    return ct.Client(connection)


@pytest.fixture
def start_emulator(transport: str) -> Iterator[StartEmulator]:
    """Start emulators that are ended after the test, for tests that end one or need its folder or its output."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Emulator(*arguments, transport=transport))


@pytest.fixture(scope="session")
def _connected() -> Iterator[dict[tuple[testing.Emulator, str], Emulator]]:
    """Keep Google's clients of the plugin's emulators: the first call of each takes long."""
    kept: dict[tuple[testing.Emulator, str], Emulator] = {}
    yield kept
    for connected in kept.values():
        with connected:
            continue


@pytest.fixture
def emulator(
    cloud_tasks_emulator: testing.Emulator,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
    _connected: dict[tuple[testing.Emulator, str], Emulator],
) -> Emulator:
    """Give the plugin's emulator, which is empty; the tests name its address, or set the variable themselves."""
    monkeypatch.delenv("CLOUD_TASKS_EMULATOR_HOST")
    key = (cloud_tasks_emulator, transport)
    if key not in _connected:
        _connected[key] = Emulator(transport=transport, running=cloud_tasks_emulator)
    return _connected[key]


@pytest.fixture
def target() -> Iterator[Target]:
    """Run an HTTP target."""
    with Target() as server:
        yield server


@pytest.fixture
def free_port() -> Iterator[int]:
    """Give a port at which nothing listens."""
    with processes.free_port() as port:
        yield port


@pytest.fixture
def tasks(emulator: Emulator, transport: str) -> Iterator[ct.Client]:
    """Give a connection of the toolkit to the emulator."""
    endpoint = emulator.ready["http" if transport == "rest" else "grpc"]
    with ct.connect("demo", "us-central1", endpoint=endpoint, transport=transport) as connection:
        yield connection


@pytest.fixture
def queue(tasks: ct.Client, capsys: pytest.CaptureFixture[str]) -> ct.Queue:
    """Give a new queue, without the notes of its creation in the captured output."""
    made = tasks.queue("main", create=True)
    capsys.readouterr()
    return made


@pytest.fixture
def paused(queue: ct.Queue) -> ct.Queue:
    """Give a queue whose tasks stay where they are."""
    return queue.pause()


@pytest.fixture
def intercept(monkeypatch: pytest.MonkeyPatch) -> Intercept:
    """Put a function between the toolkit and the service."""
    call = Transport.call

    def begin(hook: Hook) -> None:
        async def intercepted(transport: Transport, rpc: str, /, **fields: Any) -> Any:
            return await hook(lambda: call(transport, rpc, **fields), rpc, fields)

        monkeypatch.setattr(Transport, "call", intercepted)

    return begin


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Move:
    """Give what sets the clock of this machine, as everything here reads it."""
    times, nanoseconds = time.time, time.time_ns
    # gRPC counts from it to the deadline, which its own clock would then see in two days: no call may wait that long.
    monkeypatch.setattr("grpc.aio._utils.time", SimpleNamespace(time=times))

    def by(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: times() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + round(seconds * 1e9))

    return by


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a file with `BOTH_TRANSPORTS` over gRPC and over REST; those marked `grpc_only` over gRPC."""
    if "transport" in metafunc.fixturenames and getattr(metafunc.module, "BOTH_TRANSPORTS", False):
        grpc_only = metafunc.definition.get_closest_marker("grpc_only")
        metafunc.parametrize("transport", ["grpc"] if grpc_only else ["grpc", "rest"])


@pytest.fixture
def transport() -> str:
    """Name the protocol between the emulator and its clients: the toolkit, or Google's own."""
    return "grpc"
