"""What a fan-out would do."""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.plan import Plan, Trial, make_plan
from cloudtasks_nb.fanout.plan.recipe import compile_recipe
from cloudtasks_nb.fanout.plan.render import Chunk, Forecast
from tests.cases import cases

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
QUEUE = QueueName(project="p", location="us-central1", queue="reports")
FRAME = pd.DataFrame({"x": ["a", "b", None, "a", "c"]})
#: Names as long as those of a usual project.
USUAL = QueueName(project="analysts-north-42317", location="us-central1", queue="monthly-reports")
CLOUD_RUN = "https://report-4k7dq2x3za-uc.a.run.app/monthly/{x}"


class Fresh:
    """An outbox without any batch, as a dry run sees it; `forecast` may be set."""

    def __init__(self, found: Forecast | None) -> None:
        self.found = found
        self.first: dict[bytes, int] = {}
        self.problems: dict[int, str] = {}
        self.rows = self.duplicates = 0

    def add(self, chunk: Chunk) -> None:
        """Take a chunk."""
        for index, (row, key) in enumerate(zip(chunk.rows, chunk.keys, strict=True)):
            self.rows += 1
            if index in chunk.rejected:
                self.problems[row] = chunk.rejected[index]
            elif self.first.setdefault(key, row) != row:
                self.problems[row] = f"duplicate of row {self.first[key]}"
                self.duplicates += 1

    def forecast(self, keys: Sequence[bytes]) -> Forecast:
        """Return what was set, or that all rows are new."""
        return self.found or Forecast(
            tasks=[f"t{row}" for row in range(len(keys))],
            problems=self.problems,
            sendable=self.rows - len(self.problems),
            duplicates=self.duplicates,
            states=["new"] * len(keys),
        )


def _answer(task: Any) -> Trial:
    return Trial(status=200, result=[task.http_request.url, task.http_request.body])


def _plan(
    data: Any = FRAME, *, recipe: dict[str, Any] | None = None, found: Forecast | None = None, **arguments: Any
) -> Plan:
    recipe = {"url": "https://svc/{x}", "body": ["x"], **(recipe or {})}
    fresh = Fresh(found)
    arguments = {"add": fresh.add, "forecast": fresh.forecast, "send": _answer, "limits": {}, **arguments}
    arguments = {"queue": QUEUE, **arguments}
    return make_plan(data, compile_recipe(recipe), now=NOW, submit=lambda: "sent", **arguments)


def test_try_one_sends_the_request_of_a_row() -> None:
    """The row is rendered as in the whole input, where a missing value has made its integers floats."""
    frame = pd.DataFrame({"x": [1, None, 3]})
    plan = _plan(frame, recipe={"url": "https://svc/{x}"})
    assert plan.try_one().result == ["https://svc/1", b'{"x":1}']
    assert _plan([frame, FRAME.tail(1)]).try_one(row=2).result == ["https://svc/3", b'{"x":3}']


@cases((3, "no row 3: the input has 3 rows, from 0 to 2"), (-1, "row=-1 is not the position"), ("a", "row='a'"))
def test_try_one_of_no_row(row: Any, words: str) -> None:
    """A position without a row is an error, and so is a row that cannot become a task."""
    plan = _plan(pd.DataFrame({"x": [1, None, 3]}), recipe={"url": "https://svc/{x}"})
    with pytest.raises(InvalidInputError, match=words):
        plan.try_one(row=row)
    with pytest.raises(InvalidInputError, match=r'row 1 cannot become a task: url: "x" is missing[\s\S]*plan.frame'):
        plan.try_one(row=1)
    with pytest.raises(InvalidInputError, match="has read the iterator"):
        _plan(iter([FRAME])).try_one()


