"""A job of an analyst from beginning to end, through public names only; nothing is merged by hand."""

from collections.abc import Iterator
from importlib.metadata import distribution
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct

PATIENCE = "5min"  # what is right takes seconds


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
    queue = tasks.queue("weather", create=True, rate=500, max_concurrent=16, max_attempts=1)
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
