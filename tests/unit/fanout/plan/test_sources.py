"""What libraries hand out as input: results of queries, datasets and groups, by their own classes."""

import datetime as dt
import json
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from google.cloud import bigquery
from pyarrow import dataset, parquet

from cloudtasks_nb.client.mapping import read_values
from cloudtasks_nb.errors import InvalidInputError, RowsError
from cloudtasks_nb.fanout.plan.inputs import PART, Stream, frames, length, read_input
from cloudtasks_nb.fanout.plan.recipe import compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks, read_task
from tests.bigquery import BigQuery, warehouse
from tests.cases import cases
from tests.raising import raises

_TYPES = {"shop": "STRING", "n": "INTEGER", "day": "DATE", "at": "TIMESTAMP", "price": "NUMERIC"}
_ROWS: list[list[str | None]] = [
    ["berlin", str(2**60 + 1), "2026-12-01", "1764547200000000", "1.10"],
    ["köln", None, None, None, None],
] * 3


@pytest.fixture(name="client")
def _client() -> Iterator[bigquery.Client]:
    with warehouse(_TYPES, _ROWS) as client:
        yield client


def _bodies(data: Any, **options: Any) -> list[Any]:
    """Return the bodies of the tasks that a fan-out of the data would send."""
    recipe = compile_recipe({"url": "https://svc/run", **options})
    chunks = plan_chunks(read_input(data), recipe, now=dt.datetime(2026, 12, 5, tzinfo=dt.UTC))
    return [json.loads(read_task(task)[1]) for chunk in chunks for task in chunk.tasks]


_ANSWER = [
    {"shop": "berlin", "n": 2**60 + 1, "day": "2026-12-01", "at": "2025-12-01T00:00:00+00:00", "price": "1.100000000"},
    {"shop": "köln", "n": None, "day": None, "at": None, "price": None},
] * 3


