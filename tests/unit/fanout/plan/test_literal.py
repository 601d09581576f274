"""One task of literal options."""

import datetime as dt
from types import SimpleNamespace
from typing import Any

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.render import literal_task
from cloudtasks_nb.fanout.plan.url import url
from tests.cases import cases
from tests.raising import raises

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
URL = "https://svc/run/{day}"


def made(**options: Any) -> Any:
    """Return the task of these options."""
    return literal_task({"url": URL, **options}, now=NOW)


def test_braces_are_braces() -> None:
    """Nothing in a URL, a header or a body is taken for a column."""
    request = made(body="a={b}", headers={"X-Shape": "{}"}).http_request
    assert (request.url, request.body, dict(request.headers)) == (URL, b"a={b}", {"X-Shape": "{}"})


def test_the_function_of_a_handler_is_not_compared_with_the_body() -> None:
    """A single task is sent as it is written, whatever the function takes."""
    handler = SimpleNamespace(url="http://127.0.0.1:21034/report", name="report", mismatch=lambda _: "takes no body")
    assert made(url=handler, body={"n": 1}).http_request.url == handler.url


@cases(
    (None, b"", False),
    ("", b"", False),
    (b"\xff{}", b"\xff{}", False),
    ({"a": "{x}"}, b'{"a":"{x}"}', True),
    ([], b"[]", True),
    (False, b"false", True),
)
def test_body(body: Any, sent: bytes, json: bool) -> None:  # noqa: FBT001 - a table's column
    """Text and bytes are sent as they are, everything else as JSON with its content type."""
    request = made(body=body).http_request
    assert request.body == sent
    assert ("Content-Type" in request.headers) == json


def test_audience() -> None:
    """A token without an audience of its own is for the origin of the URL."""
    signed = made(service_account="sa@p.iam.gserviceaccount.com").http_request.oidc_token
    assert (signed.service_account_email, signed.audience) == ("sa@p.iam.gserviceaccount.com", "https://svc")


def test_schedule() -> None:
    """A delay counts from `now`; a time without a zone is one of `tz`."""
    assert made(delay="1s").schedule_time.ToDatetime(dt.UTC) == NOW + dt.timedelta(seconds=1)
    assert made(at="2026-01-02 09:00", tz="Asia/Tokyo").schedule_time.ToDatetime(dt.UTC) == NOW + dt.timedelta(days=1)
    assert not made().HasField("schedule_time")


CIRCLE: dict[str, Any] = {}
CIRCLE["self"] = CIRCLE


@cases(
    ({"url": lambda _: "https://svc"}, "is a function that is not served", "ct.serve"),
    ({"url": url(lambda _: "https://svc")}, "is not a URL", "ct.serve"),
    ({"url": "svc/run"}, "'svc/run' is not an http", "http"),
    ({"method": "GET", "body": ""}, "GET request has no body", "leave body= out"),
    ({"body": "\ud800"}, "body: text with half a surrogate", "repair"),
    ({"headers": {"X": "\ud800"}}, 'header "X": text with half a surrogate', "repair"),
    ({"headers": ["x"]}, r"headers=\['x'\] is not a dictionary", 'headers={"X'),
    ({"retry": 3}, "retry=3 is not a dictionary", '{"max_attempts": 3}'),
    ({"service_account": 5}, "service_account=5 is not a string", "name@project"),
    ({"body": "x" * 2**20}, r"1,048,\d+ bytes are too many", "where the data"),
    ({"body": b"x" * 2**20}, r"1,048,\d+ bytes are too many", "where the data"),
    ({"body": "x" * 1_047_860}, r"1,047,\d+ bytes are too many", "shorten"),
    ({"body": {"day": object()}}, "cannot be written as JSON", "convert"),
    ({"body": CIRCLE}, "nested too deeply", "holds itself"),
    ({"at": "{day}"}, "is not a time", "ISO"),
    ({"delay": "31 days"}, "more than 30 days ahead", "30 days"),
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_refused(options: dict[str, Any], message: str, hint: str) -> None:
    """The error names the option that is wrong, and its hint the way out."""
    with raises(InvalidInputError, message, hint=hint):
        made(**options)