def test_a_trial_reads_well() -> None:
    """The repr has the request, the status, the time, and the result or the traceback."""
    fine = Trial(status=200, result={"n": 1}, duration=0.012, request='POST https://svc {"x":1}')
    bad = Trial(status=500, error="Traceback\nKeyError: 1\n", duration=2.0, request="POST https://svc", note="no token")
    assert repr(fine) == "POST https://svc {\"x\":1}\n200 after 12 ms: {'n': 1}"
    assert repr(bad) == "POST https://svc\n500 after 2 s\nTraceback\nKeyError: 1\nno token"
    assert repr(Trial(status=None, error="refused", request="POST x")) == "POST x\nno answer\nrefused"
    assert repr(Trial(status=200, error="GiveUp: no", request="POST x")) == "POST x\n200\nGiveUp: no"


def test_frame() -> None:
    """A row a task says what would be sent, and what is wrong with it; all are counted, bad ones and duplicates too."""
    plan = _plan(recipe={"delay": "1h"})
    assert (plan.rows, plan.rejected, plan.duplicates, plan.sendable) == (5, 1, 1, 3)
    frame = plan.frame
    assert list(frame.columns) == ["url", "body", "schedule_time", "task", "problem"]
    assert frame.index.name == "row"
    assert frame["url"].tolist() == ["https://svc/a", "https://svc/b", pd.NA, "https://svc/a", "https://svc/c"]
    assert frame.loc[0, "body"] == '{"x":"a"}'
    assert frame.loc[0, "schedule_time"] == pd.Timestamp("2026-01-01 01:00", tz="UTC")
    assert frame["problem"].tolist() == [pd.NA, pd.NA, 'url: "x" is missing', "duplicate of row 0", pd.NA]
    assert not frame.attrs["truncated"]


@pytest.mark.parametrize("data", [FRAME, FRAME.head(0)])
def test_dtypes(data: pd.DataFrame) -> None:
    """The columns have the same dtypes with and without rows."""
    frame = _plan(data).frame
    assert [str(dtype) for dtype in frame.dtypes] == ["string", "string", "datetime64[us, UTC]", "string", "string"]


def test_nothing() -> None:
    """A plan of no rows has its figures too."""
    plan = _plan(FRAME.head(0), limits={"rate": 5})
    assert (plan.rows, plan.sendable, plan.duplicates, plan.price) == (0, 0, 0, 0)
    assert plan.body_bytes.total == 0
    assert "plan.submit()" in repr(plan)


@cases((["a"], (9, 9, 9, 9)), (["a", "bb", "ccccc"], (9, 10, 13, 32)), (["a", None, "bb", "ccc"], (9, 10, 11, 30)))
def test_sizes(cells: list[Any], sizes: tuple[int, ...]) -> None:
    """Sizes are those of the bodies of rows that become tasks."""
    found = _plan(pd.DataFrame({"x": cells})).body_bytes
    assert (found.min, found.median, found.max, found.total) == sizes


@cases((1, "3s"), (500, "6ms"), (0.1, "30s"), (None, None))
def test_time_to_drain(rate: float | None, least: str | None) -> None:
    """The queue's rate says how long it takes at least; where it is not known, nothing is claimed."""
    plan = _plan(limits={"rate": rate} if rate else {})
    assert plan.time_to_drain == (least and pd.Timedelta(least))
    assert ("not known" in repr(plan)) == (rate is None)


def _priced(tasks: int, ratio: float = 1.0, **arguments: Any) -> Plan:
    found = Forecast(tasks=["t"], problems={}, sendable=tasks, duplicates=0)
    frame, limits = pd.DataFrame({"x": ["a"]}), {"log_sampling_ratio": ratio}
    return _plan(frame, recipe={"url": CLOUD_RUN}, found=found, limits=limits, queue=USUAL, **arguments)


