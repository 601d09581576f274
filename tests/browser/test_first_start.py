"""From an empty panel to a batch that has run, by somebody who writes a function and knows nothing of queues."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.board import Board, violations

SETUP = """
import pandas as pd
import cloudtasks_nb as ct

def report(shop, amount):
    return f"{shop}: {amount}"

tasks = ct.local()
sales = pd.DataFrame({"shop": ["bern", "oslo", "wien", "bonn"] * 5, "amount": range(20)})
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_from_an_empty_panel_to_results(notebook: Callable[..., Any], *, dark: bool) -> None:
    """By mouse: create a queue, choose data and function, try one row, plan, send; the batch stands on top."""
    board = Board(notebook(SETUP, "panel = tasks.panel(); panel", dark=dark))
    board.root.get_by_role("tab", name="Fan out").click()
    board.root.get_by_role("button", name="Create a queue").locator("visible=true").click()
    expect(board.field("Name")).to_have_value("reports")
    expect(board.part.locator(".ctn-editor")).to_contain_text("max_attempts=5")
    assert violations(board.page, ".ctn-dashboard") == []
    board.button("Create queue").click()
    expect(board.status).to_contain_text("made queue reports with log_sampling_ratio=1.0")
    board.open("Fan out")
    expect(board.field("Data")).to_have_value("sales  (20 rows, 2 columns)")
    board.field("URL").fill("report  (a function of this notebook)")
    expect(board.field("URL")).to_have_value("report")
    board.button("Try one row").click()
    expect(board.part).to_contain_text("'bern: 0'")
    expect(board.button("Try one row")).to_be_focused()
    board.field("Duration").fill("1s")
    board.button("Plan", exact=True).click()
    expect(board.button("Send 20 tasks")).to_be_enabled()
    expect(board.button("Plan", exact=True)).to_be_focused()
    assert violations(board.page, ".ctn-dashboard") == []
    board.button("Send 20 tasks").click()
    expect(board.part).to_contain_text("20 of 20 done")
    expect(board.field("URL")).to_have_count(0)
    top, card = board.part.bounding_box(), board.part.locator(".ctn-card").first.bounding_box()
    assert top is not None
    assert card is not None
    assert card["y"] - top["y"] < 100, "the batch stands below the line of the form"
    assert violations(board.page, ".ctn-dashboard") == []
    assert board.book.python("print(tasks.batch().results()['result'].iloc[0])") == "bern: 0"
    board.button("Edit").press("Enter")
    expect(board.field("Data")).to_be_focused()
