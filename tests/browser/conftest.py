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

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

__all__: list[str] = []

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 90  # seconds; only a machine that does nothing else is quick
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
LOOPBACK = {"127.0.0.1", "localhost"}

#: What JupyterLab would otherwise ask, or cover its page with; a cursor that blinks makes no two pictures equal.
SETTINGS = json.loads((HERE / "lab-settings.json").read_text(encoding="utf-8"))
DARK = {"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"}}
QUIET_PLUGINS = {
    "@jupyterlab/apputils-extension:announcements": True,
    "@jupyterlab/extensionmanager-extension:plugin": True,
}
#: Voilà loads MathJax from another host, and does not start without one.
NO_MATHJAX = (
    "data:text/javascript,window.MathJax={Hub:{Config(){},Queue(){},Configured(){},"
    "Register:{StartupHook(){}}},Ajax:{}};//"
)
#: Notebook 7 logs these of itself when it opens a notebook, also one that holds `1 + 1` and no more: the first one
#: always, the second one on a server that has opened another in JupyterLab.
NOTEBOOK_7_ERRORS = {
    "Cannot read properties of undefined (reading 'schema')",
    "Command 'filebrowser:open-path' not registered.",
}

READY = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.revealed;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
}"""
RUN_ALL = "() => { window.cellsRan = window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
EXECUTE = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, store_history: false });
  let text = "", error = "";
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") text += content.text;
    if (header.msg_type === "error") error = content.traceback.join("\\n");
  };
  await future.done;
  return { text, error };
}"""