# Dollars by https://cloud.google.com/tasks/pricing, https://cloud.google.com/stackdriver/pricing and
# https://cloud.google.com/storage/pricing: 0.40 a million operations after the first million, 0.50 a GiB of logs after
# 50 GiB, 5.00 a million objects written and pages listed, 0.40 a million objects read. A million tasks are two million
# operations, 2.33 GiB of log, 125,000 objects of 8 results and 125 pages.
@cases(
    (1, [0.40, 0.00, 0.625, 0.050625]),
    (10, [7.60, 0.00, 6.25, 0.50625]),
    (100, [79.60, (233 - 50) * 0.50, 62.50, 5.0625]),
)
def test_prices(millions: int, dollars: list[float]) -> None:
    """A part each for what tasks, logs and results cost; the price is their sum, and the repr has all of them."""
    plan = _priced(millions * 1_000_000, stored=True)
    names = ["operations", "queue log", "writing results", "reading results"]
    assert list(plan.prices) == names
    assert list(plan.prices.values()) == pytest.approx(dollars, rel=0.01)
    assert plan.price == pytest.approx(sum(dollars), rel=0.01)
    lines = repr(plan).splitlines()
    found = [line.split()[: len(name.split()) + 1] for name in names for line in lines if line.startswith(f"  {name} ")]
    assert found == [[*name.split(), f"${price:,.2f}:"] for name, price in plan.prices.items()]
    assert all(f"<b>{name}</b>" in plan._repr_mimebundle_()["text/html"] for name in names)
    assert plan.cost.startswith(f"about ${plan.price:,.2f}: operations ${plan.prices['operations']:,.2f}, queue log $")


def test_a_plan_computes_nothing_for_its_simulation() -> None:
    """Its time and memory do not grow with the number of tasks before it is asked for one."""
    assert _priced(10**15).sendable == 10**15


def test_the_table_of_the_site() -> None:
    """The first million of a month, and a further one, have the prices that the table of the site shows."""
    names = ["operations", "queue log", "writing results", "reading results", "price"]
    table: dict[str, list[str]] = {name: [] for name in names}
    for words in ({}, {"ratio": 0, "stored": True}, {"stored": True}):
        plans = [_priced(millions * 1_000_000, **words) for millions in (1, 100, 101)]
        first, used, more = ({"price": plan.price, **plan.prices} for plan in plans)
        for name in names:
            table[name].append(f"{first[name]:.2f}, then {more[name] - used[name]:.2f}" if name in first else "")
    text = (Path(__file__).parents[4] / "docs/explanation/costs.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(?:plan\.)?([a-z ]+)`[^|]*\|(.*)\|$", text, flags=re.MULTILINE)
    assert {name: [cell.strip() for cell in cells.split("|")] for name, cells in shown if name in table} == table
    assert [_priced(millions * 1_000_000).prices["queue log"] > 0 for millions in (21, 22)] == [False, True]


@cases(
    ({}, "operations, queue log"),
    ({"stored": True, "ratio": 0}, "operations, writing results, reading results"),
    ({"tasks": 0, "stored": True}, ""),
    ({"stored": True, "priced": False}, ""),
)
def test_parts_that_do_not_occur(arguments: dict[str, Any], names: str) -> None:
    """They are left out; on an emulator nothing has a price, and the plan says nothing about dollars."""
    plan = _priced(**{"tasks": 1_000, **arguments})
    assert ", ".join(plan.prices) == names
    assert ("$" in repr(plan), "$" in plan.cost, plan.price) == (bool(names), bool(names), sum(plan.prices.values()))


def test_the_log_of_some_operations() -> None:
    """The line of the log says what share of the operations it has."""
    assert "about 3.5 GiB at 50 % of the operations" in _priced(3_000_000, ratio=0.5).facts()["queue log"]
    assert "operations of Cloud Tasks; the first 1,000,000 a month" in _priced(1_000).facts()["operations"]


@cases(
    ({}, ["Plan for queue reports", "nothing was sent", 'url: "x" is missing', "plan.submit() would raise"]),
    ({"errors": "skip"}, ["→ plan.submit()"]),
    ({"limits": {"rate": 2, "max_concurrent": 8}}, ["1.5 s at 2 a second, at most 8 at once"]),
    ({"data": iter([FRAME])}, ["new iterator"]),
    ({"data": FRAME.head(2)}, ["→ plan.submit()", 'POST https://svc/a {"x":"a"}', "9 B median"]),
)
def test_repr(arguments: dict[str, Any], words: list[str]) -> None:
    """The repr says the figures, the first tasks, and the next line to type."""
    text = repr(_plan(**arguments))
    assert all(word in text for word in words), text


