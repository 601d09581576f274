"""What a backfill asks a fan-out for, what a dry run says of it, and what makes two calls the same series."""

import datetime as dt
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.client.queue import Queue
from cloudtasks_nb.display.calendar import Calendar
from cloudtasks_nb.errors import BatchExistsError, InvalidInputError, TemplateError
from cloudtasks_nb.fanout.batch.request import FanOutRequest
from cloudtasks_nb.fanout.batch.table import ReadRows
from cloudtasks_nb.fanout.batch.view import PeriodStates, upcoming
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Spooled, whole
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.periods.partitions import combinations, partition
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.plan.plan import Plan, Trial, make_plan
from cloudtasks_nb.fanout.plan.render import plan_chunks
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import PLACE, put, refs, send_all, spool, watched

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
URL = "https://svc/{partition}"


class FakeCatalog:
    """A catalog over a real outbox that sends nothing."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.requests: list[FanOutRequest] = []
        self.spooled: list[Spooled] = []

    def place(self, queue: QueueName) -> Place:
        """Return the place of the queue."""
        assert queue.queue == PLACE.queue
        return PLACE

    def fan_out(self, request: FanOutRequest, **_: bool) -> BatchRecord:
        """Store the rows."""
        self.requests.append(request)
        chunks = plan_chunks(request.data, request.recipe, now=NOW)
        identity, name = request.recipe.identity, request.options["name"]
        self.spooled.append(spool(self.outbox, chunks, recipe=identity, name=name, description=request.description))
        return self.outbox.batches.get(self.spooled[-1].batch)

    def dry_run(self, request: FanOutRequest, submit: Callable[[], Any], *, verdicts: bool) -> Plan:
        """Plan the rows."""
        recipe, name = request.recipe, request.options["name"]
        spec = BatchSpec(place=PLACE, recipe=recipe.identity, name=name, description=request.description)
        with self.outbox.dry_run(spec) as dry_run:
            return make_plan(
                request.data,
                recipe,
                add=dry_run.add,
                forecast=dry_run.forecast,
                now=NOW,
                queue=request.queue,
                limits={},
                submit=submit,
                send=lambda _: Trial(status=None),
                verdicts=verdicts,
            )


class Harness:
    """A queue over a fake catalog, on a connection from which every URL can be reached."""

    def __init__(self, outbox: Outbox) -> None:
        connection: Any = SimpleNamespace(check_target=lambda *_: None, check_store=lambda _: None)
        catalog: Any = FakeCatalog(outbox)
        self.catalog = catalog
        self.queue = Queue(connection, catalog, QueueName(project="p", location="l", queue=PLACE.queue))

    def run(self, start: str = "2026-01-01", end: str = "2026-01-03", **options: Any) -> Any:
        """Backfill, and return the record of the batch; or the plan, with `dry_run=True`."""
        arguments: dict[str, Any] = {"freq": "D", "url": URL, **options}
        return self.queue.backfill(start, end, **arguments)

    def plan(self, *period: str, **options: Any) -> Any:
        """Plan a backfill."""
        return self.run(*period, **options, dry_run=True)

    def data(self) -> Any:
        """Return the rows of the newest fan-out."""
        return self.catalog.requests[-1].data


@pytest.fixture
def backfills(outbox: Outbox) -> Harness:
    """Return a queue over an empty outbox."""
    return Harness(outbox)


SHOPS = pd.DataFrame({"shop": ["bern", "kobe", "basel"], "tz": ["Europe/Zurich", "Asia/Tokyo", "Europe/Zurich"]})


def test_a_zone_for_each_shop(backfills: Harness, outbox: Outbox) -> None:
    """Each shop has the periods of its zone, in the order of the periods; a longer range adds to the same batch."""
    url = "https://svc/{shop}/{start:%m-%d}"
    batch = backfills.run("2026-03-28", "2026-03-29", tz="{tz}", across=SHOPS, url=url).id
    data = backfills.data()
    assert list(data.columns) == ["start", "end", "partition", "shop", "tz"]
    assert data["shop"].tolist() == ["bern", "basel", "kobe"] * 2
    begins = [start.isoformat() for start in data["start"][1:3]]
    assert begins == ["2026-03-28T00:00:00+01:00", "2026-03-28T00:00:00+09:00"]
    hours = [(end - start) / pd.Timedelta(hours=1) for start, end in zip(data["start"], data["end"], strict=True)]
    assert hours == [24, 24, 24, 23, 23, 24]
    assert backfills.run("2026-03-27", "2026-03-29", tz="{tz}", across=SHOPS, url=url).id == batch
    assert (backfills.catalog.spooled[-1].known, backfills.catalog.spooled[-1].added) == (6, 3)
    send_all(outbox, batch)
    plan = backfills.plan("2026-03-27", "2026-03-30", tz="{tz}", across=SHOPS, url=url, newest_first=True)
    assert plan.frame["verdict"].tolist() == ["send"] * 3 + ["skip"] * 9
    assert plan.frame["url"].tolist()[:3] == [f"https://svc/{shop}/03-30" for shop in ("bern", "basel", "kobe")]
    record = outbox.batches.get(batch)
    states = PeriodStates(outbox, record.whole, record.description["backfill"])
    drawn: Any = states.periods()
    assert (drawn.labels, drawn.line) == (
        ["2026-03-27", "2026-03-28", "2026-03-29"],
        "2026-03-27 … 2026-03-29, days in 2 zones: Europe/Zurich, Asia/Tokyo",
    )
    assert plan.about["partitions"] == "2026-03-27 … 2026-03-30, days in 2 zones: Europe/Zurich, Asia/Tokyo"
    assert drawn.counts.sum(axis=1).groupby("band").sum().to_dict() == {
        "basel, Europe/Zurich": 3,
        "bern, Europe/Zurich": 3,
        "kobe, Asia/Tokyo": 3,
    }
    calendar = Calendar(drawn)
    assert len(calendar.rows(batch_rows(outbox, batch), calendar.keys[:3])) == 3
    new = upcoming(partition("2026-03-29", "2026-03-30", freq="D", tz="{tz}"), combinations(SHOPS), states).counts
    assert new.to_dict("list") == {"queued": [1, 0] * 3, "new": [0, 1] * 3}


def batch_rows(outbox: Outbox, batch: str) -> pd.DataFrame:
    """Return the columns of a batch's rows."""
    return ReadRows(outbox.rows.pages(whole(batch))).stored.columns()


