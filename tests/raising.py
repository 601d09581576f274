"""Expect an error with its next step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cloudtasks_nb.errors import CloudTasksError

Caught = pytest.ExceptionInfo[CloudTasksError]


@contextmanager
def raises(kind: type[CloudTasksError], match: str | None = None, *, hint: str = "", **facts: Any) -> Iterator[Caught]:
    """Expect an error that matches a pattern, with a hint that contains a text, and with these facts."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert hint in (caught.value.hint or "")
    assert {name: getattr(caught.value, name) for name in facts} == facts
