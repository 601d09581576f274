"""UpdateQueue: new limits count at once for the tasks that wait, not when the next one would have been sent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import Emulator, Target


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        # The eleventh task would be sent after a hundred seconds, longer than a test waits.
        ({"max_dispatches_per_second": 0.01}, {"max_dispatches_per_second": 500}, 10),
        ({"max_concurrent_dispatches": 1}, {"max_concurrent_dispatches": 12}, 1),
    ],
)
def test_higher_limits_count_at_once(
    emulator: Emulator, target: Target, before: dict[str, Any], after: dict[str, Any], first: int
) -> None:
    """Tasks that wait for the rate of their queue, or for another attempt to end, are sent when the limit is raised."""
    queue = emulator.make_queue(rate_limits=before)
    target.script(*(target.hold() for _ in range(12)))
    for _ in range(12):
        emulator.enqueue(queue, target.url)
    assert len(target.wait(first)) == first
    emulator.client.update_queue({"queue": {"name": queue, "rate_limits": after}})
    assert len(target.wait(12)) == 12
