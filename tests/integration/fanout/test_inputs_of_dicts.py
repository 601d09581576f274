"""Rows that are dictionaries with different keys, and rows that a queue would delete before it dispatches them."""

import json
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.simulation import check_drain
from tests.integration.conftest import Target

MIXED: list[dict[str, Any]] = [{"day": "a"}, {"day": "b", "kind": "x"}, {"day": "c", "kind": None}]


@pytest.mark.parametrize("body", [None, ["day", "kind"]])
def test_a_key_that_a_row_lacks_is_left_out(queue: ct.Queue, target: Target, body: Any) -> None:
    """The function's own default holds then; a key with None is sent as null."""
    batch = queue.fan_out(MIXED, url=target.url, body=body)
    batch.wait(240)
    found = sorted((json.loads(one.body) for one in target.received), key=lambda one: str(one["day"]))
    assert found == MIXED
    assert batch.tasks()["state"].tolist() == ["succeeded"] * 3


def test_the_default_of_a_function(queue: ct.Queue) -> None:
    """Also in a long input, whose later blocks lack other keys."""

    def kinds(day: int, kind: str = "default") -> str:
        return f"{day} {kind}"

    rows: list[dict[str, Any]] = [{"day": day, **({"kind": "x"} if day % 3 else {})} for day in range(3000)]
    plan = queue.fan_out(rows, url=ct.serve(kinds), dry_run=True)
    assert [plan.try_one(row=row).result for row in (2998, 2999)] == ["2998 x", "2999 x"]
    assert [plan.try_one(row=row).result for row in (0, 2997)] == ["0 default", "2997 default"]


def test_a_function_that_needs_the_key(queue: ct.Queue) -> None:
    """Only the rows that lack it are refused, whichever comes first."""

    def both(day: str, kind: str) -> str:
        return day + kind

    handler = ct.serve(both)
    for name, rows in {"lacking first": MIXED[:2], "lacking last": MIXED[1::-1]}.items():
        batch = queue.fan_out(rows, url=handler, errors="skip", name=name)
        batch.wait(240)
        assert sorted(batch.tasks()["state"]) == ["rejected", "succeeded"]


def test_rows_that_would_expire(tasks: ct.Client, target: Target) -> None:
    """A queue that needs more than 30 days is refused before anything is stored; the error has what would do."""
    queue = tasks.queue("slow", create=True, rate=0.001)
    rows = [{"day": day} for day in range(2593)]
    plan = queue.fan_out(rows, url=target.url, dry_run=True)
    assert "plan.submit() would raise: 2,593 tasks at 0.001 a second take 30 d" in repr(plan)
    for call in (plan.submit, lambda: queue.fan_out(rows, url=target.url)):
        with pytest.raises(InvalidInputError, match="deletes tasks that are 31 days old") as caught:
            call()
        assert 'tasks.queue("slow").update(rate=0.002), or send_rate=0.001' in (caught.value.hint or "")
    assert len(tasks.batches()) == 0
    thirds = tasks.queue("thirds", create=True, rate=2 / 3)
    check_drain(10_000_000, thirds.id, 2 / 3, 0.666666)  # what the hint says is taken
    with pytest.raises(InvalidInputError, match="10,000,000 tasks") as caught:
        check_drain(10_000_000, thirds.id, 2 / 3, None)
    assert "send_rate=0.666666:" in (caught.value.hint or "")
    batch = queue.fan_out(rows[:-1], url=target.url, send_rate=1)
    batch.cancel()
    paced = queue.fan_out(rows, url=target.url, send_rate=0.001, name="paced")
    assert paced.progress().total == 2593
    paced.cancel()
