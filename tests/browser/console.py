"""The emulator's console in a browser: what its tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.cloud import tasks_v2
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.board import violations
from tests.integration.conftest import LOCATION, Emulator

QUEUE = f"{LOCATION}/queues/reports"
OTHER = "projects/shop/locations/europe-west1/queues/reports"
HEADINGS = {
    "Queues": "Queue|Project / location|State|Tasks|Running|Attempts/min|Failed/min|Rate /s|At once|Max attempts",
    "Tasks": "Task|State|Last answer|Due|Attempts|Method|URL",
    "Attempts": "Task|Answer|HTTP|Time|Attempt|Took|Queue|URL",
}


@contextmanager
def open_console(context: BrowserContext, emulator: Emulator) -> Iterator[Page]:
    """Open the console; it is closed before its emulator ends, because it asks it every second."""
    page = context.new_page()
    page.goto(f"http://{emulator.http}/")
    expect(page.locator("#live")).to_have_text("live")
    yield page
    page.close()


def rows(page: Page) -> Locator:
    """Find the rows of the table that is shown."""
    return page.locator("main tbody tr:visible")


def create(emulator: Emulator, queue: str, url: str, task_id: str, **request: Any) -> tasks_v2.Task:
    """Create a task with an id."""
    task = {"name": f"{queue}/tasks/{task_id}", "http_request": {"url": url, **request}}
    return emulator.client.create_task({"parent": queue, "task": task})


def assert_headings(page: Page, view: str) -> None:
    """Check the column headings of a view."""
    found = page.get_by_role("table", name=view, exact=True).get_by_role("columnheader")
    expect(found).to_have_text(HEADINGS[view].split("|"))


def check_console(page: Page) -> None:
    """Check that axe finds nothing serious, and that the page is not wider than the window, in both themes."""
    for theme in ("light", "dark"):
        page.get_by_label("Theme").select_option(theme)
        assert violations(page) == []
    for width in (320, 700, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
