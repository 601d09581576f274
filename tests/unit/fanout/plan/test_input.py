"""What a fan-out reads."""

import builtins
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.columns import BLOCK, Table, frames, read_input
from tests.cases import cases
from tests.unit.fanout.plan.conftest import block_of


def _cells(data: Any) -> dict[str, list[Any]]:
    """Read everything, column by column."""
    found: dict[str, list[Any]] = {}
    for frame in frames(read_input(data)):
        for block in Table(frame).blocks(0):
            for name, column in block.columns.items():
                found.setdefault(name, []).extend(column.json)
    return found


class _Partition:
    def __init__(self, frame: Any) -> None:
        self.frame = frame

    def compute(self) -> Any:
        return self.frame


POLARS = pl.DataFrame({"n": [1, None], "s": ["a", None], "c": pl.Series(["x", "y"], dtype=pl.Categorical)})
EXPECTED = {"n": [1, None], "s": ["a", None], "c": ["x", "y"]}
PANDAS = pd.DataFrame(EXPECTED)


@cases(
    PANDAS,
    [PANDAS],
    iter([PANDAS.head(1), PANDAS.tail(1)]),
    POLARS,
    POLARS.to_arrow(),
    POLARS.to_arrow().to_reader(),
    pa.Table.from_pandas(PANDAS, preserve_index=True),
    (part for part in POLARS.iter_slices(1)),
    [_Partition(PANDAS)],
    [_Partition(POLARS)],
    ids=["frame", "list", "generator", "polars", "arrow", "reader", "pandas metadata", "slices", "lazy", "lazy polars"],
)
def test_kinds(data: Any) -> None:
    """A frame, an iterable of frames, an Arrow stream and lazy partitions hold the same cells."""
    assert _cells(data) == EXPECTED


@cases(
    ([{"a": 1, "b": "x"}, {"a": None}], {"a": [1, None], "b": ["x", None]}),
    ([{"a": 2**60 + 1}, {}], {"a": [2**60 + 1, None]}),
    (({"a": 1.5},), {"a": [1.5]}),
    (pd.Series([1, 2], name="n"), {"n": [1, 2]}),
    (pd.Series([1], index=pd.Index(["x"], name="shop")), {"shop": ["x"], "value": [1]}),
    (pl.Series("n", [1, 2]), {"n": [1, 2]}),
    (pl.Series([1]), {"value": [1]}),
    (POLARS.lazy(), EXPECTED),
    ids=["dicts", "large integer", "tuple", "series", "unnamed", "polars series", "polars unnamed", "lazy"],
)
def test_other_inputs(capsys: pytest.CaptureFixture[str], data: Any, expected: dict[str, list[Any]]) -> None:
    """Rows as dictionaries, a Series and a LazyFrame are read as a frame; that the last is collected is said."""
    assert _cells(data) == expected
    assert ("LazyFrame was collected: 2 rows" in capsys.readouterr().out) == isinstance(data, pl.LazyFrame)


@pytest.mark.parametrize("name", ["rows.csv", "rows.CSV.gz", "rows.parquet"])
def test_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a CSV or Parquet file stands for its rows, as text or as a Path."""
    path = tmp_path / name
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", None]})
    frame.to_parquet(path) if "parquet" in name else frame.to_csv(path, index=False)
    assert _cells(path) == {"n": [1, 2], "s": ["a", None]}
    monkeypatch.chdir(tmp_path)
    assert _cells(name) == _cells(path)


@cases(
    ("none.csv", r"none.csv does not exist[\s\S]*relative paths start at"),
    ("rows.xlsx", r"not a path to a CSV or Parquet file[\s\S]*read other files first"),
    ("empty.csv", r"empty.csv cannot be read: No columns[\s\S]*readers of pandas"),
    ("empty.parquet", "empty.parquet cannot be read"),
)
def test_refused_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    """A file that is not there or cannot be read is named, with what to do."""
    monkeypatch.chdir(tmp_path)
    for empty in ("empty.csv", "empty.parquet"):
        (tmp_path / empty).touch()
    with pytest.raises(InvalidInputError, match=words):
        read_input(name)


def test_binary_view() -> None:
    """Layouts of Arrow that pandas does not know are read as the plain ones."""
    table = pa.table({"b": pa.array([b"x"], type=pa.binary_view())})
    (frame,) = frames(table)
    assert frame["b"].tolist() == [b"x"]


@cases(
    (b"flights.csv", "bytes"),
    ({"a": [1]}, "dict"),
    (pd.Series([1]), "Series"),
    (7, "int"),
    (None, "NoneType"),
    ([{"a": 1}], "part 0"),
    ([PANDAS, "x"], "part 1"),
    ([pd.Series([1])], "part 0"),
)
def test_refused(data: Any, word: str) -> None:
    """Anything else is refused, with what it is and what it should be."""
    with pytest.raises(InvalidInputError, match=rf"{word}[\s\S]*→ [\s\S]*DataFrame"):
        list(frames(data))


def test_arrow_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow data without pyarrow raises an error that names the package to install."""
    real = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(InvalidInputError, match="pip install pyarrow"):
        list(frames(POLARS))


def test_blocks() -> None:
    """A table is cut into blocks that know their position in the whole input."""
    blocks = list(Table(pd.DataFrame({"a": range(BLOCK + 5)})).blocks(100))
    assert [(block.first, block.length) for block in blocks] == [(100, BLOCK), (100 + BLOCK, 5)]
    assert blocks[1].columns["a"].json == list(range(BLOCK, BLOCK + 5))
    assert next(blocks[1].rows()) == {"a": BLOCK}


def test_index() -> None:
    """Index levels with a name are columns, unless a column has the name; others are not."""
    frame = pd.DataFrame(
        {"a": [1], "day": [2]}, index=pd.MultiIndex.from_tuples([("x", 3, 4)], names=["shop", "day", None])
    )
    block = block_of(frame)
    assert {name: column.json for name, column in block.columns.items()} == {"shop": ["x"], "a": [1], "day": [2]}
    assert list(Table(PANDAS).columns) == ["n", "s", "c"]


def test_names() -> None:
    """Names that are no text become text."""
    assert list(Table(pd.DataFrame([[1, 2]], columns=[2013, "a"])).columns) == ["2013", "a"]


@cases(
    (["a", "b", "a"], r'several columns named "a"[\s\S]*duplicated'),
    (pd.MultiIndex.from_product([["a"], ["b", "c", "d"]]), r"\('a', 'b'\), whose name has several levels"),
    (pd.Index([("a", "b"), "c", "d"]), r"\('a', 'b'\), whose name has several levels"),
)
def test_names_that_are_refused(columns: Any, words: str) -> None:
    """Two columns of one name are refused by it, and names that are tuples, of which the hint makes names."""
    with pytest.raises(InvalidInputError, match=words):
        Table(pd.DataFrame([[1, 2, 3]], columns=columns))


def test_rows_without_columns() -> None:
    """A frame without columns has its rows all the same."""
    block = block_of(pd.DataFrame(index=range(3)))
    assert list(block.rows()) == [{}, {}, {}]
