"""A page of another site, in a real browser, tries to drive an emulator on the browser's machine."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.lab import PATIENCE
from tests.integration.conftest import LOCATION, Emulator, Target

QUEUE = f"{LOCATION}/queues/mine"
TASK = f"{QUEUE}/tasks/mine"
#: What a page can send without asking the server first, one way after the other. It cannot read the answers.
ATTACK = """async ([emulator, location, queue, task]) => {
  const send = (method, path, body) => fetch(emulator + path, { method, body, mode: "no-cors" }).catch(() => null);
  const loaded = (node) => new Promise((done) => { node.onload = node.onerror = done; document.body.append(node); });
  await send("GET", "/admin/history?body=1");
  await send("POST", "/admin/reset");
  await send("POST", `/v2/${queue}:purge`);
  await send("POST", `/v2/${queue}:pause`, "{}");
  await send("POST", `/v2/${location}/queues`, JSON.stringify({ name: `${location}/queues/theirs` }));
  await send("POST", `/v2/${queue}/tasks`, JSON.stringify({ task: { httpRequest: { url: emulator } } }));
  await fetch(emulator + `/v2/${task}`, { method: "DELETE" }).catch(() => null);
  const image = new Image();
  image.src = `${emulator}/admin/clock?advance_s=360000`;
  await loaded(image);
  const frame = document.createElement("iframe");
  frame.name = "frame";
  await loaded(frame);
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", enctype: "text/plain", target: "frame", action: emulator + "/admin/clock" });
  form.innerHTML = `<input name='{"advance_s": 360000, "x": "' value='"}'>`;
  document.body.append(form);
  const answered = new Promise((done) => { frame.onload = done; });
  form.submit();
  await answered;
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page of another site; its host's name leads to this machine, as after DNS rebinding."""
    with Target() as site, browser.new_context() as context:
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE * 1000)
        opened.goto(f"http://evil.example:{site.port}/")
        yield opened


def test_a_page_of_another_site_changes_and_reads_nothing(page: Page) -> None:
    """Requests of scripts, images and forms arrive and are refused: queues, tasks and the clock are as before."""
    with Emulator("--queue", QUEUE) as emulator:
        emulator.client.pause_queue(name=QUEUE)
        task = {"name": TASK, "http_request": {"url": "http://127.0.0.1:9/"}}
        emulator.client.create_task({"parent": QUEUE, "task": task})
        before = emulator.request("GET", "/admin/clock")["now_us"]
        statuses: list[int] = []
        page.on("response", lambda answer: statuses.append(answer.status))
        with page.expect_response(f"{emulator.ready['http']}/admin/clock"):  # to the form, which is the last request
            page.evaluate(ATTACK, [emulator.ready["http"], LOCATION, QUEUE, TASK])
        assert emulator.request("GET", "/admin/clock")["now_us"] - before < 360_000_000_000
        assert [queue.name for queue in emulator.client.list_queues(parent=LOCATION)] == [QUEUE]
        assert [task.name for task in emulator.client.list_tasks(parent=QUEUE)] == [TASK]
        assert set(statuses) == {403}
        rebound = page.goto(f"http://evil.example:{emulator.http.rpartition(':')[2]}/admin/history?body=1")
        assert rebound is not None
        assert (rebound.status, "--allow-host evil.example" in rebound.text()) == (403, True)
