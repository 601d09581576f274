"""The arguments of a fan-out."""

from typing import Any

import numpy as np
import orjson
import pytest

from cloudtasks_nb.errors import InvalidInputError, TemplateError
from cloudtasks_nb.fanout.plan.recipe import ROW, Recipe, compile_recipe
from cloudtasks_nb.fanout.plan.url import UrlFunction
from tests.cases import cases
from tests.unit.fanout.conftest import tables_of

URL = "https://svc/run"


REFUSED = [(*row, kind) for kind, rows in tables_of(__file__).items() for row in rows]


class _Handler:
    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name


def _made(**arguments: Any) -> Recipe:
    return compile_recipe({"url": URL, **arguments})


@cases(
    ({}, None),
    ({"key": ["a"]}, None),
    ({"body": ["b", "a"]}, ("b", "a")),
    ({"url": URL + "/{o}", "body": {"x": "{b}"}}, ("o", "b")),
    ({"url": URL + "/{o}", "body": ["o"], "key": "k"}, ("o", "k")),
    ({"body": ["a"], "key": ROW}, ("a",)),
    ({"body": ["a"], "headers": {"X-Shop": "{s}"}, "at": "{t}"}, ("s", "a", "t")),
    ({"body": ["a"], "delay": "{d}"}, ("a", "d")),
    ({"body": {"x": 1}}, ()),
    ({"body": {"x": "{a}", "y": ["{b}", {"{c}": 1}]}}, ("a", "b", "c")),
    ({"method": "GET"}, ()),
    ({"url": UrlFunction(lambda row: row["u"]), "body": ["a"]}, None),
    ({"body": lambda row: row}, None),
    ({"body": [2013], "key": [2014]}, ("2013", "2014")),
)
def test_columns(arguments: dict[str, Any], used: Any) -> None:
    """A recipe knows the columns that its templates and its key name; None is all of them."""
    assert _made(**arguments).columns_used == used


@cases(
    ({}, {"Content-Type": "application/json"}),
    ({"headers": {"content-type": "text/csv"}}, {"content-type": "text/csv"}),
    ({"headers": {"X-B": "1", "X-A": 2}}, {"Content-Type": "application/json", "X-A": "2", "X-B": "1"}),
    ({"method": "GET"}, {}),
    ({"body": "a={a}"}, {}),
    ({"body": "{a}"}, {"Content-Type": "application/json"}),
)
def test_headers(arguments: dict[str, Any], headers: dict[str, str]) -> None:
    """JSON bodies say that they are JSON, unless the caller says what they are."""
    assert {name: text.source for name, text in _made(**arguments).headers} == headers


@cases(
    *REFUSED,
    ({"headers": {"X-Shop": None}}, 'the header "X-Shop" has no value', "InvalidInputError"),
    ({"headers": {"X-Shop": "x" * 90_000}}, "80 KB", "InvalidInputError"),
    ({"url": "https://svc/" + "x" * 2_072}, "2,084 characters", "InvalidInputError"),
    ({"url": "https://svc/" + "ü" * 400}, "2,412 characters", "InvalidInputError"),
    ({"url": "https://svc/\ud800"}, "surrogate", "InvalidInputError"),
    ({"url": None}, "not a URL", "InvalidInputError"),
    ({"body": {"a": {1}}}, "body: set", "NotSerializableError"),
)
def test_refused(arguments: dict[str, Any], word: str, kind: str) -> None:
    """An argument that is wrong is named, and what it should be."""
    with pytest.raises(InvalidInputError, match=word) as caught:
        _made(**arguments)
    assert type(caught.value).__name__ == kind


def test_accepted() -> None:
    """The edges of what the service takes are taken."""
    recipe = _made(
        dispatch_deadline="15s",
        retry={"max_attempts": -1, "min_backoff": "1s", "max_backoff": "1s", "max_doublings": 0},
        method="put",
        service_account="sa@p.iam.gserviceaccount.com",
    )
    assert recipe.method == "PUT"
    assert recipe.dispatch_deadline is not None
    assert recipe.dispatch_deadline.total_seconds() == 15