LED = pd.DataFrame({"url": [f"https://u:pw@{host}/x" for host in "aAbcdefa"] + ["ftp://z"], "x": range(9)})
MANY = "6 hosts: a, b, c, d, e, …"
SIGNED = {"service_account": "caller@p.iam.gserviceaccount.com"}
TOKENS = f"with tokens of {SIGNED['service_account']}"


@cases(
    ({"url": "{url}"}, MANY),
    ({"url": "{url}", **SIGNED}, f"{MANY}; {TOKENS}, each for its own URL"),
    ({"url": "https://b{x}.example/", **SIGNED, "audience": "https://i"}, f"{TOKENS} for the audience https://i"),
    ({"url": "https://svc:{x}?q"}, "9 hosts: svc:0, svc:1, svc:2, svc:3, svc:4, …"),
    ({"url": "https://svc/{x}"}, ""),
    ({"url": "https://svc/{x}", **SIGNED}, f"1 host: svc; {TOKENS} for the audience https://svc"),
    ({"url": "https://f.cloudfunctions.net/{x}", **SIGNED}, f"{TOKENS}, each for its own URL"),
    ({"url": "https://f.cloudfunctions.net/g", **SIGNED}, f"{TOKENS} for the audience https://f.cloudfunctions.net/g"),
)
def test_whom_the_tasks_call(recipe: dict[str, Any], told: str) -> None:
    """A plan names the hosts that the data leads to, and whose tokens they get: of all rows, not of the first ones."""
    plan = _plan(iter([LED.head(2), LED.tail(7)]), recipe=recipe)
    assert plan.facts().get("calls", "").endswith(told), plan.facts()
    assert told in repr(plan)
    assert told in plan._repr_mimebundle_()["text/html"]


def test_the_hosts_of_a_plan() -> None:
    """They are a tuple, in the order of the data; one that some readers end at a backslash is shown in full."""
    assert _plan(LED, recipe={"url": "{url}"}).hosts == tuple("abcdef")
    assert _plan(LED, recipe={"url": "https://svc/{x}"}).hosts == ("svc",)
    tricky = pd.DataFrame({"url": ["https://evil\\@good/"]})
    assert _plan(tricky, recipe={"url": "{url}", "body": None}).hosts == ("evil\\@good",)
    assert _plan(FRAME.head(0)).hosts == ()


def test_html_is_escaped() -> None:
    """What comes from the data shows as text in a notebook."""
    plan = _plan(pd.DataFrame({"x": ["<img src=x onerror=alert(1)>", None]}))
    bundle = replace(plan, queue="<b>")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "<img" not in bundle["text/html"]
    assert "&lt;img" in bundle["text/html"]
    assert "<b><b>" not in bundle["text/html"]


def test_rows_that_are_kept() -> None:
    """The plan of a frame keeps all rows; that of an iterator counts it to its end and keeps the first thousand."""
    frame = pd.DataFrame({"x": np.arange(3_000).astype(str)})
    assert len(_plan(frame).frame) == 3_000
    plan = _plan(iter([frame]))
    assert (plan.rows, plan.sendable, len(plan.frame)) == (3_000, 3_000, 1_000)
    assert plan.frame.attrs["truncated"]
    with pytest.raises(InvalidInputError, match="iterator"):
        plan.submit()


