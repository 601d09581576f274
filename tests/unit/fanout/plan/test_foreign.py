"""Tasks from another home: what is computed of them, and what is refused."""

import datetime as dt
from typing import Any

import pandas as pd
import pytest
from google.cloud.tasks_v2 import types

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.foreign import call_of, foreign_reader
from cloudtasks_nb.fanout.plan.recipe import Recipe, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from tests.cases import cases

FRAME = pd.DataFrame({"day": ["2026-01-01", "2026-01-02"], "n": [1.0, 2.5], "tags": [["2.0,", 3.0], None]})
URL = "https://svc.example.com/run"
ACCOUNT = "boss@p.iam.gserviceaccount.com"


class Handler:
    """A handler, which is known by its name wherever it is served."""

    url, name = "http://127.0.0.1:20001/path/double", "double"


def render(**options: Any) -> tuple[Recipe, Chunk]:
    """Render the frame."""
    recipe = compile_recipe({"url": URL, **options})
    (chunk,) = plan_chunks(FRAME, recipe, now=dt.datetime.now(dt.UTC))
    return recipe, chunk


def changed(wire: bytes, **request: Any) -> bytes:
    """Return a task with other fields of its request."""
    task = types.Task.pb().FromString(wire)
    task.http_request.MergeFrom(types.HttpRequest.pb()(**request))
    return bytes(task.SerializeToString())


@cases(
    {},
    {"url": Handler},
    {"url": "https://svc/{day}?n={n}", "method": "GET"},
    {"url": ct.url(lambda row: f"{URL}/{row['day']}")},
    {"body": ["n", "day"]},
    {"body": {"price": "{n}", "fix": 2.0, "text": "{n}.0,"}},
    {"body": "{n}"},
    {"body": "n={n}.0"},
    {"body": lambda row: {"n": row["n"]}},
    {"headers": {"X-Day": "{day}", "a": "b"}, "service_account": ACCOUNT, "audience": "https://aud"},
    {"service_account": ACCOUNT, "delay": "1h", "dispatch_deadline": "5min", "retry": {"max_attempts": 3}},
    {"at": "{day}T00:00:00+00:00", "key": ["day"]},
)
def test_the_digest_is_computed_from_the_task(options: dict[str, Any]) -> None:
    """For each form of a request it is that of the row, and without `key=` the key too; the task stays as it is."""
    recipe, chunk = render(**options)
    read = foreign_reader(recipe.describe())
    for wire, key, digest in zip(chunk.tasks, chunk.keys, chunk.digests, strict=True):
        task, found = read(wire)
        assert found == digest
        assert (found == key) == (recipe.key is None)
        assert types.Task.pb().FromString(task) == types.Task.pb().FromString(wire)


@cases(
    (b"\xff", "it is no task"),
    (b"", "url"),
    (bytes(types.Task.pb()(name="x").SerializeToString()), "it has name"),
    (bytes(types.Task.pb()(app_engine_http_request={"relative_uri": "/"}).SerializeToString()), "it has app_engine"),
    ({"oauth_token": {"service_account_email": ACCOUNT}}, "it has oauth_token, which this package does not write"),
    ({"oidc_token": {"audience": "https://aud"}}, "is not an e-mail address"),
    ({"url": "https://svc/ x"}, "its URL is not encoded"),
    ({"url": "ftp://svc/x"}, "url"),
    ({"url": r"https://evil\@good/x"}, "can be read in two ways"),
    ({"headers": {"Batch-Tag": "x"}}, "Batch-Tag"),
    ({"headers": {"X": "a\r\nb"}}, "several lines"),
    ({"http_method": 99}, "it has no HTTP method"),
)
def test_what_this_package_does_not_write_is_refused(change: Any, reason: str) -> None:
    """Neither an access token nor a request that a fan-out would not make."""
    recipe, chunk = render()
    wire = change if isinstance(change, bytes) else changed(chunk.tasks[0], **change)
    with pytest.raises(ValueError, match=reason):
        foreign_reader(recipe.describe())(wire)


@pytest.mark.parametrize("inside", [False, True])
def test_a_field_of_a_later_release_is_refused(*, inside: bool) -> None:
    """The service may know it, though the library here does not; also in a part of the task."""
    recipe, chunk = render()
    unknown = b"\xfa\x3f\x01x"  # field 1023
    wire = chunk.tasks[0] + (b"\x1a" + bytes([len(unknown)]) + unknown if inside else unknown)
    with pytest.raises(ValueError, match="it has fields that are not known"):
        foreign_reader(recipe.describe())(wire)


@cases(
    ({}, "https://svc.example.com with no token"),
    ({"url": "https://me:pw@svc:8080/x?y#z"}, "https://•••@svc:8080 with no token"),
    (
        {"service_account": ACCOUNT, "audience": "https://a"},
        f"https://svc.example.com with an OIDC token of {ACCOUNT} for https://a",
    ),
    ({"url": "https://token=x@good@evil.com/y"}, "https://•••@evil.com with no token"),
    ({"service_account": ACCOUNT, "audience": "a\n1 row: call https://good"}, rf"of {ACCOUNT} for 'a\n1 row: call"),
)
def test_who_is_called(options: dict[str, Any], expected: str) -> None:
    """Host, account and audience are those of the bytes."""
    _, chunk = render(**options)
    assert expected in str(call_of(chunk.tasks[0]))
