"""What notebook 03 shows for Google, against `handlers.app` under gunicorn, where google-auth verifies the tokens."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from google.cloud import bigquery

import cloudtasks_nb as ct
from cloudtasks_nb.testing import StrictEmulator, strict_emulator
from tests.integration.conftest import until
from tests.integration.strict.conftest import ADMIN
from tests.processes import listening, serving

NOTEBOOK = Path(__file__).parents[3] / "notebooks/03_fan_out.ipynb"
SERVICE = "https://notes-abc123.a.run.app"

#: The service, as somebody would deploy it.
MAIN = """
import json, pathlib
from cloudtasks_nb.handlers import app

def note(carrier, flight, dest, dep_delay):
    return f"{carrier}{flight} to {dest}"

def finished(**summary):
    pathlib.Path("part.json").write_text(json.dumps(summary))
    pathlib.Path("part.json").rename("summary.json")

application = app(
    {"/": note, "/done": finished}, audience=%r, service_account="caller@my-project.iam.gserviceaccount.com"
)
"""


def snippet() -> str:
    """Return the code for Google that the notebook shows."""
    sources = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(sources), flags=re.DOTALL)
    (code,) = [block for block in blocks if SERVICE in block]
    return str(code)


@pytest.fixture(scope="module")
def started() -> Iterator[StrictEmulator]:
    """Run Google for the project of the snippet."""
    with strict_emulator(project="my-project") as emulator:
        yield emulator


@pytest.fixture
def service(emulator: StrictEmulator, tmp_path: Path) -> Iterator[str]:
    """Run the service, and give its URL, which is also the audience."""
    with listening() as sock:
        url = f"https://localhost:{sock.getsockname()[1]}"
        (tmp_path / "main.py").write_text(MAIN % url)
        places = {"CLOUDTASKS_NB_STORE": str(tmp_path / "store"), "HOME": str(tmp_path)}
        environment = os.environ | emulator.google_environment | places
        command = (sys.executable, "-m", "gunicorn", "--bind", f"fd://{sock.fileno()}", "--threads", "8")
        tls = ("--certfile", emulator.certificate, "--keyfile", emulator.key)
        with serving(
            *command, *tls, "main:application", cwd=tmp_path, environment=environment, pass_fds=[sock.fileno()]
        ):
            yield url


def test_the_snippet_of_the_notebook(
    service: str, emulator: StrictEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, but for the host: every row is accepted, and so is the notification at the end."""
    emulator.service_account("caller", key=False)
    analyst = emulator.service_account("analyst", [ADMIN, "roles/logging.viewer", "roles/iam.serviceAccountUser"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(analyst))
    monkeypatch.setenv("CLOUDTASKS_NB_STORE", str(tmp_path / "store"))
    flights = duckdb.sql("""
        select '2013-01-01' as day, 'UA' as carrier, flight, origin, dest, dep_delay
        from (values (1545, 'EWR', 'IAH', 2.0), (1714, 'LGA', 'IAH', 4.0), (1141, 'JFK', 'MIA', 2.0))
        as t (flight, origin, dest, dep_delay)
    """)
    monkeypatch.setattr(bigquery, "Client", lambda: SimpleNamespace(query=lambda _: flights))
    names: dict[str, Any] = {"ct": ct}
    exec(snippet().replace(SERVICE, service), names)  # noqa: S102 - our own notebook
    assert names["batch"].results()["result"].tolist() == ["UA1545 to IAH", "UA1714 to IAH", "UA1141 to MIA"]
    until(lambda: Path("summary.json").exists())
    summary = json.loads(Path("summary.json").read_text())
    assert (summary["name"], summary["total"], summary["succeeded"]) == ("flights of 2013", 3, 3)
    names["tasks"].close()
