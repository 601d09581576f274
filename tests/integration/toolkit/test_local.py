"""`ct.local()`: the embedded emulator as a child that kernels share."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb._names import OPTION_VARIABLES
from cloudtasks_nb.client import emulator_process
from cloudtasks_nb.fanout import disk
from tests.integration.conftest import PATIENCE, Emulator, StartEmulator, until
from tests.processes import run
from tests.raising import raises

NOWHERE = "http://127.0.0.1:9/never"

#: A kernel: does what its standard input says, line by line, and answers each line with one of JSON.
KERNEL = """
import json, signal, sys
import cloudtasks_nb as ct

def local(folder):
    global tasks
    tasks = ct.local(folder)
    lease = tasks._lease
    return {"pid": lease.pid, "instance": lease.instance, "grpc": lease.grpc}

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
for line in sys.stdin:
    try:
        answer = eval(line)
    except KeyboardInterrupt:
        answer = "interrupted"
    except ct.errors.CloudTasksError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print("answer:" + json.dumps(answer), flush=True)
"""


class Kernel:
    """A Python process of its own group, as Jupyter starts one."""

    def __init__(self) -> None:
        command, pipe = [sys.executable, "-c", KERNEL], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, line: str) -> None:
        """Send a line and do not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the next line; skip other output in between."""
        assert self.process.stdout is not None
        timer = threading.Timer(3 * PATIENCE, self.process.kill)
        timer.start()
        try:
            while line := self.process.stdout.readline():
                if line.startswith("answer:"):
                    return json.loads(line.removeprefix("answer:"))
        finally:
            timer.cancel()
            timer.join()
        pytest.fail("the kernel ended")

    def run(self, line: str) -> Any:
        """Send a line and wait for its answer."""
        self.ask(line)
        return self.answer()


@pytest.fixture
def start_kernel() -> Iterator[Callable[[], Kernel]]:
    """Start kernels; they are killed after the test, and their emulators end by themselves."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Kernel())


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended stays until its parent, or init, has asked for its status."""
    try:
        os.kill(pid, 0)
        return sys.platform != "linux" or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):  # it can end between the two
        return False


def ended(pid: int) -> None:
    """Wait until a process has ended; only its parent is notified of that."""
    until(lambda: not alive(pid), lambda: f"process {pid} is still there")


def pid_of(tasks: ct.Client) -> int:
    """Return the process id of a connection's emulator."""
    assert tasks._lease is not None
    return tasks._lease.pid


def test_one_temporary_emulator_a_process() -> None:
    """Every call connects to the same emulator, which ends when the last connection is closed."""
    first = ct.local()
    second = ct.local(project="another", location="eu")
    pid = pid_of(first)
    assert (pid, first.endpoint) == (pid_of(second), second.endpoint)
    first.queue("q", create=True)
    first.close()
    first.close()
    assert second.queue("q2", create=True).name == "projects/another/locations/eu/queues/q2"
    with ct.local() as third:
        assert third.queues().index.tolist() == ["q"]
    assert "temporary: when this kernel ends, queues, tasks and what is" in second._repr_mimebundle_()["text/plain"]
    assert f"[LOCAL {second.endpoint}, temporary]" in repr(second)
    second.close()
    ended(pid)


def test_batches_of_a_temporary_emulator_are_reported_as_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """After its end the next connection says once what was lost with it; an emulator that runs has lost nothing."""
    lost = "an earlier emulator has ended with its queues, its tasks and 1 batch"
    with ct.local() as first, ct.local() as second:
        first.queue("q", create=True).pause().fan_out(pd.DataFrame({"x": [1]}), url=NOWHERE, progress=False)
        assert len(second.batches()) == 1
        pid = pid_of(first)
    ended(pid)
    assert "has ended" not in capsys.readouterr().out
    with ct.local() as third:
        assert (len(third.batches()), len(third.queues())) == (0, 0)
    assert lost in capsys.readouterr().out
    with ct.local() as fourth:
        fourth.batches()
    assert "has ended" not in capsys.readouterr().out


