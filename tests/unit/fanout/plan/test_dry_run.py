"""What a fan-out would do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.plan.chunk import Asked, Chunk, Forecast
from cloudtasks_nb.fanout.plan.dry_run import Plan
from cloudtasks_nb.fanout.plan.options import TaskOptions
from cloudtasks_nb.fanout.plan.plan import compile_recipe, make_plan
from cloudtasks_nb.fanout.plan.survey import Survey

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FRAME = pd.DataFrame({"x": ["a", "b", None, "a", "c"]})


def _plan(data: Any = FRAME, *, recipe: dict[str, Any] | None = None, **arguments: Any) -> Plan:
    recipe = {"url": "https://svc/{x}", "body": ["x"], **(recipe or {})}
    given_ = {"now": NOW, "queue": "reports", "submit": lambda: "sent", **arguments}
    return make_plan(data, compile_recipe(TaskOptions(**recipe)), **given_)


def test_counts() -> None:
    """Rows, bad rows and duplicates are counted; what is left would be sent."""
    plan = _plan()
    assert (plan.rows, plan.rejected, plan.duplicates, plan.sendable) == (5, 1, 1, 3)


def test_frame() -> None:
    """A row a task says what would be sent, and what is wrong with it."""
    frame = _plan(recipe={"delay": "1h"}).frame
    assert list(frame.columns) == ["url", "body", "schedule_time", "task", "problem"]
    assert frame.index.name == "row"
    assert frame["url"].tolist() == ["https://svc/a", "https://svc/b", pd.NA, "https://svc/a", "https://svc/c"]
    assert frame.loc[0, "body"] == '{"x":"a"}'
    assert frame.loc[0, "schedule_time"] == pd.Timestamp("2026-01-01 01:00", tz="UTC")
    assert frame["problem"].tolist() == [pd.NA, pd.NA, 'url: "x" is missing', "duplicate of row 0", pd.NA]
    assert not frame.attrs["truncated"]


@pytest.mark.parametrize("data", [FRAME, FRAME.head(0)])
def test_dtypes(data: pd.DataFrame) -> None:
    """The columns have the same dtypes with and without rows."""
    frame = _plan(data).frame
    assert [str(dtype) for dtype in frame.dtypes] == ["string", "string", "datetime64[us, UTC]", "string", "string"]


def test_nothing() -> None:
    """A plan of no rows has its figures too."""
    plan = _plan(FRAME.head(0), rate=5)
    assert (plan.rows, plan.sendable, plan.duplicates, plan.price) == (0, 0, 0, 0)
    assert plan.body_bytes.total == 0
    assert "plan.submit()" in repr(plan)


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_duplicates(cells: list[str]) -> None:
    """Each later row with the key of an earlier one is a duplicate of the first that has it."""
    plan = _plan(pd.DataFrame({"x": pd.Series(cells, dtype="string")}))
    problems = {row: f"duplicate of row {cells.index(cell)}" for row, cell in enumerate(cells) if cell in cells[:row]}
    assert plan.frame["problem"].dropna().to_dict() == problems
    assert plan.duplicates == len(problems)


def test_keys_that_share_a_half() -> None:
    """Keys are told apart by all of their 16 bytes."""
    keys = [bytes(8) + bytes([n]) * 8 for n in range(3)] + [bytes([n]) * 8 + bytes(8) for n in range(1, 3)]
    survey = Survey(limit=None)
    survey.add(
        Chunk(rows=range(5), keys=keys, digests=keys, tasks=[b"t"] * 5, shown=b""), [("https://svc", b"", None)] * 5
    )
    facts: dict[str, Any] = {
        "queue": "q",
        "method": "POST",
        "spent": False,
        "errors": "raise",
        "rate": None,
        "max_concurrent": None,
    }
    assert survey.plan(verdicts=None, submit=list, **facts).duplicates == 0


@pytest.mark.parametrize(
    ("cells", "sizes"),
    [(["a"], (9, 9, 9, 9)), (["a", "bb", "ccccc"], (9, 10, 13, 32)), (["a", None, "bb", "ccc"], (9, 10, 11, 30))],
)
def test_sizes(cells: list[Any], sizes: tuple[int, ...]) -> None:
    """Sizes are those of the bodies of rows that become tasks."""
    found = _plan(pd.DataFrame({"x": cells})).body_bytes
    assert (found.min, found.median, found.max, found.total) == sizes


@pytest.mark.parametrize(("rate", "seconds"), [(1, 3), (500, 0.006), (0.1, 30)])
def test_time_to_drain(rate: float, seconds: float) -> None:
    """The queue's rate says how long it takes at least."""
    assert _plan(rate=rate).time_to_drain == pd.Timedelta(seconds=seconds)


def test_time_to_drain_without_a_rate() -> None:
    """Where the rate is not known, nothing is claimed."""
    plan = _plan()
    assert plan.time_to_drain is None
    assert "not known" in repr(plan)


@pytest.mark.parametrize(
    ("tasks", "price"), [(500_000, 0), (1_000_000, 0.40), (3_000_000, 2.00), (100_000_000, 79.60 + 58.82)]
)
def test_price(tasks: int, price: float) -> None:
    """Two operations a task beyond a million, and the log beyond 50 GiB."""
    plan = _plan()
    many = Plan(**{name: getattr(plan, name) for name in Plan.__dataclass_fields__} | {"sendable": tasks})
    assert many.price == pytest.approx(price, abs=0.01)
    assert f"{2 * tasks:,} operations" in many.cost
    assert "https://cloud.google.com/tasks/pricing" in many.cost


