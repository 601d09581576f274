"""A batch that is to be sent."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from tests.unit.fanout.conftest import chunks, spool

ROWS = 1_250


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of 1,250 rows, none sent."""
    return spool(outbox, chunks(range(ROWS))).batch
