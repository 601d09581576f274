"""From the data to chunks of tasks."""

import datetime as dt
import re
from ast import literal_eval
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from google.cloud.tasks_v2 import types

from cloudtasks_nb.errors import InvalidInputError, NaiveTimeError, RowsError, TemplateError
from cloudtasks_nb.fanout.plan.preview import StoredPreview
from cloudtasks_nb.fanout.plan.recipe import ROW, compile_recipe
from cloudtasks_nb.fanout.plan.render import Chunk, plan_chunks, read_task
from cloudtasks_nb.fanout.wire import TAG_BYTES
from cloudtasks_nb.handlers import call
from tests.cases import cases

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
URL = "https://svc/run"
TASK = types.Task.pb()


def _chunks(data: Any, *, errors: Any = "raise", **arguments: Any) -> list[Chunk]:
    return list(plan_chunks(data, compile_recipe({"url": URL, **arguments}), now=NOW, errors=errors))


def _tasks(data: Any, **arguments: Any) -> list[Any]:
    return [TASK.FromString(task) for chunk in _chunks(data, **arguments) for task in chunk.tasks]


def _shown(*chunks: Chunk) -> pd.DataFrame:
    stored = StoredPreview()
    for chunk in chunks:
        stored.add(chunk.shown)
    return stored.columns()


def _keys(data: Any, **arguments: Any) -> list[bytes]:
    return [key for chunk in _chunks(data, **arguments) for key in chunk.keys]


def _digests(data: Any, **arguments: Any) -> list[bytes]:
    return [digest for chunk in _chunks(data, **arguments) for digest in chunk.digests]


FRAME = pd.DataFrame({"origin": ["JFK", "EWR"], "n": [1, 2]})


def test_whole_task() -> None:
    """A row becomes the task that protobuf would build of the same arguments."""
    (task,) = _tasks(
        FRAME.head(1),
        url="https://svc/{origin}",
        headers={"X-Shop": "{n}", "A": "b"},
        method="PUT",
        delay="10min",
        service_account="sa@p.iam.gserviceaccount.com",
        audience="https://svc",
        dispatch_deadline="20s",
        retry={"max_attempts": 3, "min_backoff": "1s"},
    )
    expected = types.Task(
        http_request=types.HttpRequest(
            url="https://svc/JFK",
            http_method=types.HttpMethod.PUT,
            headers={"X-Shop": "1", "A": "b", "Content-Type": "application/json"},
            body=b'{"origin":"JFK","n":1}',
            oidc_token=types.OidcToken(service_account_email="sa@p.iam.gserviceaccount.com", audience="https://svc"),
        ),
        schedule_time=NOW + dt.timedelta(minutes=10),
        dispatch_deadline=dt.timedelta(seconds=20),
        retry_config=types.RetryConfig(max_attempts=3, min_backoff=dt.timedelta(seconds=1)),
    )
    assert task == types.Task.pb(expected)


@cases(
    ("https://svc/{origin}?n={n}", ["https://svc", "https://svc"]),
    ("https://{origin}.example/run", ["https://jfk.example", "https://ewr.example"]),
    ("https://{n}.cloudfunctions.net/fn?n={n}", ["https://1.cloudfunctions.net/fn", "https://2.cloudfunctions.net/fn"]),
)
def test_the_audience_of_a_row(url: str, audiences: list[str]) -> None:
    """Signed rows have one audience for each service, and it does not change what identifies a row."""
    signed = {"url": url, "service_account": "sa@p.iam.gserviceaccount.com"}
    assert [task.http_request.oidc_token.audience for task in _tasks(FRAME, **signed)] == audiences
    assert _digests(FRAME, **signed) == _digests(FRAME, **signed, audience="https://other")


def test_smallest_task() -> None:
    """What was not asked for is not in the task."""
    (task,) = _tasks(FRAME.head(1), method="GET")
    assert task == types.Task.pb(types.Task(http_request=types.HttpRequest(url=URL, http_method=types.HttpMethod.GET)))


