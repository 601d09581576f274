"""`run -- COMMAND`: a program that knows only Google's addresses finds an emulator there."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.cases import cases
from tests.integration.conftest import PATIENCE, Emulator, Target

RUN = (sys.executable, "-m", "cloudtasks_nb.emulator", "run")
PROGRAM = """
import os, sys
from google.cloud.tasks_v2 import CloudTasksClient

client = CloudTasksClient()
queue = client.queue_path("shop", "us-central1", "mails")
task = {"http_request": {"url": sys.argv[1], "oidc_token": {"service_account_email": "a@shop.iam.gserviceaccount.com"}}}
created = client.create_task(parent=queue, task=task)
found = CloudTasksClient(transport="rest").get_queue(name=queue)
print(created.name.startswith(queue), found.name == queue, os.environ["GOOGLE_CLOUD_PROJECT"])
sys.exit(int(sys.argv[2]) if sys.stdin.readline() else 0)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts the emulator with a program; its temporary files are in a folder of their own."""
    (tmp_path / "temporary").mkdir()
    variables = {"TMPDIR": str(tmp_path / "temporary"), "https_proxy": "http://127.0.0.1:9", "PORT": "none"}

    def start(*words: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ran: subprocess.Popen[str] = subprocess.Popen([*RUN, *words], env=os.environ | variables, text=True, **pipes)
        stack.callback(processes.end, ran)
        return ran

    with ExitStack() as stack:
        yield start


def test_a_program_with_a_client_of_google(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Its tasks are delivered with tokens; the emulator ends with it and its exit code, and leaves no file."""
    with Target() as target:
        ran = start("--", sys.executable, "-c", PROGRAM, target.url, "7")
        assert ran.stdout is not None
        assert ran.stdout.readline() == "True True local\n"
        (request,) = target.wait()
        assert request.headers["authorization"].startswith("Bearer ")
        output, errors = ran.communicate("end\n", timeout=PATIENCE)
    assert (output, ran.returncode) == ("", 7), errors
    assert [*(tmp_path / "temporary").iterdir()] == []


def test_a_signal_ends_the_program(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """The program gets SIGTERM, and the exit code is that of shells."""
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    ran = start("--", sys.executable, "-c", program)
    assert ran.stdout is not None
    pid = int(ran.stdout.readline())
    ran.send_signal(signal.SIGTERM)
    ran.communicate(timeout=PATIENCE)
    assert ran.returncode == 128 + signal.SIGTERM
    assert [*(tmp_path / "temporary").iterdir()] == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@cases(
    (["--port", "0"], 2, "the command to run comes after --"),
    (["--strict", "--", "true"], 2, "--strict refuses the program"),
    (["--", "no-such-program"], 127, "no-such-program cannot be started: No such file or directory"),
    (["--data-dir", "/dev/null/x", "--", "true"], 1, "/dev/null/x cannot be used"),
)
def test_what_cannot_run(start: Callable[..., subprocess.Popen[str]], words: list[str], code: int, error: str) -> None:
    """The message says why, and the exit code is that of shells."""
    ran = start(*words)
    _, errors = ran.communicate(timeout=PATIENCE)
    assert (ran.returncode, error in errors) == (code, True), errors


@pytest.mark.parametrize("strict", [False, True])
def test_other_hosts_are_where_they_were(strict: bool) -> None:  # noqa: FBT001 - a parameter
    """The proxy connects to any other host; that of an emulator with `--strict` to none."""
    arguments = ["--proxy-port", "0", *(["--strict"] if strict else [])]
    with Emulator(*arguments) as emulator, processes.listening() as server:
        host, _, port = emulator.ready["proxy"].removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as client:
            client.sendall(f"CONNECT 127.0.0.1:{server.getsockname()[1]} HTTP/1.1\r\n\r\n".encode())
            assert client.recv(12) == (b"HTTP/1.1 403" if strict else b"HTTP/1.1 200")
            if not strict:
                client.sendall(b"hello")
                with server.accept()[0] as connection:
                    assert connection.recv(5) == b"hello"
