"""The emulator's console in a browser: what it hides, what it changes, and when it asks; a journey is in the smoke."""

import json
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.console import OTHER, QUEUE, check_console, open_console, rows
from tests.browser.lab import PATIENCE, Watch
from tests.integration.conftest import Answer, Emulator, Target
from tests.unit.display.test_secrets import HEADERS, HEADERS_SHOWN, IDS, NAMES, PLAIN, TEXTS, TOKENS


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run an emulator with two queues, or with the options that the test is parametrized with."""
    with Emulator("--quiet", *getattr(request, "param", ("--queue", QUEUE, "--queue", OTHER))) as started:
        yield started


@pytest.fixture
def page(context: BrowserContext, emulator: Emulator) -> Iterator[Page]:
    """Open the console."""
    with open_console(context, emulator) as opened:
        yield opened


def test_secrets_are_those_of_the_panels(page: Page) -> None:
    """The script hides what the toolkit hides, in every case that the toolkit is tested with, and in linear time."""
    cases = [
        *TEXTS,
        *TOKENS.items(),
        *((f"it said 'a\\n{text}'", f"it said 'a\\n{shown}'") for text, shown in TOKENS.items()),
    ]
    cases += zip(IDS, IDS, strict=True)
    names, texts = NAMES.split() + PLAIN.split(), [text for text, _ in cases]
    long = [part * (1_000_000 // len(part)) + " token=abc" for part in ("token=", '"token":{', "a-", "eyJ-", "://")]
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
    assert found["texts"] == found["again"] == [shown for _, shown in cases]
    assert (found["headers"], found["key"]) == (HEADERS_SHOWN, False)
    assert found["body"] == {"a": [{"token": "•••", "n": 1}], "secret": "•••", "password": None}
    assert found["long"] == [True] * len(long)


@pytest.mark.parametrize("emulator", [["--console-writes"]], indirect=True)
def test_with_the_flag_queues_and_tasks_are_changed(page: Page, emulator: Emulator, watch: Watch) -> None:
    """The first queue by the shown command, then all by buttons: tasks are created, run and deleted, queues purged."""
    curl = page.locator("#queues-table code")
    expect(curl).to_contain_text(f"curl http://{emulator.http}/v2/projects/local/locations/us-central1/queues")
    first = json.loads(curl.inner_text().partition("-d '")[2].removesuffix("'"))
    emulator.request("POST", "/v2/projects/local/locations/us-central1/queues", first)
    expect(rows(page)).to_have_count(1)
    said, dialog = page.get_by_role("status"), page.get_by_role("dialog")
    page.get_by_role("button", name="New queue").click()
    check_console(page)
    # 409: the name exists. 404: a task has left the queue since the page asked whether it is there.
    failed = "Failed to load resource: the server responded with a status of"
    watch.expected |= {f"{failed} 409 (Conflict)", f"{failed} 404 (Not Found)"}
    dialog.get_by_label("Queue", exact=True).fill(first["name"].rpartition("/")[2])
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
        create_two_and_run_one(page, target)
    page.get_by_label("Find a task by its id").fill("two")
    page.get_by_label("Find a task by its id").press("Enter")
    page.get_by_role("button", name="Delete").click()
    check_console(page)
    dialog.get_by_role("button", name="Delete the task").click()
    expect(said).to_have_text("deleted two")
    page.get_by_role("button", name="Close").click()
    expect(card).to_contain_text("tasks0")
    made = f"{first['name'].rpartition('/')[0]}/made"
    emulator.client.create_task({"parent": made, "task": {"http_request": {"url": target.url}}})
    expect(card).to_contain_text("tasks1")
    card.get_by_role("button", name="Purge").click()
    dialog.get_by_role("button", name="Purge about 1 task").click()
    expect(page.get_by_text("No tasks in the queue")).to_be_visible()
    card.get_by_role("button", name="Resume").click()
    expect(card).to_contain_text("RUNNING")


def create_two_and_run_one(page: Page, target: Target) -> None:
    """Create the tasks one and two in the queue that is shown, by its form, and run the first."""
    dialog = page.get_by_role("dialog")
    for task_id in ("one", "two"):
        page.get_by_role("button", name="New task").click()
        dialog.get_by_label("URL").fill(target.url)
        dialog.get_by_label("Task id").fill(task_id)
        dialog.get_by_label("Body").fill('{"name": "Zoë"}')
        dialog.get_by_role("button", name="Create task").click()
        expect(rows(page).get_by_role("button", name=task_id)).to_be_visible()
    rows(page).get_by_role("button", name="one").click()
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_role("status")).to_have_text("dispatched one")
    (sent,) = target.wait(1)
    assert (sent.body.decode(), sent.headers["content-type"]) == ('{"name": "Zoë"}', "application/json")
    expect(page.get_by_role("complementary")).to_contain_text("It has left the queue")


def test_a_request_of_a_page_does_not_wait_for_the_test(context: BrowserContext) -> None:
    """A request that begins after the last call of Playwright is sent while the test waits for it."""
    held = Answer(hold=threading.Event())
    with Target() as target:
        page = context.new_page()
        target.script(Answer(headers={"Content-Type": "text/html"}, body=b'<link rel="icon" href="data:,">'), held)
        page.goto(target.url)
        page.evaluate("() => { fetch('/first').then(() => fetch('/second')); }")
        target.wait(2)
        held.release()
        assert target.wait(3)[2].path == "/second"
        page.close()


def test_a_long_queue_is_read_page_by_page(page: Page, emulator: Emulator) -> None:
    """Queues are sorted by depth; fifty tasks are shown at a time, with buttons to the next and the previous ones."""
    emulator.client.pause_queue(name=OTHER)
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
    page.locator("#tasks-queue").select_option(OTHER)
    expect(page.get_by_text("50 of about 120 tasks, in the order of creation")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("100 of about 120")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(rows(page)).to_have_count(20)
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    expect(rows(page).last.get_by_role("button")).to_have_text("t-239")
    page.get_by_role("button", name="Previous").click()
    expect(rows(page).first.get_by_role("button")).to_have_text("t-110")


def test_a_hidden_page_asks_nothing_and_a_silent_emulator_is_told(page: Page, watch: Watch) -> None:
    """Nothing is read while the tab is hidden; without an answer the page says since when, and dims."""
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
    watch.expected.add("Failed to load resource: net::ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("alert").filter(has_text="has not answered since")).to_be_visible()
    expect(page.locator("main")).to_have_css("opacity", "0.45")
    expect(page.locator("#live")).to_have_text("not answering")
