"""Declared frames: columns and dtypes, with rows and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb import _frames
from cloudtasks_nb._frames import STATES, column, frame

DTYPES = {
    "text": "string",
    "time": "datetime64[us, UTC]",
    "span": "timedelta64[us]",
    "count": "Int64",
    "float": "Float64",
    "ok": "boolean",
    "state": "category",
    "any": "object",
}
SAMPLES: dict[str, list[Any]] = {
    "text": ["a", None],
    "time": [1_767_225_600_000_001, None],
    "span": [1.5, None],
    "count": [3, None],
    "float": [0.5, None],
    "ok": [True, None],
    "state": ["ready", "gone"],
    "any": [{"a": 1}, None],
}
TABLES: dict[str, tuple[Mapping[str, str], str | None]] = {
    "queues": (_frames.QUEUES, "queue"),
    "tasks": (_frames.TASKS, "task"),
    "batch tasks": (_frames.BATCH_TASKS, None),
    "attempts": (_frames.ATTEMPTS, None),
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
    expected = {name: DTYPES[kind] for name, kind in declared.items()}
    full = frame(declared, {name: SAMPLES[kind] for name, kind in declared.items()}, index=index)
    unknown = frame(declared, {next(iter(declared)): [None, None]}, index=index)
    for made in (full, unknown, frame(declared, {}, index=index)):
        assert dtypes(made) == expected
        assert made.index.name == index
        assert list(made.reset_index().columns[-len(declared) :]) == list(declared)


def test_the_contract_of_the_columns() -> None:
    """The names that analysts type."""
    columns = {name: " ".join(declared) for name, (declared, _) in TABLES.items()}
    assert columns["attempts"] == "time task queue attempt status message duration retry_time url"
    assert columns["tasks"] == (
        "task queue state schedule_time create_time attempts responses last_status last_message last_attempt_time "
        "method url headers body service_account dispatch_deadline name"
    )
    assert columns["queues"] == (
        "queue state tasks oldest_due running done_last_minute effective_rate rate burst max_concurrent max_attempts "
        "max_retry_duration min_backoff max_backoff max_doublings log_sampling_ratio target purge_time name"
    )
    assert columns["batch tasks"] == (
        "url task try state attempts last_status last_message schedule_time last_attempt_time duration"
    )
    assert columns["verdicts"] == "task ok error"


def test_values_and_gaps() -> None:
    """Microseconds become times, seconds become spans, None becomes missing."""
    made = frame(_frames.TASKS, {"task": ["t", "u"], "schedule_time": [1_767_225_600_000_001, None]}, index="task")
    assert made.schedule_time["t"] == pd.Timestamp("2026-01-01 00:00:00.000001+00:00")
    assert made.schedule_time.isna().tolist() == [False, True]
    assert column([1.5, None], "span")[0] == pd.Timedelta("1.5s")
    assert made.attempts.isna().all()


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2], [3, 4]],
        [[1]],
        [{"a": 1}, "text", b"\xff", None],
        [[[1, 2], [3, 4]]],
        [],
    ],
)
def test_bodies_stay_what_they_are(values: list[Any]) -> None:
    """Lists of the same length are not spread over a matrix; nothing is missing."""
    made = column(values, "any")
    assert made.shape == (len(values),)
    assert [None if one is pd.NA else one for one in made] == values


@pytest.mark.parametrize("bodies", [["text", "other"], ["text", None], [1, 2], [True, None], [None, None]])
def test_bodies_of_one_type_stay_objects(bodies: list[Any]) -> None:
    """The column's dtype does not depend on what is in it."""
    made = frame(_frames.TASKS, {"task": ["t", "u"], "body": bodies}, index="task")
    assert made.body.dtype == object
    assert [None if one is pd.NA else one for one in made.body] == bodies


def test_all_states_in_a_fixed_order() -> None:
    """Frames can be put together without losing the category."""
    one, other = (frame(_frames.TASKS, {"task": ["t"], "state": [state]}) for state in ("ready", "gone"))
    both = pd.concat([one, other])
    assert list(both.state.cat.categories) == list(STATES)
    assert both.state.tolist() == ["ready", "gone"]
