"""`write_parts`: files of one schema, whatever the types of their parts."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch.parquet import target_folder, write_parts

pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is optional")
duckdb = pytest.importorskip("duckdb", reason="comes with the extra `lab`")

MIXED = pd.Series([1, "b"], dtype=object)


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        ([[1, 2], [0.5, 2.5]], [1.0, 2.0, 0.5, 2.5]),
        ([[2**60 + 1], [0.5]], ["1152921504606846977", "0.5"]),
        ([[1], ["b"]], ["1", '"b"']),
        ([["b"], MIXED], ['"b"', "1", '"b"']),
        ([[None], [1]], [None, 1]),
        ([[None], [None]], [None, None]),
        ([[{"a": 1}], [{"a": 1.5, "b": "x"}]], [{"a": 1.0, "b": None}, {"a": 1.5, "b": "x"}]),
        ([[{"a": 1}], [{"a": "x"}]], ['{"a":1}', '{"a":"x"}']),
        ([[{}], [{"a": 1}]], ["{}", '{"a":1}']),
        ([[[1]], [["x"]]], ["[1]", '["x"]']),
        ([[Decimal("1.10")], [Decimal("222.1234")]], [Decimal("1.1000"), Decimal("222.1234")]),
        ([pd.Categorical(["a"]), pd.Categorical(["b", "c"])], ["a", "b", "c"]),
        ([pd.period_range("2026-01", periods=2, freq="M")], ["2026-01", "2026-02"]),
        ([pd.PeriodIndex(["2026-01", pd.NaT], freq="M")], ["2026-01", None]),
    ],
    ids=str,
)
def test_all_files_have_one_type_for_a_column(tmp_path: Path, parts: list[Any], values: list[Any]) -> None:
    """A common type if no value changes by it, else JSON text; another reader finds the same values."""
    write_parts((pd.DataFrame({"x": part}) for part in parts), tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"part-{n:05}.parquet" for n in range(len(parts))]
    assert len({str(pyarrow.parquet.read_schema(path).remove_metadata()) for path in files}) == 1
    found = duckdb.read_parquet(f"{tmp_path}/*.parquet").order("filename, file_row_number").select("x")
    assert [value for (value,) in found.fetchall()] == values


def test_columns_of_some_files(tmp_path: Path) -> None:
    """Files that lack a column have missing values, and a column without any value is left out."""
    failed = pd.DataFrame({"day": [1], "result": [None], "error": ["ValueError"]}, index=pd.Index([0], name="row"))
    done = pd.DataFrame({"day": [2], "year": [2**60 + 1], "error": [None]}, index=pd.Index([1], name="row"))
    write_parts([failed, done], tmp_path)
    found = pd.read_parquet(tmp_path)
    assert list(found) == ["row", "day", "error", "year"]
    assert found["year"].tolist() == [pd.NA, 2**60 + 1]


def test_a_second_call_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    """Only once all new ones are written; other files stay."""
    folder = target_folder(tmp_path / "new" / "done")
    write_parts([pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [2]})], folder)
    (folder / "notes.txt").write_text("mine")

    def fails() -> Any:
        yield pd.DataFrame({"x": [3]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_parts(fails(), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "part-00000.parquet", "part-00001.parquet"]
    write_parts([pd.DataFrame({"x": [3]})], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "part-00000.parquet"]
    assert pd.read_parquet(folder / "part-00000.parquet")["x"].tolist() == [3]


@pytest.mark.parametrize(
    ("folder", "message"), [("gs://bucket/x", "not a path"), (7, "not a path"), ("file", "cannot be")]
)
def test_a_place_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Any, message: str) -> None:
    """It is refused before anything is read."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(InvalidInputError, match=message):
        target_folder(folder)
