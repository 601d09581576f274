"""The time until a panel is painted, in a real JupyterLab and a real browser."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import LOCATION, filled
from tests.browser.lab import SETTINGS, Server, launch, window

#: Makes `window.painted`: milliseconds from the event of this name until the browser has painted a match.
_WATCH = """([event, selector]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const seen = () => [...document.querySelectorAll(selector)].some((row) => row.offsetParent);
  window.painted = new Promise((done) => {
    const begin = async () => {
      const started = performance.now();
      while (!seen()) await frame();
      await frame(); // what one frame finds, the next has painted
      done(performance.now() - started);
    };
    window.addEventListener(event, begin, { capture: true, once: true });
  });
}"""
_QUEUE = '.ctn-panel tr[data-key="shown"]'
_TASK = '.ctn-panel tr[data-key]:not([data-key="shown"])'


def _paints(bench: Bench) -> None:
    folder = bench.folder / "lab"
    folder.mkdir(parents=True)
    with (
        filled("shown", bench.size.listed) as (emulator, _tasks, _queue),
        Server(folder, SETTINGS) as server,
        _browser() as browser,
    ):
        for _ in bench.rounds():
            context = window(browser)
            _paint(bench, context.new_page(), server, emulator.grpc)
            context.close()
            server.end_kernels()


def _paint(bench: Bench, page: Page, server: Server, endpoint: str) -> None:
    _, project, _, location = LOCATION.split("/")
    connect = f"import cloudtasks_nb as ct; tasks = ct.connect({project!r}, {location!r}, endpoint={endpoint!r})"
    server.open(page, "tasks.panel()").python(connect)
    page.locator(".jp-Notebook").focus()
    bench.report("panel", _painted(page, "keydown", _QUEUE, lambda: page.keyboard.press("Control+Enter")))
    bench.report("tasks", _painted(page, "pointerdown", _TASK, page.get_by_role("tab", name="Tasks").click))


def _painted(page: Page, event: str, selector: str, begin: Callable[[], object]) -> float:
    page.evaluate(_WATCH, [event, selector])
    begin()
    return float(page.evaluate("() => window.painted"))


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


PAINT = case(
    "paint",
    "Panel: until it is seen",
    _paints,
    "A queue with 100,000 tasks; a fresh kernel in JupyterLab has connected, and the cell `tasks.panel()` is run "
    "in Chromium: from the key that runs it until the row of the queue is painted, loading the widget libraries "
    "included. Then from a click on the tab Tasks until its first rows are painted.",
    """
    panel | from running the cell to the painted queue | ms | ≤ 1,000
    tasks | from the click to the first painted tasks  | ms | ≤ 1,000
    """,
)
