"""What tasks and their log cost on Google."""

import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.service.costs import log_note, operations

QUEUE = QueueName(project="my-project", location="us-central1", queue="reports")


@pytest.mark.parametrize(("size", "count"), [(0, 2), (100, 2), (32_768, 2), (32_769, 4), (96 * 1024, 6), (2**20, 64)])
def test_operations(size: int, count: int) -> None:
    """A task is created and delivered; each begun 32 KB of it is an operation more for both."""
    assert operations(size) == count


LOG_NOTES = [
    (0, 1.0, ""),
    (500, 1.0, ""),
    (30_000, 0.0, ""),
    (30_000, 1.0, "at 30,000 attempts a minute the log has about 95.9 GiB a day, which costs $47.96 a day"),
    (30_000, 0.1, "9.6 GiB a day, which costs $4.80 a day after the first 50 GiB of a month"),
]


@pytest.mark.parametrize(("done", "ratio", "words"), LOG_NOTES)
def test_the_log_of_a_busy_queue(done: int, ratio: float, words: str) -> None:
    """The price of a day is given where the log grows beyond the free amount of a month."""
    note = log_note(QUEUE, done, ratio)
    assert (words in note, bool(note)) == (True, bool(words))