def test_submit() -> None:
    """Submitting does what the caller said it does."""
    assert _plan().submit() == "sent"


def test_verdicts() -> None:
    """A caller adds columns by the keys of the rows; rows that it skips are not counted as tasks."""
    asked: list[Sequence[bytes]] = []

    def verdicts(keys: Sequence[bytes]) -> dict[str, list[str]]:
        asked.append(keys)
        return {
            "verdict": ["send", "skip", "skip", "skip", "send"],
            "why": ["new", "succeeded", "rejected", "new", "new"],
        }

    plan = _plan(verdicts=verdicts)
    assert list(plan.frame.columns) == ["url", "body", "schedule_time", "task", "problem", "verdict", "why"]
    assert plan.sendable == 2
    assert asked[0][0] == asked[0][3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["Plan for queue reports", "nothing was sent", 'url: "x" is missing', "plan.submit() would raise"]),
        ({"errors": "skip"}, ["→ plan.submit()"]),
        ({"rate": 2, "max_concurrent": 8}, ["1.5 s at 2 a second, at most 8 at once"]),
        ({"data": iter([FRAME])}, ["new iterator"]),
        ({"data": FRAME.head(2)}, ["→ plan.submit()", 'POST https://svc/a {"x":"a"}', "9 B median"]),
    ],
)
def test_repr(arguments: dict[str, Any], words: list[str]) -> None:
    """The repr says the figures, the first tasks, and the next line to type."""
    text = repr(_plan(**arguments))
    assert all(word in text for word in words), text


def test_html_is_escaped() -> None:
    """What comes from the data shows as text in a notebook."""
    bundle = _plan(pd.DataFrame({"x": ["<img src=x onerror=alert(1)>", None]}), queue="<b>")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "<img" not in bundle["text/html"]
    assert "&lt;img" in bundle["text/html"]
    assert "<b><b>" not in bundle["text/html"]


def test_median_of_many() -> None:
    """A survey without a limit keeps all rows, one with a limit only the first."""
    frame = pd.DataFrame({"x": np.arange(3_000).astype(str)})
    assert len(_plan(frame).frame) == 3_000
    assert len(_plan(iter([frame])).frame) == 1_000


@pytest.mark.parametrize(
    ("data", "errors", "total", "again"),
    [
        (["a", "b"], "raise", True, set()),
        (["a", "b", None], "raise", False, set()),
        (["a", "b", "a"], "raise", False, {2}),
        (["a", "b", None, "a"], "skip", True, {2}),
    ],
)
def test_what_is_asked(data: list[str | None], errors: str, total: bool, again: set[int]) -> None:  # noqa: FBT001 - a table
    """Who foretells hears of all rows that can be tasks, and of what they are together unless sending would raise."""
    asked: list[Asked] = []

    def foretell(rows: Asked) -> Forecast:
        asked.append(rows)
        return Forecast(tasks=["t0", "t1", "t2"], known={"succeeded": 1}, left_out=1)

    plan = _plan(pd.DataFrame({"x": data}), errors=errors, foretell=foretell)
    assert plan.frame["task"].tolist() == ["t0", "t1", *[pd.NA] * (len(data) - 2)]
    assert (plan.sendable, plan.facts()["known"]) == (1, "1 succeeded")
    good = [row for row, value in enumerate(data) if value is not None]
    assert (list(asked[0].rows), asked[0].read, asked[0].again) == (good, len(data), again)
    assert [len(asked[0].keys), len(asked[0].digests)] == [16 * len(good), 8 * len(good)]
    assert (asked[0].total is not None) is total


def test_rows_in_the_way() -> None:
    """Rows that forbid to send are a problem and no tasks, and the plan says what `submit` would raise."""
    forecast = Forecast(
        tasks=["t0", "t1", "t2"], known={"in 42ebfe79": 1}, problems={1: "taken"}, left_out=1, refusal="1 of 3 are"
    )
    plan = _plan(pd.DataFrame({"x": ["a", None, "b", "c"]}), errors="skip", foretell=lambda _: forecast)
    assert plan.frame["problem"].tolist() == [pd.NA, 'url: "x" is missing', "taken", pd.NA]
    assert plan.frame["task"].tolist() == ["t0", pd.NA, pd.NA, "t2"]
    assert (plan.sendable, plan.price, plan.facts()["known"]) == (2, 0, "1 in 42ebfe79")
    assert "4 operations" in plan.cost
    assert repr(plan).endswith("→ plan.submit() would raise: 1 of 3 are")
    assert plan.facts()["rejected"] == '1 (row 1: url: "x" is missing)'


def test_the_reason_of_rejected_rows() -> None:
    """What is said of rejected rows is the first of them, and not a duplicate or one that an iterator's plan hides."""
    frame = pd.DataFrame({"x": ["a", "a", *map(str, range(2_000)), None]})
    for data in (frame, iter([frame])):
        assert _plan(data, errors="skip").facts()["rejected"] == '1 (row 2002: url: "x" is missing)'


def test_a_paused_queue() -> None:
    """A queue that dispatches nothing is said to, with what to do, wherever the time to drain stands."""
    drain = _plan(rate=1, halted="paused").facts()["time to drain"]
    assert drain == (
        "the queue is paused and dispatches nothing: queue.resume(); then 3 s at 1 a second; "
        "longer if the target is slower"
    )
