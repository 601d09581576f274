"""The options of a fan-out that concern the batch as a whole."""

from typing import Any

import numpy as np

from cloudtasks_nb.fanout.batch.request import BatchOptions
from tests.cases import cases


@cases(np.int64(2), np.float64(2), np.float64(0.5), np.float32(0.5))
def test_numbers_of_numpy_are_stored_as_numbers(number: Any) -> None:
    """As texts, in which the outbox would have them, they would be no limits in the next round."""
    lasting = BatchOptions(send_rate=number, canary=number, pause_at=number).lasting
    assert set(lasting.values()) == {number}
    assert {*map(type, lasting.values())} <= {int, float}
