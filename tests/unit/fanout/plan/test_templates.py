"""Templates of text and URLs."""

from __future__ import annotations

import datetime as dt
import urllib.parse
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.errors import InvalidInputError, TemplateError
from cloudtasks_nb.fanout.plan.templates import Problems, check_columns, parse
from cloudtasks_nb.fanout.plan.url import parse_url
from tests.cases import cases
from tests.unit.fanout.conftest import tables_of
from tests.unit.fanout.plan.conftest import block_of

TABLES = tables_of(__file__)

FRAME = pd.DataFrame(
    {
        "origin": ["JFK", "a b/ü"],
        "day": [pd.Timestamp("2026-01-01"), pd.Timestamp("2026-02-03 04:05")],
        "n": [7, 12],
        "whole": [517.0, 2.0],
        "price": [1.5, 2.0],
        "ok": [True, False],
        "tags": [["a", 1], []],
        "base": ["https://svc", "http://other:81/x"],
        "host": ["svc:8080", "[::1]:80"],
        "date": [dt.date(2026, 1, 1), dt.date(2026, 2, 3)],
        "dep.time": [1, 2],
        "two words": ["x", "y"],
    }
)


BLOCK = block_of(FRAME)


@cases(*TABLES["rendered"])
def test_render(template: str, expected: list[str]) -> None:
    """Columns in braces give their cells as JSON would write them, or as the format specification says."""
    problems = Problems()
    assert parse(template, "url").render(BLOCK, problems) == expected
    assert problems.reasons == {}


@cases(*TABLES["urls"])
def test_url(template: str, expected: str) -> None:
    """Cells are percent-encoded as their part of the URL wants; one with which it begins stays as it is."""
    assert parse_url(template).render(BLOCK, Problems())[1] == expected


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_percent_encoding_comes_back(texts: list[str]) -> None:
    """What a server decodes from path and query is the cell."""
    frame = pd.DataFrame({"x": pd.Series([text.encode("utf-8", "ignore").decode() for text in texts], dtype=object)})
    urls = parse_url("https://svc/run/{x}?q={x}").render(block_of(frame), Problems())
    for url, text in zip(urls, frame["x"], strict=True):
        parts = urllib.parse.urlsplit(url)
        assert parts.netloc == "svc"
        assert urllib.parse.unquote(parts.path.removeprefix("/run/")) == text
        assert urllib.parse.parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) == {"q": [text]}


@cases(("{day}", "day"), ("{day:%Y}", None), (" {day}", None), ("{day}{n}", None), ("day", None), ("{{day}}", None))
def test_lone(template: str, lone: str | None) -> None:
    """A template that is one column and nothing else keeps the type of its cells."""
    assert parse(template, "body").lone == lone


def test_text_that_cannot_be_sent() -> None:
    """Half a surrogate pair is refused, with how to repair it."""
    with pytest.raises(InvalidInputError, match=r"url: text with half a surrogate pair[\s\S]*repair"):
        parse("{a}\ud800", "url")


MISSING: list[tuple[str, Any]] = [
    ("float", pd.Series([1.5, None])),
    ("text", pd.Series(["a", None])),
    ("time", pd.Series([pd.Timestamp("2026-01-01"), None])),
    ("category", pd.Series(["a", None], dtype="category")),
    ("Int64", pd.Series([1, None], dtype="Int64")),
]


@pytest.mark.parametrize("spec", ["", ":>5"])
@pytest.mark.parametrize(("kind", "series"), MISSING)
def test_missing(kind: str, series: pd.Series[Any], spec: str) -> None:
    """A missing cell is never written as "nan": the row has a problem that names the column."""
    problems = Problems()
    texts = parse(f"{{x{spec}}}", "url").render(block_of(pd.DataFrame({"x": series})), problems)
    assert texts[1] == ""
    assert problems.reasons == {1: 'url: "x" is missing'}
    assert problems.missing == {"x"}


@cases(("{day:%Y}", "str"), ("{day:d}", "str"), ("{raw}", "sorted"), ("{half:>3}", "surrogate"))
def test_bad_format(template: str, word: str) -> None:
    """A cell that has no such format, or none at all, is a problem of its row."""
    frame = pd.DataFrame({"day": ["2026-01-01"], "raw": [{1}], "half": pd.Series(["\ud800"], dtype=object)})
    problems = Problems()
    parse(template, "url").render(block_of(frame), problems)
    assert word in problems.reasons[0]


def test_first_problem_stays() -> None:
    """Of several reasons a row keeps the first."""
    problems = Problems()
    problems.add(3, "first")
    problems.add(3, "second")
    assert problems.reasons == {3: "first"}


@cases(
    (["orgin"], ["origin", "dest"], ['url names the column "orgin"', 'did you mean "origin"', "origin, dest"]),
    (["x"], [], ["the columns are none"]),
    (["x"], [f"c{n}" for n in range(100)], ["c29, … (100 in all)"]),
)
def test_unknown_column(names: list[str], available: list[str], texts: list[str]) -> None:
    """A column that the data does not have is named, with near ones and those that there are."""
    with pytest.raises(TemplateError) as caught:
        check_columns(names, available, "url")
    assert all(text in str(caught.value) for text in texts)
