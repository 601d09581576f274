"""A real JupyterLab server, notebooks that are open in it, and a browser that reaches no other host.

For the tests beside this file and for what is measured in a browser. Nothing here waits for time to pass.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from playwright.sync_api import Browser, BrowserContext, Page, Playwright

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
PATIENCE = 240  # seconds; only a machine that does nothing else is quick
_CHROMIUM_FLAGS = [
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
    "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
#: A request that leaves this machine. Playwright asks Python about every request if this is a Python function, and the
#: requests of a page then wait while the test waits for something else.
_FOREIGN = re.compile(r"^(?!(data|blob|about):|(https?|wss?)://(127\.0\.0\.1|localhost)(:\d+)?/)")

#: What JupyterLab would otherwise ask, or cover its page with; a cursor that blinks makes no two pictures equal.
SETTINGS = json.loads((_HERE / "lab-settings.json").read_text(encoding="utf-8"))
DARK = {"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"}}
_QUIET_PLUGINS = {
    "@jupyterlab/apputils-extension:announcements": True,
    "@jupyterlab/extensionmanager-extension:plugin": True,
}
#: Voilà loads MathJax from another host, and does not start without one.
_NO_MATHJAX = (
    "data:text/javascript,window.MathJax={Hub:{Config(){},Queue(){},Configured(){},"
    "Register:{StartupHook(){}}},Ajax:{}};//"
)
#: Notebook 7 logs these of itself when it opens a notebook, also one that holds `1 + 1` and no more: the first one
#: always, the second one on a server that has opened another in JupyterLab.
NOTEBOOK_7_ERRORS = {
    "Cannot read properties of undefined (reading 'schema')",
    "Command 'filebrowser:open-path' not registered.",
}

_READY = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.revealed;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
}"""
_RUN_ALL = "() => { window.cellsRan = window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
_SAVE = """async () => {
  const { context } = window.jupyterapp.shell.currentWidget;
  await context.save();
  return context.path;
}"""
_EXECUTE = """async (code) => {
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
            "settings/page_config.json": {"disabledExtensions": _QUIET_PLUGINS},
            "data/nbconvert/templates/lab-offline/conf.json": {"base_template": "lab"},
        }
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        shutil.copytree(_HERE / "voila-offline", self.folder / "data/voila/templates/lab-offline")
        self.notebooks.mkdir()

    def _command(self) -> list[str]:
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": 0,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "ServerApp.root_dir": self.notebooks,
            "ServerApp.terminals_enabled": False,
            "ServerApp.tornado_settings": {"mathjax_url": _NO_MATHJAX},
            "MappingKernelManager.kernel_info_timeout": PATIENCE,
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
            "VoilaExecutor.startup_timeout": PATIENCE,
            "VoilaExecutor.iopub_timeout": PATIENCE,  # it leaves out what comes later
            "VoilaConfiguration.template": "lab-offline",
            # Voilà would load Notebook 7's switch to JupyterLab and Jupytext, which ask for what Voilà does not have.
            "VoilaConfiguration.extension_denylist": ["@jupyter-notebook/lab-extension", "jupyterlab-jupytext"],
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
        own = {"PYTHONPATH": f"{_HERE / 'site'}{os.pathsep}{_ROOT}", "OUTSIDE_CALLS": str(self._outside), "TZ": "UTC"}
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
        raise RuntimeError(f"JupyterLab did not start:\n{log[-3000:]}")

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
        blank: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        return self._save([blank | {"id": f"c{number}", "source": source} for number, source in enumerate(cells)])

    def _save(self, code: list[dict[str, Any]]) -> str:
        name = f"{secrets.token_hex(4)}.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": code}
        (self.notebooks / name).write_text(json.dumps(book), encoding="utf-8")
        return name

    def open(self, page: Page, *cells: str, dark: bool = False, classic: bool = False) -> Notebook:
        """Open a notebook with these cells on a page, in JupyterLab or in Notebook 7; none has run yet."""
        return self.visit(page, self.write(cells), dark=dark, classic=classic)

    def visit(self, page: Page, name: str, *, dark: bool = False, classic: bool = False) -> Notebook:
        """Open a file of this server on a page, and wait until its kernel is ready."""
        # A workspace of its own: two pages on one would make JupyterLab move away from it in the middle of a test.
        place = "notebooks" if classic else f"doc/workspaces/{secrets.token_hex(6)}/tree"
        page.goto(f"{self.url}{place}/{name}?token={self.token}")
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.model")
        page.evaluate(_READY)
        ground = "rgb(17, 17, 17)" if dark else "rgb(255, 255, 255)"
        page.wait_for_function(
            "(ground) => getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor === ground",
            arg=ground,
        )
        return Notebook(page)

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
        context.on("console", lambda logged: self.errors.append(logged.text) if logged.type == "error" else None)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._check_request(request.url))
        context.route(_FOREIGN, lambda route: route.abort())

    def _check_request(self, url: str) -> None:
        if _FOREIGN.match(url):
            self.foreign.append(url)


@dataclass
class Notebook:
    """One notebook, open in JupyterLab."""

    page: Page

    def start(self) -> None:
        """Run all cells without waiting for them."""
        self.page.evaluate(_RUN_ALL)

    def finish(self) -> None:
        """Wait until the last cell is done; none may have raised."""
        assert self.page.evaluate("() => window.cellsRan"), "a cell raised: " + self.page.inner_text(".jp-Notebook")

    def save(self) -> str:
        """Save the notebook and return the name of its file."""
        return str(self.page.evaluate(_SAVE))

    def restart_kernel(self) -> None:
        """Restart the kernel, as the button of the toolbar does."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")

    def python(self, code: str) -> str:
        """Run code in the kernel and return what it prints."""
        done = self.page.evaluate(_EXECUTE, code)
        assert not done["error"], done["error"]
        return str(done["text"]).strip()

    def until(self, expression: str, wanted: str) -> None:
        """Wait until the kernel prints an expression as wanted."""
        # Not `wait_for_function`: it takes the promise that an async function returns for true.
        poll = f"""async ([code, wanted, patience]) => {{
          const end = performance.now() + patience;
          for (;;) {{
            const {{ text, error }} = await ({_EXECUTE})(code);
            if (text.trim() === wanted) return;
            if (performance.now() > end) throw new Error(`${{code}}: ${{text || error}}`);
            await new Promise((resolve) => setTimeout(resolve, 50));
          }}
        }}"""
        self.page.evaluate(poll, [f"print({expression})", wanted, PATIENCE * 1000])


def launch(playwright: Playwright) -> Browser:
    """Start Chromium."""
    return playwright.chromium.launch(executable_path=_find(playwright.chromium.executable_path), args=_CHROMIUM_FLAGS)


#: anywidget drops all messages to a widget whose script did not run within 2 s, as on a busy machine.
_BUSY = "const timeout = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => timeout(30 * ms);"


def window(browser: Browser, zone: str = "UTC") -> BrowserContext:
    """Open a window of a size of its own, in which nothing moves by itself."""
    made = browser.new_context(
        viewport={"width": 1000, "height": 800},
        device_scale_factor=1,
        reduced_motion="reduce",
        locale="en-US",
        timezone_id=zone,
    )
    made.set_default_timeout(PATIENCE * 1000)
    made.add_init_script(_BUSY)
    return made


def _find(bundled: str) -> str:
    """Return the browser: one on the PATH that starts, else the one that Playwright has installed."""
    for name in ("chromium", "google-chrome", "chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    if Path(bundled).exists():
        return bundled
    raise RuntimeError(f"no browser: apt-get install chromium, or {sys.executable} -m playwright install chromium")