def test_words_are_passed_on(backfills: Harness) -> None:
    """The words of a fan-out mean the same here; times without a zone are those of the backfill's."""
    lasting: dict[str, Any] = {"send_rate": 3, "canary": 2, "pause_at": "5%"}
    backfills.run(errors="skip", progress=False, at="2026-01-02 09:00", tz="Asia/Tokyo", **lasting)
    request = backfills.catalog.requests[-1]
    assert (request.options["errors"], request.options["progress"], request.lasting) == ("skip", False, lasting)
    assert request.recipe.schedule.moment == dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


@cases(
    ({"freq": "24h"}, True),
    ({"across": {"shop": ["z"], "kind": [1]}}, True),
    ({"across": {"kind": [5, 6], "shop": ["a", "b"]}}, True),
    ({"pause_at": 3, "send_rate": 5}, True),
    ({"canary": 1, "pause_at": 0.05}, True),
    ({"freq": "2D"}, False),
    ({"tz": "Europe/London"}, False),
    ({"across": {"shop": ["a"]}}, False),
    ({"across": None}, False),
    ({"url": "https://svc/other/{partition}"}, False),
    ({"method": "PUT"}, False),
    ({"headers": {"X-Kind": "a"}}, False),
)
def test_what_makes_a_series(backfills: Harness, words: dict[str, Any], same: bool) -> None:  # noqa: FBT001 - expected value
    """Templates, frequency, zone and names make the series; range, values and ways of sending do not."""
    first: dict[str, Any] = {"across": {"shop": ["a"], "kind": [1]}}
    one, other = backfills.run(**first), backfills.run("2026-03-01", "2026-03-02", **{**first, **words})
    assert (one.id == other.id) == same
    assert str(one.name).startswith("backfill-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"freq": "MS"}, "is a backfill of days in UTC, this is a backfill of months in UTC"),
        ({"tz": "Asia/Tokyo"}, "this is a backfill of days in Asia/Tokyo"),
        ({"across": {"shop": ["a"]}}, "this is a backfill of days in UTC across shop"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_other_partitions_under_a_name(backfills: Harness, words: dict[str, Any], message: str, dry_run: bool) -> None:  # noqa: FBT001 - a parameter
    """Periods of two kinds are never mixed under one name; the batch's id is one."""
    batch = backfills.run(name="mine")
    for name in ("mine", batch.id):
        with pytest.raises(BatchExistsError, match=message):
            backfills.run(name=name, dry_run=dry_run, **words)
    assert backfills.catalog.outbox.batches.find()[0].total == 3


# Dry run


def test_verdicts(backfills: Harness, outbox: Outbox) -> None:
    """Every partition has a verdict: what the same call would send, and why not the others."""
    batch = backfills.run(end="2026-01-04").id
    for ref, state in zip(refs(outbox, batch), (State.SENT, State.FAILED, State.SUCCEEDED), strict=False):
        put(outbox, batch, ref, state)
    plan = backfills.plan(end="2026-01-05")
    assert plan.frame[["partition", "verdict", "why"]].to_numpy().tolist() == [
        ["2026-01-01", "skip", "in the queue"],
        ["2026-01-02", "skip", "failed"],
        ["2026-01-03", "skip", "succeeded"],
        ["2026-01-04", "send", "unsent"],
        ["2026-01-05", "send", "new"],
    ]
    assert plan.sendable == 2
    assert plan.facts()["known"] == "1 in the queue, 1 failed, 1 succeeded"


def test_plan_says_what_of(backfills: Harness) -> None:
    """The plan shows the batch's name, the partitions with their zone, and where they reach beyond the range."""
    plan = backfills.plan("2026-01-15", "2026-02-01", freq="MS", tz="Europe/Zurich")
    facts = plan.facts()
    assert facts["batch"].startswith("backfill-")
    assert facts["partitions"] == "2026-01 … 2026-02, 2 months in Europe/Zurich"
    assert "begins 2026-01-01, before 2026-01-15" in facts["note"]
    assert "2 months in Europe/Zurich" in repr(plan)
    assert "2 months in Europe/Zurich" in plan._repr_mimebundle_()["text/html"]


def test_plan_shows_what_would_be_sent(backfills: Harness, outbox: Outbox) -> None:
    """The examples in the plan's repr are tasks that would be sent, not those that the batch has."""
    send_all(outbox, backfills.run().id)
    assert "POST https://svc/2026-01-04" in repr(backfills.plan(end="2026-01-04"))
    assert "POST https://svc/2026-01-01" not in repr(backfills.plan(end="2026-01-04"))


# Notes, and what is stored


def test_ranges_that_two_kernels_ask_for_at_once_are_both_kept(backfills: Harness, outbox: Outbox, path: Path) -> None:
    """What another kernel asks for just when this one reads what was asked for before is not lost."""
    batch, before, others = backfills.run("2026-01-05", "2026-01-06").id, [""], list[Future[Any]]()
    with Outbox(path) as outbox_of_other, ThreadPoolExecutor(1) as pool:
        other = Harness(outbox_of_other)

        def on_statement(statement: str) -> None:
            if re.match(r"SELECT \w+, value FROM \w+ WHERE num", before[0]) and not others:  # it has been read
                others.append(pool.submit(other.run, "2026-01-02", "2026-01-03"))
                wait(others, timeout=0.3)  # of a transaction it waits for the end
            before[0] = statement

        outbox._database.write(sqlite3.Connection.set_trace_callback, on_statement)
        with watched(outbox, lambda connection: connection.set_trace_callback(on_statement)):
            backfills.run("2026-01-08", "2026-01-09")
        others[0].result()
    assert outbox.batches.facts(batch).periods == ("2026-01-02T00:00:00+00:00", "2026-01-09T00:00:00+00:00")


# Bad input


@cases(
    ({"key": ["shop"]}, TypeError, r'backfill\(\) has no argument "key"'),
    ({"newest_frist": True}, TypeError, 'did you mean "newest_first"'),
    ({"max_concurrent": 8}, TypeError, r"queue\.update\(max_concurrent=8\)"),
    ({"freq": "B"}, InvalidInputError, "freq='B'"),
    ({"tz": "Mars"}, InvalidInputError, "tz='Mars'"),
    ({"tz": "{tz}"}, InvalidInputError, "names no column of across"),
    ({"tz": "{zone}", "across": SHOPS}, InvalidInputError, "names no column of across"),
    ({"tz": "{tz}", "across": {"tz": ["Mars"]}}, InvalidInputError, "tz='Mars' is not a time zone"),
    ({"tz": "{tz}", "across": {"tz": ["UTC", None]}}, InvalidInputError, "is not a time zone"),
    ({"tz": "{tz}", "across": SHOPS, "end": "2026-01-03T00:00Z"}, InvalidInputError, "are several zones"),
    ({"across": {}}, InvalidInputError, "across is empty"),
    ({"across": {"start": [1]}}, InvalidInputError, 'a column "start"'),
    ({"url": "https://svc/{shop}"}, TemplateError, '"shop"'),
    ({"url": "ftp://svc"}, InvalidInputError, "ftp"),
    *(({"send_rate": rate}, InvalidInputError, "^send_rate=.* is not a number of tasks") for rate in (0, "5", True)),
    *(
        ({name: limit}, InvalidInputError, f"^{name}=.* is neither a number of rows nor a share of them")
        for name in ("canary", "pause_at")
        for limit in (0, -1, 1.5, "20", "0%", "-1%", "100%", "200%", "few", "x%", True, float("inf"))
    ),
    ({"canary": 3}, InvalidInputError, "^canary=3 leaves no row for later: there are 3"),
    ({"name": ""}, InvalidInputError, "name='' cannot name a batch"),
    ({"name": 5}, InvalidInputError, "^name=5"),
    ({"name": "a\nb"}, InvalidInputError, r"cannot name a batch: it has U\+000A"),
    ({"name": "a\u202eb"}, InvalidInputError, r"it has U\+202E RIGHT-TO-LEFT OVERRIDE"),
    ({"name": "x" * 201}, InvalidInputError, "has 201 characters"),
)
def test_bad_words(backfills: Harness, words: dict[str, Any], error: type[Exception], message: str) -> None:
    """What is wrong is named, and nothing is kept."""
    with pytest.raises(error, match=message):
        backfills.run(**words)
    assert backfills.catalog.outbox.batches.find() == []
