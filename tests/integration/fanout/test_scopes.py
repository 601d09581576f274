"""The frame that is given is the frame that comes back: what `fan_out` returns answers for the rows of its input."""

import asyncio
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import InvalidInputError, PreconditionError
from cloudtasks_nb.fanout.batch.batch import batch_view
from cloudtasks_nb.fanout.batch.table import row_texts
from tests.cases import cases
from tests.integration.fanout.conftest import PATIENCE, Serve, sent

URL = "http://127.0.0.1:9/run"


def month(number: int, rows: int = 6) -> pd.DataFrame:
    """Return the rows of one month, whose index names them."""
    names = [f"{number}-{row}" for row in range(rows)]
    return pd.DataFrame({"month": number, "n": range(rows)}, index=names)


def work(month: int, n: int) -> int:
    """Fail in the first row of a month."""
    return {1: month}[min(n, 1)]


@pytest.fixture
def both(once: ct.Queue, serve: Serve) -> tuple[ct.Batch, ct.Batch]:
    """Give January and February of one batch, done."""
    handler = serve(work)
    found = [once.fan_out(month(number), url=handler, name="march") for number in (1, 2)]
    for batch in found:
        batch.wait("240s")
    return found[0], found[1]


def test_each_frame_is_that_of_its_input(both: tuple[ct.Batch, ct.Batch], tasks: ct.Client) -> None:
    """January answers for January, also after February has come; the batch has both."""
    for number, batch in enumerate(both, 1):
        frame, failed, errors = batch.results(), batch.failed(), batch.errors()
        pd.testing.assert_index_equal(frame.index, month(number).index)
        assert frame["month"].eq(number).all()
        assert batch.tasks().index.equals(month(number).index)
        assert failed.index.tolist() == errors["row"].tolist() == [f"{number}-0"]
        assert errors["rows"].tolist() == [1]
        assert sorted(batch.attempts()["row"].tolist()) == month(number).index.tolist()
        assert (batch.progress().total, batch.progress().failed) == (6, 1)
        assert repr(batch).splitlines()[0].startswith("6 of the 12 rows of batch march on queue reports")
        assert pd.concat(batch.results(page=4)).index.equals(frame.index)
    whole = tasks.batch("march")
    for batch in (both[0].whole, whole):
        assert (len(batch.results()), batch.progress().failed, batch.errors()["rows"].tolist()) == (12, 2, [2])
    assert both[0].status() == whole.status()


def test_parts_are_equal_with_the_same_rows(paused: ct.Queue, tasks: ct.Client) -> None:
    """Two parts are two keys of a dict, and none is the batch; the same rows are one key, however they were found."""
    january, february, again = (
        paused.fan_out(month(number), url=URL, body=["month", "n"], name="march") for number in (1, 2, 1)
    )
    whole = tasks.batch("march")
    assert january == again != february != whole == january.whole
    assert len({january, february, again, whole, february.whole}) == 3
    every = paused.fan_out(pd.concat([month(2), month(1)]), url=URL, body=["month", "n"], name="march")
    assert {every, whole} == {whole}


@cases(
    (month(1).iloc[::-1], "1-0", 5),
    (month(1).iloc[2:].reset_index(drop=True), 0, 0),
    (pd.concat([month(2), month(1).iloc[[3, 0]]]), "1-0", 7),
    ids=["all in another order", "a part", "known and new"],
)
def test_a_row_is_where_its_frame_has_it(paused: ct.Queue, data: pd.DataFrame, label: Any, place: int) -> None:
    """The panel's line of Python, its table and the names of rows say the place that the row has in `tasks()`."""
    paused.fan_out(month(1), url=URL, body=["month", "n"], name="march")
    batch = sent(paused.fan_out(data, url=URL, body=["month", "n"], name="march"))
    frame, view = batch.tasks(), batch_view(batch)
    task = frame.loc[label, "task"]
    ref = batch._outbox.rows.locate(batch.id, [task])[task]
    assert list(view.reader.positions([ref])) == [place] == [frame.index.get_loc(label)]
    assert view.reader.frame([ref]).index.tolist() == [place]
    stored = view.reader.stored(task)
    assert stored is not None
    assert stored.row == place
    record, outbox = batch._own_tracker.record, batch._outbox
    assert row_texts(outbox, record, batch._rows, [ref])[ref][0] == place