def test_rows_in_the_way() -> None:
    """Rows that forbid to send are a problem and no tasks, and the plan says what `submit` would raise."""
    found = Forecast(
        tasks=["t0", None, "t2", "t3"],
        problems={1: "no URL", 2: "taken"},
        sendable=2,
        duplicates=0,
        known={"in 42ebfe79": 1},
        refusal="1 of 3 are",
    )
    plan = _plan(pd.DataFrame({"x": ["a", None, "b", "c"]}), errors="skip", found=found)
    assert plan.frame["problem"].tolist() == [pd.NA, "no URL", "taken", pd.NA]
    assert plan.frame["task"].tolist() == ["t0", pd.NA, pd.NA, "t3"]
    assert (plan.sendable, plan.price, plan.facts()["known"]) == (2, 0, "1 in 42ebfe79")
    assert "4 operations of Cloud Tasks" in plan.facts()["operations"]
    assert repr(plan).endswith("→ plan.submit() would raise: 1 of 3 are")
    assert plan.facts()["rejected"] == '1 (row 1: url: "x" is missing)'


def test_the_reason_of_rejected_rows() -> None:
    """The error about rejected rows shows the first of them, not a duplicate or one that an iterator's plan hides."""
    frame = pd.DataFrame({"x": ["a", "a", *map(str, range(2_000)), None]})
    for data in (frame, iter([frame])):
        assert _plan(data, errors="skip").facts()["rejected"] == '1 (row 2002: url: "x" is missing)'


def test_a_paused_queue() -> None:
    """For a queue that dispatches nothing the plan shows that and what to do, in place of the time to drain."""
    drain = _plan(limits={"rate": 1, "state": "PAUSED"}).facts()["time to drain"]
    assert drain == (
        "the queue is paused and dispatches nothing: queue.resume(); then 3 s at 1 a second; "
        'longer if the target is slower: plan.simulate("2s")'
    )


LIMITS = {"rate": 100.0, "burst": 10, "max_concurrent": 100, "log_sampling_ratio": 1.0}
RETRIES = {"max_attempts": 3, "max_retry_duration": 0.0, "min_backoff": 1.0, "max_backoff": 10.0, "max_doublings": 0}
SETTINGS = {**LIMITS, **RETRIES}
ROWS = pd.DataFrame({"x": range(20), "wait": [f"{row}min" for row in range(20)]})


@cases(
    ({}, {}, {}, 2.1),
    ({"delay": "1h"}, {}, {}, 3602.1),
    ({"delay": "{wait}"}, {}, {}, 19 * 60 + 2),
    ({"at": "2025-12-01T00:00Z"}, {}, {}, 2.1),
    ({}, {"send_rate": 2}, {}, 9.5 + 2),
    ({"retry": {"max_attempts": 2, "min_backoff": "5s"}}, {}, {"failures": 1}, 2 + 5 + 2.1),
    ({"dispatch_deadline": "20s"}, {}, {"duration": 60, "failures": 0}, 3 * 20 + 2 * 1 + 1 + 0.1),
)
def test_a_simulation_has_what_is_planned(
    recipe: dict[str, Any], options: dict[str, Any], given: dict[str, Any], seconds: float
) -> None:
    """Rows are due and created as planned; settings of the task itself stand before those of the queue."""
    plan = _plan(ROWS, recipe={"body": ["x"], **recipe}, limits=SETTINGS, **options)
    found = plan.simulate(**{"duration": 2, "failures": 0, **given})
    assert found.duration.total_seconds() == pytest.approx(seconds, abs=0.05)


def test_a_simulation_of_some_of_the_rows() -> None:
    """Of a part that is sent, the due times are spread over those of all."""
    found = Forecast(tasks=[], problems={}, sendable=2, duplicates=0)
    plan = _plan(ROWS, recipe={"delay": "{wait}"}, limits=SETTINGS, found=replace(found, tasks=["t"] * 20, states=[]))
    assert plan.simulate(0, failures=0).duration == pd.Timedelta("19min")


def test_no_simulation_of_an_unknown_queue() -> None:
    """An account that may not read the queue does not know what limits it."""
    with pytest.raises(InvalidInputError, match="the settings of queue reports are not known"):
        _plan().simulate()
