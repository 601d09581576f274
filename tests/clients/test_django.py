"""The page for Django: its site, with the packages that it names, finds an emulator at Google's addresses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.clients.conftest import INSTALL_WITHIN, KEPT, cached_folder
from tests.integration.conftest import until
from tests.integration.emulator.test_program import RUN
from tests.processes import end, free_port, run

PAGE = Path(__file__).parents[2] / "docs/how-to/django.md"
PACKAGE = "django-tasks-cloud-tasks==0.1.0"


@pytest.fixture(scope="module")
def python() -> Path:
    """Return a Python that Django supports, with the packages."""
    program = next(filter(None, map(shutil.which, ("python3.14", "python3.13", "python3.12"))), None)
    if program is None:
        pytest.skip("this machine has no Python 3.12 or newer")
    with cached_folder("django", f"{PACKAGE} {program}".encode()) as (folder, new):
        if new is not None:
            assert run(program, "-m", "venv", "--without-pip", new).returncode == 0
            pip = (sys.executable, "-m", "pip", "--python", new / "bin/python", "install", "--quiet")
            done = run(*pip, PACKAGE, timeout=INSTALL_WITHIN)
            if "Failed to establish a new connection" in done.stderr:
                pytest.skip("the packages are not installed, and pip cannot reach its index")
            assert done.returncode == 0, done.stderr
        return folder / "bin/python"


def answer(port: int) -> str:
    """Request the page that creates a task; "" while the site does not listen."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://localhost:{port}/order/") as reply:
            return str(reply.read().decode())
    except ConnectionError:
        return ""
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError):
            return ""
        raise


def test_the_site_of_the_page(tmp_path: Path, python: Path) -> None:
    """A request creates a task with Google's client, the emulator calls the site for it, and one signal ends both."""
    found = re.search(r'```python title="app.py"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with free_port() as port:
        (tmp_path / "app.py").write_text(found[1].replace("8000", str(port)), encoding="utf-8")
        command = [*RUN, "--", "env", "--unset=PYTHONPATH", str(python), "app.py"]
        variables = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
        with (tmp_path / "errors").open("w") as errors:
            ran = subprocess.Popen(
                command, cwd=tmp_path, env=variables, text=True, stdout=subprocess.PIPE, stderr=errors
            )
        try:
            assert until(lambda: answer(port) or None, (tmp_path / "errors").read_text)
            assert ran.stdout is not None
            assert "welcome ann\n" in iter(ran.stdout.readline, "")
        finally:
            end(ran)
    assert ran.returncode == 128 + signal.SIGTERM
