"""Declared frames: columns and dtypes, with rows and without."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb import _frames
from cloudtasks_nb._frames import column, frame

#: By kind: the dtype, and a value.
KINDS: dict[str, tuple[str, Any]] = {"text": ("string", "a"), "ok": ("boolean", True), "any": ("object", {"a": 1})}
KINDS |= {"time": ("datetime64[us, UTC]", 1_767_225_600_000_001), "span": ("timedelta64[us]", 1.5)}
KINDS |= {"count": ("Int64", 3), "float": ("Float64", 0.5)}
TABLES: dict[str, tuple[Mapping[str, str], str | None]] = {
    "queues": (_frames.QUEUES, "queue"),
    "tasks": (_frames.TASKS, "task"),
    "batch tasks": (_frames.BATCH_TASKS, None),
    "attempts": (_frames.ATTEMPTS, None),
    "errors": (_frames.ERRORS, None),
    "batches": (_frames.BATCHES, "batch"),
    "verdicts": (_frames.ACTION_RESULTS, None),
    "doctor": (_frames.DOCTOR, "check"),
}


def dtypes(made: pd.DataFrame) -> dict[str, str]:
    """Name the dtypes of columns and index."""
    return {str(name): str(dtype) for name, dtype in made.reset_index().dtypes.items() if name != "index"}


@pytest.mark.parametrize(("declared", "index"), TABLES.values(), ids=TABLES)
def test_a_frame_is_the_same_when_empty(declared: Mapping[str, str], index: str | None) -> None:
    """Columns, order and dtypes are the declared ones, with rows, without, and where nothing is known."""
    expected = {name: KINDS[kind][0] for name, kind in declared.items()}
    full = frame(declared, {name: [KINDS[kind][1], None] for name, kind in declared.items()}, index=index)
    unknown = frame(declared, {next(iter(declared)): [None, None]}, index=index)
    for made in (full, unknown, frame(declared, {}, index=index)):
        assert (dtypes(made), made.index.name) == (expected, index)
        assert list(made.reset_index().columns[-len(declared) :]) == list(declared)


def test_the_contract_of_the_columns() -> None:
    """The names that analysts type."""
    columns = {name: " ".join(declared) for name, (declared, _) in TABLES.items()}
    assert (
        columns.items()
        >= {
            "attempts": "time task queue attempt status message wait duration retry_time url",
            "tasks": "task queue state schedule_time create_time attempts responses last_status last_message "
            "last_attempt_time method url headers body service_account dispatch_deadline name",
            "queues": "queue state tasks oldest_due running done_last_minute effective_rate rate burst max_concurrent "
            "max_attempts max_retry_duration min_backoff max_backoff max_doublings log_sampling_ratio target "
            "purge_time name",
            "batch tasks": "url task try state attempts last_status last_http_status last_message schedule_time "
            "last_attempt_time duration",
            "verdicts": "task ok error",
        }.items()
    )


def test_values_and_gaps() -> None:
    """Microseconds become times, seconds become spans, None becomes missing."""
    made = frame(_frames.TASKS, {"task": ["t", "u"], "schedule_time": [1_767_225_600_000_001, None]}, index="task")
    assert made.schedule_time["t"] == pd.Timestamp("2026-01-01 00:00:00.000001+00:00")
    assert made.schedule_time.isna().tolist() == [False, True]
    assert column([1.5, None], "span")[0] == pd.Timedelta("1.5s")
    assert made.attempts.isna().all()


@pytest.mark.parametrize("values", [[[1, 2], [3, 4]], [[1]], [{"a": 1}, "text", b"\xff", None], [[[1, 2], [3, 4]]], []])
def test_bodies_stay_what_they_are(values: list[Any]) -> None:
    """Lists of the same length are not spread over a matrix; nothing is missing."""
    made = column(values, "any")
    assert made.shape == (len(values),)
    assert [None if one is pd.NA else one for one in made] == values


@pytest.mark.parametrize("bodies", [["text", "other"], ["text", None], [1, 2], [True, None], [None, None]])
def test_bodies_of_one_type_stay_objects(bodies: list[Any]) -> None:
    """The column's dtype does not depend on what is in it."""
    made = frame(_frames.TASKS, {"task": ["t", "u"], "body": bodies}, index="task")
    assert made.body.dtype == _frames.ObjectDtype()
    assert [None if one is pd.NA else one for one in made.body] == bodies


