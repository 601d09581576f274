"""What a fan-out reads."""

import builtins
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from cloudtasks_nb.errors import InvalidInputError, TemplateError
from cloudtasks_nb.fanout.plan import inputs
from cloudtasks_nb.fanout.plan.columns import BLOCK, Table
from cloudtasks_nb.fanout.plan.inputs import Stream, frames, length, read_input
from cloudtasks_nb.fanout.plan.preview import StoredPreview
from cloudtasks_nb.fanout.plan.recipe import ROW, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from tests.cases import cases
from tests.interrupts import interrupt, interruptible
from tests.raising import raises
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
    ([{1: "x", None: "y"}, {2.5: "z"}], {"1": ["x", None], "None": ["y", None], "2.5": [None, "z"]}),
    ([{"a": "\ud800"}, {"a": "x"}], {"a": [None, "x"]}),  # the row is refused later
    (({"a": 1.5},), {"a": [1.5]}),
    (pd.Series([1, 2], name="n"), {"n": [1, 2]}),
    (pd.Series([1], index=pd.Index(["x"], name="shop")), {"shop": ["x"], "value": [1]}),
    (pl.Series("n", [1, 2]), {"n": [1, 2]}),
    (pl.Series([1]), {"value": [1]}),
    (POLARS.lazy(), EXPECTED),
    ids=["dicts", "large integer", "keys", "half", "tuple", "series", "unnamed", "polars", "polars unnamed", "lazy"],
)
def test_other_inputs(data: Any, expected: dict[str, list[Any]]) -> None:
    """Rows as dictionaries, a Series and a LazyFrame are read as frames."""
    assert _cells(data) == expected


@pytest.mark.parametrize("name", ["rows.csv", "rows.CSV.gz", "rows.parquet"])
def test_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a CSV or Parquet file stands for its rows, as text or as a Path."""
    path = tmp_path / name
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", None]})
    frame.to_parquet(path) if "parquet" in name else frame.to_csv(path, index=False)
    assert _cells(path) == {"n": [1, 2], "s": ["a", None]}
    monkeypatch.chdir(tmp_path)
    assert _cells(name) == _cells(path)


@cases(POLARS.head(0), POLARS.head(0).to_arrow(), POLARS.head(0).lazy(), "rows.parquet", "rows.csv")
def test_an_input_without_rows_has_its_columns(tmp_path: Path, data: Any) -> None:
    """In one frame, whatever it is read from."""
    PANDAS.head(0).to_parquet(tmp_path / "rows.parquet")
    PANDAS.head(0).to_csv(tmp_path / "rows.csv", index=False)
    (frame,) = frames(read_input(tmp_path / data if isinstance(data, str) else data))
    assert ([*frame], len(frame)) == (["n", "s", "c"], 0)


@cases(
    ("none.csv", r"none.csv does not exist[\s\S]*relative paths start at"),
    ("rows.xlsx", r"not a path to a CSV or Parquet file[\s\S]*read others first"),
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
    broken = pl.LazyFrame({"n": [1]}).select("m")
    with pytest.raises(InvalidInputError, match=r"the LazyFrame cannot be read: [\s\S]*m[\s\S]*shows why"):
        read_input(broken)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and Arrow data are read three rows at a time."""
    monkeypatch.setattr(inputs, "PART", 3)


def _planned(data: Any, **options: Any) -> tuple[list[bytes], StoredPreview]:
    """Return what identifies the rows of an input, and what is shown of them."""
    shown, identities = StoredPreview(), []
    recipe = compile_recipe({"url": "https://svc/run", **options})
    for chunk in plan_chunks(data, recipe, now=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)):
        shown.add(chunk.shown)
        identities += [*chunk.keys, *chunk.digests]
    return sorted(identities), shown


FRAMES = {
    "counted": pd.DataFrame({"n": [*range(7), None, 8], "s": [*"abcdefgh", None], "x": [0.5, 1, None, *range(6)]}),
    "named": pd.DataFrame({"n": range(9)}, index=pd.Index([*"abcdefghi"], name="shop")),
    "unnamed": pd.DataFrame({"n": range(9)}, index=[*"abcdefghi"]),
    "a part": pd.DataFrame({"n": range(50)})[20:29],
    "a range": pd.DataFrame({"n": range(9)}, index=pd.RangeIndex(5, 50, 5, name="day")),
    "levels": pd.DataFrame({"n": range(9)}, index=pd.MultiIndex.from_product([[1, 2, 3], [*"xyz"]], names=["k", None])),
    "times": pd.DataFrame({"t": pd.date_range("2026", periods=9), "l": [[1]] * 9, "b": [True, None, False] * 3}),
}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("body", [None, ["n"], lambda row: row])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_parquet_file_stands_for_its_frame(frame: pd.DataFrame, body: Any, tmp_path: Path) -> None:
    """Read in parts, its rows have the identities, the columns and the index that they have read as a whole."""
    body = frame.columns[:1].tolist() if isinstance(body, list) else body
    path = tmp_path / "rows.parquet"
    frame.to_parquet(path, row_group_size=5)
    stream = read_input(path)
    assert length(stream) == 9
    assert [len(part) for part in frames(stream)] == [3, 3, 3]
    (identities, shown), (expected, whole) = _planned(stream, body=body), _planned(pd.read_parquet(path), body=body)
    assert (identities == expected) or (callable(body) and "x" in frame)  # a function sees 1 where the frame has 1.0
    pd.testing.assert_frame_equal(shown.columns(), whole.columns())
    index, whole_index = shown.index(range(9)), whole.index(range(9))
    assert (None if index is None else index.tolist()) == (None if whole_index is None else whole_index.tolist())


