"""The rows of batches are named by their values, wherever their tasks are listed."""

from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb._names import ROW_TASK
from cloudtasks_nb.fanout.batch.table import RowName
from cloudtasks_nb.panels.row_columns import row_columns
from tests.cases import cases
from tests.unit.panels.conftest import Harness

ORDERS = pd.DataFrame(
    {
        "day": [pd.Timestamp("2013-01-01"), pd.Timestamp("2013-01-02 06:00")],
        "order_id": [4711, 4712],
        "token": ["abc", "abc"],
        "note": ["a=b", None],
        "unused": [1, 2],
    }
)


@cases(
    (
        {"body": ["day", "note"], "key": ["order_id"]},
        "order_id=4711 · day=2013-01-01 · note=a=b",
        "order_id=4712 · day=2013-01-02 06:00:00",
    ),
    ({"body": ["token", "order_id"]}, "order_id=4711 · token=•••", "order_id=4712 · token=•••"),
    ({"url": "https://svc/{order_id}", "body": {}, "key": ["order_id"]}, "order_id=4711", "order_id=4712"),
)
def test_a_row_is_named_by_the_columns_that_it_uses(
    harness: Harness, words: dict[str, Any], first: str, second: str
) -> None:
    """The key comes first, then what body and URL use; missing values are left out and secrets are dots."""
    batch = harness.sent(
        harness.queue().fan_out(ORDERS, **{"url": "https://svc", "name": "march"} | words, progress=False)
    )
    tasks = batch.tasks()["task"].tolist()
    found = harness.catalog.row_names([*tasks, "other"])
    assert [found[task] for task in tasks] == [RowName(batch="march", text=first), RowName(batch="march", text=second)]
    assert "other" not in found


def test_a_row_without_columns_is_named_by_its_position(harness: Harness) -> None:
    """Nothing else tells such rows apart."""
    batch = harness.sent(harness.queue().fan_out(ORDERS, url="https://svc", body={}, key=ct.ROW, progress=False))
    texts = [one.text for one in harness.catalog.row_names(batch.tasks()["task"]).values()]
    assert sorted(texts) == ["row=0", "row=1"]


def test_tasks_of_no_batch_keep_their_id_and_url(harness: Harness) -> None:
    """So do tasks of batches that this machine does not know."""
    batch = harness.sent(harness.queue().fan_out(ORDERS[["order_id"]], url="https://svc", progress=False))
    known = batch.tasks()["task"].iloc[0]
    head = ROW_TASK.fullmatch(known)["head"]  # type: ignore[index]  # it is the task of a row
    tasks = [known, "mine", f"{head}-00000000-1"]
    made = row_columns(harness.catalog, tasks, ["https://svc"] * 3)
    assert list(made["row"]) == ["order_id=4711", *tasks[1:]]
    assert made["batch"].isna().tolist() == [False, True, True]
    assert made["target"].isna().tolist() == [True, False, False]


def test_a_period_is_named_by_its_label(harness: Harness) -> None:
    """The label says what its start and end say."""
    batch = harness.days("2026-01-02", across={"shop": ["bern"]})
    texts = sorted(one.text for one in harness.catalog.row_names(batch.tasks()["task"]).values())
    assert texts == ["partition=2026-01-01 · shop=bern", "partition=2026-01-02 · shop=bern"]