def test_retry_settings_are_numbers() -> None:
    """In whatever form they are given, so that the outbox, which stores them as JSON, has what they mean."""
    given = {"max_attempts": np.int64(3), "max_doublings": 2.0, "max_retry_duration": "0s", "max_backoff": "1min"}
    retry = _made(retry=given).retry
    assert orjson.dumps(retry) == (b'{"max_attempts":3,"max_doublings":2,"max_retry_duration":0.0,"max_backoff":60.0}')


@cases(
    ({"url": URL + "/{x}"}, "url"),
    ({"body": ["x"]}, "body"),
    ({"body": {"a": ["{x}"]}}, "body"),
    ({"key": ["x"]}, "key"),
    ({"headers": {"X-Shop": "{x}"}}, 'the header "X-Shop"'),
    ({"at": "{x}"}, "at"),
    ({"delay": "{x}s"}, "delay"),
)
def test_unknown_column(arguments: dict[str, Any], what: str) -> None:
    """Data without a column that is named is refused, with the argument that names it."""
    recipe = _made(**arguments)
    recipe.check(["x", "y"])
    with pytest.raises(TemplateError, match=f'{what} names the column "x"'):
        recipe.check(["y"])


SIGNED = {"service_account": "sa@p.iam.gserviceaccount.com"}


# Arguments, others, and whether both make the same template.
@cases(
    ({}, {"delay": "10min"}, True),
    ({}, {"retry": {"max_attempts": 3}, "dispatch_deadline": 60}, True),
    ({"url": _Handler("http://127.0.0.1:1/a", "report")}, {"url": _Handler("http://127.0.0.1:2/b", "report")}, True),
    ({"headers": {"A": "1", "B": "2"}}, {"headers": {"B": "2", "A": "1"}}, True),
    ({"body": ["a"]}, {"body": ("a",)}, True),
    ({"key": "a"}, {"key": ["a"]}, True),
    ({}, {"url": URL + "/x"}, False),
    ({}, {"method": "PUT"}, False),
    ({}, {"headers": {"X-Shop": "1"}}, False),
    ({}, {"key": ["a"]}, False),
    ({"key": ["a"]}, {"key": ROW}, False),
    ({"key": ["a"]}, {"key": ["a", "b"]}, False),
    ({"body": ["a"]}, {"body": ["b"]}, False),
    ({"body": {"a": "{a}"}}, {"body": {"a": "{b}"}}, False),
    ({}, SIGNED, False),
    (SIGNED, {**SIGNED, "audience": "https://svc"}, False),
    ({"url": _Handler("http://127.0.0.1:1/a", "report")}, {"url": _Handler("http://127.0.0.1:1/a", "other")}, False),
)
def test_identity(one: dict[str, Any], other: dict[str, Any], *, same: bool) -> None:
    """What changes the requests, or what identifies a row, makes another template; schedules and addresses do not."""
    assert (_made(**one).identity == _made(**other).identity) is same


# The audience that the toolkit adds does not count.
@cases(
    ({"url": _Handler("http://127.0.0.1:1/a", "report"), "body": ["a"]}, "f780e438a6df16ee32c12cd625e048c4"),
    ({"url": "https://svc/run/{origin}", "body": ["a"], **SIGNED}, "26a2146afb50bc3bd4471959855d3dbc"),
)
def test_golden_identity(arguments: dict[str, Any], identity: str) -> None:
    """It is what earlier versions made of it, so that their batches are found again."""
    assert _made(**arguments).identity.hex() == identity


@cases(
    ({}, {"url": URL, "method": "POST", "body": None, "key": None}),
    ({"body": ["a"], "key": ROW}, {"body": ["a"], "key": "ROW"}),
    ({"body": {"a": "{x}"}, "key": ["x"]}, {"body": {"a": "{x}"}, "key": ["x"]}),
    ({"url": _Handler("http://127.0.0.1:1/a", "report")}, {"url": "handler:report"}),
)
def test_describe(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    """A recipe describes itself in JSON, without its headers, which may hold secrets."""
    described = _made(headers={"Authorization": "Bearer s3cret"}, **arguments).describe()
    assert expected.items() <= described.items()
    assert b"s3cret" not in orjson.dumps(described)


def test_row_shows_what_it_is() -> None:
    """The sentinel says how it is written and what it means."""
    assert repr(ROW).startswith("ct.ROW")
