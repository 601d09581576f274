"""A page of tasks as a frame, against the slow way: one dict a task, and no field looked at twice for speed."""

import base64
import datetime as dt
import string
from typing import Any

import pandas as pd
import pytest
from google.cloud.tasks_v2 import types
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._frames import TASKS, column, frame
from cloudtasks_nb._names import TAG_HEADER, code_name
from cloudtasks_nb.display.secrets import mask_headers, mask_url, mask_value
from cloudtasks_nb.service.convert import HTTP_METHODS, TaskPage, decode_body, task_columns

NOW = 1_767_225_600_000_000
EPOCH = "1970-01-01T00:00:00Z"
DTYPES: dict[str, Any] = {"text": pd.StringDtype(), "time": "datetime64[us, UTC]", "span": "timedelta64[us]"}
DTYPES |= {"count": "Int64", "any": object}

ids = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=500)
names = st.builds("projects/p-1/locations/l/queues/{}/tasks/{}".format, st.sampled_from(["q", "q", "Q-2"]), ids)
seconds = st.sampled_from([0, 1, 1_767_225_599, 1_767_225_600, 253_402_300_799])
stamps: st.SearchStrategy[Any] = st.none() | st.builds(dict, seconds=seconds, nanos=st.integers(0, 999_999_999))
lengths = st.sampled_from([0, 15, 600, 1800])
spans: st.SearchStrategy[Any] = st.none() | st.builds(
    dict, seconds=lengths, nanos=st.sampled_from([0, 1, 999, 5_000_000])
)
headers = st.dictionaries(st.sampled_from(["A", "Authorization", "X-Api-Key", "Content-Type"]), st.text(max_size=4))
texts = st.sampled_from([b"", b'{"a": [1, null]}', b"null", b"[1]", b'{"user": {"password": "p"}}'])
bodies = st.binary(max_size=8) | texts | st.sampled_from([99, 1_000_000]).map(bytes)
accounts = {"oidc_token": {"service_account_email": "a@p"}}, {"oauth_token": {"service_account_email": "b@p"}}
urls = st.sampled_from(["https://a/1", "https://a/2", "https://ä/?q=%20", "https://u?sig=s"])
request = {"http_method": st.integers(0, 7), "headers": headers, "body": bodies}
signed = st.sampled_from([{}, *accounts])
http = st.builds(lambda who, **fields: {"http_request": {**fields, **who}}, signed, url=urls, **request)
app_engine = st.builds(
    lambda **fields: {"app_engine_http_request": fields}, relative_uri=st.sampled_from(["", "/", "/job"]), **request
)
attempts = st.builds(
    lambda began, answered, code, message: {
        **({"dispatch_time": began} if began else {}),
        **({"response_time": answered} if answered else {}),
        **({"response_status": {"code": code, "message": message}} if code is not None else {}),
    },
    stamps,
    stamps,
    st.none() | st.integers(0, 16),
    st.sampled_from(["", "INTERNAL(13): HTTP 500"]),
)


@st.composite
def tasks(draw: st.DrawFn) -> Any:
    """Draw a raw v2 Task: what may be absent is, what may be zero is."""
    drawn = {"schedule_time": stamps, "create_time": stamps, "dispatch_deadline": spans, "last_attempt": attempts}
    drawn |= {"dispatch_count": st.sampled_from([0, 0, 1, 100]), "response_count": st.integers(0, 3), "name": names}
    fields = {name: draw(values) for name, values in drawn.items()} | draw(http | app_engine | st.just({}))
    return types.Task.pb()(**{name: value for name, value in fields.items() if value is not None})


def slow_row(task: Any, *, body: bool, secrets: bool) -> dict[str, Any]:
    """Take one task apart by way of `Task.to_dict`."""
    facts = types.Task.to_dict(types.Task.wrap(task), use_integers_for_enums=True)
    at_app_engine = task.WhichOneof("message_type") == "app_engine_http_request"
    request = facts.get("app_engine_http_request" if at_app_engine else "http_request") or {}
    shown = request.get("headers") or {}
    tokens = [(request.get(kind) or {}).get("service_account_email") for kind in ("oidc_token", "oauth_token")]
    deadline = facts.get("dispatch_deadline")
    url = f"appengine:{request.get('relative_uri', '')}" if at_app_engine else request.get("url", "")
    content = decode_body(base64.b64decode(request.get("body", ""))) if body else None
    return {
        "task": task.name.split("/")[-1],
        "queue": task.name.split("/")[-3],
        "schedule_time": moment(facts.get("schedule_time")),
        "create_time": moment(facts.get("create_time")),
        "attempts": facts["dispatch_count"],
        "responses": facts["response_count"],
        **slow_attempt(facts),
        "method": HTTP_METHODS[request.get("http_method", 0)],
        "url": url if secrets else mask_url(url),
        "headers": shown if secrets else mask_headers(shown),
        "body": content if secrets else mask_value(content),
        "service_account": next(filter(None, tokens), None),
        "dispatch_deadline": None if deadline is None else pd.Timedelta(seconds=float(deadline[:-1])).round("us"),
        "name": task.name,
    }


