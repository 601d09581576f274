"""A real JupyterLab with real kernels and a real browser, none of which can reach another host.

A test asks for `notebook` and gives it the code of its cells; it gets a page on which they have run::

    def test_table_shows_rows(notebook):
        book = notebook("from cloudtasks_nb.panels import Table, Column", "table = ...; table")
        expect(book.page.locator("[role=grid] tbody tr")).to_have_count(3)
        assert book.python("print(table.selected)") == "[]"

Nothing waits for time to pass: wait for what the page shows, or `book.until` Python says so. What a widget sends may be
handled in another thread of the kernel than `book.python`, before or after it. When a test ends, its pages must have
logged no error and must have asked nobody but this machine.
"""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.lab import DARK, NOTEBOOK_7_ERRORS, PATIENCE, SETTINGS, Notebook, Server, Watch, launch, window


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """JupyterLab in its light theme."""
    with Server(tmp_path_factory.mktemp("lab"), SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def dark_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """JupyterLab in its dark theme."""
    with Server(tmp_path_factory.mktemp("dark-lab"), SETTINGS | DARK) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one file of tests: Playwright's event loop would be in the way of other tests' own."""
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def watch() -> Watch:
    """Collect what the pages of this test do that they should not."""
    return Watch()


@pytest.fixture
def zone() -> str:
    """Return the time zone of the browser; a file of tests may have another."""
    return "UTC"


@pytest.fixture
def context(browser: Browser, watch: Watch, zone: str) -> Iterator[BrowserContext]:
    """One window of the browser; at its end nothing may have gone wrong or out."""
    made = window(browser, zone)
    watch.over(made)
    yield made
    made.close()
    assert [error for error in watch.errors if error not in watch.expected] == []
    assert watch.foreign == []


@pytest.fixture
def notebook(
    context: BrowserContext, watch: Watch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook with these cells and run them: ``notebook("1 + 1", ..., dark=False, wait=True)``.

    It is open in JupyterLab, or with ``classic=True`` in Notebook 7.
    """
    used: list[tuple[Server, Page]] = []

    def open_notebook(*cells: str, dark: bool = False, classic: bool = False, wait: bool = True) -> Notebook:
        server: Server = request.getfixturevalue("dark_lab" if dark else "lab")
        page = context.new_page()
        used.append((server, page))
        watch.expected |= NOTEBOOK_7_ERRORS if classic else set()
        book = server.open(page, *cells, dark=dark, classic=classic)
        book.start()
        if wait:
            book.finish()
        return book

    yield open_notebook
    for server, page in used:
        page.close()
        server.end_kernels()


@pytest.fixture
def voila(context: BrowserContext, lab: Server) -> Iterator[Callable[..., Page]]:
    """Render these cells with Voilà, and return the page: ``voila("1 + 1", ..., dark=False)``."""
    pages: list[Page] = []

    def render(*cells: str, dark: bool = False) -> Page:
        page = context.new_page()
        pages.append(page)
        theme = "dark" if dark else "light"
        page.goto(f"{lab.url}voila/render/{lab.write(cells)}?token={lab.token}&theme={theme}")
        return page

    yield render
    for page in pages:
        page.close()
    lab.end_kernels()