_PICKED = month(1).iloc[[4, 0, 2]]


@cases(
    (_PICKED.set_axis([7, 9, 8]), [7, 9, 8]),
    (_PICKED.reset_index(drop=True), [0, 1, 2]),
    (_PICKED.set_axis([1, 1, 2]), [0, 1, 2]),
    (pd.concat([month(3, 1), month(1).iloc[[4]]]), ["3-0", "1-4"]),
    ([_PICKED.head(2), _PICKED.tail(1)], ["1-4", "1-0", "1-2"]),
    (_PICKED.head(2).assign(level=[8, 9]).set_index("level", append=True), [("1-4", 8), ("1-0", 9)]),
    (month(1).iloc[::-1], month(1).index[::-1].tolist()),
    (month(1).set_axis([1, 1, 2, 3, 4, 5]), [0, 1, 2, 3, 4, 5]),
    ids=[
        *("another order", "no index", "not unique", "known and new", "an iterator", "two levels"),
        *("all in another order", "all, not unique"),
    ],
)
def test_known_rows_have_the_index_of_the_input(paused: ct.Queue, data: Any, index: list[Any]) -> None:
    """Rows that came with another frame have the labels and the order of this one, however they are read."""
    paused.fan_out(month(1), url=URL, body=["month", "n"], name="march")
    again = iter(data) if isinstance(data, list) else data
    batch = sent(paused.fan_out(again, url=URL, body=["month", "n"], name="march"))
    found = batch.tasks()
    assert found.index.tolist() == index
    given = pd.concat(data) if isinstance(data, list) else data
    assert found["n"].tolist() == given["n"].tolist()
    assert batch.progress().total == len(index)
    assert pd.concat(batch.results(page=2)).index.tolist() == index


def test_duplicates_are_as_they_were(paused: ct.Queue) -> None:
    """The same cell again has its rejected duplicates again; a duplicate of a known row is no row."""
    rows = pd.DataFrame({"n": [1, 2, 1]})
    first = [sent(paused.fan_out(rows, url=URL, errors="skip", name="twice")).tasks() for _ in range(2)]
    assert [frame["state"].tolist() for frame in first] == [["ready", "ready", "rejected"]] * 2
    batch = paused.fan_out(pd.DataFrame({"n": [2, 2, 3]}), url=URL, errors="skip", name="twice")
    assert sent(batch).tasks()["n"].tolist() == [2, 3]


def test_a_batch_without_rows(queue: ct.Queue, serve: Serve) -> None:
    """Its frames have the columns and the index of each input all the same."""
    handler = serve(work)
    for rows in (month(1).head(0), month(1).astype({"month": "Int64"}).set_index("month").head(0)):
        batch = queue.fan_out(rows, url=handler)
        for frame in (batch.tasks(), batch.results(), batch.failed(), queue.map(handler, rows)):
            assert frame[rows.columns].dtypes.to_dict() == rows.dtypes.to_dict()
            pd.testing.assert_index_equal(frame.index, rows.index)


def test_a_part_is_waited_for_alone(queue: ct.Queue, serve: Serve) -> None:
    """Rows of others that are not due do not hold it up, neither `wait` nor `await`."""
    handler = serve(work)
    queue.fan_out(month(1), url=handler, name="march", delay="1h")
    batch = queue.fan_out(month(2).tail(5), url=handler, name="march", delay=None)
    assert batch.wait("240s").succeeded == 5
    assert repr(batch).splitlines()[1].endswith("100 %  succeeded")

    async def wait() -> Any:
        return await batch

    assert asyncio.run(wait()).succeeded == 5
    assert not batch.whole.progress().finished