@pytest.mark.parametrize("rows", ["query", "query_and_wait", "result"])
def test_a_query_of_bigquery(client: bigquery.Client, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `QueryJob` and a `RowIterator` are data, also for `map`; their rows are read page by page."""

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("the whole answer is in memory")

    monkeypatch.setattr(bigquery.table.RowIterator, "to_arrow", fails)
    data = client.query("select").result() if rows == "result" else getattr(client, rows)("select")
    assert _bodies(read_values(data)) == _ANSWER


def test_a_query_that_breaks_off(client: bigquery.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what is read, whether the query or a later page fails."""
    rows = client.query_and_wait("select")
    job = client.query("select")
    monkeypatch.setattr(BigQuery, "fails", True)
    for data in (rows, job):
        with raises(InvalidInputError, f"the {type(data).__name__} cannot be read: .*no access"):
            _bodies(data)


_TABLE = pa.table({"n": [1, None, 3], "day": [dt.date(2026, 12, day) for day in (1, 2, 3)]})
_DAYS = [{"n": n, "day": f"2026-12-0{day}"} for day, n in ((1, 1), (2, None), (3, 3))]


class _Export:
    """Something that hands out its rows by one method."""

    def __init__(self, method: str, rows: Any) -> None:
        setattr(self, method, lambda: rows)


@cases(
    lambda path: duckdb.connect().execute(f"from '{path}'"),
    lambda path: duckdb.sql(f"from '{path}'"),
    parquet.ParquetFile,
    dataset.dataset,
    lambda path: dataset.dataset(path).scanner(),
    lambda _: dataset.dataset(_TABLE),
    lambda _: _Export("to_arrow_iterable", iter(_TABLE.to_batches())),
    lambda _: _Export("to_arrow_iterable", _TABLE.to_batches()),
    lambda _: _Export("to_arrow", _TABLE),
    lambda _: _Export("to_dataframe_iterable", iter([_TABLE.to_pandas()])),
    lambda _: _Export("to_dataframe", _TABLE.to_pandas()),
    ids=["result", "relation", "file", "files", "scanner", "table", "batches", "list", "arrow", "frames", "frame"],
)
def test_what_libraries_hand_out(tmp_path: Path, data: Any) -> None:
    """Results of DuckDB, datasets and files of pyarrow, and any object with one of the methods."""
    parquet.write_table(_TABLE, tmp_path / "days.parquet")
    assert _bodies(read_values(data(tmp_path / "days.parquet"))) == _DAYS


@cases(parquet.ParquetFile, dataset.dataset, ids=["file", "files"])
def test_files_of_pyarrow_are_read_in_parts(tmp_path: Path, open_: Any) -> None:
    """Of the columns that are used alone, anew each time, and with the number of their rows."""
    path = tmp_path / "many.parquet"
    parquet.write_table(pa.table({"n": range(PART + 1), "other": ["x"] * (PART + 1)}), path)
    data = read_input(open_(path))
    for _ in range(2):
        assert [(*frame, len(frame)) for frame in frames(data, lambda _: ["n"])] == [("n", PART), ("n", 1)]
    assert length(data) == PART + 1
    parquet.write_table(_TABLE.slice(0, 0), path)
    assert [(*frame, len(frame)) for frame in frames(read_input(open_(path)))] == [("n", "day", 0)]


SALES = pd.DataFrame({"shop": ["b", "a", "b"], "n": [1, 2, 3], "price": [Decimal("1.10"), None, Decimal(2)]})
_A, _B = [{"n": 2, "price": None}], [{"n": 1, "price": "1.10"}, {"n": 3, "price": "2"}]


@cases(
    (SALES.groupby("shop"), [{"shop": "a", "rows": _A}, {"shop": "b", "rows": _B}]),
    (SALES.groupby("shop", as_index=False, sort=False), [{"shop": "b", "rows": _B}, {"shop": "a", "rows": _A}]),
    (SALES.groupby(["shop"]).n, [{"shop": "a", "rows": [{"n": 2}]}, {"shop": "b", "rows": [{"n": 1}, {"n": 3}]}]),
    (
        SALES[["shop", "n"]].groupby(["shop", SALES["n"].rename("half") // 2]),
        [
            {"shop": "a", "half": 1, "rows": [{"n": 2}]},
            {"shop": "b", "half": 0, "rows": [{"n": 1}]},
            {"shop": "b", "half": 1, "rows": [{"n": 3}]},
        ],
    ),
    (
        SALES[["n"]].groupby(lambda row: row > 0),
        [
            {"level_0": False, "rows": [{"n": 1}]},
            {"level_0": True, "rows": [{"n": 2}, {"n": 3}]},
        ],
    ),
    (SALES.head(0).groupby("shop"), []),
    ids=["one key", "as column", "a column", "two keys", "a function", "none"],
)
def test_groups(groups: Any, bodies: list[Any]) -> None:
    """A task for each group: its key as columns, and its rows as records of the other columns."""
    assert _bodies(groups) == bodies
    assert length(read_input(groups)) == len(bodies)


def test_groups_are_read_in_parts() -> None:
    """A frame has as many groups as fit into a part, and the body may be a function of the rows."""
    many = pd.DataFrame({"shop": [n // 2 for n in range(2 * PART + 2)], "n": 1})
    data = read_input(many.groupby("shop"))
    assert isinstance(data, Stream)
    assert [len(frame) for frame in frames(data)] == [PART // 2, PART // 2, 1]
    assert _bodies(data, body=lambda row: {"sum": sum(one["n"] for one in row["rows"])})[0] == {"sum": 2}


def test_groups_that_are_refused() -> None:
    """A key with the name of the column of rows, and a value that JSON has not."""
    with raises(InvalidInputError, "the keys of the groups cannot be columns: rows", hint="rename"):
        _bodies(SALES.assign(rows=1).groupby("rows"))
    with pytest.raises(RowsError, match=r"row 1: .*infinity"):
        _bodies(SALES.assign(n=[float("inf"), 1, 1]).groupby("shop"))


@cases(
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset(["a"]), ["a"]),
    ({1, "a"}, None),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.values(), [1]),
    (deque([2, 1]), [2, 1]),
    ((n for n in (2, 1)), [2, 1]),
)
def test_values(values: Any, expected: list[Any] | None) -> None:
    """Sets, views and generators are lists of values; those of a set come in their own order if they have one."""
    assert read_values(values) == (expected or [*values])
