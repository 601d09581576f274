"""From a batch in which something failed to the reason, and to another try: in the panel of the batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.browser.board import EVIL, Board

__all__: list[str] = []

#: 3,000 rows that fail for three reasons, until they are mended; the others return a dict.
SETUP = """
import cloudtasks_nb as ct, pandas as pd

mended = set()

def sell(shop, day):
    if day % 3 == 0 and "key" not in mended:
        raise KeyError(f"no price of day {day}")
    if day % 100 == 1 and "value" not in mended:
        raise ValueError(f"shop {shop!r} is closed <img src=x onerror=window.pwned=1>")
    return {"sold": day * 2, "by": shop.upper()}

tasks = ct.local()
queue = tasks.queue("sales", create=True, rate=500, max_concurrent=100, max_attempts=1)
shops = pd.DataFrame({"shop": [("bern", "basel", "chur")[n % 7 % 3] for n in range(3000)], "day": range(3000)})
batch = queue.fan_out(shops, url=ct.serve(sell), body=["shop", "day"], name="sales", progress=False)
_ = batch.wait()
"""
KEY = "KeyError: no price of day …"


def test_from_a_failure_to_its_traceback_and_to_another_try(notebook: Callable[..., Any]) -> None:
    """One click to the traceback, two to retry one kind of failure; the cell of the batch shows the retry too."""
    book = notebook(SETUP, "batch", "panel = batch.panel(); panel")
    board, page = Board(book), book.page
    cell = page.locator(".jp-Cell").nth(1)
    expect(cell).to_contain_text("1,020 failed")
    causes = board.root.get_by_role("group", name="Causes of failures")
    key = causes.get_by_role("button", name=KEY).first
    key.click()
    expect(key).to_have_attribute("aria-pressed", "true")
    example = board.root.locator(".ctn-example")
    expect(example).to_contain_text("Traceback (most recent call last)")
    expect(example).to_contain_text("KeyError: 'no price of day 0'")
    expect(board.root).to_contain_text(f"1,000 rows with the cause {KEY}")
    # A row of the other kind: its error, its payload and its attempts.
    closed = causes.locator(".ctn-pick", has_text="ValueError")
    closed.click()
    expect(board.root).to_contain_text("20 rows with the cause")
    board.root.locator("tr[data-key]").nth(1).click()
    story = board.root.get_by_role("group", name="row 101")
    expect(story).to_contain_text(f"ValueError: shop 'bern' is closed {EVIL}")
    expect(board.root).to_contain_text('"day": 101')
    # Two clicks.
    book.python("mended.add('key')")
    causes.get_by_role("button", name="Retry 1,000: KeyError").click()
    board.root.get_by_role("button", name="Retry 1,000 rows").click()
    expect(board.root.locator(".ctn-line code")).to_contain_text(f'.retry_failed("{KEY}")')
    expect(cell).to_contain_text("30 failed (ValueError: ")
    expect(cell).to_contain_text("succeeded 2,970")
    assert book.python("print(batch.progress().failed)") == "30"
    assert page.evaluate("window.pwned") is None


def test_rows_are_found_with_their_results_and_sent_again(notebook: Callable[..., Any]) -> None:
    """By state, by text in all rows, by keyboard; results stand beside the input, and the line of Python runs."""
    book = notebook(SETUP, "panel = batch.panel(); panel")
    board, page = Board(book), book.page
    states = board.root.get_by_role("group", name="States of rows")
    expect(states.get_by_role("button", name="failed")).to_have_attribute("aria-pressed", "true")
    states.get_by_role("button", name="succeeded").focus()
    page.keyboard.press("Enter")
    expect(board.root).to_contain_text("1,980 succeeded rows, here 1 to 1,000")
    expect(board.root.locator("th", has_text="Sold")).to_be_visible()
    expect(board.root.locator("tr[data-key]").first).to_contain_text("CHUR")
    board.root.get_by_role("button", name="Next 1,000").click()
    expect(board.root).to_contain_text("here 1,001 to 1,980")
    states.get_by_role("button", name="all").click()
    board.root.get_by_placeholder("Find in").fill("day:1502")
    page.keyboard.press("Enter")
    # A search that took long says when it was made.
    expect(board.root).to_contain_text(re.compile("1 row with “day:1502”(, found at [0-9:]+ UTC)?: 1 succeeded"))
    board.root.locator("tr[data-key]").first.click()
    expect(board.root.get_by_role("group", name="row 1502")).to_contain_text('"sold": 3004')
    board.root.get_by_role("button", name="Send again (1)").click()
    question = board.root.get_by_role("alertdialog")
    expect(question).to_contain_text("1 row of them succeeded")
    question.get_by_role("button", name="Send 1 row again").click()
    line = board.root.locator(".ctn-line code")
    expect(line).to_contain_text('[rows["day"].astype(str).str.lower() == "1502"]')
    assert book.python("_ = batch.wait(); print(batch.tasks()['try'][1502])").endswith("2")
    assert book.python(f"_ = {line.inner_text()}.wait(); print(batch.tasks()['try'][1502])").endswith("3")
