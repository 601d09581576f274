"""A canary from the form: its failure stops the rest, and the rest is sent once the function is mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.browser.board import PANEL, Board

__all__: list[str] = []

SETUP = """
import threading
import cloudtasks_nb as ct, pandas as pd

broken, go_on = {2}, threading.Event()

def order(number):
    go_on.wait(60)
    if number in broken:
        raise KeyError(f"order {number}")
    return number

tasks = ct.local()
queue = tasks.queue("orders", create=True, max_attempts=1, rate=500)
order_url = ct.serve(order)
orders = pd.DataFrame({"number": range(60)})
"""


def test_a_canary_fails_and_the_rest_is_resumed(notebook: Callable[..., Any]) -> None:
    """While it runs it is counted; then the reason stands in the panel, with the buttons that go on."""
    board = Board(notebook(SETUP, PANEL))
    board.open("Fan out")
    board.field("URL").fill("order_url")
    board.field("Canary").fill("5")
    board.field("Pause at").fill("50%")
    line = 'tasks.queue("orders").fan_out(orders, url=order_url, canary=5, pause_at="50%")'
    expect(board.line).to_have_text(line)
    board.button("Plan").click()
    board.button("Send 60 tasks").click()
    expect(board.part).to_contain_text("canary: 0 of 5 done; 55 rows wait for it")
    board.book.python("go_on.set()")
    expect(board.part).to_contain_text("canary: 1 of 5 rows failed (KeyError: order …): the other 55 rows are not sent")
    assert board.book.python("print(tasks.batch().progress().unsent)") == "55"
    board.book.python("broken.clear()")
    board.button("Resume (55)").click()
    board.button("Send 55 rows").click()
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    expect(board.line).to_have_text(board.book.python("print(f'tasks.batch(\"{tasks.batch().id}\").resume()')"))
    expect(board.part).not_to_contain_text("canary:")
    assert board.book.python("print(tasks.batch().progress())") == "60 rows: 59 succeeded, 1 failed"
