"""The documents are correct: snippets run, commands exist, links have a target."""

import doctest
import importlib
import os
import re
import runpy
import shlex
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import cloudtasks_nb as ct
from cloudtasks_nb._names import code_name, code_of
from cloudtasks_nb.emulator.options import read_options
from tests.processes import run

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "notebooks/README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    "cloudtasks_nb/emulator/README.md",
)


class Snippet(NamedTuple):
    """A fenced block of a document."""

    where: str  #: file and line
    language: str
    code: str
    title: str = ""  #: the name of the file that it is


def read(document: str) -> str:
    """Return a document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def snippets(document: str) -> list[Snippet]:
    """Find the fenced blocks of a document."""
    text = read(document)
    return [
        Snippet(
            f"{document}:{text.count(chr(10), 0, found.start()) + 1}",
            found["language"],
            found["code"],
            found["title"] or "",
        )
        for found in re.finditer(
            r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$', text, re.DOTALL | re.MULTILINE
        )
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
#: What a reader types: the README and the pages of the site. Tests of its own run the emulator's README.
PAGES = [
    "README.md",
    "notebooks/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))),
]
#: The commands that pages want typed before their snippets for Google.
GCLOUD = list(
    dict.fromkeys(
        found for page in PAGES for found in re.findall(r"^gcloud (?:.*\\\n)*.*", read(page), flags=re.MULTILINE)
    )
)
#: Runs scripts with stand-ins for Google, one after the other.
ON_GOOGLE = f"""
import runpy, subprocess, sys
sys.path.insert(0, {str(ROOT / "notebooks")!r})
import google_stand_in
google = google_stand_in.start(project="my-project", user="ann@example.com")
google.emulator.grant("ann@example.com", "roles/logging.viewer")
for command in {GCLOUD!r}:
    subprocess.run(command, shell=True, check=True)
google.emulator.set(grants_after_s=2)  # rights that ct.deploy gives work later
for script in sys.argv[1:]:
    names = runpy.run_path(script)
    assert set(names["results"]["state"] if "results" in names else ()) <= {{"succeeded"}}
"""


def script(page: str) -> str:
    """Return the python blocks of a page as one script, each line where it stands on the page."""
    lines = [""] * read(page).count("\n")
    for block in snippets(page):
        if block.language == "python" and not block.title:
            first = int(block.where.rpartition(":")[2])
            code = block.code.splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


SCRIPTS = {page: text for page in PAGES if (text := script(page)).strip()}
ON_THIS_MACHINE = [page for page, text in SCRIPTS.items() if "= ct.connect(" not in text]


def test_readme_is_a_page_with_python_and_the_first_commands() -> None:
    """README.md has at most 150 lines, an example to type, and names the commands `make demo` and `make lab`."""
    assert len(read("README.md").splitlines()) <= 150
    assert PYTHON, "README.md has no ```python block"
    assert make_commands("README.md") >= {"demo", "lab"}


@pytest.mark.parametrize("page", ON_THIS_MACHINE)
def test_the_python_of_a_page_runs(page: str, alone: None) -> None:
    """The python blocks of a page run unchanged, in their order, in an empty folder and with an empty emulator."""
    file = Path.cwd() / f"{Path(page).stem}.py"
    file.write_text(SCRIPTS[page], encoding="utf-8")
    check_sessions(page, runpy.run_path(str(file)))


def check_sessions(page: str, names: dict[str, Any]) -> None:
    """Fail if the sessions with Python of a page, with the names of its script, print anything else."""
    for block in (one for one in snippets(page) if one.language == "pycon"):
        test = doctest.DocTestParser().get_doctest(block.code, names, block.where, None, None)
        shown: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=shown.append)
        if shown:
            pytest.fail("".join(shown), pytrace=False)


FROM_GOOGLE = ("docs/start/from-google.md", "docs/start/from-google.ko.md")


def test_the_pages_for_those_who_come_from_google_agree() -> None:
    """In both languages they have the same snippets, the same headings level by level, and the same links."""
    english, korean = ([(one.language, one.code) for one in snippets(page)] for page in FROM_GOOGLE)
    assert english == korean
    for found in (r"^#+ ", r"^- |^\|", r"\]\((?!from-google)([^)]+)", r"`[^`\n]+`"):
        english_has, korean_has = (re.findall(found, prose(page), flags=re.MULTILINE) for page in FROM_GOOGLE)
        assert Counter(english_has) == Counter(korean_has)


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", FROM_GOOGLE)
def test_what_does_not_work_as_tutorials_print_it_is_named_with_its_error(page: str, alone: None) -> None:
    """A time that is a float, and `push_config` of a queue, raise what the page shows, from Google's own classes."""
    sessions = [one.code for one in snippets(page) if one.language == "pycon"]
    with pytest.raises(TypeError) as of_time:
        Timestamp(seconds=datetime.now().timestamp() + 60)  # noqa: DTZ005 - as it is printed
    with pytest.raises(ValueError, match="push_config") as of_queue:
        ct.local().client.update_queue(queue={"name": "q", "push_config": {"push_endpoint": "https://svc.example"}})
    assert [code.splitlines()[-1] for code in sessions] == [
        f"TypeError: {of_time.value}",
        f"ValueError: {of_queue.value}",
    ]