@pytest.mark.parametrize(("colab", "hint"), [(False, "on a disk that stays"), (True, "mount Google Drive")])
def test_a_temporary_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, colab: bool, hint: str
) -> None:
    """The first fan-out of a process says what would be lost, and what to do; the second one says nothing."""
    (tmp_path / "mounts").write_text("overlay / overlay rw 0 0\n")
    monkeypatch.setattr(disk, "MOUNTS", tmp_path / "mounts")
    if colab:
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    with ct.local(tmp_path / "data") as tasks:
        queue = tasks.queue("q", create=True).pause()
        queue.fan_out(pd.DataFrame({"x": [1]}), url=NOWHERE, progress=False)
        said = capsys.readouterr().out
        queue.fan_out(pd.DataFrame({"x": [2]}), url=NOWHERE, progress=False, name="another")
    assert "is on a temporary disk (the layer of a container)" in said
    assert f"queues and tasks in {tmp_path / 'data'}" in said
    assert hint in said
    assert "temporary disk" not in capsys.readouterr().out


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_remembers(tmp_path: Path, *, killed: bool) -> None:
    """Queues and tasks are there again after a restart, in the same instance, also if it was killed."""
    folder = tmp_path / "a" / "b"
    tasks = ct.local(folder)
    first = json.loads((folder / "endpoint.json").read_text())
    tasks.queue("q", create=True, rate=7).pause().enqueue(NOWHERE, {"n": 1}, task_id="t")
    assert f"stored in {folder}" in tasks._repr_mimebundle_()["text/plain"]
    if killed:
        os.kill(first["pid"], signal.SIGKILL)
    else:
        tasks.close()
    ended(first["pid"])
    with ct.local(str(folder)) as again:
        second = json.loads((folder / "endpoint.json").read_text())
        assert (second["instance"], second["pid"] == first["pid"]) == (first["instance"], False)
        tasks.close()
        assert again.queues().rate["q"] == 7
        assert again.queue("q").tasks(body=True).body.to_dict() == {"t": {"n": 1}}


def test_a_new_folder_of_a_relative_path_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: the same cell in a copy of the notebook elsewhere makes another one."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ct.local("shared").close()
    ct.local(tmp_path / "absolute").close()
    assert capsys.readouterr().out == f"a new emulator folder: {tmp_path / 'shared'}\n"


def test_it_verifies_who_answers(tmp_path: Path, emulator: Emulator) -> None:
    """An address in the folder at which another emulator answers is not used."""
    facts = {**emulator.ready, "instance": "another"}
    (tmp_path / "endpoint.json").write_text(json.dumps(facts))
    with ct.local(tmp_path) as tasks:
        assert tasks.endpoint != emulator.ready["grpc"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"http": 5}', '{"http": "http://127.0.0.1:1", "instance": "x"}'])
def test_a_broken_address_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, the emulator starts."""
    (tmp_path / "endpoint.json").write_text(text)
    with ct.local(tmp_path) as tasks:
        assert len(tasks.queues()) == 0


def test_two_kernels_share_a_folder(tmp_path: Path, start_kernel: Callable[[], Kernel]) -> None:
    """One emulator serves both; the first may be killed; it ends soon after the last."""
    first, second = start_kernel(), start_kernel()
    place = f"local({str(tmp_path)!r})"
    facts = first.run(place)
    assert second.run(place) == facts
    first.run('tasks.queue("q", create=True).name')
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait(PATIENCE)
    assert second.run("list(tasks.queues().index)") == ["q"]
    with pytest.raises(subprocess.TimeoutExpired):
        second.process.wait(3)  # longer than the emulator waits after its last kernel
    assert second.run("list(tasks.queues().index)") == ["q"]
    second.process.kill()
    ended(facts["pid"])


def test_kernels_that_begin_together(tmp_path: Path, start_kernel: Callable[[], Kernel]) -> None:
    """Whoever wins the race for a new folder, all are at the same emulator."""
    kernels = [start_kernel() for _ in range(4)]
    for kernel in kernels:
        kernel.ask(f"local({str(tmp_path)!r})")
    answers = [kernel.answer() for kernel in kernels]
    assert answers == [answers[0]] * 4
    assert [kernel.run("len(tasks.queues())") for kernel in kernels] == [0] * 4


def test_an_interrupt_does_not_reach_it(start_kernel: Callable[[], Kernel]) -> None:
    """Jupyter interrupts the kernel's whole process group: the emulator is not in it."""
    kernel = start_kernel()
    facts = kernel.run("local(None)")
    kernel.ask("print('answer:1', flush=True) or signal.pause()")
    assert kernel.answer() == 1
    os.killpg(kernel.process.pid, signal.SIGINT)
    assert kernel.answer() == "interrupted"
    assert kernel.run("len(tasks.queues())") == 0
    assert os.getpgid(facts["pid"]) != kernel.process.pid
    assert alive(facts["pid"])


