"""Tables of cases, whose values are the last parameters of a test."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Awaitable[None] | None])


def cases(*rows: Any, ids: Iterable[str] | Callable[[Any], str] | None = None) -> Callable[[Test], Test]:
    """Run a test once for each row, a tuple or one value; what stands before these in the signature are fixtures."""
    width = len(rows[0]) if isinstance(rows[0], tuple) else 1

    def mark(test: Test) -> Test:
        names = ", ".join([*inspect.signature(test).parameters][-width:])
        made: Test = pytest.mark.parametrize(names, rows, ids=ids)(test)
        return made

    return mark
