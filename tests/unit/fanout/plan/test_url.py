"""Where the rows of a fan-out go."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.columns import Block, Table
from cloudtasks_nb.fanout.plan.templates import Problems, compile_url, function_name


class _Handler:
    name = "report"
    url = "http://127.0.0.1:21034/abc"


def _block(**columns: Any) -> Block:
    (block,) = Table(pd.DataFrame(columns)).blocks(0)
    return block


def _by_row(row: dict[str, Any]) -> str:
    return f"https://svc/{row['a']}"


def test_template() -> None:
    """A template gives each row its URL, which is also what identifies it."""
    url = compile_url("https://svc/{a}")
    assert (url.columns, url.identity) == (("a",), "https://svc/{a}")
    assert url.render(_block(a=["x", "y"]), Problems()) == (["https://svc/x", "https://svc/y"],) * 2


def test_handler() -> None:
    """A handler is addressed by its URL and identified by its name."""
    url = compile_url(_Handler())
    assert (url.columns, url.identity) == ((), "handler:report")
    assert url.render(_block(a=[1, 2]), Problems()) == ([_Handler.url] * 2, ["handler:report"] * 2)


def test_function() -> None:
    """A function gets the row as a dictionary, and is identified by its name."""
    url = compile_url(_by_row)
    assert url.columns is None
    assert url.identity.endswith("test_url._by_row")
    assert url.render(_block(a=["x"]), Problems())[0] == ["https://svc/x"]


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda row: row["nope"], "KeyError: 'nope'"),
        (lambda _row: None, "returned NoneType"),
        (lambda _row: "ftp://svc", "is not an http"),
        (lambda _row: "https://svc/\ud800", "surrogate"),
    ],
)
def test_function_that_fails(function: Any, word: str) -> None:
    """What a function raises, or returns that is no URL, is the row's problem."""
    problems = Problems()
    assert compile_url(function).render(_block(a=[1]), problems)[0] == [""]
    assert word in problems.reasons[0]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("svc/run", "not an http"),
        ("ftp://svc", "not an http"),
        ("https://", "not an http"),
        ("https:///path", "not an http"),
        ("", "not an http"),
        ("https://svc/a b", "not an http"),
        ("https://svc/a\nb", "not an http"),
        ("https://svc/" + "x" * 2_072, "2,084 characters"),
        ("https://svc/" + "ü" * 400, "2,412 characters"),
        (7, "not a URL"),
        (None, "not a URL"),
    ],
)
def test_refused(url: Any, word: str) -> None:
    """A literal that is no http(s) URL is refused at once."""
    with pytest.raises(InvalidInputError, match=word):
        compile_url(url)


def test_longest() -> None:
    """A URL may have 2,083 characters, and its path other alphabets."""
    compile_url("https://svc/" + "x" * 2_071)
    compile_url("https://svc/münchen")


@pytest.mark.parametrize("cell", ["svc/run", "javascript:alert(1)", "HTTPS://svc", "https://svc/" + "x" * 3_000])
def test_bad_cell(cell: str) -> None:
    """A cell that makes the URL a wrong one is the row's problem, and the others go on."""
    problems = Problems()
    urls, _ = compile_url("{u}").render(_block(u=["https://svc/a?b=c d".replace(" ", "%20"), cell]), problems)
    assert urls[0] == "https://svc/a?b=c%20d"
    assert list(problems.reasons) == [1]


def test_function_name() -> None:
    """Functions and callable objects have a name that does not change with the process."""

    class Callable:
        def __call__(self) -> None: ...

    assert function_name(_by_row).endswith("._by_row")
    assert "0x" not in function_name(Callable())
