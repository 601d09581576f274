"""How many bytes the headers of a queue's target may have."""

from __future__ import annotations

import pytest

from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError
from tests.unit.emulator.conftest import QUEUE

__all__: list[str] = []

LIMIT = 80 * 1024


@pytest.mark.parametrize(("size", "accepted"), [(LIMIT - 1, True), (LIMIT, False)])
def test_names_and_values_are_less_than_80_kb(size: int, *, accepted: bool) -> None:
    """The names and values of all headers count, in bytes."""
    queue = beta.Queue(name=QUEUE)
    for name, value in (("X-A", "ü"), ("X-B", "x" * (size - 8))):
        header = queue.http_target.header_overrides.add().header
        header.key, header.value = name, value
    if accepted:
        assert configured(queue).http_target == queue.http_target
    else:
        with pytest.raises(RefusedError, match="must be less than 80KB"):
            configured(queue)
