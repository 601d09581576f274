"""What axe-core, a checker of accessibility rules, finds in the panels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.board import PANEL, Board

__all__: list[str] = []

SETUP = """
import cloudtasks_nb as ct, pandas as pd

def report(day, partition=""):
    if day % 7 == 0 or partition.endswith("13"):
        raise KeyError(f"no data for day {day}")
    return {"pages": day}

tasks = ct.local()
handler = ct.serve(report)
queue = tasks.queue("reports", create=True, max_attempts=1, rate=500)
yearly = tasks.queue("yearly", create=True).pause()
rows = pd.DataFrame({"day": range(40)})
_ = queue.fan_out(rows, url=handler, name="reports", progress=False).wait()
_ = yearly.fan_out(rows, url=handler, name="night", progress=False)
_ = queue.backfill("2013-01-01", "2013-02-28", freq="D", url="https://example.com/{partition}", body={"day": 1},
                   delay="1h", name="winter", progress=False)
"""
#: Roles and states are of interest, whatever the page around the panel does.
OPTIONS = {"resultTypes": ["violations"]}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(notebook: Callable[..., Any], *, dark: bool) -> None:
    """No rule of axe is broken seriously in any tab."""
    board = Board(notebook(SETUP, PANEL, dark=dark))
    board.page.set_viewport_size({"width": 1100, "height": 1400})
    for tab in ("Queues", "Tasks", "Fan out", "Backfill", "Batches", "Attempts"):
        board.open(tab)
        board.at_rest()
        if tab not in ("Fan out", "Backfill"):
            board.rows.first.click()
            expect(board.part.get_by_role("group").last).to_be_visible()
        found = Axe().run(board.page, context=".ctn-panel", options=OPTIONS).response["violations"]
        serious = [
            f"{tab}: {rule['id']}: {node['html']}: {node['failureSummary']}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert serious == []
