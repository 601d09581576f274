"""Two jobs of an analyst from beginning to end, through public names only; none of them merges by hand."""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import distribution
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Answer, Target
from tests.web import Request

PATIENCE = "5min"  # what is right takes seconds
QUICK = {"rate": 500, "max_concurrent": 16, "max_attempts": 1}


@pytest.fixture
def tasks() -> Iterator[ct.Client]:
    """Connect to the embedded emulator."""
    with ct.local() as client:
        yield client


@pytest.fixture
def weather() -> pd.DataFrame:
    """Read the weather of Seattle, 1,461 days from 2012 to 2015; index: the day as text."""
    file = distribution("vega_datasets").locate_file("vega_datasets/_data/seattle-weather.csv")
    read = pd.read_csv(str(file))
    return read.set_index(read["date"].str.replace("/", "-"))


def test_four_years_of_weather(tasks: ct.Client, weather: pd.DataFrame) -> None:
    """A backfill with gaps is mended, extended by a month, and two days are computed again."""
    days = weather.drop(["2012-02-29", "2013-12-24", "2015-07-04"])

    def report(partition: str, **_period: Any) -> dict[str, Any]:
        day = days.loc[partition]
        return {"range": day["temp_max"] - day["temp_min"], "rain": day["precipitation"]}

    series: dict[str, Any] = {"freq": "D", "url": ct.serve(report), "tz": "America/Los_Angeles", "progress": False}
    queue = tasks.queue("weather", create=True, **QUICK)
    batch = queue.backfill("2012-01-01", "2015-11-30", **series)
    assert (batch.wait(PATIENCE).succeeded, batch.progress().failed) == (1427, 3)
    assert batch.errors()["rows"].tolist() == [3]
    assert batch.failed()["partition"].tolist() == ["2012-02-29", "2013-12-24", "2015-07-04"]

    days = weather.copy()
    assert batch.retry_failed().wait(PATIENCE).succeeded == 1430
    batch = queue.backfill("2012-01-01", "2015-12-31", **series)
    assert batch.wait(PATIENCE).succeeded == 1461
    days.loc[["2014-06-01", "2014-06-02"], "precipitation"] = 99.0
    rows = batch.tasks()
    batch.resend(rows[rows["start"].between("2014-06-01", "2014-06-02")]).wait(PATIENCE)

    results = batch.results().set_index("partition").sort_index()
    assert results.index.tolist() == weather.index.tolist()
    assert results["range"].tolist() == (weather["temp_max"] - weather["temp_min"]).tolist()
    assert results["rain"].tolist() == days["precipitation"].tolist()
    assert results.query("rain == 99").index.tolist() == ["2014-06-01", "2014-06-02"]


class Site(Target):
    """A site with 5,000 pages, of which 100 do not exist, and 200 fail until it is mended."""

    mended = False

    def take(self, request: Request) -> Answer:
        """Answer by the number of the page."""
        super().take(request)
        page = int(urlsplit(request.path).path.rpartition("/")[2])
        if page % 50 == 7:
            return Answer(status=404)
        return Answer(status=503 if page % 25 == 3 and not self.mended else 200)


def test_5000_urls_of_which_only_the_5xx_are_retried(tasks: ct.Client) -> None:
    """At 50 a second the plan says 100 s; pages that do not exist are asked for once, those that failed twice."""
    queue = tasks.queue("scrape", create=True, **{**QUICK, "rate": 50})
    with Site() as site:
        pages = pd.DataFrame({"page": range(5000)}, index=[f"p{page}" for page in range(5000)])
        pages["url"] = f"http://127.0.0.1:{site.port}/page/" + pages["page"].astype(str)
        words: dict[str, Any] = {"url": "{url}", "method": "GET", "body": None, "progress": False}
        assert queue.fan_out(pages, dry_run=True, **words).time_to_drain == pd.Timedelta("100s")
        batch = queue.update(rate=500).fan_out(pages, **words)
        assert (batch.wait(PATIENCE).succeeded, batch.progress().failed) == (4700, 300)
        site.mended = True
        assert (batch.retry_failed(where="5xx").wait(PATIENCE).succeeded, batch.progress().failed) == (4900, 100)
        asked = Counter(request.path for request in site.received)
    shown = pages.join(batch.tasks()[["state", "last_status"]])
    assert (shown["last_status"] == shown["page"].map(lambda page: "NOT_FOUND" if page % 50 == 7 else "OK")).all()
    assert (shown["state"] == shown["last_status"].map({"NOT_FOUND": "failed", "OK": "succeeded"})).all()
    assert {path for path, times in asked.items() if times == 2} == {
        f"/page/{page}" for page in range(5000) if page % 25 == 3
    }
    assert sum(asked.values()) == 5200
