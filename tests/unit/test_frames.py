"""Declared frames: columns and dtypes, with rows and without."""

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb import _frames
from cloudtasks_nb._frames import column, frame
from tests.cases import cases

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
    """The names that analysts type are those of `public_api.toml`."""
    promised = tomllib.loads(Path(__file__).with_name("public_api.toml").read_text(encoding="utf-8"))["frames"]
    assert {name: " ".join(TABLES[name][0]) for name in promised} == promised


def test_values_and_gaps() -> None:
    """Microseconds become times, seconds become spans, None becomes missing."""
    made = frame(_frames.TASKS, {"task": ["t", "u"], "schedule_time": [1_767_225_600_000_001, None]}, index="task")
    assert made.schedule_time["t"] == pd.Timestamp("2026-01-01 00:00:00.000001+00:00")
    assert made.schedule_time.isna().tolist() == [False, True]
    assert column([1.5, None], "span")[0] == pd.Timedelta("1.5s")
    assert made.attempts.isna().all()


@cases(
    *([[1, 2], [3, 4]], [[1]], [{"a": 1}, "text", b"\xff", None], [[[1, 2], [3, 4]]], []),
    *(["text", "other"], ["text", None], [1, 2], [True, None], [None, None]),
)
def test_bodies_stay_what_they_are(bodies: list[Any]) -> None:
    """Lists of the same length are not spread over a matrix; the column's dtype does not depend on what is in it."""
    made = frame(_frames.TASKS, {"task": list("tuvw")[: len(bodies)], "body": bodies}, index="task").body
    assert made.shape == (len(bodies),)
    assert made.dtype == object
    assert [None if one is pd.NA else one for one in made] == bodies


@pytest.mark.parametrize("take", [lambda made: made, lambda made: made[made.task != "u"]], ids=["all", "filtered"])
def test_states_that_do_not_occur_are_not_counted(take: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """`value_counts` and `groupby` show the states that are there, in part of a frame and in several frames too."""
    made = take(frame(_frames.TASKS, {"task": ["s", "t", "u"], "state": ["ready", "gone", "failed"]}))
    there = set(made["state"])
    assert set(made["state"].value_counts().index) == there
    assert set(made.groupby("state")["task"].size().index) == there
    assert set(pd.concat([made, made])["state"].value_counts().index) == there


@pytest.mark.parametrize("bodies", [["a", None], [[1, 2], [3], None], [{"day": 1, "shops": ["n"]}, {"day": 2}, None]])
def test_bodies_that_are_alike_in_files(tmp_path: Path, bodies: list[Any]) -> None:
    """Parquet keeps text, lists and dicts; Arrow fills up the fields of dicts."""
    made = frame(_frames.TASKS, {"task": list("abc")[: len(bodies)], "body": bodies}, index="task")
    made.to_parquet(tmp_path / "tasks.parquet")
    read = json.loads(
        pd.read_parquet(tmp_path / "tasks.parquet")["body"].reset_index(drop=True).to_json(orient="records")
    )
    known = [{name: value for name, value in one.items() if value} if isinstance(one, dict) else one for one in read]
    assert known == bodies
