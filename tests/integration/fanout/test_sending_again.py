"""Rows that come while a sending is just ending are sent all the same."""

import asyncio

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.sender.sender import Sender
from tests.integration.fanout.conftest import reached

URL = "http://127.0.0.1:9/run"


def test_a_longer_cell_while_the_shorter_ends(paused: ct.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next cell adds its rows after the sender has found nothing left, and before it reports that."""
    longer = [pd.DataFrame({"row": range(150)})]

    run = Sender.run

    async def ending(self: Sender) -> int:
        already = await run(self)
        if longer:
            await asyncio.to_thread(paused.fan_out, longer.pop(), url=URL, name="series", progress=False)
        return already

    monkeypatch.setattr(Sender, "run", ending)
    batch = paused.fan_out(pd.DataFrame({"row": range(100)}), url=URL, name="series")
    reached(batch.whole, lambda progress: progress.total == 150 and not progress.unsent)
    assert len(paused.tasks()) == 150
