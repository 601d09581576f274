"""Fixtures of the tests with clients in other languages: Node with packages from npm, and a started emulator."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from filelock import FileLock

from tests.integration.conftest import _connected, emulator, start_emulator, target, transport
from tests.integration.emulator.conftest import queue
from tests.processes import run

__all__ = ["_connected", "emulator", "queue", "start_emulator", "target", "transport"]

HERE = Path(__file__).parent
OLDEST_NODE = 18  # the packages need it
INSTALL_WITHIN = 900.0  # seconds; a hundred megabytes over a slow network
SCRIPT_WITHIN = 120.0  # seconds
#: npm's codes for a registry that cannot be reached
NO_NETWORK = re.compile(
    r"code (ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|\w*TIMEDOUT|\w*TIMEOUT)"
)
#: What the scripts see of this machine's environment; no credentials and no settings of a person.
KEPT = ("PATH", "LANG", "SYSTEMROOT", "TMPDIR", "TEMP")


@contextmanager
def cached_folder(name: str, key: bytes) -> Iterator[tuple[Path, Path | None]]:
    """Give a folder that outlives the test run; workers wait for each other here.

    It is outside of the checkout, and there is one for each content of `key`. The second path is None if the folder is
    complete. Else the caller fills that path, which takes the folder's place when no error is raised.
    """
    caches = platformdirs.user_cache_path("cloudtasks-nb-tests", appauthor=False, ensure_exists=True)
    folder = caches / f"{name}-{sha256(key).hexdigest()[:16]}"
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            yield folder, None
            return
        with tempfile.TemporaryDirectory(dir=caches, ignore_cleanup_errors=True) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            yield folder, new
            new.rename(folder)


class Node:
    """Runs Node scripts of this folder, which can import the packages of `package.json`.

    Parameters
    ----------
    folder : Path
        Has the scripts and the packages, and is the home of the scripts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, script: str, *arguments: str, **environment: str) -> Any:
        """Run a script with these environment variables, and return the JSON document that it writes, if any."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        settings = kept | {"HOME": str(self.folder), "METADATA_SERVER_DETECTION": "none"} | environment
        ended = run("node", self.folder / script, *arguments, environment=settings, timeout=SCRIPT_WITHIN)
        assert ended.returncode == 0, f"{script} ended with {ended.returncode}:\n{ended.stderr}{ended.stdout}"
        return json.loads(ended.stdout or "null")


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Run Node with the packages, which are installed once for each content of `package.json`."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"this machine has no {program}")
    version = run("node", "--version").stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"the packages need Node {OLDEST_NODE}, and this machine has {version}")
    # Node looks for packages beside the script and above it.
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(_install_packages() / "node_modules", target_is_directory=True)
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, folder)
    return Node(folder)


def _install_packages() -> Path:
    """Install the packages of `package.json`, or find them installed, and return their folder."""
    listed = HERE / "package.json"
    with cached_folder("npm", listed.read_bytes()) as (folder, new):
        if new is not None:
            shutil.copy(listed, new)
            quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error")
            offline = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")  # milliseconds
            ended = run("npm", "install", *quiet, *offline, cwd=new, timeout=INSTALL_WITHIN)
            if ended.returncode and NO_NETWORK.search(ended.stderr):
                pytest.skip("the packages are not installed, and npm cannot reach its registry")
            assert ended.returncode == 0, f"npm install ended with {ended.returncode}:\n{ended.stderr}"
        return folder
