"""Spliced messages against those that protobuf writes."""

from __future__ import annotations

import datetime as dt
from itertools import repeat
from typing import Any

from google.cloud.tasks_v2 import types
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.plan.wire import Envelope, header, requests, stamp, tasks

TASK = types.Task.pb()
MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(9999, 1, 1))  # noqa: DTZ001 - hypothesis adds the zone
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _micros(moment: dt.datetime) -> int:
    return (moment.replace(tzinfo=dt.UTC) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


@given(
    url=TEXT,
    method=st.integers(1, 7),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    body=st.one_of(st.binary(), st.integers(100, 20_000).map(bytes)),
    email=st.one_of(st.none(), TEXT),
    due=st.one_of(st.none(), MOMENTS),
    deadline=st.one_of(st.none(), st.timedeltas(dt.timedelta(seconds=15), dt.timedelta(minutes=30))),
    attempts=st.one_of(st.none(), st.integers(-1, 100)),
)
def test_splice_equals_protobuf(
    *,
    url: str,
    method: int,
    headers: dict[str, str],
    body: bytes,
    email: str | None,
    due: dt.datetime | None,
    deadline: dt.timedelta | None,
    attempts: int | None,
) -> None:
    """A spliced task reads as the one that protobuf builds of the same fields."""
    whole, settings, token = TASK(), TASK(), types.HttpRequest.pb()()
    request = whole.http_request
    request.url, request.http_method, request.body = url, method, body
    for name, value in headers.items():
        request.headers[name] = value
    if email is not None:
        token.oidc_token.service_account_email = email
        request.oidc_token.service_account_email = email
    if due is not None:
        whole.schedule_time.FromDatetime(due)
    for task in (whole, settings):
        if deadline is not None:
            task.dispatch_deadline.FromTimedelta(deadline)
        if attempts is not None:
            task.retry_config.max_attempts = attempts
    verb = types.HttpRequest.pb()(http_method=method).SerializeToString()
    envelope = Envelope(method=verb, token=token.SerializeToString(), settings=settings.SerializeToString())
    head = verb + b"".join(header(*item) for item in headers.items())
    stamps = b"" if due is None else [stamp(_micros(due))]
    (spliced,) = tasks(requests([url], repeat(head), [body]), envelope, stamps)
    assert TASK.FromString(spliced) == whole


@given(MOMENTS)
def test_stamp(moment: dt.datetime) -> None:
    """A schedule reads as the time it was made of, before 1970 too."""
    assert TASK.FromString(stamp(_micros(moment))).schedule_time.ToDatetime() == moment


def test_one_item_a_row() -> None:
    """Every row has its own head, body and stamp, in order."""
    made = requests(["http://a", "http://b"], [header("X", "1"), header("X", "2")], [b"", b"body"])
    envelope = Envelope(method=b"", token=b"", settings=b"")
    read: list[Any] = [TASK.FromString(task) for task in tasks(made, envelope, [stamp(1_000_000), stamp(2_000_000)])]
    assert [task.http_request.url for task in read] == ["http://a", "http://b"]
    assert [task.http_request.headers["X"] for task in read] == ["1", "2"]
    assert [task.http_request.body for task in read] == [b"", b"body"]
    assert [task.schedule_time.seconds for task in read] == [1, 2]