def test_each_row_has_its_own() -> None:
    """Columns give each row its schedule, its headers and its body, in order."""
    times = [dt.datetime(2026, 1, 1, 6, tzinfo=dt.UTC), dt.datetime(2025, 12, 31, tzinfo=dt.UTC)]
    made = _tasks(FRAME.assign(t=times), at="{t}", headers={"X": "{origin}"}, body="{n}")
    assert [task.schedule_time.ToDatetime(dt.UTC) for task in made] == times
    assert [task.http_request.headers["X"] for task in made] == ["JFK", "EWR"]
    assert [task.http_request.body for task in made] == [b"1", b"2"]


def test_chunks() -> None:
    """Chunks have up to 2,000 rows of one frame, whose positions count on through the whole input."""
    chunks = _chunks([pd.DataFrame({"a": range(4_100)}), pd.DataFrame({"a": [4_100]})])
    assert [len(chunk.rows) for chunk in chunks] == [2_000, 2_000, 100, 1]
    assert _shown(*chunks)["a"].tolist() == [row for chunk in chunks for row in chunk.rows] == [*range(4_101)]
    for chunk in chunks:
        assert len({len(chunk.rows), len(chunk.keys), len(chunk.digests), len(chunk.tasks)}) == 1
        assert all(len(key) == 16 for key in (*chunk.keys, *chunk.digests))


@pytest.mark.parametrize(("size", "lengths"), [(900_000, [1] * 5), (15_000, [69, 69, 69, 43]), (2_500, [400, 250])])
def test_chunks_by_size(size: int, lengths: list[int]) -> None:
    """Large tasks make a chunk end at 1 MiB; where it has 100 rows or more, it has a multiple of 100."""
    count = sum(lengths)
    chunks = _chunks(pd.DataFrame({"a": ["x" * size] * count, "n": range(count)}))
    assert [len(chunk.rows) for chunk in chunks] == lengths
    assert _shown(*chunks)["n"].tolist() == [row for chunk in chunks for row in chunk.rows] == [*range(count)]


def test_nothing() -> None:
    """No rows are one chunk, with the columns, which are checked all the same."""
    empty = FRAME.head(0)
    [chunk] = _chunks([empty, empty])
    assert (len(chunk.rows), _shown(chunk).dtypes.to_dict()) == (0, empty.dtypes.to_dict())
    assert _chunks([]) == []
    with pytest.raises(TemplateError, match="orgin"):
        _chunks(empty, url="https://svc/{orgin}")


def test_iterator_is_read_once_a_frame_at_a_time() -> None:
    """The first chunk is there before the second frame is asked for."""
    asked = []

    def frames() -> Iterator[pd.DataFrame]:
        for number in range(3):
            asked.append(number)
            yield pd.DataFrame({"a": range(number * 100, number * 100 + 100)})

    chunks = plan_chunks(frames(), compile_recipe({"url": URL}), now=NOW)
    assert asked == []
    assert list(next(chunks).rows) == [*range(100)]
    assert asked == [0]
    assert sum(len(chunk.rows) for chunk in chunks) == 200


def test_progress() -> None:
    """Progress is reported in rows since the last report, which add up to all of them."""
    counts: list[int] = []
    rows, recipe = pd.DataFrame({"a": range(4_100)}), compile_recipe({"url": URL})
    list(plan_chunks(rows, recipe, now=NOW, on_progress=counts.append))
    assert sum(counts) == 4_100
    assert len(counts) > 1


