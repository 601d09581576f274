"""The filter language: its syntax, its comparisons and its errors."""

import operator
import re
from functools import partial
from itertools import product
from typing import Any

import pytest

from cloudtasks_nb.emulator.api.filter import LOG_ID, Compare, Group, Not, compile_filter, parse_filter, parse_time
from tests.cases import cases
from tests.unit.emulator.conftest import refused

OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
RECORD: dict[str, Any] = {
    "resource": {"type": "cloud_tasks_queue", "labels": {"queue_id": "Q-1"}},
    "severity": "ERROR",
    "timestamp": 1_767_323_045_000_000_000,
    "jsonPayload": {"@type": "type.googleapis.com/x", "attemptResponseLog": {"status": "NOT_FOUND"}},
    "zero": 0,
    "long": "a" * 60,
}


And, Or = partial(Group, all), partial(Group, any)
A1, B2 = Compare(("a",), "=", "1"), Compare(("b",), "=", "2")
MIDNIGHT = "1970-01-01T00:00:00"


def getter(path: tuple[str, ...]) -> Any:
    """Look fields up in nested dicts; a text anywhere is looked up in all of it."""

    def get(record: Any) -> Any:
        if not path:
            return str(record)
        for part in path:
            record = record.get(part) if isinstance(record, dict) else None
        return record

    return get


@cases(
    ("", And(())),
    ("a=1", Compare(("a",), "=", "1")),
    ('a.b = "x y"', Compare(("a", "b"), "=", "x y")),
    (r'a="say \"x\" \\"', Compare(("a",), "=", 'say "x" \\')),
    ('a."@b"="c"', Compare(("a", "@b"), "=", "c")),
    ("a=1 b=2", And((A1, B2))),
    ("a=1 AND b=2", And((A1, B2))),
    ("a=1 OR b=2 AND NOT c=3", And((Or((A1, B2)), Not(Compare(("c",), "=", "3"))))),  # OR binds tighter than AND
    ("-a:b", Not(Compare(("a",), ":", "b"))),
    ("(a=1)", Compare(("a",), "=", "1")),
    ('a=("x" OR NOT "y")', Or((Compare(("a",), "=", "x"), Not(Compare(("a",), "=", "y"))))),
    ("a>-1", Compare(("a",), ">", "-1")),
    ("t>=2026-01-01T00:00:00Z", Compare(("t",), ">=", "2026-01-01T00:00:00Z")),
    ('log_id("a%2Fb")', Compare(LOG_ID, "=", "a/b")),
    ("NOT(a=1)", Not(Compare(("a",), "=", "1"))),
    ("word (a=1)", And((Compare((), ":", "word"), Compare(("a",), "=", "1")))),
    ("lone", Compare((), ":", "lone")),
    ('"two words"', Compare((), ":", "two words")),
)
def test_reading(text: str, node: object) -> None:
    """A filter is read as the documentation describes it."""
    assert parse_filter(text) == node


@cases(
    "a=", "=1", "(a=1", "a=1)", "a==1", "AND a=1", "a=1 OR", "NOT", 'a="open', "a=)", "a=(b", "~", 'log_id("a"',
    "log_id(", "log_id(a=b)", "log_id(a, b)", "sample(a)", "sample(a, -1)", "ip_in_net(a, b)", "a=b(c)",
    "a " * 10_001, "(" * 3000, "-(" * 3000, "NOT " * 3000 + "a", "a=(" * 3000,
    ids=lambda text: text[:20],
)  # fmt: skip
def test_syntax_errors(text: str) -> None:
    """A filter that cannot be read is INVALID_ARGUMENT."""
    with refused(text="^Unparseable filter"):
        parse_filter(text)


