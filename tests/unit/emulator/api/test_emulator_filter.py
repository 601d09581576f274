"""How filters compare; `integration/emulator/answers/log.toml` has what they say and what is refused."""

import operator
from itertools import product
from typing import Any

from cloudtasks_nb.emulator.api.filter import compile_filter, parse_filter, parse_time
from tests.cases import cases

OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip


MIDNIGHT = "1970-01-01T00:00:00"


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
        passes = compile_filter(parse_filter(f'{field}{op}"{text}"'), lambda path: operator.itemgetter(*path))
        assert passes({field: value}) is OPERATORS[op](at, place), (value, op, text)


@cases(("1970-01-01T01:00:00.5+01:00", 500_000_000), ("1970-01-01t00:00:01z", 1_000_000_000))
def test_times(text: str, nanoseconds: int) -> None:
    """Times are read with their zone, in small letters, too."""
    assert parse_time(text) == nanoseconds
