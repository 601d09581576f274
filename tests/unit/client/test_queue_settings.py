"""Checks of the settings of a queue."""

import numpy as np

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.client.queue_settings import check_settings

QUEUE = QueueName(project="p", location="l", queue="q")


def test_settings_at_their_limits() -> None:
    """The smallest and the largest values that the service accepts are accepted, and 0 where it has a meaning."""
    check_settings(
        QUEUE, {"rate": 0.001, "max_concurrent": 1, "max_attempts": -1, "max_doublings": 0, "log_sampling_ratio": 0}
    )
    check_settings(QUEUE, {"rate": np.int64(500), "max_concurrent": 5000, "max_attempts": 1, "log_sampling_ratio": 1})
    check_settings(QUEUE, {"min_backoff": "1h", "max_backoff": "60min", "max_retry_duration": 0})