def slow_attempt(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the state, and what is known of the last attempt."""
    unknown = {"last_status": None, "last_message": None, "last_attempt_time": None}
    if not facts["dispatch_count"]:
        later = moment(facts.get("schedule_time")) > pd.Timestamp(NOW, unit="us", tz="UTC")
        return {"state": "scheduled" if later else "ready", **unknown}
    last = facts.get("last_attempt") or {}
    status = last.get("response_status") or {}
    began = moment(last.get("dispatch_time"))
    if last.get("dispatch_time") and not last.get("response_time") and not status.get("code"):
        return {"state": "running", **unknown, "last_attempt_time": began}
    said = {"last_status": code_name(status.get("code", 0)), "last_message": status.get("message") or None}
    return {"state": "retrying", **said, "last_attempt_time": began}


def moment(text: str | None) -> pd.Timestamp:
    """Read a time of the JSON form, to the microsecond."""
    whole, _, rest = (text or EPOCH).removesuffix("Z").partition(".")
    micros = int(rest[:6].ljust(6, "0")) if rest else 0
    return pd.Timestamp(dt.datetime.fromisoformat(whole).replace(microsecond=micros, tzinfo=dt.UTC)).as_unit("us")


def slow_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Put rows into a frame, column by column with the declared dtype."""
    made = {
        name: [pd.NA if row[name] is None and kind == "any" else row[name] for row in rows]
        for name, kind in TASKS.items()
    }
    columns = {name: pd.Series(values, dtype=DTYPES[TASKS[name]]) for name, values in made.items()}
    return pd.DataFrame(columns).set_index("task")


@given(st.lists(tasks(), max_size=5), st.booleans(), st.booleans())
def test_the_frame_is_that_of_the_slow_way(page: list[Any], body: bool, secrets: bool) -> None:  # noqa: FBT001 - drawn
    """Columns, dtypes and values are the same, whatever is absent, zero, odd or the same in several tasks."""
    before = [task.SerializeToString(deterministic=True) for task in page]
    made = frame(TASKS, task_columns(page, now=NOW, body=body, secrets=secrets), index="task")
    pd.testing.assert_frame_equal(made, slow_frame([slow_row(task, body=body, secrets=secrets) for task in page]))
    assert [task.SerializeToString(deterministic=True) for task in page] == before


def test_tags_stand_where_they_belong() -> None:
    """Of tasks that differ only in their tags each has its own, and one without a tag has none."""
    tags = ["a" * 32, None, "b" * 32, None]
    shown = [{} if tag is None else {TAG_HEADER: tag} for tag in tags]
    page = [
        types.Task.pb()(
            name="projects/p/locations/l/queues/q/tasks/a", http_request={"url": "http://x", "headers": one}
        )
        for one in shown
    ]
    assert task_columns(page, now=NOW)["headers"] == shown
    assert task_columns(page[::-1], now=NOW)["headers"] == shown[::-1]


def test_a_request_in_pieces_is_one() -> None:
    """A server may write the body behind the rest: https://protobuf.dev/programming-guides/encoding/#last-one-wins."""
    pieces: list[dict[str, Any]] = [
        {"name": "q/tasks/1", "http_request": {"url": "u"}},
        {"http_request": {"body": b"[1]"}},
    ]
    task = b"".join(types.Task.pb()(**piece).SerializeToString() for piece in pieces)
    page = TaskPage.FromString(bytes([0x0A, len(task)]) + task)
    found = task_columns(page.tasks, now=NOW, body=True)
    assert (found["url"], found["body"]) == (["u"], [[1]])


def test_rows_share_nothing() -> None:
    """Headers that are changed in one row stay what they are in the others."""
    page = [types.Task.pb()(name=f"q/tasks/{n}", http_request={"url": "u", "headers": {"A": "b"}}) for n in range(3)]
    made = frame(TASKS, task_columns(page, now=NOW), index="task")
    made.headers.iloc[0]["A"] = "c"
    assert made.headers.tolist() == [{"A": "c"}, {"A": "b"}, {"A": "b"}]


@pytest.mark.parametrize("kind", ["text", "count", "float", "ok", "time", "span"])
def test_one_value_throughout(kind: str) -> None:
    """A column whose values are all alike is what it is when its last value differs, but for that one."""
    numbers = {"count": (1, 2), "float": (0.5, 1.5), "ok": (True, False)}
    one, other = {**numbers, "text": ("a", "b"), "time": (NOW, NOW + 1), "span": (1.5, 0.000001)}[kind]
    for value in (one, None):
        alike, mixed = (pd.Series(column([value, value, last], kind)) for last in (value, other))
        pd.testing.assert_series_equal(alike[:2], mixed[:2])
        assert len(alike) == 3


def test_missing_values_of_pandas() -> None:
    """A value that is missing already is missing, alone and among others."""
    assert pd.Series(column([pd.NA, pd.NA], "text")).isna().all()
    assert pd.Series(column(["a", pd.NA], "text")).isna().tolist() == [False, True]
    assert pd.Series(column([pd.NA, 1], "count")).isna().tolist() == [True, False]