@pytest.mark.usefixtures("three")
def test_a_csv_file_is_read_in_parts(tmp_path: Path) -> None:
    """Its rows have the identities that they have read as a whole, also where a part lacks all values of a column."""
    path = tmp_path / "rows.csv"
    table = pd.DataFrame({"n": [1, 2, 3, 4, None, 6, 7], "s": [None] * 4 + [*"abc"], "x": [0.5, 1, 2, *range(4)]})
    table.to_csv(path, index=False)
    stream = read_input(path)
    assert length(stream) is None
    assert [len(part) for part in frames(stream)] == [3, 3, 1]
    assert _planned(stream)[0] == _planned(pd.read_csv(path))[0]


@pytest.mark.usefixtures("three")
def test_large_integers_beside_missing_values(tmp_path: Path) -> None:
    """In a file, they keep their digits as they do in Arrow data, also inside a list."""
    numbers = [1, 2, 3, 2**60 + 1, None, 4, 5]
    (tmp_path / "rows.csv").write_text("n,s\n" + "".join(f"{'' if n is None else n},x\n" for n in numbers))
    assert _cells(tmp_path / "rows.csv") == {"n": numbers, "s": ["x"] * 7}
    large = [2**64 - 1, *[None] * 6]
    table = pa.table({"n": numbers, "u": pa.array(large, pa.uint64()), "l": [[n] for n in numbers]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert _cells(tmp_path / "rows.parquet") == {"n": numbers, "u": large, "l": [[n] for n in numbers]}


@pytest.mark.usefixtures("three")
@cases(("1\n2\n3\nx\n", "numbers"), ("true\nfalse\n\nx\n", "truth values"))
def test_a_csv_column_whose_type_changes(tmp_path: Path, text: str, kind: str) -> None:
    """Numbers that would be texts in the whole file are refused, with the line that says what they are."""
    path = tmp_path / "rows.csv"
    path.write_text("zip,n\n" + text.replace("\n", ",1\n"))
    words = rf'"zip" .*begins with {kind}, and has texts[\s\S]*dtype=\{{\'zip\': str\}}, chunksize='
    with pytest.raises(InvalidInputError, match=words):
        list(frames(read_input(path)))
    assert sum(map(len, frames(read_input(path), lambda _: ["n"]))) == 4


@pytest.mark.parametrize("columns", [["a"], ["a", "b"]])
def test_a_csv_file_with_more_cells_than_names(columns: list[str], tmp_path: Path) -> None:
    """One more cell makes pandas take the first of a row for a label, and shift the others by one name."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2,3\n")
    with pytest.raises(InvalidInputError, match=r"more cells than its header has names[\s\S]*index_col=False"):
        list(frames(read_input(path), lambda _: columns))


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    """An error in the middle of a file names the file."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "1,2\n" * (inputs.PART + 1) + "1,2,3,4\n")
    with pytest.raises(InvalidInputError, match=r"rows.csv cannot be read: [\s\S]*Expected 2 fields"):
        list(frames(read_input(path)))


@pytest.mark.parametrize("kind", ["parquet", "csv", "lazy", "lazy of old", "arrow", "batches"])
def test_only_the_columns_that_are_needed_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The templates and the key decide which; a name that is wrong is compared with all."""
    wide = pd.DataFrame({"origin": ["JFK"], "n": [1], "wide": ["x"], "day": [2]})
    wide.to_parquet(tmp_path / "rows.parquet")
    wide.to_csv(tmp_path / "rows.csv", index=False)
    if kind == "lazy of old":
        monkeypatch.delattr(pl.LazyFrame, "collect_batches", raising=False)
    table = pa.Table.from_pandas(wide)
    data = {"arrow": table, "batches": table.to_batches()}.get(kind) or tmp_path / f"rows.{kind}"
    given = read_input(pl.from_pandas(wide).lazy() if kind.startswith("lazy") else data)
    recipe = compile_recipe({"url": "https://svc/{origin}", "body": ["n"], "key": ["day", "n"]})
    assert [[*frame] for frame in frames(given, recipe.choose)] == [["origin", "n", "day"]]
    nothing = compile_recipe({"url": "https://svc", "body": {}, "key": ROW})
    assert [frame.shape for frame in frames(given, nothing.choose)] == [(1, 1)]
    with pytest.raises(TemplateError, match=r'did you mean "origin"[\s\S]*the columns are origin, n, wide, day'):
        list(frames(given, compile_recipe({"url": "https://svc/{orgin}"}).choose))
    with pytest.raises(TemplateError, match='"wide" is a column'):
        list(frames(given, compile_recipe({"url": "https://svc", "body": "wide"}).choose))


@pytest.mark.parametrize("name", ["rows", "rows.parquet"])
def test_a_folder_of_parquet_files(name: str, tmp_path: Path) -> None:
    """A folder has any name; files in folders that are named by the values of a column are one input with it."""
    path = tmp_path / name
    pd.DataFrame({"n": [1, 2, 3], "year": [2025, 2025, 2026]}).to_parquet(path, partition_cols=["year"])
    stream = read_input(path)
    assert length(stream) == 3
    assert _cells(stream) == {"n": [1, 2, 3], "year": [2025, 2025, 2026]}
    assert [[*frame] for frame in frames(stream, lambda _: ["year"])] == [["year"], ["year"]]


def test_an_interrupt_does_not_wait_for_a_query() -> None:
    """It is raised at once, while the next part is still computed."""
    computing, ended = threading.Event(), threading.Event()

    def read(_: list[str]) -> Iterator[pd.DataFrame]:
        computing.set()
        ended.wait(240)
        yield PANDAS

    def interrupt_it() -> None:
        computing.wait(240)
        interrupt()

    threading.Thread(target=interrupt_it).start()
    with interruptible(), pytest.raises(KeyboardInterrupt):
        list(frames(inputs._named(lambda: Stream(names=["n"], read=read), "the query", "")))
    assert not ended.is_set()
    ended.set()


URLS = {"gs://b/x.parquet": "pyarrow.dataset.dataset", "https://svc.example/x.csv": "pandas.read_csv"}


@cases(*URLS.items())
def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, url: str, reads: str) -> None:
    """The library is left behind after a time, and after an interrupt at once."""
    never, asked = threading.Event(), threading.Event()

    def wait(*_: Any, **__: Any) -> None:
        asked.set()
        never.wait()

    def interrupt_it() -> None:
        asked.wait(240)
        interrupt()

    monkeypatch.setattr(reads, wait)
    threading.Thread(target=interrupt_it).start()
    with interruptible(), pytest.raises(KeyboardInterrupt):
        read_input(url)
    monkeypatch.setattr(inputs, "_PATIENCE", 0.01)
    with raises(InvalidInputError, f"{url} cannot be read: no answer in 0.01 s", hint="give the DataFrame"):
        read_input(url)
    never.set()


def test_a_part_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of what an address gives has its time; what is in a file of this machine is read without a thread."""
    never, threads = threading.Event(), set[threading.Thread]()

    def parts(*_: Any, **__: Any) -> Iterator[pd.DataFrame]:
        threads.add(threading.current_thread())
        yield PANDAS
        never.wait()

    monkeypatch.setattr(inputs, "_csv_parts", parts)
    monkeypatch.setattr(pd, "read_csv", lambda *_, **__: PANDAS)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(inputs, "_PATIENCE", 2)
    read = frames(read_input("https://svc.example/x.csv"))
    assert len(next(read)) == 2
    with raises(InvalidInputError, "https://svc.example/x.csv cannot be read: no answer in 2 s"):
        next(read)
    next(frames(read_input("x.csv")))
    assert threading.current_thread() in threads
    assert len(threads) == 2
    never.set()


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


def test_an_iterator_of_dictionaries() -> None:
    """They are to be given as a list: from a frame a function gets what a dictionary does not have, as a null."""
    with pytest.raises(InvalidInputError, match=r"→ list\(rows\)"):
        list(frames(iter([{"a": 1}, {"b": 2}])))


@cases(POLARS, "rows.parquet")
def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    """Arrow data or a Parquet file without pyarrow raises an error that names the extra to install."""
    monkeypatch.chdir(tmp_path)
    Path("rows.parquet").touch()
    real = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(InvalidInputError, match=r'needs pyarrow\s+→ pip install "cloudtasks-nb\[parquet\]"'):
        list(frames(read_input(data)))


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


def test_levels_of_one_name_are_refused() -> None:
    """One of them would be missing in what is sent."""
    frame = pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)], names=["shop", "shop"]))
    with pytest.raises(InvalidInputError, match='several levels of the index named "shop"'):
        Table(frame)


def test_rows_without_columns() -> None:
    """A frame without columns has its rows all the same."""
    block = block_of(pd.DataFrame(index=range(3)))
    assert list(block.rows()) == [{}, {}, {}]
