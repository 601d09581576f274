"""Where the rows of a fan-out go."""

from typing import Any, cast

import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.recipe import TaskOptions, compile_recipe
from cloudtasks_nb.fanout.plan.templates import Problems, function_name
from cloudtasks_nb.fanout.plan.url import compile_url, literal_url, url
from tests.cases import cases
from tests.unit.fanout.conftest import tables_of
from tests.unit.fanout.plan.conftest import block_of

TABLES = tables_of(__file__)


class _Handler:
    name = "report"
    url = "http://127.0.0.1:21034/abc"


def _by_row(row: dict[str, Any]) -> str:
    return f"https://svc/{row['a']}"


@cases(
    ("https://svc/{a}", ("a",), "https://svc/{a}", "https://svc/x", "https://svc/x"),
    (_Handler(), (), "handler:report", _Handler.url, "handler:report"),
    (url(_by_row), None, f"function:{__name__}._by_row", "https://svc/x", "https://svc/x"),
)
def test_forms(given: Any, columns: tuple[str, ...] | None, identity: str, sent: str, known: str) -> None:
    """A template, a handler or a function of the row gives the URL that is sent, and what identifies it."""
    made = compile_url(given)
    assert (made.columns, made.identity) == (columns, identity)
    assert made.render(block_of(a=["x", "x"]), Problems()) == ([sent] * 2, [known] * 2)


def test_a_function_that_was_not_served_is_not_run() -> None:
    """A bare function could be a handler: it is refused, with the two things that may have been meant."""
    with pytest.raises(InvalidInputError, match=r"_by_row is a function that is not served[\s\S]*ct.serve"):
        compile_recipe(TaskOptions(url=_by_row))
    with pytest.raises(InvalidInputError, match=r"ct.url"):
        literal_url(_by_row)


def test_only_a_function_can_make_urls() -> None:
    """A text is no function, and is given as it is."""
    with pytest.raises(InvalidInputError, match=r"'https://svc' is not a function"):
        url(cast("Any", "https://svc"))


@cases(
    (lambda row: row["nope"], "KeyError: 'nope'"),
    (lambda _row: None, "returned NoneType"),
    (lambda _row: "ftp://svc", "is not an http"),
    (lambda _row: "https://svc/\ud800", "surrogate"),
)
def test_function_that_fails(function: Any, word: str) -> None:
    """What a function raises, or returns that is no URL, is the row's problem."""
    problems = Problems()
    assert compile_url(url(function)).render(block_of(a=[1]), problems)[0] == [""]
    assert word in problems.reasons[0]


@cases(*TABLES["encoded"])
def test_encoded(cell: str, sent: str) -> None:
    """Blanks and other alphabets are percent-encoded, and what is encoded already stays as it is."""
    problems = Problems()
    assert compile_url("{u}").render(block_of(u=[cell]), problems) == ([sent], [sent])
    assert problems.reasons == {}
    assert literal_url(cell) == sent


def test_a_host_in_a_column() -> None:
    """A column that is the host becomes ASCII as hosts do, and cannot bring a path along."""
    urls, _ = compile_url("https://{host}/run").render(block_of(host=["münchen.example", "a/b", "x:80"]), Problems())
    assert urls == ["https://xn--mnchen-3ya.example/run", "https://a%2Fb/run", "https://x:80/run"]


def test_longest() -> None:
    """A URL may have 2,083 characters, and its path other alphabets."""
    compile_url("https://svc/" + "x" * 2_071)
    compile_url("https://svc/münchen")


@pytest.mark.parametrize("cell", ["svc/run", "javascript:alert(1)", "https://svc/" + "x" * 3_000])
def test_bad_cell(cell: str) -> None:
    """A cell that makes the URL a wrong one is the row's problem, and the others go on."""
    problems = Problems()
    urls, _ = compile_url("{u}").render(block_of(u=["https://svc/a?b=c%20d", cell]), problems)
    assert urls[0] == "https://svc/a?b=c%20d"
    assert list(problems.reasons) == [1]


@cases(
    ("https://svc/run/{a}", {"a": ".."}, '"a"'),
    ("https://svc/run/{a}", {"a": "."}, '"a"'),
    ("https://svc/{b}/{a}/x", {"a": "..", "b": "x"}, '"a"'),
    ("https://svc/{a}{b}?q=1", {"a": ".", "b": "."}, '"a" and "b"'),
    ("https://svc/{a}{b}#x", {"a": "", "b": "."}, '"a" and "b"'),
    ("https://svc/.{a}", {"a": "."}, '"a"'),
    ("https://svc/{b}/.{a}", {"a": "", "b": "é"}, '"a"'),
    ("https://{b}/{a:.2}", {"a": "...", "b": "s"}, '"a"'),
    ("https://{a}/x", {"a": ".."}, '"a"'),
    ("{a}", {"a": "https://svc/a/../b"}, '"a"'),
    (url(lambda row: f"https://svc/{row['a']}/"), {"a": ".."}, "the function"),
    (url(lambda row: f"https://svc/{row['a']} "), {"a": ".."}, "the function"),
)
def test_a_cell_that_leads_to_another_path(given: Any, cells: dict[str, str], named: str) -> None:
    """A segment "." or ".." of the path is refused, whatever it is made of; the reason names the columns."""
    problems = Problems()
    frame = pd.DataFrame({name: ["x", cell] for name, cell in cells.items()})
    compile_url(given).render(block_of(frame), problems)
    assert problems.reasons[1].startswith(f'url: {named} would be the part ".')


@cases(*TABLES["dots"])
def test_dots_that_lead_nowhere_else(given: str, cells: list[str]) -> None:
    """Dots are as other letters inside a segment, in a query and in a fragment."""
    problems = Problems()
    compile_url(given).render(block_of(a=cells), problems)
    assert problems.reasons == {}


def test_function_name() -> None:
    """Functions and callable objects have a name that does not change with the process."""

    class Callable:
        def __call__(self) -> None: ...

    assert function_name(_by_row).endswith("._by_row")
    assert "0x" not in function_name(Callable())