def test_only_its_rows_are_sent_again(both: tuple[ct.Batch, ct.Batch], tasks: ct.Client) -> None:
    """Failed and chosen rows of the part get a new try, and rows of others are refused."""
    january, february = both
    january.retry_failed().wait("240s")
    assert tasks.batch("march").tasks()["try"].tolist() == [2, *[1] * 11]
    february.retry_failed("KeyError").wait("240s")
    assert february.tasks()["try"].tolist() == [2, *[1] * 5]
    january.resend(january.results().tail(1)).wait("240s")
    assert january.tasks()["try"].tolist() == [2, *[1] * 4, 2]
    for frame in (february.tasks(), pd.concat([january.tasks(), february.tasks()])):
        with pytest.raises(
            InvalidInputError, match=r"6 of .* tasks are of rows of batch .* that are not in this input"
        ):
            january.resend(frame)
        with pytest.raises(InvalidInputError, match=r"batch\.whole"):
            january.retry_failed(frame)
    january.whole.resend(february.tasks()).wait("240s")


def test_a_part_is_not_deleted(both: tuple[ct.Batch, ct.Batch]) -> None:
    """All of the batch would go."""
    with pytest.raises(PreconditionError, match=r"(?s)6 of its 12 rows.*batch\.whole\.delete\(\)"):
        both[0].delete()
    both[0].whole.delete()
    assert repr(both[1]) == f"<batch {both[1].id}, deleted>"


def test_a_backfill_is_for_its_range(queue: ct.Queue, serve: Serve) -> None:
    """Another range of the same series has its own rows; a range that covers all of them is the batch."""
    handler = serve(lambda partition, **_: partition, name="load")
    for first, last, months in (("2013-01", "2013-06", 6), ("2013-04", "2013-09", 6), ("2013-01", "2013-09", 9)):
        batch = queue.backfill(first, f"{last}-01", freq="MS", url=handler, name="series")
        assert batch.wait("240s").succeeded == months
        labels = pd.period_range(first, last, freq="M").astype(str).tolist()
        assert batch.results()["result"].tolist() == labels
        shown = batch_view(batch).periods(())
        assert shown is not None
        assert (shown.labels, shown.counts.to_numpy().sum()) == (labels, months)
        line, *notes = shown.line.split("; ")
        assert line == f"{first} … {last}, {months} months in UTC"
        assert len(notes) == (batch_view(batch).part is None)  # one on where it ends
    assert batch.whole.progress() == batch.progress()


@cases(
    ("2026-03-08", "2026-03-08 23:59", "h", "America/New_York", 23, "2026-03-08T00:00:00-05:00"),
    ("2026-11-01", "2026-11-01 23:59", "h", "America/New_York", 25, "2026-11-01T00:00:00-04:00"),
    ("2018-11-04", "2018-11-05", "D", "America/Sao_Paulo", 2, "2018-11-04T01:00:00-02:00"),
    ("2026-01-15", "2026-02-20", "W", "Europe/Zurich", 6, "2026-01-11T00:00:00+01:00"),
    ("2026-01-15", "2026-04-20", "MS", "Europe/Zurich", 4, "2026-01-01T00:00:00+01:00"),
)
def test_periods_arrive_whole_and_without_holes(
    queue: ct.Queue, serve: Serve, start: str, end: str, freq: str, tz: str, count: int, first: str
) -> None:
    """The function gets each period once, as times with their offsets; each ends where the next one starts."""
    bodies: list[dict[str, Any]] = []
    handler = serve(lambda **body: bodies.append(body), name="periods")
    batch = queue.backfill(start, end, freq=freq, tz=tz, url=handler)
    assert batch.wait(PATIENCE).succeeded == count
    bodies.sort(key=lambda body: body["start"])
    assert len(bodies) == count
    assert bodies[0]["start"].isoformat() == first
    assert [body["end"] for body in bodies[:-1]] == [body["start"] for body in bodies[1:]]
    assert str(batch.tasks()["start"].dtype) == f"datetime64[us, {tz}]"
