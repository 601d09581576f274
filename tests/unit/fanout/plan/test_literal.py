"""One task of literal options."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.literal import literal_task
from cloudtasks_nb.fanout.plan.options import TaskOptions

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
URL = "https://svc/run/{day}"


def made(**options: Any) -> Any:
    """Return the task of these options."""
    return literal_task(TaskOptions(**{"url": URL, **options}), now=NOW)


def test_braces_are_braces() -> None:
    """Nothing in a URL, a header or a body is taken for a column."""
    request = made(body="a={b}", headers={"X-Shape": "{}"}).http_request
    assert (request.url, request.body, dict(request.headers)) == (URL, b"a={b}", {"X-Shape": "{}"})


@pytest.mark.parametrize(
    ("body", "sent", "json"),
    [
        (None, b"", False),
        ("", b"", False),
        (b"\xff{}", b"\xff{}", False),
        ({"a": "{x}"}, b'{"a":"{x}"}', True),
        ([], b"[]", True),
        (False, b"false", True),
    ],
)
def test_body(body: Any, sent: bytes, json: bool) -> None:  # noqa: FBT001 - a table's column
    """Text and bytes are sent as they are, everything else as JSON with its content type."""
    request = made(body=body).http_request
    assert request.body == sent
    assert ("Content-Type" in request.headers) == json


def test_schedule() -> None:
    """A delay counts from `now`; a time without a zone is one of `tz`."""
    assert made(delay="1s").schedule_time.ToDatetime(dt.UTC) == NOW + dt.timedelta(seconds=1)
    assert made(at="2026-01-02 09:00", tz="Asia/Tokyo").schedule_time.ToDatetime(dt.UTC) == NOW + dt.timedelta(days=1)
    assert not made().HasField("schedule_time")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": lambda _: "https://svc"}, "is not a URL"),
        ({"url": "https://svc/\ud800"}, "surrogate"),
        ({"method": "GET", "body": ""}, "GET request has no body"),
        ({"body": "\ud800"}, "body: text with half a surrogate"),
        ({"headers": {"X": "\ud800"}}, 'header "X": text with half a surrogate'),
        ({"body": "x" * 1_047_860}, r"1,047,\d+ bytes are too many"),
        ({"tz": "Mars"}, "tz='Mars'"),
        ({"at": "{day}"}, "is not a time"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_refused(options: dict[str, Any], message: str) -> None:
    """An option that is wrong is named before anything is sent."""
    with pytest.raises(InvalidInputError, match=message):
        made(**options)