class Server:
    """One JupyterLab server, in a folder of its own."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.token = secrets.token_hex(16)
        self.url = ""
        self._outside = folder / "outside-calls.txt"
        self._write_files(settings)

    def _write_files(self, settings: dict[str, Any]) -> None:
        files = {
            "settings/overrides.json": settings,
            "settings/page_config.json": {"disabledExtensions": QUIET_PLUGINS},
            "data/nbconvert/templates/lab-offline/conf.json": {"base_template": "lab"},
        }
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        shutil.copytree(HERE / "voila-offline", self.folder / "data/voila/templates/lab-offline")
        self.notebooks.mkdir()

    def _command(self) -> list[str]:
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": 0,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "ServerApp.root_dir": self.notebooks,
            "ServerApp.terminals_enabled": False,
            "ServerApp.tornado_settings": {"mathjax_url": NO_MATHJAX},
            "IdentityProvider.token": self.token,
            "LabApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly",
            "LabApp.news_url": None,
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.app_settings_dir": self.folder / "settings",
            "LabApp.user_settings_dir": self.folder / "user-settings",
            "LabApp.workspaces_dir": self.folder / "workspaces",
            "JupyterNotebookApp.expose_app_in_browser": True,
            "JupyterNotebookApp.app_settings_dir": self.folder / "settings",
            "JupyterNotebookApp.user_settings_dir": self.folder / "user-settings",
            "JupyterNotebookApp.workspaces_dir": self.folder / "classic-workspaces",
            "VoilaConfiguration.template": "lab-offline",
            # Voilà would load Notebook 7's switch to JupyterLab, which asks for what Voilà does not have.
            "VoilaConfiguration.extension_denylist": ["@jupyter-notebook/lab-extension"],
        }
        return [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]

    def _environment(self) -> dict[str, str]:
        foreign = ("JUPYTER", "IPYTHON", "VOILA")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and not k.lower().endswith("_proxy")}
        folders = {
            "HOME": "home",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython",
            "CLOUDTASKS_NB_HOME": "cloudtasks",
        }
        own = {"PYTHONPATH": f"{HERE / 'site'}{os.pathsep}{ROOT}", "OUTSIDE_CALLS": str(self._outside), "TZ": "UTC"}
        return kept | {name: str(self.folder / folder) for name, folder in folders.items()} | own

    def __enter__(self) -> Self:
        with (self.folder / "server.log").open("w") as log:
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._await_answer()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop()
        called = self._outside.read_text(encoding="utf-8") if self._outside.exists() else ""
        assert called == "", "the server or a kernel called another host"

    def _await_answer(self) -> None:
        """Read the server's record of itself, which has the port that it got, and wait until it answers there."""
        record = self.folder / f"runtime/jpserver-{self._process.pid}.json"
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.url = json.loads(record.read_text(encoding="utf-8"))["url"]
                self.api("GET", "api/status")
            except (FileNotFoundError, json.JSONDecodeError, urllib.error.URLError):
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
            else:
                return
        log = (self.folder / "server.log").read_text(encoding="utf-8")
        pytest.fail(f"JupyterLab did not start:\n{log[-3000:]}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def api(self, method: str, path: str) -> Any:
        """Call the server's REST API."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)  # noqa: S310 - our own server
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=PATIENCE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def write(self, cells: tuple[str, ...]) -> str:
        """Write a notebook and return its file name."""
        name = f"{secrets.token_hex(4)}.ipynb"
        blank: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        code = [blank | {"id": f"c{number}", "source": source} for number, source in enumerate(cells)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": code}
        (self.notebooks / name).write_text(json.dumps(book), encoding="utf-8")
        return name

    def end_kernels(self) -> None:
        """End every kernel; those of Voilà have no session, and outlive their page."""
        for kernel in self.api("GET", "api/kernels"):
            self.api("DELETE", f"api/kernels/{kernel['id']}")


@dataclass
class Watch:
    """What the pages of one context have done that they should not."""

    errors: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    foreign: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        """Begin, before the first page."""
        context.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._look(request.url))
        context.route(is_foreign, lambda route: route.abort())

    def _look(self, url: str) -> None:
        if is_foreign(url):
            self.foreign.append(url)


def is_foreign(url: str) -> bool:
    """Tell whether a request leaves this machine."""
    parts = urlsplit(url)
    return parts.scheme not in {"data", "blob", "about"} and parts.hostname not in LOOPBACK


@dataclass
class Notebook:
    """One notebook, open in JupyterLab."""

    page: Page

    def start(self) -> None:
        """Run all cells without waiting for them."""
        self.page.evaluate(RUN_ALL)

    def finish(self) -> None:
        """Wait until the last cell is done; none may have raised."""
        assert self.page.evaluate("() => window.cellsRan"), "a cell raised: " + self.page.inner_text(".jp-Notebook")

    def python(self, code: str) -> str:
        """Run code in the kernel and return what it prints."""
        done = self.page.evaluate(EXECUTE, code)
        assert not done["error"], done["error"]
        return str(done["text"]).strip()

    def until(self, expression: str, wanted: str) -> None:
        """Wait until the kernel prints an expression as wanted."""
        poll = f"async ([code, wanted]) => (await ({EXECUTE})(code)).text.trim() === wanted"
        self.page.wait_for_function(poll, arg=[f"print({expression})", wanted])


def find_chromium(bundled: str) -> str:
    """Return the browser: one on the PATH that starts, else the one that Playwright has installed."""
    for name in ("chromium", "google-chrome", "chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    if Path(bundled).exists():
        return bundled
    pytest.fail(f"no browser: apt-get install chromium, or {sys.executable} -m playwright install chromium")


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
        path = find_chromium(playwright.chromium.executable_path)
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def watch() -> Watch:
    """Collect what the pages of this test do that they should not."""
    return Watch()


@pytest.fixture
def context(browser: Browser, watch: Watch) -> Iterator[BrowserContext]:
    """One window of the browser; at its end nothing may have gone wrong or out."""
    made = browser.new_context(
        viewport={"width": 1000, "height": 800},
        device_scale_factor=1,
        reduced_motion="reduce",
        locale="en-US",
        timezone_id="UTC",
    )
    made.set_default_timeout(PATIENCE * 1000)
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
        # A workspace of its own: two pages on one would make JupyterLab move away from it in the middle of a test.
        watch.expected |= NOTEBOOK_7_ERRORS if classic else set()
        place = "notebooks" if classic else f"doc/workspaces/{secrets.token_hex(6)}/tree"
        page.goto(f"{server.url}{place}/{server.write(cells)}?token={server.token}")
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.model")
        page.evaluate(READY)
        ground = "rgb(17, 17, 17)" if dark else "rgb(255, 255, 255)"
        page.wait_for_function(
            "(ground) => getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor === ground",
            arg=ground,
        )
        book = Notebook(page)
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


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[[Page, str], Path]:
    """Write a picture of the page into the test's folder: ``screenshot(page, "dark")``."""

    def take(page: Page, name: str) -> Path:
        path = tmp_path / f"{name}.png"
        page.screenshot(path=path)
        return path

    return take
