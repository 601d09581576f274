"""The form of a fan-out with many columns, a large file and all its options, by mouse and keyboard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.board import EVIL, PANEL, Board
from tests.browser.test_smoke import SETUP as DAYS

#: A function, a frame of 60 columns, and a batch whose URL has a secret.
SETUP = """
import cloudtasks_nb as ct, pandas as pd

def load(**row):
    return len(row)

tasks = ct.local()
queue = tasks.queue("reports", create=True)
load_url = ct.serve(load)
columns = [f"{kind}_{number:02}" for kind in ("price", "count", "name") for number in range(20)]
wide = pd.DataFrame([dict.fromkeys(columns, row) for row in range(150)])
first = queue.fan_out([wide.head(1)], url="https://svc.example/run?token=abc", delay="1h", name="first", progress=False)
"""


@pytest.fixture
def board(notebook: Callable[..., Any]) -> Board:
    """Open the form."""
    made = Board(notebook(SETUP, PANEL))
    made.open("Fan out")
    return made


def test_sixty_columns_and_all_options(board: Board) -> None:
    """Columns are searched and chosen, the URL is one that is offered, and what is sent has the options."""
    press = board.page.keyboard.press
    body = board.part.get_by_role("group", name="Body")
    search = body.get_by_role("searchbox", name="Search Body")
    search.fill("PRICE 1")
    expect(body.get_by_role("status")).to_have_text("11 of 60 match")
    body.get_by_role("button", name="Choose these 11").click()
    search.fill("name_03")
    press("ArrowDown")
    expect(body.get_by_label("name_03")).to_be_focused()
    press(" ")
    search.fill("price_01")
    body.get_by_role("button", name="Leave these 1").click()
    search.press("Escape")
    expect(search).to_have_value("")
    expect(body).to_contain_text("11 of 60 chosen: price_10, price_11")
    body.get_by_label("price_00").focus()
    press("End")
    expect(body.get_by_label("name_19")).to_be_focused()
    url = board.field("Call")
    options = board.part.locator("datalist option")
    expect(options).to_have_count(2)
    offered = options.evaluate_all("options => options.map(one => one.value)")
    assert offered == [
        "load_url  (a function served in this kernel)",
        "https://svc.example/run?token=•••  (used by the batch first)",
    ]
    url.fill(offered[0])
    expect(url).to_have_value("load_url")
    board.button("More options").click()
    board.field("Delay").fill("1h")
    board.field("Method").select_option("PUT")
    names = ", ".join(f'"{name}"' for name in [*(f"price_{number}" for number in range(10, 20)), "name_03"])
    line = f'tasks.queue("reports").fan_out(wide, url=load_url, body=[{names}], delay="1h", method="PUT")'
    expect(board.line).to_have_text(line)
    expect(board.part.get_by_role("region", name="task 1")).to_contain_text("PUT http://127.0.0.1")
    board.button("Plan").click()
    board.button("Send 150 tasks").click()
    board.part.get_by_role("alertdialog").get_by_role("button", name="Send 150 tasks").click()
    expect(board.status).to_contain_text("started batch")
    expect(board.line).to_have_text(line)
    expect(board.rows.first).to_contain_text("scheduled")  # so that its task is in the queue
    expect(board.part.locator('.ctn-card [title^="scheduled: 150 of 150"]')).to_be_visible()
    assert board.book.python("print(sorted(set(queue.tasks()['method'])), set(queue.tasks()['state']))") == (
        "['POST', 'PUT'] {'scheduled'}"
    )
    assert board.book.python("print(tasks.batch().progress().total)") == "150"


def test_a_csv_file_is_uploaded(board: Board, tmp_path: Path) -> None:
    """One that is larger than a message to the kernel may be; markup in names and cells is text."""
    file = tmp_path / "shops.csv"
    file.write_text(f"shop,{EVIL}\n" + f"bern,{EVIL}{'x' * 4000}\n" * 3000, encoding="utf-8")
    with board.page.expect_file_chooser() as chooser:
        board.button("Upload a file").click()
    chooser.value.set_files(file)
    expect(board.field("Data")).to_have_value("shops.csv  (3,000 rows, 2 columns)")
    expect(board.part.locator(".ctn-upload")).to_have_text("Upload a file")
    board.field("Call").fill("https://svc/{shop}")
    expect(board.part.get_by_role("region", name="task 1")).to_contain_text(f'"{EVIL}": "{EVIL}')
    expect(board.part.get_by_role("group", name="Body")).to_contain_text(EVIL)
    line = 'tasks.queue("reports").fan_out(pd.read_csv("shops.csv"), url="https://svc/{shop}")'
    expect(board.line).to_have_text(line)
    assert board.page.locator(".ctn-dashboard img").count() == 0


#: Keeps the shares that the bar of a batch has had.
NOTE_BAR = """() => {
  window.shares = [];
  const note = () => {
    const share = Number(document.querySelector(".ctn-panel [role=progressbar]")?.getAttribute("aria-valuenow") ?? -1);
    if (share >= 0 && window.shares.at(-1) !== share) window.shares.push(share);
  };
  new MutationObserver(note).observe(document.querySelector(".ctn-dashboard"), { childList: true, subtree: true });
}"""


def test_fan_out(notebook: Callable[..., Any]) -> None:
    """From columns, first tasks and plan to a bar that reaches its end; the form does not move below the mouse."""
    board = Board(notebook(DAYS, "_ = queue.resume(); go_on.clear(); broken.clear()", PANEL))
    board.open("Fan out")
    expect(board.field("Data")).to_have_value("days  (60 rows, 3 columns)")
    # The first tasks appear after the mouse is pressed and before it is released.
    board.button("Plan").hover()
    board.page.mouse.down()
    board.book.python("panel.parts['Fan out'].request.url.value = 'handler'")
    first = board.part.get_by_role("region", name="task 1")
    expect(first).to_be_visible()
    board.page.mouse.up()
    expect(board.part.get_by_role("group", name="plan")).to_contain_text("60 tasks")
    body = board.part.get_by_role("group", name="Body")
    body.get_by_label("day").check()
    body.get_by_label("note").check()
    expect(first).to_contain_text(f'"note": "{EVIL}"')
    expect(board.line).to_have_text('tasks.queue("reports").fan_out(days, url=handler, body=["day", "note"])')
    board.button("Plan").click()
    board.check()
    board.book.python("panel.every = 1")
    board.page.evaluate(NOTE_BAR)
    board.button("Send 60 tasks").click()
    expect(board.part).to_contain_text("20 of 60 done")
    board.book.python("go_on.set()")
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    shares = board.page.evaluate("window.shares")
    assert shares == sorted(shares)
    assert {33, 100} <= set(shares)
