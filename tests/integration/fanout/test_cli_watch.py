"""The command line on a real emulator: watching a batch to its end, the doctor, becoming the emulator."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import cli
from tests.cases import cases
from tests.integration.conftest import StartEmulator, Target, until
from tests.integration.fanout.conftest import PATIENCE, sent

COMMAND = """
import signal, sys
from cloudtasks_nb.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
sys.exit(main())
"""
ROWS = pd.DataFrame({"day": range(3)})

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Run]:
    """Start the command in a process of its own; it is ended after the test at the latest."""
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(child.communicate)
            stack.callback(child.kill)
            return child

        yield start


def endpoint(folder: Path) -> int | None:
    """Return the process id of the emulator that a folder names, if that runs."""
    try:
        pid = int(json.loads((folder / "endpoint.json").read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


@cases(((200, 200, 200), 0, "3 succeeded"), ((200, 500, 200), 1, "2 succeeded, 1 failed"))
def test_the_exit_code_tells_how_it_went(
    queue: ct.Queue,
    target: Target,
    capsys: pytest.CaptureFixture[str],
    answers: tuple[int, ...],
    code: int,
    counts: str,
) -> None:
    """A script can go by it: 0 when every row went well, 1 when some failed; a batch can be named as in `fan_out`."""
    queue.update(max_attempts=1)
    target.script(*answers)
    batch = queue.fan_out(ROWS, url=target.url, name="three days")
    for named in (batch.id[:5], "three days"):
        assert cli.main(["watch", named]) == code
        out = capsys.readouterr().out
        assert [words for words in (batch.id, 'Batch "three days"', queue.id, counts) if words not in out] == []


def test_an_error_cannot_steer_the_terminal(queue: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """What a function raises is shown with escapes and dots by the command and the batch; frames have it as it was."""

    def hostile(day: int) -> None:
        raise ValueError(f"{day} \x1b]0;PWNED\x07\x1b[2J\u202e, token=s3cr3t")

    queue.update(max_attempts=1)
    with ct.serve(hostile, name="hostile") as handler:
        batch = queue.fan_out(ROWS, url=handler)
        assert cli.main(["watch", batch.id]) == 1
        shown = "".join(
            [*capsys.readouterr(), repr(batch), repr(batch.progress()), handler._repr_mimebundle_()["text/plain"]]
        )
    assert r"\x1b]0;PWNED\x07\x1b[2J\u202e, token=•••" in shown
    assert [bad for bad in ("\x1b", "\x07", "s3cr3t") if bad in shown] == []
    assert "\x1b]0;PWNED" in batch.errors()["cause"].iloc[0]


def test_an_endpoint_that_is_gone(start_emulator: StartEmulator, capsys: pytest.CaptureFixture[str]) -> None:
    """An emulator that nobody can start again is named with its address, and the exit code is 2."""
    emulator = start_emulator()
    address = emulator.ready["grpc"]
    with ct.connect("p", "l", endpoint=address) as tasks:
        batch = sent(tasks.queue("q", create=True).pause().fan_out(ROWS, url="http://127.0.0.1:9/never"))
    emulator.stop()
    capsys.readouterr()
    assert cli.main(["watch", batch.id]) == 2
    assert address in capsys.readouterr().err


def test_the_folders_emulator_is_started_again(tmp_path: Path, target: Target, start: Run) -> None:
    """A batch of `ct.local(folder)` is watched although no kernel is left: its emulator comes back with its tasks."""
    target.script(200, 404, 200)
    with ct.local(tmp_path) as tasks:
        queue = tasks.queue("reports", create=True, max_attempts=1).pause()
        batch = sent(queue.fan_out(ROWS, url=target.url))
    until(lambda: endpoint(tmp_path) is None)
    watching = start("watch", batch.id)
    until(lambda: endpoint(tmp_path) is not None)
    with ct.local(tmp_path) as tasks:
        tasks.queue("reports").resume()
        out, err = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 1, err
    assert "2 succeeded, 1 failed" in out
    assert "NOT_FOUND 1" in out


def test_an_interrupt_leaves_the_batch_alone(queue: ct.Queue, target: Target, start: Run) -> None:
    """Ctrl-C ends the watching with 130, quietly, and no task is touched."""
    queue.pause()
    batch = sent(queue.fan_out(ROWS, url=target.url))
    watching = start("watch", batch.id)
    assert watching.stderr is not None
    watching.stderr.read(1)  # the bar: it watches
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 130
    assert "Traceback" not in err
    assert len(queue.tasks()) == 3


def test_the_doctor_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is well with an emulator, which is started for it."""
    assert cli.main(["doctor", "--local", str(tmp_path / "new")]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["check", "ok", "detail", "fix"]
    assert {line.split()[1] for line in lines} == {"True"}


def test_the_doctor_finds_something(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; what is wrong is printed with what mends it, and then the table."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", f"127.0.0.1:{free_port}")
    assert cli.main(["doctor", "--project", "p", "--location", "l"]) == 1
    lines = capsys.readouterr().out.splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith("api: ")]
    assert lines[place + 1].startswith("  → ")
    [api] = [line for line in lines if line.startswith("api ")]
    assert api.split()[1] == "False"
    assert f"127.0.0.1:{free_port}" in api


def test_the_command_becomes_the_emulator(tmp_path: Path, start: Run) -> None:
    """The process that was started is the emulator: it serves, and a signal to it ends it gracefully."""
    emulator = start(
        "emulator", "--port", "0", "--data-dir", str(tmp_path), "--queue", "projects/p/locations/l/queues/q"
    )
    assert emulator.stdout is not None
    ready = json.loads(emulator.stdout.readline())
    assert ready["pid"] == emulator.pid
    with ct.connect("p", "l", endpoint=ready["grpc"]) as tasks:
        assert tasks.queues().index.tolist() == ["q"]
    emulator.terminate()
    emulator.communicate(timeout=PATIENCE)
    assert emulator.returncode == 0
