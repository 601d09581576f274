"""Four faults in 20,000 rows are four causes, each with its line and with what its rows have in common."""

import asyncio
import datetime as dt
import inspect
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pandas as pd
import pytest
import requests

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch import errors
from cloudtasks_nb.fanout.batch.errors import choose, errors_frame
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.table import RowFrames
from cloudtasks_nb.fanout.causes import Fault, exception_line
from cloudtasks_nb.fanout.evidence import RAISED, Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.plan.recipe import TaskOptions, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.handlers.call import call
from cloudtasks_nb.service.clock import now_micros
from cloudtasks_nb.service.watch import Pending
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.log_entry import log_entry
from tests.stored import store_result
from tests.unit.fanout.conftest import all_rows, chunks, send_all, spool

ROWS = 20_000
SHOPS = ("berlin", "wien", "oslo", "bern", "rom")
FRAME = pd.DataFrame({"shop": [SHOPS[row % 5] for row in range(ROWS)], "day": [row // 5 for row in range(ROWS)]})
#: Where the function fails for a shop on the days from one on.
SINCE = {"berlin": 3_000, "wien": 3_600, "oslo": 3_900, "bern": 3_990}
FAILED = {shop: ROWS // 5 - day for shop, day in SINCE.items()}


def report(shop: str, day: int) -> None:
    """Fail in one of four ways."""
    if day < SINCE.get(shop, ROWS):
        return
    if shop == "berlin":
        dict[str, float]()[f"vat_{day}"]
    if shop == "wien":
        raise ValueError(f"bad shop {shop} {day}")
    if shop == "oslo":
        raise TimeoutError(f"the warehouse did not answer in {day / 100} s")
    response = requests.Response()
    response.status_code, response.url = 404, f"https://api.example/{shop}/{day}"
    response.raise_for_status()


def place(words: str) -> str:
    """Return the line of the report that has some words, as `errors()` names it."""
    lines = inspect.getsource(report).splitlines()
    at = next(number for number, line in enumerate(lines) if words in line)
    return f"report, test_errors.py line {report.__code__.co_firstlineno + at}"


CAUSES = [
    ("KeyError: 'vat_3000'", FAILED["berlin"], place("vat_"), "shop=berlin 100 %"),
    ("ValueError: bad shop wien 3600", FAILED["wien"], place("bad shop"), "shop=wien 100 %"),
    ("TimeoutError: the warehouse did not answer in 39.0 s", FAILED["oslo"], place("did not"), "shop=oslo 100 %"),
    (
        "HTTPError: 404 Client Error: None for url: https://api.example/bern/3990",
        FAILED["bern"],
        place("raise_for_status"),
        "shop=bern 100 %",
    ),
]


def reported(outbox: Outbox, data: pd.DataFrame) -> str:
    """Return a batch of these rows, of which the faults are recorded, in the order in which tasks may fail."""
    recipe = compile_recipe(TaskOptions(url="https://svc/run", body=["shop", "day"]))
    batch = spool(outbox, plan_chunks(data, recipe, now=dt.datetime.now(dt.UTC))).batch
    send_all(outbox, batch)
    tasks = all_rows(outbox, batch, "tasks")
    rows: list[Any] = data.to_dict("records")
    told = [one for task, row in zip(tasks, rows, strict=True) if (one := evidence(task, row))]
    outbox.outcomes.record(batch, sorted(told, key=lambda one: one.task))
    return batch


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give an outbox and a batch of which four faults are recorded."""
    with Outbox(tmp_path_factory.mktemp("faulty") / "outbox.sqlite3") as outbox:
        yield outbox, reported(outbox, FRAME)


def evidence(task: str, row: dict[str, Any]) -> Evidence | None:
    """Return what a stored result tells if the function fails."""
    if row["day"] < SINCE.get(row["shop"], ROWS):
        return None
    answer = call(report, orjson.dumps(row), run=asyncio.run)
    error = str(answer.error)
    return Evidence(
        task=task,
        source=Source.RESULTS,
        fact=Fact.LAST_FAILED,
        attempts=1,
        status=13,
        http=answer.upstream or RAISED,
        message=exception_line(error),
        fault=Fault.of(error, answer.upstream),
    )


def frame(outbox: Outbox, batch: str) -> pd.DataFrame:
    """Return `batch.errors()`."""
    results, rows = StoredResults(outbox, Store("memory://none"), batch), whole(batch)
    return errors_frame(outbox, results, rows, RowFrames(outbox.rows, rows, now_micros))


def test_each_fault_is_one_cause_with_its_line_and_what_its_rows_have_in_common(faulty: Any) -> None:
    """Whatever the keys, numbers and URLs in their messages are; the first message stands for all."""
    found = frame(*faulty)
    assert [tuple(row) for row in found[["cause", "failed", "where", "common"]].to_numpy()] == CAUSES
    outbox, batch = faulty
    assert outbox.causes.failed(whole(batch)) == {f"{cause} … and {n - 1:,} like it": n for cause, n, *_ in CAUSES}


@cases((5, 5, "shop=berlin 100 %"), (4, 8, "shop=berlin 100 %"), (2, 2, None), (1, 5, None))
def test_few_rows_have_in_common_what_is_hardly_by_chance(
    tmp_path: Path, berlin: int, oslo: int, common: str | None
) -> None:
    """That one shop has all the failures of ten rows, and not of four."""
    data = pd.DataFrame({"shop": ["berlin"] * berlin + ["oslo"] * oslo, "day": [3_100] * (berlin + oslo)})
    with Outbox(tmp_path / "outbox.sqlite3") as outbox:
        (found,) = frame(outbox, reported(outbox, data.assign(day=data["day"] + data.index)))["common"]
    assert (None if found is pd.NA else found) == common


EARLIER = pd.DataFrame({"cause": ["ValueError: bad shop wien 3601"]})


@cases(
    ("KeyError", ["berlin"]),
    ("ValueError: bad shop wien 3600", ["wien"]),
    ("ValueError: bad shop wien 3600 … and 7 like it", ["wien"]),
    (404, ["bern"]),
    ("ERROR", ["berlin", "wien", "oslo"]),
    (lambda found: found.tail(2), ["oslo", "bern"]),
    (lambda found: found["cause"].head(1), ["berlin"]),
    (lambda found: found.iloc[0], ["berlin"]),
    (EARLIER, ["wien"]),
)
def test_a_cause_selects_its_rows(faulty: Any, where: Any, shops: list[str]) -> None:
    """By its text, its exception, the status, or a row of `errors()`, also of an earlier one."""
    outbox, batch = faulty
    chosen = where(frame(outbox, batch)) if callable(where) else where
    choice = choose(chosen, outbox, whole(batch))
    assert outbox.causes.matching(whole(batch), choice) == sum(FAILED[shop] for shop in shops)


def test_a_message_of_one_row_is_no_cause(faulty: Any) -> None:
    """It would select other rows too."""
    outbox, batch = faulty
    with pytest.raises(InvalidInputError, match="no cause of a failed row"):
        choose("ValueError: bad shop wien 3601", outbox, whole(batch))


ELSEWHERE = f"{0:020x}-a91f03c2-1"  # a task of a batch that this home does not have


def test_stored_errors_are_not_read_all_at_once(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`attempts(limit=None)` may have a hundred thousand failures, each with a traceback in the store."""
    batch, store = spool(outbox, chunks(range(5))).batch, Store("memory://attempts")
    tasks = [str(task) for task in all_rows(outbox, batch, "tasks")]
    for task in tasks:
        store_result(outbox, store, task, error="refused")
    read, sizes = outbox.results.of, []

    def of(batch: str, tasks: list[str], after: int) -> list[tuple[str, str, str, bool]]:
        sizes.append(len(tasks))
        return read(batch, tasks, after)

    monkeypatch.setattr(errors, "_TOGETHER", 2)
    monkeypatch.setattr(outbox.results, "of", of)
    entries = [log_entry(task, 1, status="INTERNAL", url="https://x") for task in (*tasks, ELSEWHERE)]
    found = errors._stored_messages(store, lambda: outbox, entries)
    assert (sizes, found) == ([2, 2, 1], {(task, 1): "refused" for task in tasks})


def test_tasks_that_leave_while_they_are_listed_have_left(outbox: Outbox) -> None:
    """A listing of many pages tells of the time at which it began, at the latest."""
    batch, ticks = spool(outbox, chunks(range(1))).batch, itertools.count(1)
    send_all(outbox, batch)
    [task] = outbox.rows.tasks(batch, outbox.rows.refs(batch, State.SENT))
    found = Pending(state="retrying", attempts=1, schedule_time=9, last_status="INTERNAL", last_message="no")

    async def lookup(*_: Any) -> dict[str, Pending | None]:
        left = Evidence(task=task, source=Source.QUEUE, fact=Fact.LEFT_LOGGED, seen=next(ticks))
        outbox.outcomes.record(batch, [left])
        return {task: found}

    clock, watcher = SimpleNamespace(micros=lambda: next(ticks)), SimpleNamespace(lookup=lookup)
    connection: Any = SimpleNamespace(clock=clock, watcher=watcher)
    queue = QueueName(project="p", location="l", queue="q")
    assert errors.pending_tasks(connection, queue, outbox, whole(batch)) == {task: found}
    assert outbox.batches.counts(whole(batch))[State.GONE] == 1
