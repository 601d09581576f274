"""The tables of the README that say what goes in and out: each of their examples is run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow.dataset import dataset
from pyarrow.parquet import ParquetFile, read_table

import cloudtasks_nb as ct
from tests.bigquery import warehouse
from tests.test_documents import read

DAYS = ["2013-01-01", "2013-01-02"]
LIBRARIES = {"pd": pd, "polars": pl, "pyarrow": pa, "duckdb": duckdb, "ParquetFile": ParquetFile, "dataset": dataset}


def examples(heading: str, *, column: int) -> list[list[str]]:
    """Return the code in a column of the table with this heading, for each of its rows."""
    (table,) = re.findall(rf"^\| {heading} .*\n\|[-|]+\n((?:\|.*\n)+)", read("README.md"), flags=re.MULTILINE)
    return [re.findall(r"`([^`]+)`", row.strip("| ").split(" | ")[column]) for row in table.splitlines()]


IN, OUT = examples("what goes in", column=1), examples("what comes out", column=0)


@pytest.fixture(name="names")
def _names(alone: None) -> Iterator[dict[str, Any]]:
    """Give what the examples name: files, libraries, and a client of BigQuery."""
    rows = pd.DataFrame({"day": DAYS, "origin": ["JFK", "LGA"]})
    Path("folder").mkdir()
    rows.to_csv("rows.csv", index=False)
    for file in ("rows.parquet", "folder/rows.parquet"):
        rows.to_parquet(file)
    with warehouse({"day": "STRING", "origin": "STRING"}, rows.to_numpy().tolist()) as client:
        yield {**LIBRARIES, "rows": rows, "bigquery": client}


def tell(day: str, origin: str = "", rows: Any = ()) -> str:
    """Return the day of a row, which may be a group."""
    return f"{day} {len(rows)}".removesuffix(" 0")


def test_every_row_has_an_example() -> None:
    """The tables are found, and no row of them is only words."""
    assert len(IN) == 9
    assert len(OUT) == 5
    assert all(IN + OUT)


@pytest.mark.parametrize("example", [code for row in IN for code in row])
def test_what_goes_in(names: dict[str, Any], example: str) -> None:
    """Each example is data for `map`, whose function gets the days, and for `fan_out` if it is no list of values."""
    with ct.local() as tasks:
        queue = tasks.queue("reports", create=True)
        done = queue.map(tell, eval(example, dict(names)))  # noqa: S307 - of the README
        assert sorted(done["result"]) == [f"{day} 1" if "groupby" in example else day for day in DAYS]
        if example not in IN[-1]:
            plan = queue.fan_out(eval(example, dict(names)), url="https://svc/{day}", dry_run=True)  # noqa: S307 - same
            assert sorted(plan.frame["url"]) == [f"https://svc/{day}" for day in DAYS]


def test_what_comes_out(names: dict[str, Any]) -> None:
    """Each example gives the rows that the table promises: all, those that failed, or their causes."""

    def work(day: str, origin: str) -> str:
        return day if origin == "JFK" else 1 / 0  # type: ignore[return-value]  # it fails

    with ct.local() as tasks:
        batch = tasks.queue("reports", create=True).fan_out(names["rows"], url=ct.serve(work), progress=False)
        batch.wait()
        found = {code: eval(code, {"batch": batch}) for row in OUT for code in row}  # noqa: S307 - of the README
    frames = {
        code: value if isinstance(value, pd.DataFrame) else pd.concat(value)
        for code, value in found.items()
        if value is not None
    }
    states = {code: [*frame["state"]] for code, frame in frames.items() if "state" in frame}
    both = ["succeeded", "failed"]
    assert states == {
        "batch.results()": both,
        "batch.results(page=50_000)": both,
        "batch.as_completed()": both,
        "batch.failed()": ["failed"],
    }
    assert frames["batch.errors()"]["error"].str.contains("ZeroDivisionError").tolist() == [True]
    assert read_table("results")["state"].to_pylist() == both