ALIKE = [
    pd.DataFrame({"n": pd.Series([1, 2]), "s": ["a", "b"]}),
    pd.DataFrame({"n": pd.Series([1, 2], dtype="Int64"), "s": pd.Series(["a", "b"], dtype="category")}),
    pd.DataFrame({"n": pd.Series([1, 2], dtype="int64[pyarrow]"), "s": pd.Series(["a", "b"], dtype="string")}),
    pd.DataFrame({"n": pd.Series([1.0, 2.0]), "s": pd.Series(["a", "b"], dtype=object)}),
    pd.DataFrame({"n": [1, 2, None], "s": pd.Series(["a", "b", "c"], dtype=pd.ArrowDtype(pa.large_string()))}).head(2),
    pd.DataFrame({"n": [1, 2, 0.5], "s": ["a", "b", "c"]}).head(2),
    pd.DataFrame({"n": [1.0, 2], "s": ["a", "b"]}, dtype=object),
]


@pytest.mark.parametrize("frame", ALIKE)
@pytest.mark.parametrize("arguments", [{}, {"key": ["n"]}, {"body": {"x": "{n}"}, "url": URL + "/{n}"}])
def test_identity_across_dtypes(frame: pd.DataFrame, arguments: dict[str, Any]) -> None:
    """Cells that mean the same identify the same row and the same request, whatever their dtypes."""
    assert _keys(frame, **arguments) == _keys(ALIKE[0], **arguments)
    assert _digests(frame, **arguments) == _digests(ALIKE[0], **arguments)


def test_identity_of_a_longer_frame() -> None:
    """A row keeps its identity when later rows bring a missing value or a fraction into its columns."""
    short = pd.DataFrame({"a": [1.0, 2.0], "b": [1, 2], "c": [1.0, None]})
    longer = pd.DataFrame({"a": [1.0, 2.0, None], "b": [1, 2, None], "c": [1.0, None, 0.5]})
    assert _keys(longer)[:2] == _keys(short)
    assert _digests(longer.head(2), url=URL + "/{a}/{b}") == _digests(short, url=URL + "/{a}/{b}")


def test_golden_identities() -> None:
    """Keys and digests are the same in every process, whatever its hash seed."""
    arguments: dict[str, Any] = {"url": URL + "/{origin}", "key": ["n"], "headers": {"B": "2", "A": "1"}}
    found = [one.hex() for one in _keys(FRAME, **arguments)[:1] + _digests(FRAME, **arguments)[:1]]
    assert found == ["ef6555d139bba0ca2326a50024344e1b", "5076d21e2fd1d2cf37e052d51c4973e0"]


@cases(
    ({"body": ["n"]}, {"body": ["n"], "delay": "1h"}, True, True),
    ({"body": ["n"]}, {"body": ["n"], "retry": {"max_attempts": 1}}, True, True),
    ({"body": ["n"]}, {"body": ["n"], "method": "PUT"}, False, False),
    ({"body": ["n"]}, {"body": ["n"], "headers": {"X": "1"}}, False, False),
    ({"body": ["n"], "key": ["n"]}, {"body": {"m": "{n}"}, "key": ["n"]}, True, False),
    ({"body": ["n"]}, {"body": ["n"], "key": ["n"]}, False, True),
)
def test_what_identifies(one: dict[str, Any], other: dict[str, Any], *, keys: bool, digests: bool) -> None:
    """Requests are identified by method, url, headers and body; rows by their key, or by the request."""
    assert (_keys(FRAME, **one) == _keys(FRAME, **other)) is keys
    assert (_digests(FRAME, **one) == _digests(FRAME, **other)) is digests


def test_default_key() -> None:
    """Without a key the request identifies the row: columns that it does not use change nothing."""
    frame = pd.DataFrame({"a": [1, 1, 2], "unused": [1, 2, 3]})
    keys = _keys(frame, body=["a"])
    assert keys == _digests(frame, body=["a"])
    assert keys[0] == keys[1] != keys[2]


def test_key_by_position() -> None:
    """With ct.ROW each row is its own, and the keys are spread like digests."""
    keys = _keys(pd.DataFrame({"a": [1] * 300}), key=ROW)
    assert len(set(keys)) == 300
    assert len({key[:2] for key in keys}) > 250


