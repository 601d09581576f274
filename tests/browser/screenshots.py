"""Pictures of the dashboard, wide and narrow, light and dark: ``make screenshots`` makes them anew.

Those of the documents are stored with the notebooks, the others in ``build/screenshots``. Not part of the suite, which
asserts instead.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.board import Board

IMAGES = Path(__file__).parents[2] / "notebooks" / "images"
#: The pictures that documents show; the others are written to be looked at only.
DOCUMENTED = {"queues", "fan-out", "batches"}
OTHERS = Path(__file__).parents[2] / "build" / "screenshots"
SETUP = """
import pandas as pd
import cloudtasks_nb as ct

tasks = ct.local()
reports = tasks.queue("reports", create=True, rate=200, max_concurrent=8, max_attempts=1)
nightly = tasks.queue("nightly", create=True, rate=5).pause()
broken = {"2013-02-13", "2013-03-08"}


def report(start, partition, end=None):
    if partition in broken:
        raise LookupError(f"no flights on {partition}")
    return partition


def mean_delay(day, origin):
    return {"day": day, "origin": origin, "minutes": 7.5}


handler = ct.serve(report)
flights = pd.DataFrame({"day": pd.date_range("2013-01-01", periods=240).strftime("%Y-%m-%d")})
flights["origin"] = ["JFK", "LGA", "EWR"] * 80
url = "https://example.com/run/{origin}"
_ = reports.fan_out(flights, url=url, delay="6h", name="night of flights", progress=False)
_ = reports.backfill("2013-01-01", "2013-04-30", freq="D", url=handler, body=["start", "partition"], name="winter",
                     progress=False).wait()
"""


#: Much of everything: queues, rows, columns, causes, and names from right to left.
CROWD = """
import json, os, signal, tempfile
import pandas as pd
import cloudtasks_nb as ct

home = tempfile.mkdtemp()
tasks = ct.local(home)
queues = [tasks.queue(f"queue-{n:02}", create=True, rate=500, max_attempts=1) for n in range(14)]
queues[1].pause()


def report(c000, shop, **rest):
    if c000 % 4 == 0:
        return 1 / 0
    if c000 % 4 == 1:
        raise KeyError(f"vat_{shop}")
    if c000 % 40 == 2:
        raise TimeoutError(f"warehouse {shop} did not answer in 30 s; nobody knows why, it has been so for hours")
    return {"sold": c000, "by": shop}


handler = ct.serve(report)
wide = pd.DataFrame({f"c{n:03}": range(1_000) for n in range(300)})
wide["shop"] = ["berlin", "oslo", "שלום", "🚀🎉", "wien"] * 200
many = pd.DataFrame({"n": range(100_000)})
_ = queues[1].fan_out(many, url="https://svc/{n}", name="a hundred thousand", progress=False)
_ = queues[2].fan_out(wide.head(60), url="http://127.0.0.1:9/{c000}", name="nobody listens", progress=False)
mixed = queues[3].fan_out(wide, url=handler, name="Umsatz שלום עולם 🚀🎉", progress=False).wait()
"""
KILL = 'os.kill(json.load(open(f"{home}/endpoint.json"))["pid"], signal.SIGKILL)'

TABS = ("Queues", "Tasks", "Fan out", "Backfill", "Batches", "Attempts")


@pytest.mark.parametrize("width", [1280, 700])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_dashboard(notebook: Callable[..., Any], *, dark: bool, width: int) -> None:
    """The tabs, each with something to see."""
    board = Board(notebook(SETUP, "panel = tasks.panel()\npanel", dark=dark))
    board.page.set_viewport_size({"width": width, "height": 2700})
    OTHERS.mkdir(parents=True, exist_ok=True)
    for tab in TABS:
        board.open(tab)
        fill(board, tab)
        board.at_rest()
        board.root.scroll_into_view_if_needed()
        board.page.mouse.move(0, 0)
        name = tab.lower().replace(" ", "-")
        shown = IMAGES / f"{name}.png"
        plain = not dark and width > 1000 and name in DOCUMENTED
        board.root.screenshot(path=shown if plain else OTHERS / f"{name}-{width}{'-dark' if dark else ''}.png")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (700, True), (640, False)], ids=["wide", "dark", "zoom"])
def test_crowd(notebook: Callable[..., Any], *, dark: bool, width: int) -> None:
    """The tabs with much in them, then without the emulator and without the kernel; 640 px are 1,280 at 200 %."""
    board = Board(notebook(CROWD, "panel = tasks.panel()\npanel", dark=dark))

    def shoot(name: str) -> None:
        board.page.set_viewport_size({"width": width, "height": 2700})
        board.page.mouse.move(0, 0)
        board.root.scroll_into_view_if_needed()
        board.root.screenshot(path=OTHERS / f"crowd-{name}-{width}.png")

    OTHERS.mkdir(parents=True, exist_ok=True)
    for tab in ("Queues", "Tasks", "Fan out", "Attempts", "Batches"):
        board.open(tab)
        if tab in ("Tasks", "Attempts"):
            board.root.get_by_label("Queue", exact=True).select_option("queue-03" if tab == "Attempts" else "queue-01")
            board.rows.first.wait_for()
        if tab == "Queues":
            board.row("queue-01").click()
        board.at_rest()
        shoot(tab.lower().replace(" ", "-"))
    for name, row in (("thousands", "a hundred thousand"), ("mixed", "Umsatz")):
        board.part.locator("tr[data-key]", has_text=row).click()
        expect(board.part.get_by_role("grid", name="rows")).to_be_visible()
        if name == "mixed":
            board.part.get_by_role("button", name=re.compile("ZeroDivisionError")).first.click()
            board.button("Columns (").click()
            expect(board.part.locator(".ctn-card pre").first).to_be_visible()
        board.at_rest()
        shoot(name)
    board.book.python(KILL)
    expect(board.root.locator(".ctn-banner [role=alert]")).to_be_visible()
    shoot("no-service")
    board.book.restart_kernel()
    expect(board.root.get_by_text("The kernel was restarted or has ended")).to_be_visible()
    shoot("no-kernel")


def fill(board: Board, tab: str) -> None:
    """Show something in a tab."""
    if tab == "Fan out":
        board.field("Call").fill("mean_delay")
        board.field("Duration").fill("2s")
        board.button("Try one row").click()
        expect(board.part).to_contain_text("200 after")
        board.button("Plan").click()
        expect(board.part.locator(".ctn-plan")).to_be_visible()
    elif tab == "Batches":
        board.part.locator("tr[data-key]", has_text="winter").click()
        board.part.get_by_role("button", name=re.compile("^2 LookupError")).click()
        expect(board.part.locator(".ctn-card pre").first).to_contain_text("Traceback")
    elif tab != "Backfill":
        (board.row("reports") if tab == "Queues" else board.rows.first).click()
        expect(board.part.get_by_role("group").last).to_be_visible()
    if tab in ("Batches", "Backfill"):
        expect(board.part.get_by_text("Slowest rows")).to_be_visible()
