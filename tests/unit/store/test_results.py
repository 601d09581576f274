"""Results of tasks in a store."""

import datetime as dt
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store import results
from cloudtasks_nb.store.results import ResultWriter, StoredResult, pack_result, result_objects, tag_of, unpack_result
from cloudtasks_nb.store.store import Store
from tests.interrupts import interrupt, interrupted_everywhere, interruptible
from tests.processes import run
from tests.stored import stored_results

BATCH = "a91f03c2"
NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=dt.UTC)
PATIENCE = 240.0


def task(number: int = 0, batch: str = BATCH) -> str:
    """Return the id of a row's task."""
    return f"{number:020x}-{batch}-1"


def made(task_id: str, *, status: int = 200, attempt: int | None = 1, result: Any = None, **words: Any) -> StoredResult:
    """Return a result of a task; the error of another status has its attempt in its text, and 299 is a giving up."""
    error = None if status == 200 else f"error of {attempt}"
    words |= {"gave_up": "no such place"} if status == 299 else {}
    fields: dict[str, Any] = {"task": task_id, "attempt": attempt, "status": status, "started": NOON}
    return StoredResult(**fields, duration=0.5, result=result, error=error, **words)


def objects(store: Store, *, failures: bool = False) -> list[list[int]]:
    """Return the numbers of the tasks in each object of the batch, the smallest object first."""
    found = [each for page in result_objects(store, BATCH, failures=failures) for each in page]
    contents = [data or b"" for data in store.get_many([each.path for each in found])]
    assert [each.size for each in found] == [len(data) for data in contents]
    numbers = [[int(unpack_result(line).task[:20], 16) for line in data.splitlines()] for data in contents]
    return sorted(numbers, key=lambda one: (len(one), one))


def test_a_result_is_read_as_it_was_written(store: Store) -> None:
    """Every field comes back, for each kind of store; only failures are among the failures."""
    writer = ResultWriter(store)
    good = made(task(1), result={"n": [1, None, "é\n"]}, tag=tag_of(b"key", task(1)))
    bad = made(task(2), status=500, attempt=None, upstream=404)
    hopeless = made(task(4), status=299)
    for each in (good, bad, hopeless, made(task(5, "00000000"))):
        writer.put(each)
    assert sorted(stored_results(store, BATCH), key=lambda result: result.task) == [good, bad, hopeless]
    failed = {number for numbers in objects(store, failures=True) for number in numbers}
    assert failed == {2, 4}


def test_json_that_is_written_already_is_not_written_again() -> None:
    """A handler gives the JSON that it answers; integers of any size stay what they are."""
    line = pack_result(made(task(), result=orjson.Fragment(b'{"n":1180591620717411303424}')))
    assert unpack_result(line).result == {"n": 2**70}


def test_a_tag_of_any_text_is_stored() -> None:
    """Whoever calls the handler chooses its header."""
    assert unpack_result(pack_result(made(task(), tag="\udcff"))).tag == "?"


@pytest.mark.parametrize("task_id", ["", "mine", f"../{task()}", f"{task()}/x", f"{task()}\n", task().upper() + "X"])
def test_other_tasks_write_nothing(task_id: str) -> None:
    """The id may come from a forged header: only that of a batch's row becomes a path."""
    store = Store("memory://other-tasks")
    ResultWriter(store).put(made(task_id))
    assert list(store.pages("results/")) == []


FORGED: list[tuple[str, object]] = [
    *(("status", "200"), ("status", None), ("attempt", "1"), ("attempt", 1 << 70), ("attempt", -1), ("error", {})),
    *(("duration", [1]), ("gave_up", 1), ("upstream", "404"), ("task", 7), ("tag", 7), ("started", "noon")),
]