@pytest.mark.parametrize("take", [lambda made: made, lambda made: made[made.task != "u"]], ids=["all", "filtered"])
def test_states_that_do_not_occur_are_not_counted(take: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """`value_counts` and `groupby` show the states that are there, in part of a frame and in several frames too."""
    made = take(frame(_frames.TASKS, {"task": ["s", "t", "u"], "state": ["ready", "gone", "failed"]}))
    there = set(made["state"])
    assert set(made["state"].value_counts().index) == there
    assert set(made.groupby("state")["task"].size().index) == there
    assert set(pd.concat([made, made])["state"].value_counts().index) == there


MIXED = [{"day": 1}, [1, 2], "text", 7, True, None, {}, b"\xff", 2**70, {"b": b"x", "n": 2**70}]


def test_values_of_any_type_in_files(tmp_path: Path) -> None:
    """In a file each value is JSON text, which is read without this package; in memory it stays what it is."""
    made = frame(_frames.TASKS, {"task": list("abcdefghij"), "body": MIXED}, index="task")
    made.to_parquet(tmp_path / "tasks.parquet")
    read = pd.read_parquet(tmp_path / "tasks.parquet")["body"]
    values = [None if pd.isna(text) else json.loads(text) for text in read]
    assert values[:7] == [*MIXED[:5], None, {}]
    assert values[7:] == ["\\xff", 2**70, {"b": "x", "n": 2**70}]
    assert made["body"].iloc[0] is MIXED[0]


def test_columns_of_any_type_behave_as_columns_do() -> None:
    """They are compared, filtered, exploded, joined and put together as those of pandas' dtype `object`."""
    made = frame(_frames.TASKS, {"task": list("abcd"), "body": [{"n": 1}, [1, 2], "x", None]}, index="task")
    plain = made.assign(body=pd.Series(made["body"].tolist(), index=made.index, dtype=object))
    uses: list[Callable[[pd.DataFrame], Any]] = [
        lambda data: (data["body"] == "x").tolist(),
        lambda data: data["body"].isin(["x"]).tolist(),
        lambda data: data["body"].dropna().tolist(),
        lambda data: data.explode("body")["body"].tolist()[:4],
        lambda data: data["body"].iloc[[2, 3]].value_counts().to_dict(),
        lambda data: data["body"].map(type).tolist(),
        lambda data: pd.concat([data, data.head(1)])["body"].tolist()[::-4],
        lambda data: data.reindex(["d", "none"])["body"].isna().tolist(),
        lambda data: json.loads(data.to_json(date_format="iso"))["body"],
    ]
    for use in uses:
        assert use(made) == use(plain)
    made.loc["a", "body"] = "new"
    assert made["body"].iloc[0] == "new"


GAP = "missing"
OPERATIONS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "arithmetic": (lambda values: (values * 2).tolist(), [4, 6.0, GAP, 8]),
    "reflected": (lambda values: (10 - values).tolist(), [8, 7.0, GAP, 6]),
    "of two columns": (lambda values: (pd.Series([1, 2, 3, 4]) + values).tolist(), [3, 5.0, GAP, 8]),
    "with an Int64": (lambda values: (values + pd.Series([1, 2, 3, None], dtype="Int64")).tolist(), [3, 5.0, GAP, GAP]),
    "comparison": (lambda values: (values > 2).tolist(), [False, True, False, True]),
    "of two": (lambda values: (values <= values.copy()).tolist(), [True, True, False, True]),
    "unequal": (lambda values: (values != 2).tolist(), [False, True, True, True]),
    "reductions": (lambda values: [values.sum(), values.min(), values.max(), values.mean()], [9.0, 2, 4, 3.0]),
    "truth": (lambda values: [values.any(), values.all(), values.sum(skipna=False) is pd.NA], [True, True, True]),
    "of a frame": (lambda values: values.to_frame("v").max().tolist(), [4]),
    "of groups": (lambda values: values.groupby([0, 0, 1, 1]).sum().tolist(), [5.0, 4]),
}


@pytest.mark.parametrize(("use", "expected"), OPERATIONS.values(), ids=OPERATIONS)
def test_numbers_of_several_types_are_computed_with(use: Callable[[Any], Any], expected: Any) -> None:
    """Operators and reductions work as on a column of pandas' dtype `object`; missing values stay missing."""
    found = use(pd.Series(column([2, 3.0, None, 4], "any")))
    assert [GAP if value is pd.NA else value for value in found] == expected
