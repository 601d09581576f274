"""Helpers of the tests of plans."""

from typing import Any

import pandas as pd

from cloudtasks_nb.fanout.plan.columns import Block, Table


def block_of(frame: pd.DataFrame | None = None, **columns: Any) -> Block:
    """Return the only block of a frame, or of these columns."""
    (block,) = Table(pd.DataFrame(columns) if frame is None else frame).blocks(0)
    return block
