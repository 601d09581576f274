"""The documents are correct: snippets run, commands exist, links have a target."""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from cloudtasks_nb._names import code_name, code_of
from tests.processes import run

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    "cloudtasks_nb/emulator/README.md",
)


class Snippet(NamedTuple):
    """A fenced block of a document."""

    where: str  #: file and line
    language: str
    code: str


def read(document: str) -> str:
    """Return a document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def snippets(document: str) -> list[Snippet]:
    """Find the fenced blocks of a document."""
    text = read(document)
    return [
        Snippet(f"{document}:{text.count(chr(10), 0, found.start()) + 1}", found["language"], found["code"])
        for found in re.finditer(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def make_targets() -> set[str]:
    """Read the targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):(?!=)", read("Makefile"), flags=re.MULTILINE))


def make_commands(document: str) -> set[str]:
    """Find the targets of `make` in a document: in shell blocks, and in `make x` between backticks."""
    shell = "\n".join(block.code for block in snippets(document) if block.language in {"bash", "sh", "console"})
    in_blocks = re.findall(r"(?:^|&&|;|\$)[ ]*make ([a-z-]+)", shell, flags=re.MULTILINE)
    return {*in_blocks, *re.findall(r"`make ([a-z-]+)", read(document))}


PYTHON = [block for block in snippets("README.md") if block.language == "python"]
#: The commands that the README wants typed before the snippet for Google.
GCLOUD = re.findall(r"^gcloud (?:.*\\\n)*.*", read("README.md"), flags=re.MULTILINE)
#: Runs a script with stand-ins for Google.
ON_GOOGLE = f"""
import runpy, subprocess, sys
sys.path.insert(0, {str(ROOT / "notebooks")!r})
import google_stand_in
google = google_stand_in.start(project="my-project", user="ann@example.com")
google.emulator.grant("ann@example.com", "roles/logging.viewer")
for command in {GCLOUD!r}:
    subprocess.run(command, shell=True, check=True)
google.emulator.set(grants_after_s=2)  # rights that ct.deploy gives work later
names = runpy.run_path(sys.argv[1])
assert names["results"]["state"].tolist() == ["succeeded", "succeeded"]
"""


def test_readme_shows_python_and_the_first_commands() -> None:
    """README.md has an example to type and names the commands `make demo` and `make lab`."""
    assert PYTHON, "README.md has no ```python block"
    assert make_commands("README.md") >= {"demo", "lab"}


@pytest.mark.parametrize("snippet", PYTHON, ids=[block.where for block in PYTHON])
def test_python_snippet_runs(snippet: Snippet, tmp_path: Path) -> None:
    """A python block of the README runs unchanged, in a process and a home of its own; one for Google on stand-ins."""
    environment = {**os.environ, "CLOUDTASKS_NB_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "snippet.py").write_text(snippet.code, encoding="utf-8")
    start = ["-c", ON_GOOGLE] if "tasks = ct.connect(" in snippet.code else []
    done = run(sys.executable, *start, "snippet.py", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, f"{snippet.where} ends with\n{done.stderr[-3000:]}"


def test_make_help_lists_every_target() -> None:
    """`make help` lists each target of the Makefile."""
    done = run("make", "help", cwd=ROOT)
    assert set(re.findall(r"^make ([a-z-]+) ", done.stdout, flags=re.MULTILINE)) == make_targets()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_links_exist(document: str) -> None:
    """Every `make x` in a document is a target of the Makefile, and a link into this project names an existing file."""
    assert make_commands(document) - make_targets() == set()
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", read(document))
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


def test_table_of_http_statuses() -> None:
    """The README names the code of each HTTP status, and whether Cloud Tasks tries again."""
    rows = re.findall(
        r"^\| ([^|]*\d[^|]*|no connection) \| `([A-Z_]+)` \| (no|yes)", read("README.md"), flags=re.MULTILINE
    )
    table = {what: (code, again == "yes") for text, code, again in rows for what in text.split(", ")}
    for status in range(200, 600):
        hundreds = f"{status // 100}xx"
        code = code_name(code_of(status))
        found = table.get(str(status)) or table.get(f"other {hundreds}") or table.get(hundreds)
        assert found == (code, code != "OK"), status
    assert table["no connection"] == (code_name(code_of(0)), True)
