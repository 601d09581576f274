"""Tables of cases, whose values are the last parameters of a test."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., None])


def cases(*rows: tuple[Any, ...], ids: Iterable[str] | Callable[[Any], str] | None = None) -> Callable[[Test], Test]:
    """Run a test once for each row; what stands before its values in the signature are fixtures."""

    def mark(test: Test) -> Test:
        names = [*inspect.signature(test).parameters][-len(rows[0]) :]
        made: Test = pytest.mark.parametrize(names, rows, ids=ids)(test)
        return made

    return mark
