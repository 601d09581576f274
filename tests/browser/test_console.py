"""The emulator's console in a browser: what it shows and hides, what it changes, and who can use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from google.cloud import tasks_v2
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.board import EVIL
from tests.browser.lab import PATIENCE, Watch
from tests.browser.test_accessibility import OPTIONS
from tests.integration.conftest import LOCATION, Answer, Emulator, Target
from tests.unit.display.test_secrets import HEADERS, HEADERS_SHOWN, NAMES, PLAIN, TEXTS

QUEUE = f"{LOCATION}/queues/reports"
OTHER = "projects/shop/locations/europe-west1/queues/reports"
#: A number that JavaScript cannot hold, a secret, and markup.
BODY = {"id": 12345678901234567890, "api_key": "hidden", "text": EVIL, "nested": {"password": "hidden", "day": 1}}
HEADINGS = {
    "Queues": "Queue|Project / location|State|Tasks|Running|Attempts/min|Failed/min|Rate /s|At once|Max attempts",
    "Tasks": "Task|State|Last answer|Due|Attempts|Method|URL",
    "Attempts": "Task|Answer|HTTP|Time|Attempt|Took|Queue|URL",
}


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run an emulator with the options that the test is parametrized with."""
    with Emulator("--queue", QUEUE, "--queue", OTHER, "--quiet", *getattr(request, "param", ())) as started:
        started.client.pause_queue(name=OTHER)
        yield started


@pytest.fixture
def page(context: BrowserContext, emulator: Emulator) -> Iterator[Page]:
    """Open the console; it is closed before its emulator ends, because it asks it every second."""
    opened = context.new_page()
    opened.goto(f"http://{emulator.http}/")
    expect(opened.locator("#live")).to_have_text("live")
    yield opened
    opened.close()


def rows(page: Page) -> Locator:
    """Find the rows of the table that is shown."""
    return page.locator("main tbody tr:visible")


def create(emulator: Emulator, queue: str, url: str, task_id: str, **request: Any) -> tasks_v2.Task:
    """Create a task with an id."""
    task = {"name": f"{queue}/tasks/{task_id}", "http_request": {"url": url, **request}}
    return emulator.client.create_task({"parent": queue, "task": task})


