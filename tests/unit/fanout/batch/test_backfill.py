"""What a backfill asks a fan-out for, what a dry run says of it, and what makes two calls the same series."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.display.calendar import Calendar
from cloudtasks_nb.errors import BatchExistsError, InvalidInputError, TemplateError
from cloudtasks_nb.fanout.batch.table import ReadRows
from cloudtasks_nb.fanout.batch.view import PeriodStates, upcoming
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.periods.partitions import combinations, partition
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.simulation.cloud import Cloud
from tests.simulation.kernel import Kernel
from tests.simulation.world import Process, World
from tests.unit.fanout.conftest import put, refs

URL = "https://svc/{partition}"


class Backfills:
    """Backfills of a kernel, into a paused queue."""

    def __init__(self, world: World, kernel: Kernel) -> None:
        self.world, self.kernel = world, kernel

    @property
    def outbox(self) -> Outbox:
        """The outbox of the home."""
        return self.kernel.tasks._catalog.outbox

    def run(self, start: str = "2026-01-01", end: str = "2026-01-03", **options: Any) -> Any:
        """Backfill, and return the batch when its tasks are in the queue; or the plan, with `dry_run=True`."""
        arguments: dict[str, Any] = {"freq": "D", "url": URL, **options}
        made = self.kernel.do(lambda tasks: tasks.queue("q", create=True).pause().backfill(start, end, **arguments))
        self.world.go_on(1)
        return made

    def plan(self, *period: str, **options: Any) -> Any:
        """Plan a backfill."""
        return self.run(*period, **options, dry_run=True)


@pytest.fixture
def backfills(tmp_path: Path) -> Iterator[Backfills]:
    """Give backfills of an empty home."""
    world = World()
    with world.patched():
        cloud = Cloud(Process(world, tmp_path / "cloud"), lambda _: 200)
        kernel = Kernel(cloud, tmp_path / "ada", tmp_path / "store")
        yield Backfills(world, kernel)
        kernel.close()
        cloud.close()


SHOPS = pd.DataFrame({"shop": ["bern", "kobe", "basel"], "tz": ["Europe/Zurich", "Asia/Tokyo", "Europe/Zurich"]})


def test_a_zone_for_each_shop(backfills: Backfills) -> None:
    """Each shop has the periods of its zone, in the order of the periods; a longer range adds to the same batch."""
    words: dict[str, Any] = {"tz": "{tz}", "across": SHOPS, "url": "https://svc/{shop}/{start:%m-%d}"}
    batch, outbox = backfills.run("2026-03-28", "2026-03-29", **words).id, backfills.outbox
    data = batch_rows(outbox, batch)
    assert list(data.columns) == ["start", "end", "partition", "shop", "tz"]
    assert data["shop"].tolist() == ["bern", "basel", "kobe"] * 2
    assert data["start"].tolist()[1:3] == ["2026-03-28T00:00:00+01:00", "2026-03-28T00:00:00+09:00"]
    spans = zip(map(pd.Timestamp, data["start"]), map(pd.Timestamp, data["end"]), strict=True)
    assert [(end - start) / pd.Timedelta(hours=1) for start, end in spans] == [24, 24, 24, 23, 23, 24]
    assert backfills.run("2026-03-27", "2026-03-29", **words).id == batch
    assert len(batch_rows(outbox, batch)) == 9
    plan = backfills.plan("2026-03-27", "2026-03-30", newest_first=True, **words)
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


def test_words_are_passed_on(backfills: Backfills) -> None:
    """The words of a fan-out mean the same here; times without a zone are those of the backfill's."""
    lasting: dict[str, Any] = {"send_rate": 3, "canary": 2, "pause_at": "5%"}
    batch = backfills.run(errors="skip", progress=False, at="2026-01-02 09:00", tz="Asia/Tokyo", **lasting)
    assert backfills.outbox.batches.facts(batch.id).options == lasting
    plan = backfills.plan(at="2026-01-02 09:00", tz="Asia/Tokyo", name="other")
    assert set(plan.frame["schedule_time"]) == {pd.Timestamp("2026-01-02", tz="UTC")}


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
def test_what_makes_a_series(backfills: Backfills, words: dict[str, Any], same: bool) -> None:  # noqa: FBT001 - expected value
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
def test_other_partitions_under_a_name(
    backfills: Backfills, words: dict[str, Any], message: str, *, dry_run: bool
) -> None:
    """Periods of two kinds are never mixed under one name; the batch's id is one."""
    batch = backfills.run(name="mine")
    for name in ("mine", batch.id):
        with pytest.raises(BatchExistsError, match=message):
            backfills.run(name=name, dry_run=dry_run, **words)
    assert backfills.outbox.batches.find()[0].total == 3


# Dry run


def test_verdicts(backfills: Backfills) -> None:
    """Every partition has a verdict: what the same call would send, and why not the others; tasks are what it sends."""
    batch = backfills.run(end="2026-01-04", canary=3).id
    for ref, state in zip(refs(backfills.outbox, batch)[1:], (State.FAILED, State.SUCCEEDED), strict=False):
        put(backfills.outbox, batch, ref, state)
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
    assert "POST https://svc/2026-01-05" in repr(plan)
    assert "POST https://svc/2026-01-01" not in repr(plan)


def test_plan_says_what_of(backfills: Backfills) -> None:
    """The plan shows the batch's name, the partitions with their zone, and where they reach beyond the range."""
    plan = backfills.plan("2026-01-15", "2026-02-01", freq="MS", tz="Europe/Zurich")
    facts = plan.facts()
    assert facts["batch"].startswith("backfill-")
    assert facts["partitions"] == "2026-01 … 2026-02, 2 months in Europe/Zurich"
    assert "begins 2026-01-01, before 2026-01-15" in facts["note"]
    assert "2 months in Europe/Zurich" in repr(plan)
    assert "2 months in Europe/Zurich" in plan._repr_mimebundle_()["text/html"]


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
def test_bad_words(backfills: Backfills, words: dict[str, Any], error: type[Exception], message: str) -> None:
    """What is wrong is named, and nothing is kept."""
    with pytest.raises(error, match=message):
        backfills.run(**words)
    assert backfills.outbox.batches.find() == []
