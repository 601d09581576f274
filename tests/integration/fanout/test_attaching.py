"""The same cell again, another cell, another kernel, another endpoint: nothing sent twice, nothing silently dropped."""

from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchNotFoundError
from tests.cases import cases
from tests.integration.fanout.conftest import reached, sent

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True

URL = "http://127.0.0.1:9/run"
ROWS = pd.DataFrame({"day": range(300)})


def in_queue(queue: ct.Queue) -> int:
    """Return how many tasks are in the queue."""
    return len(queue.tasks(limit=None))


def test_what_is_said_counts_in_words(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """One row is, several are; a batch whose only name is its id is named once; zero rows are written as "no rows"."""
    rows = pd.DataFrame({"day": [1, 2, 2, None]})
    batch = paused.fan_out(rows, url=f"{URL}/{{day}}", errors="skip", name="words")
    assert capsys.readouterr().out == ("1 row is rejected: batch.tasks() has the reasons; 1 duplicate is left out\n")
    sent(batch)
    paused.fan_out(pd.DataFrame({"day": [1.0, 2, 3]}), url=f"{URL}/{{day}}", name=batch.id)
    assert capsys.readouterr().out == f"batch {batch.id} has 2 of these rows already; 1 new one will be sent\n"
    batch.cancel()
    reached(batch, lambda progress: progress.cancelled == 2)
    paused.fan_out(pd.DataFrame({"day": [1.0]}), url=f"{URL}/{{day}}", name="words")
    assert capsys.readouterr().out.endswith("already; nothing new to send; 1 cancelled is left\n")
    paused.fan_out(rows.head(0), url=f"{URL}/{{day}}", name="words")
    assert capsys.readouterr().out == f"there are no rows here; batch words ({batch.id}) stays as it is\n"


def test_batches_are_found_again(tasks: ct.Client, paused: ct.Queue) -> None:
    """By the beginning of the id, by the name, or the newest."""
    first = paused.fan_out(ROWS, url=URL, name="first")
    second = paused.fan_out(ROWS, url=URL, name="second")
    assert list(tasks.batches().index) == [second.id, first.id]
    assert tasks.batch().id == second.id
    assert tasks.batch("first").id == first.id
    assert tasks.batch(first.id[:6]).id == first.id
    with pytest.raises(BatchNotFoundError, match="zzz"):
        tasks.batch("zzz")


def test_three_rows_and_then_all(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without a name extend the batch that has some of them; the line says what another disk needs."""
    first = sent(paused.fan_out(ROWS.head(3), url=URL))
    capsys.readouterr()
    batch = sent(paused.fan_out(ROWS, url=URL))
    needs = f'another disk needs name="{first.id}"\n'
    grown = f"batch {first.id} has 3 of these rows already; 297 new ones will be sent and extend it; {needs}"
    assert (batch.id, capsys.readouterr().out) == (first.id, grown)
    assert (len(first.tasks()), len(batch.tasks()), in_queue(paused)) == (3, 300, 300)
    part = paused.fan_out(ROWS.tail(5), url=URL)
    assert (part.id, capsys.readouterr().out) == (
        first.id,
        f"batch {first.id} has 5 of these rows already; nothing new to send; {needs}",
    )
    assert part.tasks()["day"].tolist() == [295, 296, 297, 298, 299]
    paused.fan_out(ROWS.head(3), url=URL)
    assert capsys.readouterr().out == f"batch {first.id} has 3 of these rows already; nothing new to send\n"


_DAYS = pd.DataFrame({"day": pd.to_datetime(["2025-01-01", "2025-01-02"]), "shop": ["a", "b"], "n": [1, 2]})


@cases(
    (_DAYS.rename(columns={"shop": "store"}), '; the column "shop" is missing and the column "store" is new'),
    (_DAYS.assign(more=1), '; the column "more" is new'),
    (_DAYS.drop(columns="n"), '; the column "n" is missing'),
    (_DAYS.assign(day=_DAYS["day"].astype(str)), '; the column "day" had times, it has text'),
    (_DAYS.assign(day=_DAYS["day"] + pd.Timedelta("31D")), '; the column "day" has other values'),
    (_DAYS.assign(shop=["c", "d"], n=[3, 4]), ""),
    ids=["renamed", "added", "missing", "another type", "another value", "several"],
)
def test_an_existing_batch_that_has_none_of_the_rows(
    paused: ct.Queue, capsys: pytest.CaptureFixture[str], rows: pd.DataFrame, why: str
) -> None:
    """A warning says so, and names the column that differs."""
    batch = paused.fan_out(_DAYS, url=URL, name="days")
    capsys.readouterr()
    paused.fan_out(rows, url=URL, name="days")
    said = f"warning: batch days ({batch.id}) has none of these rows{why}; 2 new ones will be sent\n"
    assert capsys.readouterr().out == said


_SERIES = {"freq": "D", "url": URL, "across": {"shop": ["a", "b"]}, "name": "days"}


@cases(
    (("2025-02-01", {}), 'warning: batch days ({}) has none of these rows; the column "partition" has other values; '),
    (("2025-01-01", {"across": {"shop": ["c"]}}), 'warning: batch days ({}) has none of these rows; the column "shop"'),
    (("2025-02-01", {"across": {"shop": ["c"]}}), "warning: batch days ({}) has none of these rows; 2 new ones will"),
    (("2025-01-02", {}), "batch days ({}) has 2 of these rows already; 2 new ones will be sent"),
    (("2025-02-01", {"name": None}), "batch {} has 0 of these rows already; 4 new ones will be sent"),
    ids=["another period", "another shop", "both", "some", "no name"],
)
def test_an_existing_series_that_has_none_of_the_rows(
    paused: ct.Queue, capsys: pytest.CaptureFixture[str], asked: tuple[str, dict[str, Any]], said: str
) -> None:
    """The same with a backfill under a name; a series without one grows."""
    start, words = asked
    given = {**_SERIES, **words}
    batch = paused.backfill("2025-01-01", "2025-01-02", **{**_SERIES, "name": given["name"]})
    end = str((pd.Timestamp(start) + pd.Timedelta("1D")).date())
    capsys.readouterr()
    paused.backfill(start, end, **given)
    name = batch.id if given["name"] else f"{batch.name} ({batch.id})"
    assert capsys.readouterr().out.startswith(said.format(name))