@pytest.mark.parametrize(("name", "value"), FORGED)
def test_a_result_that_was_forged_is_none(name: str, value: object) -> None:
    """The tracker of a batch computes with the numbers: another type would end its work."""
    fields = json.loads(pack_result(made(task(), status=500)))
    with pytest.raises((ValueError, TypeError, KeyError)):
        unpack_result(json.dumps(fields | {name: value}).encode())


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'{"task": 1}', pack_result(made(task()))[:-9]])
def test_a_damaged_line_is_no_result(line: bytes) -> None:
    """A line of another program, or the last one of a process that was killed."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        unpack_result(line)


class Slow(Store):
    """A bucket whose writes wait until the test lets each of them go on, or has it fail."""

    def __init__(self, name: str) -> None:
        super().__init__(f"memory://{name}")
        self._begun, self._orders = threading.Semaphore(0), threading.Semaphore(0)
        self._failures: list[BaseException | None] = []

    def create(self, path: str, data: bytes) -> None:
        """Wait before the write."""
        self._begun.release()
        assert self._orders.acquire(timeout=PATIENCE)
        if (failure := self._failures.pop(0)) is not None:
            raise failure
        super().create(path, data)

    def wait_for_write(self) -> None:
        """Wait until a write begins."""
        assert self._begun.acquire(timeout=PATIENCE)

    def go_on(self, failure: BaseException | None = None) -> None:
        """Let one write go on, or fail."""
        self._failures.append(failure)
        self._orders.release()


class Callers:
    """Threads that store results with one writer."""

    def __init__(self, store: Store, pool: ThreadPoolExecutor) -> None:
        self.writer = ResultWriter(store)
        self._pool = pool

    def put(self, *numbers: int) -> list[Future[None]]:
        """Store results, each in a thread, and return when the last write has begun or they wait for it, in order."""
        calls = []
        for number in numbers:
            before = self.gathered()
            calls.append(self._pool.submit(self.writer.put, made(task(number))))
            until(partial(self._differs, before))
        return calls

    def _differs(self, before: tuple[int, int, bool]) -> bool:
        return self.gathered() != before

    def gathered(self) -> tuple[int, int, bool]:
        """Return the group that gathers, how many results it has, and whether another one is written."""
        folders = list(self.writer._folders.values())
        group = folders[0]._next if folders else None
        return id(group), len(group.lines) if group else 0, bool(folders) and folders[0]._writing.locked()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = threading.Event()
    for _ in range(int(PATIENCE / 0.001)):
        if condition():
            return
        deadline.wait(0.001)
    raise AssertionError("it did not come")


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> Slow:
    """Give a slow bucket."""
    return Slow(request.node.name)


@pytest.fixture
def callers(slow: Slow) -> Iterator[Callers]:
    """Give threads that store results in the slow bucket."""
    with ThreadPoolExecutor(8) as pool:
        yield Callers(slow, pool)


def test_what_gathers_during_a_write_is_written_together(slow: Slow, callers: Callers) -> None:
    """Nobody waits for more than the write that is under way and the next, and no call is answered before its write."""
    first = callers.put(0)
    slow.wait_for_write()
    second = callers.put(1, 2, 3)
    slow.go_on()
    slow.wait_for_write()
    assert first[0].result(PATIENCE) is None
    third = callers.put(4, 5)
    assert not any(call.done() for call in (*second, *third))
    slow.go_on()
    assert [call.result(PATIENCE) for call in second] == [None] * 3
    assert not any(call.done() for call in third)
    slow.go_on()
    assert [call.result(PATIENCE) for call in third] == [None] * 2
    assert objects(slow) == [[0], [4, 5], [1, 2, 3]]


@pytest.mark.parametrize("failure", [StoreError("no disk"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_write_that_fails_is_nobodys_success(slow: Slow, callers: Callers, failure: BaseException) -> None:
    """All threads of the group get an error, whatever ends the one that writes, and the next results are stored."""
    first = callers.put(0)
    slow.wait_for_write()
    leader, *others = callers.put(1, 2, 3)
    slow.go_on()
    slow.wait_for_write()
    last = callers.put(4)
    slow.go_on(failure)
    slow.go_on()
    assert leader.exception(PATIENCE) is failure
    assert [type(call.exception(PATIENCE)) for call in others] == [StoreError] * 2
    assert [call.result(PATIENCE) for call in (*first, *last)] == [None] * 2
    assert objects(slow) == [[0], [4]]


def test_many_bytes_are_not_one_object(slow: Slow, callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request would take too long for them."""
    monkeypatch.setattr(results, "_LARGE_WRITE", 2 * len(pack_result(made(task()))))
    calls = callers.put(0)
    slow.wait_for_write()
    calls += callers.put(1, 2, 3)
    for _ in range(3):
        slow.go_on()
    assert [call.result(PATIENCE) for call in calls] == [None] * 4
    assert objects(slow) == [[0], [3], [1, 2]]


