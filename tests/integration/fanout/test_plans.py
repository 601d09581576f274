"""What a dry run says of tasks, held against those that are made."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.fanout.batch import catalog
from tests.cases import cases
from tests.integration.conftest import Answer, Target
from tests.integration.fanout.conftest import Serve, sent

URL = "http://127.0.0.1:9/{a}"
DATA = pd.DataFrame({"a": [1, 2, 3]})


@cases(
    (DATA, {}),
    (DATA, {"name": "march"}),
    (pd.concat([DATA, DATA], ignore_index=True), {"errors": "skip"}),
    (pd.DataFrame({"a": [1.0, None, None, 5.0]}), {"errors": "skip"}),
    (pd.DataFrame({"a": [7, 7]}), {"key": ct.ROW}),
)
def test_ids_are_those_that_will_be(paused: ct.Queue, data: pd.DataFrame, words: dict[str, Any]) -> None:
    """The ids in a plan are the ids of the tasks that `submit` makes; afterwards they are those that there are."""
    plan = paused.fan_out(data, url=URL, dry_run=True, **words)
    batch = plan.submit()
    made = batch.tasks().query("state != 'rejected'")
    assert plan.frame["task"].dropna().tolist() == made["task"].tolist()
    assert plan.sendable == len(made)
    sent(batch)
    again = paused.fan_out(data, url=URL, dry_run=True, **words)
    assert again.frame.equals(plan.frame)
    assert (again.sendable, again.facts()["known"]) == (0, f"{len(made)} in the queue")


def test_a_file_is_read_anew(paused: ct.Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path it makes the batch of its DataFrame; plan, bar and options know how many rows it has."""
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"a": range(4_500), "wide": "x"}, index=[f"shop {a}" for a in range(4_500)]).to_parquet(path)
    totals: list[Any] = []

    def noted(what: str, total: int | None, **words: Any) -> Bar:
        totals.append(total)
        return Bar(what, total, **words)

    monkeypatch.setattr(catalog, "Bar", noted)
    plan = paused.fan_out(path, url=URL, body=["a"], dry_run=True)
    assert (plan.rows, plan.sendable, len(plan.frame), plan.frame.attrs["truncated"]) == (4_500, 4_500, 1_000, True)
    batch = plan.submit()
    assert totals == [4_500] * 2
    assert batch == paused.fan_out(pd.read_parquet(path), url=URL, body=["a"])
    assert batch.tasks().index[[0, -1]].tolist() == ["shop 0", "shop 4499"]
    with pytest.raises(errors.InvalidInputError, match=r"canary=4500 leaves no row for later: there are 4,500"):
        paused.fan_out(path, url=URL, canary=4_500)


def test_a_handlers_address_is_a_text(paused: ct.Queue, serve: Serve) -> None:
    """A URL is what it says in each kernel, whether that serves it or not; the handler is its name."""
    handler = serve(lambda **_: None, name="report")
    batch = paused.fan_out(DATA, url=handler, name="by handler")
    with pytest.raises(errors.BatchExistsError, match=f"url was 'handler:report', is '{handler.url}'"):
        paused.fan_out(DATA, url=handler.url, name="by handler")
    by_url = paused.fan_out(DATA, url=handler.url, name="by url")
    handler.close()
    assert paused.fan_out(DATA, url=handler.url, name="by url") == by_url != batch
    assert {*by_url.tasks()["url"], *batch.tasks()["url"]} == {handler.url}


def test_try_one_calls_a_handler(queue: ct.Queue, serve: Serve) -> None:
    """The function is called with the row's body, its traceback is shown, and neither task nor result is left."""

    def half(n: int) -> float:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n / 2

    handler = serve(half, name="half")
    plan = queue.fan_out(pd.DataFrame({"n": [4, 5]}), url=handler, dry_run=True)
    fine, odd = plan.try_one(), plan.try_one(row=1)
    assert (fine.status, fine.result, fine.error) == (200, 2.0, None)
    assert (odd.status, odd.result) == (500, None)
    assert "raise ValueError" in (odd.error or "")
    assert "ValueError: 5 is odd" in repr(odd)
    assert handler.calls()["task"].isna().all()
    assert queue.tasks().empty


def test_try_one_calls_another_target(queue: ct.Queue, target: Target, free_port: int) -> None:
    """A target elsewhere gets the row's method, headers and body; its answer, or that there is none, is shown."""
    target.script(Answer(status=418, body=b"a teapot"), Answer(status=200, body=b'{"ok": 1}'))
    words: dict[str, Any] = {"headers": {"X-A": "{a}"}, "method": "PUT", "service_account": "a@b.example"}
    plan = queue.fan_out(DATA, url=target.url, dry_run=True, **words)
    first, second = plan.try_one(), plan.try_one(row=1)
    assert (first.status, first.error, second.result) == (418, "a teapot", {"ok": 1})
    request = target.received[1]
    assert (request.method, request.headers["x-a"], request.body) == ("PUT", "2", b'{"a":2}')
    assert request.headers["content-type"] == "application/json"
    assert "sent without the token of a@b.example" in repr(first)
    nobody = queue.fan_out(DATA, url=f"http://127.0.0.1:{free_port}/x", dry_run=True).try_one()
    assert nobody.status is None
    assert "did not answer" in (nobody.error or "")
