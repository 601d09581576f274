"""Functions that run in processes."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers import processes, serve
from tests.processes import run
from tests.unit.handlers.conftest import post
from tests.unit.handlers.test_handler_store import TASK


def test_a_call_runs_in_another_process(capfd: pytest.CaptureFixture[str]) -> None:
    """The function runs outside the kernel, with its arguments converted, and what it prints is no answer."""
    offset = 1

    def add(n: int) -> list[int]:
        print("added")  # noqa: T201 - the subject
        return [n + offset, os.getpid()]

    handler = serve(add, processes=1)
    assert [post(handler.url, b'{"n": 4.0}').status for _ in range(2)] == [200, 200]
    (number, process), again = handler.calls()["result"].tolist()
    assert (number, process != os.getpid(), again) == (5, True, [5, process])
    handler.close()
    assert "added" in capfd.readouterr().err


def test_an_exception_travels_as_its_traceback() -> None:
    """The kernel gets the traceback of the process, whatever its class needs."""

    class OddError(LookupError):
        def __init__(self, *, lock: Any) -> None:
            self.lock = lock

    def fail() -> None:
        raise OddError(lock=threading.Lock())

    handler = serve(fail, processes=1)
    assert post(handler.url).status == 500
    assert handler.calls()["error"].str.contains(r"in fail\n[\s\S]*OddError").all()


def test_a_process_gives_up_on_exceptions_of_the_notebook(tmp_path: Path) -> None:
    """A class of the notebook is the same one in the copy of the function, and so are its subclasses."""

    class OddError(Exception):
        pass

    class OtherError(OddError):
        pass

    def fail(kind: str) -> None:
        raise {"odd": OddError, "other": OtherError, "key": KeyError}[kind]("no")

    handler = serve(fail, processes=1, give_up_on=[OddError], store=tmp_path)
    kinds = ("odd", "other", "key")
    answers = [post(handler.url, b'{"kind": "%s"}' % kind.encode(), X_CloudTasks_TaskName=TASK) for kind in kinds]
    assert [answer.status for answer in answers] == [200, 200, 500]


CACHED = """
import functools
from cloudtasks_nb.handlers.processes import ProcessPool
@functools.lru_cache(maxsize=7)
def cached(n): return n if n < 2 else cached(n - 1) + cached(n - 2)
class Model:
    @functools.cache
    def twice(self): return 2
@functools.cache
def report(n): return [cached(n), cached.cache_info().hits, cached.cache_info().maxsize, Model().twice()]
pool = ProcessPool(report, 1)
for n in (10, 10, 11):
    answer = pool.call(b'{"n": %d}' % n)
    print(answer.error or answer.result.decode())
"""


def test_a_function_with_a_cache() -> None:
    """Each process has a cache of its own, also of a function that calls itself, and of a method."""
    done = run(sys.executable, "-c", CACHED)
    assert (done.stdout.splitlines(), done.stderr) == (["[55,8,7,2]", "[55,8,7,2]", "[89,10,7,2]"], "")


def test_a_process_that_dies_fails_its_own_task() -> None:
    """The task of a process that ends has status 500 and says how; the next call has another process."""

    def run(how: str) -> str:
        if how == "exit":
            os._exit(3)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return how

    handler = serve(run, processes=1)
    answers = [post(handler.url, b'{"how": "%s"}' % how) for how in (b"exit", b"kill", b"fine")]
    assert [answer.status for answer in answers] == [500, 500, 200]
    assert b"ended: exit code 3" in answers[0].body
    assert b"killed by SIGKILL, as the system does when memory runs out" in answers[1].body


@pytest.mark.parametrize("kept", [0, 1_000])
def test_a_process_ends_with_the_kernel(tmp_path: Path, kept: int) -> None:
    """A kernel that is killed may have written half a body: the process ends all the same, and is no orphan."""
    sent = pickle.dumps(cloudpickle.dumps(len)) + pickle.dumps(bytes(100_000))[:kept]
    code = "from cloudtasks_nb.handlers.process_child import main; main()"
    (tmp_path / "sent").write_bytes(sent)
    with (tmp_path / "sent").open("rb") as stdin:
        done = subprocess.run([sys.executable, "-c", code], stdin=stdin, capture_output=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_process_that_is_just_started_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that closes while the first call starts its process does not leave the call running."""
    pool, start = processes.ProcessPool(lambda: "done", 1), processes._start

    def start_late() -> Any:
        assert pool.close(kill=True) == 1
        return start()

    monkeypatch.setattr(processes, "_start", start_late)
    answer = pool.call(b"")
    assert (answer.status, "killed by SIGKILL" in (answer.error or "")) == (500, True)


def test_what_cannot_be_copied_is_said_when_serving() -> None:
    """A function that holds a lock cannot be copied; an async function is refused, too."""
    lock = threading.Lock()

    def run() -> bool:
        return lock.locked()

    async def wait() -> None:
        """Do nothing."""

    with pytest.raises(HandlerError, match=r"run cannot be copied into a process: .*lock[\s\S]*inside the function"):
        serve(run, processes=1)
    with pytest.raises(HandlerError, match="wait is an async function"):
        serve(wait, processes=1)


def test_replacing_ends_the_processes() -> None:
    """Another function under the name has other processes, and the old ones end."""
    first = serve(os.getpid, name="which", processes=1)
    post(first.url)
    pool: Any = first._function.processes
    old: Any = pool._workers[0]._process
    assert post(serve(lambda: "new", name="which").url).body == b'"new"'
    assert old.wait(240) == -signal.SIGKILL


def test_closing_ends_a_call_that_hangs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A process that computes for ever ends with its handler, and its task has an answer."""
    fifo = tmp_path / "began"
    os.mkfifo(fifo)

    def hang(path: str) -> None:
        Path(path).write_text("began")
        threading.Event().wait()

    handler = serve(hang, processes=1)
    pool: Any = handler._function.processes
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(pool.call, f'{{"path": "{fifo}"}}'.encode())
        assert fifo.read_text() == "began"
        handler.close()
        assert call.result(240).status == 500
    assert "was ended while it ran (calls: 1)" in capsys.readouterr().out


def test_no_process_survives_a_killed_kernel() -> None:
    """SIGKILL of the kernel ends the processes, also one that computes: the last holder of the pipe has gone."""
    code = """
        import os, threading
        from cloudtasks_nb.handlers.processes import ProcessPool
        def hang():
            print("began", flush=True)
            threading.Event().wait()
        threading.Thread(target=ProcessPool(hang, 1).call, args=(b"",), daemon=True).start()
        threading.Event().wait()
    """
    kernel = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE)
    with kernel:
        assert kernel.stderr is not None
        assert kernel.stderr.readline() == b"began\n"
        kernel.kill()
        assert kernel.stderr.read() == b""  # returns when nobody can write any more