def test_an_interrupt_leaves_nobody_waiting() -> None:
    """Wherever a call is interrupted, the next ones store their results."""
    writer = ResultWriter(Store("memory://interrupted"))
    with interruptible(), ThreadPoolExecutor(1) as pool:
        for place in interrupted_everywhere(lambda: writer.put(made(task())), "store/results.py"):
            for _ in range(2):
                assert pool.submit(writer.put, made(task(1))).exception(PATIENCE) is None, place


def test_an_interrupt_before_the_write_is_nobodys_success(slow: Slow, callers: Callers) -> None:
    """The others get an error if the thread is interrupted that waits for the write before, and would then write."""
    calls = callers.put(0)
    slow.wait_for_write()

    def join_and_interrupt() -> None:
        until(lambda: callers.gathered()[1] == 1)
        calls.extend(callers.put(2))
        interrupt()

    joining = threading.Thread(target=join_and_interrupt)
    joining.start()
    with interruptible(), pytest.raises(KeyboardInterrupt):
        callers.writer.put(made(task(1)))
    joining.join(PATIENCE)
    assert isinstance(calls[1].exception(PATIENCE), StoreError)
    slow.go_on()
    calls[0].result(PATIENCE)
    calls += callers.put(3)
    slow.go_on()
    assert calls[2].result(PATIENCE) is None
    assert objects(slow) == [[0], [3]]


def test_a_folder_has_one_file_of_a_process(tmp_path: Path) -> None:
    """Results are appended to it; those of failures to another. A file that is gone does not come back."""
    store = Store(tmp_path)
    writer = ResultWriter(store)
    for number in range(3):
        writer.put(made(task(number)))
        writer.put(made(task(number + 10), status=500))
    assert (objects(store), objects(store, failures=True)) == ([[0, 1, 2], [10, 11, 12]], [[10, 11, 12]])
    store.delete([path for page in store.pages("results/") for path in page])
    writer.put(made(task(3)))
    ResultWriter(store).put(made(task(4)))
    assert objects(store) == [[3], [4]]


#: A process whose files may have so many bytes, and then a few more.
FULL_DISK = """
import resource, signal, sys
from cloudtasks_nb.errors import StoreError
from tests.unit.store.test_results import *

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

writer = ResultWriter(Store(sys.argv[1]))
length = len(pack_result(made(task()))) + 1
writer.put(made(task(0)))
for size, number in ((length + 9, 1), (0, 2), (9, 3), (length + 9, 4), (resource.RLIM_INFINITY, 5)):
    limit(size)
    try:
        writer.put(made(task(number)))
    except StoreError as error:
        assert "File too large" in str(error), error
    else:
        assert number > 3
"""


def test_a_full_disk_costs_only_what_it_refuses(tmp_path: Path) -> None:
    """A torn line has nothing after it, a file that cannot be begun is removed, and the next results are readable."""
    done = run(sys.executable, "-c", FULL_DISK, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    files = [path.read_bytes() for path in tmp_path.rglob("*.jsonl")]
    assert sorted(data.count(b"\n") for data in files) == [1, 2]
    assert sorted(result.task for result in stored_results(tmp_path, BATCH)) == [task(0), task(4), task(5)]


#: A process that forks others while one of its threads writes; all of them store results.
FORKS = """
import os, sys, threading
from tests.unit.store.test_results import *

class Held(Store):
    held = True

    def append(self, path, data):
        if self.held and b"f" * 20 in data:
            begun.set()
            go_on.wait()
        return super().append(path, data)

store = Held(sys.argv[1])
begun, go_on = threading.Event(), threading.Event()
writer = ResultWriter(store)
writer.put(made(task(0)))
thread = threading.Thread(target=writer.put, args=[made("f" * 20 + task()[20:])])
thread.start()
begun.wait()
children = []
for child in (1, 2, 3):
    children.append(os.fork())
    if not children[-1]:
        store.held = False
        for number in range(50):
            writer.put(made(task(100 * child + number)))
        os._exit(0)
go_on.set()
thread.join()
for number in range(50):
    writer.put(made(task(400 + number)))
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_files_of_its_own(tmp_path: Path) -> None:
    """As those of a server that loads the application before it forks; none waits for a lock that was held then."""
    done = run(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = objects(Store(tmp_path))
    assert [len(numbers) for numbers in found] == [50, 50, 50, 52]
    assert [{number // 100 for number in numbers} for numbers in found[:3]] == [{1}, {2}, {3}]
