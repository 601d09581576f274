"""The options of a fan-out that concern the batch as a whole."""

from typing import Any

import numpy as np

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch.request import make_request
from tests.cases import cases


@cases(np.int64(2), np.float64(2), np.float64(0.5), np.float32(0.5))
def test_numbers_of_numpy_are_stored_as_numbers(number: Any) -> None:
    """As texts, in which the outbox would have them, they would be no limits in the next round."""
    given = {"url": "http://h/{n}", "send_rate": number, "canary": number, "pause_at": number}
    queue = QueueName(project="p", location="l", queue="q")
    lasting = make_request(queue, {"n": [1, 2, 3]}, given).lasting
    assert set(lasting.values()) == {number}
    assert {*map(type, lasting.values())} <= {int, float}
