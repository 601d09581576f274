"""What a dry run says of tasks, held against those that are made."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.integration.fanout.conftest import reached

URL = "http://127.0.0.1:9/{a}"
DATA = pd.DataFrame({"a": [1, 2, 3]})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DATA, {}),
        (DATA, {"name": "march"}),
        (pd.concat([DATA, DATA], ignore_index=True), {"errors": "skip"}),
        (pd.DataFrame({"a": [1.0, None, None, 5.0]}), {"errors": "skip"}),
        (pd.DataFrame({"a": [7, 7]}), {"key": ct.ROW}),
    ],
)
def test_ids_are_those_that_will_be(paused: ct.Queue, data: pd.DataFrame, words: dict[str, Any]) -> None:
    """The ids in a plan are the ids of the tasks that `submit` makes; afterwards they are those that there are."""
    plan = paused.fan_out(data, url=URL, dry_run=True, **words)
    batch = plan.submit()
    made = batch.tasks().query("state != 'rejected'")
    assert plan.frame["task"].dropna().tolist() == made["task"].tolist()
    assert plan.sendable == len(made)
    reached(batch, lambda progress: not progress.unsent)
    again = paused.fan_out(data, url=URL, dry_run=True, **words)
    assert again.frame.equals(plan.frame)
    assert (again.sendable, again.facts()["known"]) == (0, f"{len(made)} in the queue")


def test_an_iterator_has_ids_too(paused: ct.Queue) -> None:
    """What the rows are together is known when the last one was read."""
    plan = paused.fan_out(iter([DATA, DATA + 10]), url=URL, dry_run=True)
    batch = paused.fan_out(pd.concat([DATA, DATA + 10], ignore_index=True), url=URL)
    assert plan.frame["task"].tolist() == batch.tasks()["task"].tolist()


def test_what_would_raise_has_no_ids(paused: ct.Queue) -> None:
    """A batch without a name that would not be made has no tasks."""
    plan = paused.fan_out(pd.DataFrame({"a": [1.0, None]}), url=URL, dry_run=True)
    assert plan.frame["task"].isna().all()


def test_other_templates_are_refused(paused: ct.Queue) -> None:
    """A name that stands for other templates is refused as sending would be."""
    paused.fan_out(DATA, url=URL, name="april")
    with pytest.raises(errors.BatchExistsError, match="other templates; url was"):
        paused.fan_out(DATA, url=URL + "/x", name="april", dry_run=True)
