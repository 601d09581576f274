"""Results of tasks in a store."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudtasks_nb.store.results import StoredResult, given_up_tasks, read_results, result_tasks, write_result
from cloudtasks_nb.store.store import Store

BATCH = "a91f03c2"
NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=dt.UTC)


def task(number: int = 0, batch: str = BATCH) -> str:
    """Return the id of a row's task."""
    return f"{number:020x}-{batch}-1"


def made(task_id: str, *, status: int = 200, attempt: int | None = 1, result: Any = None, **words: Any) -> StoredResult:
    """Return a result of a task; the error of another status has its attempt in its text, and 299 is a giving up."""
    error = None if status == 200 else f"error of {attempt}"
    words |= {"gave_up": "no such place"} if status == 299 else {}
    fields: dict[str, Any] = {"task": task_id, "attempt": attempt, "status": status, "started": NOON}
    return StoredResult(**fields, duration=0.5, result=result, error=error, **words)


def only(store: Store) -> StoredResult:
    """Return the result of the first row."""
    (found,) = read_results(store, BATCH, [task()])
    assert found is not None
    return found


def test_a_result_is_read_as_it_was_written(store: Store) -> None:
    """Every field comes back, for each kind of store; a task without a result has None."""
    good = made(task(1), result={"n": [1, None, "é"]})
    bad = made(task(2), status=500, attempt=None, upstream=404)
    hopeless = made(task(4), status=299)
    for each in (good, bad, hopeless):
        write_result(store, each)
    assert read_results(store, BATCH, [task(2), task(3), task(1), task(4)]) == [bad, None, good, hopeless]
    assert list(given_up_tasks(store, BATCH)) == [[task(4)]]
    assert store.get(f"results/{BATCH}/{task(1)}.json") is not None


def test_json_that_is_written_already_is_not_written_again(store: Store) -> None:
    """A handler gives the JSON that it answers; integers of any size stay what they are."""
    write_result(store, made(task(), result=orjson.Fragment(b'{"n":1180591620717411303424}')))
    assert only(store).result == {"n": 2**70}


WRITTEN: list[Any] = [
    *(([(500, 1), (200, 2)], (200, 2)), ([(200, 1), (500, 2)], (200, 1)), ([(200, 1), (200, 2)], (200, 2))),
    *(([(500, 1), (404, 2)], (404, 2)), ([(404, 2), (500, 1)], (404, 2)), ([(500, None), (404, None)], (404, None))),
    *(([(299, 1), (500, 2)], (299, 1)), ([(500, 2), (299, 1)], (299, 1)), ([(299, 1), (200, 2)], (200, 2))),
    ([(200, 1), (299, 2)], (200, 1)),
]


@pytest.mark.parametrize(("written", "kept"), WRITTEN)
def test_an_error_replaces_no_success(store: Store, written: list[tuple[int, int | None]], kept: Any) -> None:
    """Nor does it hide that the function gave up, nor the error of a later attempt; else the newest result counts."""
    for status, attempt in written:
        write_result(store, made(task(), status=status, attempt=attempt))
    assert (only(store).status, only(store).attempt) == kept


@pytest.mark.parametrize("task_id", ["", "mine", f"../{task()}", f"{task()}/x", f"{task()}\n", task().upper() + "X"])
def test_other_tasks_write_nothing(task_id: str) -> None:
    """The id may come from a forged header: only that of a batch's row becomes a path."""
    store = Store("memory://other-tasks")
    write_result(store, made(task_id))
    assert list(store.pages("results/")) == []


def test_the_tasks_with_a_result_are_listed(store: Store) -> None:
    """Each is there once, and other batches have their own."""
    for number in range(25):
        write_result(store, made(task(number), result=number))
    write_result(store, made(task(0, "ffffffff")))
    assert sorted(each for page in result_tasks(store, BATCH) for each in page) == sorted(map(task, range(25)))
    assert list(result_tasks(store, "00000000")) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "200"),
        ("status", None),
        ("attempt", "1"),
        ("attempt", 1 << 70),
        ("duration", [1]),
        ("error", {}),
        ("gave_up", 1),
        ("upstream", "404"),
    ],
)
def test_a_result_that_was_forged_is_none(tmp_path: Path, name: str, value: object) -> None:
    """The tracker of a batch computes with the numbers: another type would end its work."""
    store = Store(tmp_path)
    write_result(store, made(task(), status=500))
    path = f"results/{BATCH}/{task()}.json"
    store.put(path, json.dumps(json.loads(store.get(path) or b"") | {name: value}).encode())
    assert read_results(store, BATCH, [task()]) == [None]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"task": 1}'])
def test_a_damaged_result_does_not_hide_the_others(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An object that is no result is named in the log, counts as none, and is replaced by the next attempt."""
    store = Store("memory://damaged")
    store.put(f"results/{BATCH}/{task()}.json", data)
    write_result(store, made(task(1), result=1))
    found = read_results(store, BATCH, [task(), task(1)])
    assert [each and each.result for each in found] == [None, 1]
    assert f"{task()}.json in memory://damaged is not a result" in caplog.text
    write_result(store, made(task(), status=500))
    assert only(store).status == 500
