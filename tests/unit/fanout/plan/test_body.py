"""What a task carries."""

from typing import Any

import orjson
import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import canonical, compile_body
from cloudtasks_nb.fanout.plan.templates import Problems
from tests.cases import cases
from tests.unit.fanout.plan.conftest import block_of

DAY = "2026-01-01T00:00:00"
WHOLE = {"day": DAY, "n": 7, "name": 'O"Hara 100%', "tags": ["a", {"b": None}], "gone": None, "price": 2.0}
FRAME = pd.DataFrame({name: [cell] for name, cell in WHOLE.items()}).astype({"day": "datetime64[us]"})


def _by_row(row: dict[str, Any]) -> Any:
    return {"n": row["n"] + 1, "day": row["day"].year, "gone": row["gone"]}


@cases(
    (None, WHOLE),
    (["n", "day"], {"n": 7, "day": DAY}),
    (("n",), {"n": 7}),
    ({"day": "{day}", "who": "Mr. {name}"}, {"day": DAY, "who": 'Mr. O"Hara 100%'}),
    ({"a": {"b": ["{n}", "x", 1.5, None, True]}}, {"a": {"b": [7, "x", 1.5, None, True]}}),
    ({"tags": "{tags}", "gone": "{gone}"}, {"tags": ["a", {"b": None}], "gone": None}),
    ({"{name}": "100%", "%b": "{n}"}, {'O"Hara 100%': "100%", "%b": 7}),
    ({"at": pd.Timestamp("2026-01-01"), 5: "{{n}}"}, {"at": DAY, "5": "{n}"}),
    ({"day": "{day:%d.%m.%Y}", "n": "{n:03d}"}, {"day": "01.01.2026", "n": "007"}),
    ({}, {}),
    ({"constant": [1, "x"]}, {"constant": [1, "x"]}),
    ("{n}", 7),
    ("{tags}", ["a", {"b": None}]),
    ("{name}", 'O"Hara 100%'),
    (_by_row, {"n": 8, "day": 2026, "gone": None}),
)
def test_json(body: Any, expected: Any) -> None:
    """Each form of `body` gives the JSON of the table; a lone column keeps its type."""
    problems = Problems()
    made = compile_body(body, "POST")
    (written,), (identity,) = made.render(block_of(FRAME), problems)
    assert written == orjson.dumps(expected)  # with the fields in this order
    assert orjson.loads(identity) == expected
    assert made.json
    assert problems.reasons == {}


@pytest.mark.parametrize("body", [None, ["price"], {"p": "{price}"}])
def test_identity_of_whole_numbers(body: Any) -> None:
    """A whole float is written as the float it is, and identifies its row as the integer it equals."""
    (written,), (identity,) = compile_body(body, "POST").render(block_of(FRAME[["price"]]), Problems())
    assert b"2.0" in written
    assert b"2.0" not in identity


@cases(
    (rb'{"a":2.0,"b":[-0.0,3.0,2.05],"c":12.0}', rb'{"a":2,"b":[0,3,2.05],"c":12}'),
    (rb'{"a":"2.0,\","b":""2.0,","c":1.0}', rb'{"a":"2.0,\","b":""2.0,","c":1}'),
    (rb"9007199254740993.0", rb"9007199254740993.0"),
    (rb"7.0", rb"7"),
)
def test_canonical_bytes(body: bytes, expected: bytes) -> None:
    """Texts stay as they are, and numbers that a float cannot tell from their neighbours."""
    assert canonical(body) == expected


@pytest.mark.parametrize("body", [None, ["n"], {"n": "{n}"}, {"n": 1}])
def test_canonical_is_shared(body: Any) -> None:
    """Where nothing differs the bodies are not written twice."""
    written, identity = compile_body(body, "POST").render(block_of(FRAME[["n"]]), Problems())
    assert written is identity


def test_text() -> None:
    """A text with columns in it is sent as that text, and is not JSON."""
    made = compile_body("name={name}&n={n}", "POST")
    assert made.render(block_of(FRAME), Problems())[0] == [b'name=O"Hara 100%&n=7']
    assert (made.json, made.columns) == (False, ("name", "n"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_no_body(method: str) -> None:
    """Methods without a body send none, and refuse one."""
    made = compile_body(None, method)
    assert made.render(block_of(FRAME), Problems())[0] == [b""]
    assert (made.json, made.columns) == (False, ())
    with pytest.raises(InvalidInputError, match=f"a {method} request has no body"):
        compile_body(["n"], method)


def test_missing_in_text() -> None:
    """A missing cell is null where it keeps its type, and a problem inside a text."""
    problems = Problems()
    compile_body({"typed": "{gone}"}, "POST").render(block_of(FRAME), problems)
    assert problems.reasons == {}
    compile_body({"text": "<{gone}>"}, "POST").render(block_of(FRAME), problems)
    assert problems.reasons == {0: 'body: "gone" is missing'}


def test_no_columns() -> None:
    """A frame without columns still has rows, whose bodies are empty objects."""
    bodies, _ = compile_body(None, "POST").render(block_of(pd.DataFrame(index=range(2))), Problems())
    assert bodies == [b"{}", b"{}"]


@cases(
    (None, None),
    (["n"], ["n"]),
    ({"at": pd.Timestamp("2026-01-01"), "x": "{n}"}, {"at": DAY, "x": "{n}"}),
    ("n={n}", "n={n}"),
)
def test_identity(body: Any, identity: Any) -> None:
    """A body is identified by its template, in JSON; a function by its name."""
    assert compile_body(body, "POST").identity == identity
    assert str(compile_body(_by_row, "POST").identity).endswith("test_body._by_row")