def check_accessibility(page: Page) -> None:
    """Check that axe finds nothing serious, and that the page is not wider than the window, in both themes."""
    for theme in ("light", "dark"):
        page.get_by_label("Theme").select_option(theme)
        found = Axe().run(page, options=OPTIONS).response["violations"]
        bad = [rule for rule in found if rule["impact"] in ("serious", "critical")]
        assert [(rule["id"], node["html"]) for rule in bad for node in rule["nodes"]] == []
    for width in (320, 700, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_secrets_are_those_of_the_panels(page: Page) -> None:
    """The script hides what the toolkit hides, in every case that the toolkit is tested with, and in linear time."""
    names, texts = NAMES.split() + PLAIN.split(), [text for text, _ in TEXTS]
    long = [part * (1_000_000 // len(part)) + " token=abc" for part in ("token=", '"token":{', "a-", '"a', "://")]
    found = page.evaluate(
        """async ([names, texts, headers, body, long]) => {
          const { isSecret, isSecretHeader, maskHeaders, maskText, maskValue } = await import("/console/secrets.js");
          return {
            names: names.map(isSecret), texts: texts.map(maskText), again: texts.map(maskText).map(maskText),
            headers: maskHeaders(headers), key: isSecretHeader("Key"), body: maskValue(body),
            long: long.map((text) => maskText(text).endsWith("•••")),
          };
        }""",
        [names, texts, HEADERS, {"a": [{"token": "x", "n": 1}], "secret": {"b": 2}, "password": None}, long],
    )
    assert found["names"] == [True] * len(NAMES.split()) + [False] * len(PLAIN.split())
    assert found["texts"] == found["again"] == [shown for _, shown in TEXTS]
    assert (found["headers"], found["key"]) == (HEADERS_SHOWN, False)
    assert found["body"] == {"a": [{"token": "•••", "n": 1}], "secret": "•••", "password": None}
    assert found["long"] == [True] * len(long)


def test_without_the_flag_it_shows_everything_and_changes_nothing(page: Page, emulator: Emulator) -> None:
    """Queues, tasks and attempts appear by themselves; secrets are hidden, markup is text, nothing can be changed."""
    held = Answer(hold=threading.Event())
    with Target() as target, ExitStack() as stack:
        stack.callback(held.release)
        target.script(500)
        url = f"{target.url}?day=1&token=hidden"
        headers = {"Authorization": "Bearer hidden", "X-Own": EVIL}
        create(emulator, OTHER, url, "waits", headers=headers, body=json.dumps(BODY).encode())
        emulator.client.update_queue({"queue": {"name": QUEUE, "retry_config": {"min_backoff": {"seconds": 3600}}}})
        create(emulator, QUEUE, url, "tried", body=b"\x00\xff")
        emulator.tried(f"{QUEUE}/tasks/tried")
        target.script(held)
        create(emulator, QUEUE, url, "in-flight")
        busy = rows(page).filter(has_text="us-central1")
        expect(busy.locator("td").nth(3)).to_have_text("1")  # running
        expect(busy.locator("td").nth(5)).not_to_have_text("0")  # failed
        assert_headings(page, "Queues")
        check_accessibility(page)
        rows(page).filter(has_text="PAUSED").get_by_role("button").press("Enter")
        expect(page.get_by_role("group", name="queue reports")).to_contain_text("shop / europe-west1")
        assert_headings(page, "Tasks")
        page.get_by_role("button", name="waits").press("Enter")
        drawer = page.get_by_role("complementary", name="Task")
        expect(drawer).to_be_focused()
        expect(drawer).to_contain_text('"id": 12345678901234567890')
        expect(drawer).to_contain_text(EVIL)
        expect(drawer.get_by_role("row", name="Authorization")).to_have_text("Authorization•••")
        check_accessibility(page)
        assert "hidden" not in page.inner_text("body")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="waits")).to_be_focused()
        page.get_by_role("link", name="Attempts").click()
        page.get_by_role("combobox", name="Queue").select_option("all queues")
        assert_headings(page, "Attempts")
        rows(page).first.get_by_role("button", name="tried").click()
        expect(drawer).to_contain_text("2 bytes, not text:")
        expect(drawer.get_by_role("region", name="Attempts on this task")).to_contain_text("INTERNAL")
        check_accessibility(page)
        held.release()
        expect(rows(page).filter(has_text="in-flight")).to_contain_text("OK")
        page.get_by_role("button", name="Close").click()
        rows(page).filter(has_text="in-flight").get_by_role("button").click()
        expect(drawer).to_contain_text("It has left the queue")
    assert page.evaluate("window.pwned") is None
    names = set(page.locator("button").all_text_contents())
    assert "Close" in names
    assert not {"New queue", "New task", "Pause", "Resume", "Purge", "Run now", "Delete"} & names


def assert_headings(page: Page, view: str) -> None:
    """Check the column headings of a view."""
    found = page.get_by_role("table", name=view, exact=True).get_by_role("columnheader")
    expect(found).to_have_text(HEADINGS[view].split("|"))


@pytest.mark.parametrize("emulator", [("--console-writes",)], indirect=True)
def test_with_the_flag_queues_and_tasks_are_changed(page: Page, emulator: Emulator, watch: Watch) -> None:
    """A queue and a task are created by forms; tasks are run and deleted, the queue is paused, resumed and purged."""
    said, dialog = page.get_by_role("status"), page.get_by_role("dialog")
    page.get_by_role("button", name="New queue").click()
    check_accessibility(page)
    dialog.get_by_label("Queue", exact=True).fill("reports")
    # 409: the name exists. 404: a task has left the queue since the page asked whether it is there.
    failed = "Failed to load resource: the server responded with a status of"
    watch.expected |= {f"{failed} 409 (Conflict)", f"{failed} 404 (Not Found)"}
    dialog.get_by_role("button", name="Create queue").click()
    expect(dialog.get_by_role("alert")).to_contain_text("already exists")
    dialog.get_by_label("Queue", exact=True).fill("made")
    dialog.get_by_label("Attempts a task").fill("7")
    dialog.get_by_role("button", name="Create queue").click()
    expect(said).to_have_text("created the queue made")
    rows(page).get_by_role("button", name="made").click()
    card = page.get_by_role("group", name="queue made")
    expect(card).to_contain_text("attempts7")
    card.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("PAUSED")
    expect(card.get_by_role("button", name="Resume")).to_be_focused()
    with Target() as target:
        for task_id in ("one", "two"):
            card.get_by_role("button", name="New task").click()
            dialog.get_by_label("URL").fill(target.url)
            dialog.get_by_label("Task id").fill(task_id)
            dialog.get_by_label("Body").fill('{"name": "Zoë"}')
            dialog.get_by_role("button", name="Create task").click()
            expect(rows(page).get_by_role("button", name=task_id)).to_be_visible()
        rows(page).get_by_role("button", name="one").click()
        page.get_by_role("button", name="Run now").click()
        expect(said).to_have_text("dispatched one")
        (sent,) = target.wait(1)
    assert (sent.body.decode(), sent.headers["content-type"]) == ('{"name": "Zoë"}', "application/json")
    expect(page.get_by_role("complementary")).to_contain_text("It has left the queue")
    page.get_by_label("Find a task by its id").fill("two")
    page.get_by_label("Find a task by its id").press("Enter")
    page.get_by_role("button", name="Delete").click()
    check_accessibility(page)
    dialog.get_by_role("button", name="Delete the task").click()
    expect(said).to_have_text("deleted two")
    page.get_by_role("button", name="Close").click()
    expect(card).to_contain_text("tasks0")
    emulator.client.create_task({"parent": f"{LOCATION}/queues/made", "task": {"http_request": {"url": target.url}}})
    expect(card).to_contain_text("tasks1")
    card.get_by_role("button", name="Purge").click()
    dialog.get_by_role("button", name="Purge about 1 task").click()
    expect(page.get_by_text("No tasks in the queue")).to_be_visible()
    card.get_by_role("button", name="Resume").click()
    expect(card).to_contain_text("RUNNING")


@pytest.mark.parametrize("emulator", [["--console-writes"]], indirect=True)
def test_a_request_of_the_page_does_not_wait_for_the_test(page: Page, emulator: Emulator) -> None:
    """A request that begins after the last call of Playwright is sent while the test waits for its effect."""
    with Target() as target:
        task = create(emulator, OTHER, target.url, "waits").name
        page.evaluate(
            """(path) => {
              const run = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
              setTimeout(() => fetch(path, run), 200);
            }""",
            f"/console/v2/{task}:run",
        )
        assert target.wait(1)[0].method == "POST"


def test_a_long_queue_is_read_page_by_page(page: Page, emulator: Emulator) -> None:
    """Queues are sorted by depth; fifty tasks are shown at a time, with buttons to the next and the previous ones."""
    for number in range(3):
        requests = [
            {"parent": OTHER, "task": {"name": f"{OTHER}/tasks/t-{number}{n:02}", "http_request": {"url": "http://x/"}}}
            for n in range(40)
        ]
        emulator.client.batch_create_tasks({"parent": OTHER, "requests": requests}).result()
    by_tasks = page.get_by_role("columnheader", name="Tasks")
    by_tasks.get_by_role("button").click()
    expect(by_tasks).to_have_attribute("aria-sort", "descending")
    expect(rows(page).first).to_contain_text("120")
    by_tasks.get_by_role("button").click()
    expect(rows(page).last).to_contain_text("120")
    page.get_by_role("link", name="Tasks").click()
    page.get_by_role("combobox", name="Queue").select_option(OTHER)
    expect(page.get_by_text("50 of about 120 tasks, in the order of creation")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("100 of about 120")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(rows(page)).to_have_count(20)
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    expect(rows(page).last.get_by_role("button")).to_have_text("t-239")
    page.get_by_role("button", name="Previous").click()
    expect(rows(page).first.get_by_role("button")).to_have_text("t-110")


def test_a_hidden_page_asks_nothing_and_a_silent_emulator_is_told(page: Page, emulator: Emulator, watch: Watch) -> None:
    """Nothing is read while the tab is hidden; when the emulator ends, the page says since when and dims."""
    page.clock.install()
    page.reload()
    expect(page.locator("#live")).to_have_text("live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/console/queues*"):
        page.clock.run_for(1_000 * PATIENCE)  # the pause after an answer depends on the time that it took
    hide = "(state) => { Object.defineProperty(document, 'hidden', { get: () => state, configurable: true }); }"
    page.evaluate(hide, arg=True)
    page.wait_for_load_state("networkidle")
    page.clock.run_for(60_000)
    asked.clear()
    page.clock.run_for(3_600_000)
    assert asked == []
    page.evaluate(hide, arg=False)
    with page.expect_request("**/console/queues*"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    # A request on its way is reset or not answered, one on a connection that has just ended is not sent, later ones
    # are refused.
    ends = ("CONNECTION_REFUSED", "CONNECTION_RESET", "EMPTY_RESPONSE", "SOCKET_NOT_CONNECTED")
    watch.expected.update(f"Failed to load resource: net::ERR_{end}" for end in ends)
    emulator.kill()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("alert").filter(has_text="has not answered since")).to_be_visible()
    expect(page.locator("main")).to_have_css("opacity", "0.45")
    expect(page.locator("#live")).to_have_text("not answering")


def test_an_empty_emulator_says_how_to_begin(context: BrowserContext) -> None:
    """The page shows a command that creates a queue, for the address that it was loaded from."""
    with Emulator() as emulator:
        page = context.new_page()
        page.goto(f"http://{emulator.http}/")
        shown = page.locator("#queues-table code")
        expect(shown).to_contain_text(f"curl http://{emulator.http}/v2/projects/local/locations/us-central1/queues")
        given = shown.inner_text().partition("-d '")[2].removesuffix("'")
        emulator.request("POST", "/v2/projects/local/locations/us-central1/queues", json.loads(given))
        expect(rows(page)).to_have_count(1)
        page.close()