def test_the_python_for_google_runs(tmp_path: Path) -> None:
    """The python blocks of pages that connect to Google run unchanged on stand-ins for it, a page after the other."""
    environment = {**os.environ, "CLOUDTASKS_NB_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    pages = [page for page in SCRIPTS if page not in ON_THIS_MACHINE]
    files = [tmp_path / f"{Path(page).stem}.py" for page in pages]
    for page, file in zip(pages, files, strict=True):
        file.write_text(SCRIPTS[page], encoding="utf-8")
    done = run(sys.executable, "-c", ON_GOOGLE, *files, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, f"{pages}: {done.stderr[-3000:]}"


def test_the_python_on_sharing_runs_in_homes_of_their_own(tmp_path: Path) -> None:
    """Each block in a new process with an empty home, after the process before has ended."""
    for number, block in enumerate(one for one in snippets("docs/how-to/share.md") if one.language == "python"):
        home = {"CLOUDTASKS_NB_HOME": str(tmp_path / f"home{number}"), "PYTHONPATH": str(ROOT)}
        done = run(sys.executable, "-c", block.code, cwd=tmp_path, environment={**os.environ, **home})
        assert done.returncode == 0, done.stderr


TESTS = [block for page in PAGES for block in snippets(page) if block.title.startswith("test_")]


@pytest.mark.parametrize("block", TESTS, ids=[block.title for block in TESTS])
def test_the_tests_of_a_page_pass(block: Snippet, tmp_path: Path) -> None:
    """A file of tests that a page shows passes."""
    (tmp_path / block.title).write_text(block.code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout


def command_lines(page: str) -> list[list[str]]:
    """Return the commands of the shell blocks of a page."""
    shell = "\n".join(block.code for block in snippets(page) if block.language == "bash").replace("\\\n", " ")
    return [words for line in shell.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_is_checked(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is python, Terraform, a drawing, or commands: of make, pip, gcloud (which are run) or this package."""
    assert {block.language for block in snippets(page)} <= {"python", "pycon", "bash", "hcl", "text"}
    monkeypatch.chdir(tmp_path)
    Path("emulator.yaml").write_text("queues: []", encoding="utf-8")
    for program, *words in command_lines(page):
        assert program in {"make", "pip", "gcloud", "cloudtasks-nb"}
        if program == "pip":
            paths = [word.partition("[")[0] for word in words if word.startswith(".")]
            assert all((ROOT / path / "pyproject.toml").exists() for path in paths), words
        if program == "cloudtasks-nb":
            assert words[0] == "emulator"
            read_options(words[2 : words.index("--")] if words[1] == "run" else words[1:], {})


def test_the_terraform_page_grants_what_deploy_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page has the roles, variables, condition and audience of `ct.deploy`, and the retries of a new queue."""
    monkeypatch.chdir(tmp_path)
    where: Any = {"project": "my-project", "region": "us-central1", "store": "gs://my-project-tasks/reports"}
    service = ct.deploy(sorted_days, service="report", **where)
    (block,) = (block for block in snippets("docs/how-to/terraform.md") if block.language == "hcl")
    assert block.code.count("{") == block.code.count("}")
    commands = "\n".join(service.commands)
    also = {"roles/cloudtasks.enqueuer", "roles/logging.viewer"}  # of those who do not deploy
    granted = set(re.findall(r"roles/[\w.]+", commands)) - {
        "roles/iam.serviceAccountOpenIdTokenCreator"
    }  # for `run=True`
    assert set(re.findall(r'"(roles/[\w.]+)"', block.code)) == granted | also
    variables = set(re.findall(r"CLOUDTASKS_NB_\w+", commands))
    assert set(re.findall(r"CLOUDTASKS_NB_\w+", block.code)) == variables
    condition = "projects/_/buckets/my-project-tasks/objects/reports/results/"
    found = dict(re.findall(r'^  (\w+) += "(.*?)"', block.code, flags=re.MULTILINE))
    named = re.sub(r"\$\{local\.(\w+)\}", lambda match: found[match[1]], block.code)
    assert condition in named
    assert condition in commands
    assert f'custom_audiences = ["{service.audience}"]' in named
    retries = dict(re.findall(r'^    (m\w+) += "?(\w+)"?$', named, flags=re.MULTILINE))
    assert retries == {"max_attempts": "7", "min_backoff": "10s", "max_backoff": "600s", "max_doublings": "6"}


def sorted_days(days: list[str]) -> list[str]:
    """Return days in their order: a function to deploy."""
    return sorted(days)


def test_a_public_name_without_a_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build of the site names it, also a property or a method of a base class; other names pass."""
    pytest.importorskip("mkdocs", reason="make docs installs it")
    monkeypatch.syspath_prepend(ROOT / "docs")
    generate = importlib.import_module("generate")
    assert list(generate.undocumented("Queue", ct.Queue)) == []
    monkeypatch.setattr(ct.Queue.fan_out, "__doc__", None)
    assert list(generate.undocumented("Queue", ct.Queue)) == ["Queue.fan_out"]


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
    """The site names the code of each HTTP status, and whether Cloud Tasks tries again."""
    rows = re.findall(
        r"^\| ([^|]*\d[^|]*|no connection) \| `([A-Z_]+)` \| (no|yes)",
        read("docs/explanation/rates-and-retries.md"),
        flags=re.MULTILINE,
    )
    table = {what: (code, again == "yes") for text, code, again in rows for what in text.split(", ")}
    for status in range(200, 600):
        hundreds = f"{status // 100}xx"
        code = code_name(code_of(status))
        found = table.get(str(status)) or table.get(f"other {hundreds}") or table.get(hundreds)
        assert found == (code, code != "OK"), status
    assert table["no connection"] == (code_name(code_of(0)), True)
