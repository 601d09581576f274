"""Checks of the settings of a queue."""

import re
from typing import Any

import numpy as np

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.client.queue_settings import check_settings
from cloudtasks_nb.errors import InvalidInputError
from tests.cases import cases
from tests.raising import raises

QUEUE = QueueName(project="p", location="l", queue="q")


@cases(
    *(({"rate": rate}, f"rate={rate} is not more than 0 and at most 500", "queue.pause()") for rate in (0, -1, 501)),
    *(({"max_concurrent": most}, f"max_concurrent={most} is not from 1 to 5,000", "pause()") for most in (0, -1, 5001)),
    *(
        ({"max_attempts": most}, f"max_attempts={most} is not 1 or more, or -1", "-1 means without end")
        for most in (0, -2)
    ),
    ({"max_doublings": -1}, "max_doublings=-1 is not 0 or more", "16"),
    *(
        ({"log_sampling_ratio": ratio}, f"log_sampling_ratio={ratio} is not from 0 to 1", "1.0 logs everything")
        for ratio in (2, -0.1)
    ),
    ({"rate": "fast"}, "rate='fast' is not a number", ""),
    ({"max_concurrent": "x"}, "max_concurrent='x' is not a number", ""),
    ({"max_attempts": 1.5}, "max_attempts=1.5 is not a whole number", "max_attempts=5"),
    ({"min_backoff": "soon"}, "min_backoff='soon' is not a duration", "10min"),
    ({"max_atempts": 3}, '"max_atempts" is not a queue setting; did you mean "max_attempts"', "rate"),
    ({"rate_limit": 3}, '"rate_limit" is not a queue setting', "max_concurrent"),
    ({"min_backoff": "2h", "max_backoff": 60}, "min_backoff='2h' is longer than max_backoff=60", "grow"),
)
def test_settings_out_of_range(settings: dict[str, Any], words: str, hint: str) -> None:
    """The error names the setting, its value and the limits, and its hint what was perhaps meant."""
    with raises(InvalidInputError, f"^{re.escape(words)}", hint=hint):
        check_settings(QUEUE, settings)


def test_settings_at_their_limits() -> None:
    """The smallest and the largest values that the service accepts are accepted, and 0 where it has a meaning."""
    check_settings(
        QUEUE, {"rate": 0.001, "max_concurrent": 1, "max_attempts": -1, "max_doublings": 0, "log_sampling_ratio": 0}
    )
    check_settings(QUEUE, {"rate": np.int64(500), "max_concurrent": 5000, "max_attempts": 1, "log_sampling_ratio": 1})
    check_settings(QUEUE, {"min_backoff": "1h", "max_backoff": "60min", "max_retry_duration": 0})