@cases(
    ('resource.labels.queue_id:"Q"', True),
    ('resource.labels.missing="x"', False),
    ('resource.labels.missing!="x"', False),  # nothing is true of what is not there
    ('NOT resource.labels.missing="x"', True),
    ("jsonPayload.attemptResponseLog:*", True),
    ("jsonPayload.taskCreationLog:*", False),
    ("zero:*", True),
    ('jsonPayload.attemptResponseLog.status=("OK" OR "NOT_FOUND")', True),
    ("jsonPayload.attemptResponseLog=1", False),  # a whole message
    ("NOT " * 48 + "(zero:0)", True),
    ("zero:0", True),
    ("zero>word", False),
    ('jsonPayload."@type"="type.googleapis.com/x"', True),
    ("severity=ERROR AND -severity=INFO", True),
    ("severity=INFO OR severity=ERROR", True),
    ('timestamp<"2026-01-02T04:04:05.5+01:00"', True),
    ("timestamp>=2026-01-02T03:04:06Z", False),
    ('jsonPayload.attemptResponseLog.status=~"^NOT_"', True),
    ('jsonPayload.attemptResponseLog.status!~"^NOT_"', False),
    ('jsonPayload.missing!~"x"', False),
    ('jsonPayload.attemptResponseLog.status=~"(?i)^not_\\\\pL+$"', True),  # a class that only RE2 has
    ('long=~"(a|aa)+b"', False),  # in linear time
    ('"googleapis"', True),
    ("nowhere", False),
)
def test_comparisons(text: str, *, passes: bool) -> None:
    """A filter lets through what the documentation says."""
    assert compile_filter(parse_filter(text), getter)(RECORD) is passes


@cases(
    ("n", [8, 9, 10], ["8", "9", "10"]),
    ("n", ["8", "9", "10"], ["8", "9", "10"]),  # numbers, though written as texts
    ("d", [0.5, 1.0, 20.0], ["0.5s", "1s", "20s"]),
    ("t", ["A", "b", "C"], ["a", "B", "c"]),  # letters of any case
    ("severity", ["DEBUG", "INFO", "ERROR"], ["DEBUG", "info", "ERROR"]),
    ("timestamp", [0, 1, 86_400 * 10**9], ["1970-01-01", f"{MIDNIGHT}.000000001Z", "1970-01-02T01:00:00+01:00"]),
)
def test_operators(field: str, values: list[Any], texts: list[str]) -> None:
    """Numbers, durations, texts, severities and times are each compared in their own order, by all six operators."""
    for (at, value), (place, text), op in product(enumerate(values), enumerate(texts), OPERATORS):
        passes = compile_filter(parse_filter(f'{field}{op}"{text}"'), getter)
        assert passes({field: value}) is OPERATORS[op](at, place), (value, op, text)


@pytest.mark.parametrize(("fraction", "least", "most"), [("0", 0, 0), ("0.5", 350, 650), ("1", 1000, 1000)])
def test_samples(fraction: str, least: int, most: int) -> None:
    """A sample lets its fraction of records through, the same ones each time, and none without the field."""
    passes = compile_filter(parse_filter(f"sample(id,{fraction})"), getter)
    first = [passes({"id": number}) for number in range(1000)]
    assert least <= sum(first) <= most
    assert first == [passes({"id": number}) for number in range(1000)]
    assert not passes({})


@cases(
    *((f"sample(a, {share})", "sample() takes a fraction between 0 and 1.") for share in ("much", "2")),
    ('timestamp>"yesterday"', ""),
    ('receiveTimestamp>""', ""),
    ('severity=~"["', ""),
    ('severity=~"' + "(" * 3000 + '"', ""),
    ('severity=~"a(b"', "missing ): a(b in a regular expression."),
    # What would need more than linear time does not exist: patterns are those of RE2.
    ('severity=~"(?=a)"', "invalid perl operator: (?= in a regular expression."),
    ('severity=~"a{1001}"', "invalid repetition size: {1001} in a regular expression."),
    ids=lambda text: text[:20],
)
def test_invalid_values(text: str, reason: str) -> None:
    """A fraction or a time that is none, and a broken regular expression, are INVALID_ARGUMENT."""
    with refused(text=f"^Unparseable filter: {re.escape(reason)}"):
        compile_filter(parse_filter(text), getter)


@cases(("1970-01-01T01:00:00.5+01:00", 500_000_000), ("1970-01-01t00:00:01z", 1_000_000_000))
def test_times(text: str, nanoseconds: int) -> None:
    """Times are read with their zone, in small letters, too."""
    assert parse_time(text) == nanoseconds