@cases(
    ({}, ["origin", "state_in", "n"]),
    ({"key": ["n"], "body": {"x": "{origin}"}}, ["origin", "n"]),
    ({"body": ["n"], "url": URL + "/{origin}", "key": ["state"]}, ["origin", "state_in", "n"]),
    ({"body": {"x": 1}, "headers": {"X": "{state}"}, "delay": "{n}"}, ["state_in", "n"]),
    ({"body": ["state"], "url": URL + "/{origin}"}, ["origin", "state_in"]),
    ({"body": ["n"], "key": ROW}, ["n"]),
    ({"body": {"x": 1}}, []),
    ({"body": lambda row: row["n"]}, ["origin", "state_in", "n"]),
)
def test_shown(arguments: dict[str, Any], shown: list[str]) -> None:
    """Shown are the columns that key and templates use; in the order of the input; ours keep their names."""
    frame = pd.DataFrame({"origin": ["JFK"], "state": ["NY"], "n": [1]})
    (chunk,) = _chunks(frame, **arguments)
    assert list(_shown(chunk)) == shown
    assert len(_shown(chunk)) == 1


DAY = pd.Timestamp("2026-01-02")
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "missing in url": (None, {"url": "https://svc/{x}", "body": ["n"]}, 'url: "x" is missing'),
    "set": ({1}, {}, 'column "x": set cannot be written as JSON (sets have no order'),
    "too large": ("x" * 1_048_569, {}, "bytes are too many for a task"),
    "bad key": ({1}, {"body": ["n"], "key": ["x"]}, 'column "x": set'),
    "header of two lines": (
        "a\nb",
        {"body": ["n"], "headers": {"X": "{x}"}},
        'the header "X" would have several lines',
    ),
    "function": ("x", {"body": lambda row: row["nope"] if row["x"] == "x" else 1}, "the function raised KeyError"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_row(name: str) -> None:
    """The error says which row, why, and what to do; with errors="skip" the row is rejected, and is still shown."""
    cell, arguments, word = BAD[name]
    frame = pd.DataFrame({"x": pd.Series(["ok", cell], dtype=object), "n": [1, 2]})
    with pytest.raises(RowsError) as caught:
        next(plan_chunks(frame, compile_recipe({"url": URL, **arguments}), now=NOW))
    assert str(caught.value).startswith("1 of the 2 rows cannot become tasks\n  row 1: ")
    assert word in str(caught.value)
    assert 'errors="skip"' in str(caught.value)
    (chunk,) = _chunks(frame, errors="skip", **arguments)
    assert list(chunk.rejected) == [1]
    assert word in chunk.rejected[1]
    assert (chunk.tasks[0] != b"", chunk.tasks[1], chunk.digests[1]) == (True, b"", bytes(16))
    assert len(_shown(chunk)) == 2


def test_many_bad_rows() -> None:
    """Of many bad rows the first five are named, all are counted, and the columns to drop are in the hint."""
    frame = pd.DataFrame({"x": [None if n % 2 else "ok" for n in range(5_000)]})
    with pytest.raises(RowsError) as caught:
        _chunks(frame, url="https://svc/{x}")
    text = str(caught.value)
    assert "2,500 of the 5,000 rows" in text
    assert "row 9: " in text
    assert "row 11: " not in text
    assert "… and 2,495 more" in text
    assert "df.dropna(subset=['x'])" in text


def test_bad_row_of_an_iterator() -> None:
    """An iterator is read no further than the frame with the first bad row; what follows is not asked for."""
    asked = []

    def frames() -> Iterator[pd.DataFrame]:
        for number, cells in enumerate([["a"], [None, None, "b"], ["c"]]):
            asked.append(number)
            yield pd.DataFrame({"x": cells})

    with pytest.raises(RowsError, match="2 of the first 4 rows"):
        _chunks(frames(), url="https://svc/{x}")
    assert asked == [0, 1]


def test_rejected_across_chunks() -> None:
    """Reasons stand at the index in their chunk, and rejected rows without a key stay apart from each other."""
    frame = pd.DataFrame({"x": ["ok"] * 1_999 + [None, None] + ["ok"] * 5, "n": range(2_006)})
    first, second = _chunks(frame, errors="skip", url="https://svc/{x}", body=["n"])
    assert (list(first.rejected), list(second.rejected)) == ([1_999], [0])
    assert first.keys[1_999] != second.keys[0]


@cases(
    ({"url": "https://svc/{orgin}"}, TemplateError, 'did you mean "origin"'),
    ({"key": ["x"]}, TemplateError, "key names the column"),
    ({"body": "origin"}, TemplateError, r'"origin" is a column\n.*body=\["origin"\] sends'),
    ({"at": "{day}"}, NaiveTimeError, 'tz="UTC"'),
    ({"delay": "31d"}, InvalidInputError, "more than 30 days"),
    ({"errors": "ignore"}, InvalidInputError, 'errors="skip"'),
)
def test_wrong_as_a_whole(arguments: dict[str, Any], error: type[Exception], word: str) -> None:
    """What is wrong for all rows is one error, with errors="skip" too."""
    frame = FRAME.assign(day=DAY)
    with pytest.raises(error, match=word):
        _chunks(frame, **{"errors": "skip", **arguments})


def test_a_text_for_every_row() -> None:
    """A body that is no column's name is literal."""
    (chunk,) = _chunks(FRAME, body="origins", key=ROW)
    assert {read_task(task)[1] for task in chunk.tasks} == {b"origins"}


def test_largest_task() -> None:
    """A task is taken up to the byte that leaves room for what the service adds, and not one byte beyond."""
    (task,) = _chunks(pd.DataFrame({"x": ["x" * 1_000_000]}))[0].tasks
    room = 1_048_569 - 700 - TAG_BYTES - len(task)
    assert len(_chunks(pd.DataFrame({"x": ["x" * (1_000_000 + room)]}))) == 1
    with pytest.raises(RowsError, match="1,047,821 bytes"):
        _chunks(pd.DataFrame({"x": ["x" * (1_000_001 + room)]}))


def test_read_task() -> None:
    """URL, body and schedule are read back from a task on the wire."""
    (chunk,) = _chunks(FRAME.head(1), delay="1s")
    assert read_task(chunk.tasks[0]) == (URL, b'{"origin":"JFK","n":1}', int(NOW.timestamp() + 1) * 1_000_000)
    (chunk,) = _chunks(FRAME.head(1))
    assert read_task(chunk.tasks[0])[2] is None


class _Served:
    """A handler whose function wants `day`, and counts how often it is compared with a body."""

    name, url = "wrong", "http://127.0.0.1:21034/wrong/1"

    def __init__(self) -> None:
        self.checked: list[bytes] = []
        self.function: Callable[..., Any] = lambda day, **_: day

    def mismatch(self, body: bytes) -> str | None:
        self.checked.append(body)
        return call.mismatch(self.function, body)


def test_a_signature_that_does_not_fit_is_said_at_once() -> None:
    """A function that cannot be called with the columns is refused before anything is sent, with both names."""
    served = _Served()
    with pytest.raises(InvalidInputError, match=r"\(day, _\): missing a required argument: 'day'.*the names dayy"):
        _chunks(pd.DataFrame({"dayy": range(5_000)}), url=served)
    assert len(served.checked) == 1


def geocode(address: str, *, tries: int = 3) -> str:
    """Take one column of a frame that has more."""
    return address * tries


CUSTOMERS = pd.DataFrame({"address": ["Rome"], "spend": [1]}, index=pd.Index([7], name="customer"))
PAIRS = {"y": [5], "x": [7]}


@cases(
    (geocode, CUSTOMERS, None, 'body=["address"]', "unexpected keyword argument 'customer'"),
    (geocode, CUSTOMERS.assign(tries=1), None, 'body=["address", "tries"]', "'customer'"),
    (geocode, CUSTOMERS, {"adress": "{address}"}, 'body=["address"]', "missing a required argument: 'address'"),
    (geocode, {"adress": ["Rome"], "spend": [1]}, None, 'body={"address": "{adress}"}', 'did you mean "address"?'),
    (geocode, {"city": ["Rome"]}, None, 'body={"address": "{city}"}', "the body gave the names city"),
    (lambda x, y: (x, y), {**PAIRS, "z": [9]}, None, 'body=["x", "y"]', "'z'"),
    (
        lambda x, yy: (x, yy),
        {**PAIRS, "z": [9]},
        ["x", "z"],
        'body={"x": "{x}", "yy": "{y}"}',
        "missing a required argument",
    ),
    (lambda: 1, PAIRS, None, "body={}", "unexpected keyword argument 'y'"),
    (len, {"obj": ["abc"], "z": [9]}, None, 'body="{obj}"', "positional only"),
    (len, {"text": ["abc"]}, None, 'body="{text}"', "missing a required argument: 'obj'"),
)
def test_the_hint_for_a_body_is_followed(function: Any, data: Any, body: Any, hint: str, message: str) -> None:
    """It names parameters of the function, from the columns of their names or of near ones, and is a body that fits."""
    served, frame = _Served(), pd.DataFrame(data)
    served.function = function
    with pytest.raises(InvalidInputError, match=re.escape(message)) as caught:
        _chunks(frame, url=served, body=body)
    assert caught.value.hint == hint
    assert _chunks(frame, url=served, body=literal_eval(hint.removeprefix("body=")))[0].rejected == {}


@cases(
    (lambda lat, lon: (lat, lon), {"a": [1], "b": [2]}, 'body={"lat": "{a}", "lon": "{b}"}'),
    (len, {"a": [1], "b": [2]}, 'body="{a}"'),
    (divmod, {"x": [7], "y": [2]}, 'ct.serve(lambda x, y: divmod(x, y), name="divmod") has parameters with names'),
)
def test_a_hint_that_the_reader_completes(function: Any, data: Any, hint: str) -> None:
    """Columns are taken in order where no name is near; a function of several arguments without names is wrapped."""
    served = _Served()
    served.function = function
    with pytest.raises(InvalidInputError) as caught:
        _chunks(pd.DataFrame(data), url=served)
    assert caught.value.hint == hint


@cases(
    (geocode, b'{"address":"Rome"}'), (lambda row, address: row or address, b'{"row":4,"address":"Rome"}'), (None, None)
)
def test_the_index_of_a_frame_of_a_batch(function: Any, sent: bytes | None) -> None:
    """It is an argument only of a function that has this parameter; a URL gets it, as any index with a name."""
    served, frame = _Served(), pd.DataFrame({"address": ["Rome"]}, index=pd.Index([4], name="row"))
    served.function = function
    (task,) = _tasks(frame, **({"url": served} if function else {}))
    assert task.http_request.body == (sent or b'{"row":4,"address":"Rome"}')


def test_a_signature_is_checked_once_for_each_set_of_names() -> None:
    """Rows with the same names are not checked again, and where rows differ, the bad ones are named."""
    served = _Served()
    frame = pd.DataFrame({"n": range(3_000)})
    chunks = _chunks(frame, url=served, body=lambda row: {"dayy" if row["n"] == 7 else "day": row["n"]}, errors="skip")
    rejected = {chunk.rows[index]: reason for chunk in chunks for index, reason in chunk.rejected.items()}
    assert list(rejected) == [7]
    assert "missing a required argument: 'day'" in rejected[7]
    assert len(served.checked) == 2


@pytest.mark.parametrize("body", [["day"], {"day": "{day}", "more": 1}, {"{day}": 1, "day": 2}, "{day}", None])
def test_a_signature_that_fits(body: Any) -> None:
    """Columns, templates, and one value for the only parameter fit; so does everything where there is `**_`."""
    assert _chunks(pd.DataFrame({"day": ["x"], "z": [1]}), url=_Served(), body=body)[0].rejected == {}