@pytest.mark.parametrize("folder", ["/proc/nowhere", "file", "file/below"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, folder: str) -> None:
    """It is named, and nothing was started."""
    (tmp_path / "file").write_text("")
    with raises(errors.EmulatorError, r"cannot be(?s:.*)\n  → .", resource=str(tmp_path / folder)):
        ct.local(tmp_path / folder)


def test_a_folder_held_by_somebody_who_does_not_answer(tmp_path: Path, start_emulator: StartEmulator) -> None:
    """After a while the folder and the way out are named."""
    start_emulator("--data-dir", str(tmp_path))
    (tmp_path / "endpoint.json").unlink()
    clock = itertools.count(0, 8).__next__  # time for two attempts
    with raises(errors.FolderInUseError, "does not answer", hint="another folder", resource=str(tmp_path)):
        emulator_process.attach(tmp_path, clock=clock)


def test_an_emulator_that_was_started_by_hand(tmp_path: Path, start_emulator: StartEmulator) -> None:
    """A kernel joins it, and leaves it running."""
    emulator = start_emulator("--data-dir", str(tmp_path))
    with ct.local(tmp_path) as tasks:
        assert tasks.endpoint == emulator.ready["grpc"]
    assert emulator.process.poll() is None
    assert [queue.name for queue in emulator.client.list_queues(parent="projects/p/locations/l")] == []


def test_an_emulator_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it ended is in the error, with the command that shows more."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    with raises(errors.EmulatorError, "did not start: it ended with code 1", hint="python -m cloudtasks_nb.emulator"):
        ct.local()


def test_an_emulator_that_is_not_ready_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and nobody waits for it any longer."""
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    hangs.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(hangs))
    with pytest.raises(errors.EmulatorError, match="did not start: it was not ready in time"):
        emulator_process.attach(None, clock=itertools.count(0, 80).__next__)  # a second is left for the start


class InterruptedPipe:
    """The pipe of a child for which nobody waits to the end."""

    def __init__(self, pipe: Any) -> None:
        self.close = pipe.close

    def readline(self) -> str:
        """Be interrupted."""
        raise KeyboardInterrupt


def test_an_interrupt_of_the_start_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is interrupted while the emulator starts takes it along."""
    started: list[Any] = []

    def start(*args: Any, **options: Any) -> Any:
        started.append(popen(*args, **options))
        started[0].stdout = InterruptedPipe(started[0].stdout)
        return started[0]

    popen = subprocess.Popen
    monkeypatch.setattr("subprocess.Popen", start)
    with pytest.raises(KeyboardInterrupt):
        ct.local()
    assert started[0].returncode == -signal.SIGKILL


def test_the_toolkit_is_imported_while_the_emulator_starts() -> None:
    """The ready line, held back until the thread of the import has ended, finds it imported; the log is not needed."""
    code = (
        "import cloudtasks_nb as ct, subprocess, sys, threading\n"
        "class Pipe:\n"
        "    def __init__(self, pipe): self.pipe, self.close = pipe, pipe.close\n"
        "    def readline(self):\n"
        "        for thread in threading.enumerate(): thread.name == 'cloudtasks-nb-import' and thread.join()\n"
        "        print('cloudtasks_nb.client.client' in sys.modules)\n"
        "        return self.pipe.readline()\n"
        "class Child(subprocess.Popen):\n"
        "    def __init__(self, command, **options):\n"
        "        super().__init__(command, **options)\n"
        "        if 'cloudtasks_nb.emulator' in command: self.stdout = Pipe(self.stdout)\n"
        "subprocess.Popen = Child\n"
        "with ct.local() as tasks: print(len(tasks.queues()), 'google.cloud.logging_v2' in sys.modules)"
    )
    assert run(sys.executable, "-c", code).stdout == "True\n0 False\n"


def test_an_interrupt_of_the_import_gives_the_lease_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is interrupted when the emulator is ready before the toolkit is imported does not keep it running."""

    def load() -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    monkeypatch.setattr("cloudtasks_nb.client.local._load", load)
    with pytest.raises(KeyboardInterrupt):
        ct.local()
    assert emulator_process._leases == {}


def test_options_of_other_emulators_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables of an emulator that is started by hand do not change the one that `ct.local()` starts."""
    for name, value in {"STRICT": "true", "DATA_DIR": str(tmp_path), "NO_BATCH": "true", "HTTP_PORT": "1"}.items():
        monkeypatch.setenv(OPTION_VARIABLES + name, value)
    monkeypatch.setenv("PORT", "none")
    with ct.local() as tasks:
        assert tasks.queues().empty
    assert list(tmp_path.iterdir()) == []
