"""Why rows failed, and new tries for those that failed in one way."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.cases import cases
from tests.integration.conftest import Answer, Emulator, Target
from tests.integration.fanout.conftest import reached, sent
from tests.web import Request

STATUSES = [200, 404, 429, 500, 503]
COLUMNS = {
    "cause": "string",
    "rows": "Int64",
    "failed": "Int64",
    "retrying": "Int64",
    "first": "datetime64[us, UTC]",
    "last": "datetime64[us, UTC]",
    "row": "int64",
    "error": "string",
    "where": "string",
    "common": "string",
}


class Site(Target):
    """A web site that answers ``/404/…`` with 404, and so on, until it is repaired."""

    repaired = False

    def take(self, request: Request) -> Answer:
        """Record a request and return its answer."""
        super().take(request)
        return Answer(status=200 if self.repaired else int(request.path.split("/")[1]))


@pytest.fixture
def site() -> Iterator[Site]:
    """Run a web site."""
    with Site() as made:
        yield made


@pytest.fixture
def pages(once: ct.Queue, site: Site, capsys: pytest.CaptureFixture[str]) -> ct.Batch:
    """Give a batch of one page for each status, of which all but one failed."""
    frame = pd.DataFrame({"url": [f"http://127.0.0.1:{site.port}/{status}/page" for status in STATUSES]})
    batch = once.fan_out(frame, url="{url}", body=None)
    batch.wait()
    capsys.readouterr()
    site.repaired = True
    return batch


def retried_rows(batch: ct.Batch) -> list[int]:
    """Return the rows that are in their second try."""
    made = sent(batch).tasks()
    return [int(row) for row in made.index[made["try"] == 2]]


def failing(batch: ct.Batch) -> pd.DataFrame:
    """Return the columns of `errors()` that say how many rows have which cause."""
    return batch.errors()[["cause", "failed", "retrying"]]


@cases(
    (None, [404, 429, 500, 503]),
    ("UNAVAILABLE", [503]),
    (503, [503]),
    ("5xx", [500, 503]),
    ("4XX", [404, 429]),
    (["UNAVAILABLE", 404], [404, 503]),
    (pd.Series(["INTERNAL", "4xx"]), [404, 429, 500]),
    (lambda batch: batch.errors().query("cause == 'INTERNAL'"), [500]),
    (lambda batch: batch.tasks(), [404, 429, 500, 503]),
    (lambda batch: batch.failed().head(1), [404]),
    (lambda batch: batch.results().iloc[[-1]], [503]),
)
def test_only_some_of_the_failed_rows_are_sent_again(pages: ct.Batch, where: Any, expected: list[int]) -> None:
    """They are chosen by status, class of HTTP statuses, cause or frame, or by several of these."""
    pages.retry_failed(where(pages) if callable(where) else where)
    assert [STATUSES[row] for row in retried_rows(pages)] == expected
    assert pages.wait().succeeded == 1 + len(expected)


@cases(
    ("INTERNL", "where='INTERNL' is no status and no cause of a failed row; did you mean \"INTERNAL\"?", "NOT_FOUND 1"),
    ("ABORTED", "has where='ABORTED'", "the failed rows have INTERNAL 1, NOT_FOUND 1"),
    (502.5, "where=502.5 is no status", "a cause of batch.errors()"),
    (True, "where=True is no status", "a cause of batch.errors()"),
    ({"status": 503}, "where={'status': 503} is no status", "a cause of batch.errors()"),
    (999, "where=999 is no status and no cause", "batch.errors()"),
    (["5xx", "nothing"], "where='nothing' is no status and no cause", "batch.errors()"),
    (pd.DataFrame({"day": [1]}), "retry_failed() wants rows of tasks(), failed() or results()", "batch.failed()"),
    (pd.DataFrame({"cause": ["KeyError: …"]}), "has these causes", "INTERNAL 1"),
)
def test_a_choice_that_has_no_row_is_explained(pages: ct.Batch, where: Any, message: str, hint: str) -> None:
    """The error says what there is, and nothing is sent."""
    with pytest.raises(ct.errors.InvalidInputError) as raised:
        pages.retry_failed(where)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")
    assert retried_rows(pages) == []


@cases(
    lambda results: results.assign(url_in=results["url_in"].str.upper()),  # rows of another input
    lambda results: results[["state", "error"]],
    lambda results: results.set_axis(results.index + 1),
)
def test_another_frame_is_no_results(pages: ct.Batch, change: Any) -> None:
    """Its labels alone do not make it rows of this batch; rows without some of the columns are."""
    frame = change(pages.results())
    for method in ("retry_failed", "resend"):
        with pytest.raises(ct.errors.InvalidInputError, match=rf"wants rows of[\s\S]*batch\.{method}\(failed"):
            getattr(pages, method)(frame)
    assert retried_rows(pages) == []
    pages.retry_failed(pages.results()[["url_in", "error"]].astype(object).tail(1))
    assert len(retried_rows(pages)) == 1


def test_a_page_of_results_is_known_whatever_the_types_of_its_columns(once: ct.Queue, target: Target) -> None:
    """A page of whole numbers has integers, and the batch floats with missing values."""
    frames = [pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [1.5, None]})]
    batch = once.fan_out(frames, url=target.url)
    for page in batch.results(page=2):
        batch.wait()
        batch.resend(page)
    assert retried_rows(batch) == [0, 1, 2, 3]


def test_what_is_assumed_of_http_statuses_is_said(pages: ct.Batch, capsys: pytest.CaptureFixture[str]) -> None:
    """The log has canonical codes only, and a site stores no results; without a failed row nothing is assumed."""
    pages.retry_failed("5xx").wait()
    codes = "DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, UNIMPLEMENTED"
    known = f"the HTTP status of 2 of the 2 rows is not known; they are chosen by their last status: {codes}\n"
    assert capsys.readouterr().out.startswith(known)
    pages.retry_failed("4xx").wait()
    capsys.readouterr()
    pages.retry_failed("4xx")
    assert capsys.readouterr().out == f"nothing is sent again: no row of batch {pages.id} is in state failed\n"


def test_causes_have_counts_times_and_an_example(once: ct.Queue, serve: Any, tasks: ct.Client) -> None:
    """Exceptions that differ in their values are one cause; a new connection finds the same."""

    def days(row: int) -> int:
        if row % 3 == 0:
            raise KeyError(f"a{row}")
        return {1: 1, 2: 1}[row] if row < 3 else int("x")

    batch = once.fan_out(pd.DataFrame({"row": range(7)}), url=serve(days), name="days")
    batch.wait()
    found = batch.errors()
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == COLUMNS
    causes = ["KeyError: 'a0'", "ValueError: invalid literal for int() with base 10: 'x'"]
    assert found[["cause", "rows", "failed", "retrying", "row"]].to_numpy().tolist() == [
        [causes[0], 3, 3, 0, 0],
        [causes[1], 2, 2, 0, 4],
    ]
    assert [error.splitlines()[0] for error in found.error] == ["Traceback (most recent call last):"] * 2
    assert found["first"].le(found["last"]).all()
    line = days.__code__.co_firstlineno
    assert found["where"].tolist() == [f"days, test_errors.py line {line + at}" for at in (2, 3)]
    assert f"5 failed ({causes[0]} … and 2 like it, {causes[1]} … and 1 like it) → batch.retry_failed()" in repr(batch)
    with ct.connect("demo", "us-central1", endpoint=tasks.endpoint) as later:
        pd.testing.assert_frame_equal(later.batch("days").errors(), found)
        assert retried_rows(later.batch("days").retry_failed(found.head(1))) == [0, 3, 6]


def test_rows_that_are_tried_again_have_causes_too(tasks: ct.Client, serve: Any) -> None:
    """One need not wait for the last attempt to see what is wrong."""

    def fails(row: int) -> None:
        raise ValueError(f"no shop {row}")

    queue = tasks.queue("reports", create=True, max_attempts=3, min_backoff="1h")
    batch = queue.fan_out(pd.DataFrame({"row": range(3)}), url=serve(fails))
    words = "ValueError: no shop 0 … and 2 like it"
    reached(batch, lambda progress: progress.retrying == 3 and words in repr(batch))
    assert failing(batch).to_numpy().tolist() == [["ValueError: no shop 0", 0, 3]]
    assert f"last errors of rows that are tried again: {words} → batch.errors()" in repr(batch)
    assert batch.errors().error.item().endswith("ValueError: no shop 0\n")
    assert batch.tasks().last_message.tolist() == [f"ValueError: no shop {row}" for row in range(3)]


@pytest.mark.parametrize("look", [lambda queue, _: queue.tasks(), lambda _, batch: batch.tasks()])
def test_messages_of_tasks_that_were_seen_are_kept(tasks: ct.Client, site: Site, emulator: Emulator, look: Any) -> None:
    """What the queue told of an attempt is known after a restart, also when the task has left the queue."""
    queue = tasks.queue("reports", create=True, max_attempts=2, min_backoff="1h")
    batch = queue.fan_out(pd.DataFrame({"n": [1]}), url=f"http://127.0.0.1:{site.port}/502/page", name="seen")
    reached(batch, lambda progress: progress.retrying == 1)
    look(queue, batch)
    emulator.advance(3_700)
    batch.wait()
    with ct.connect("demo", "us-central1", endpoint=tasks.endpoint) as later:
        found = later.batch("seen")
        assert found.failed().last_message.tolist() == ["INTERNAL(13): HTTP status code 502"]
        assert found.failed()["error"].isna().all()
        assert found.errors()[["cause", "error"]].to_numpy().tolist() == [
            ["INTERNAL", "INTERNAL(13): HTTP status code 502"]
        ]
