"""The source of a function and of what it uses."""

import linecache
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.requirements import dependency_lines, requirement_lines
from cloudtasks_nb.handlers.source import module_source
from tests.cases import cases
from tests.processes import run
from tests.raising import raises
from tests.unit.handlers.conftest import Notebook

TABLE = tomllib.loads(Path(__file__).with_name("cells.toml").read_text(encoding="utf-8"))


@pytest.fixture
def deployed(notebook: Notebook) -> Callable[[Any], Any]:
    """Return a function as the module that is written for it defines it."""
    return lambda fn: getattr(notebook(module_source(fn).text), fn.__name__)


@cases(*map(tuple, TABLE["written"]))
def test_what_a_function_uses_is_written_along(notebook: Notebook, deployed: Any, code: str, result: str) -> None:
    """Imports, functions, classes and small constants; the written module gives what the notebook gives."""
    assert repr(deployed(notebook(code).report)()) == result


def test_an_async_function(notebook: Notebook) -> None:
    """Async functions are written as they are."""
    text = module_source(notebook("import asyncio\nasync def report(): await asyncio.sleep(0)").report).text
    assert text.endswith("import asyncio\n\n\nasync def report(): await asyncio.sleep(0)\n")


def test_a_function_of_an_installed_package_is_imported() -> None:
    """Its source stays where it is."""
    source = module_source(textwrap.dedent)
    assert "from textwrap import dedent" in source.text
    assert set(source.modules) == {"textwrap"}


@cases(*map(tuple, TABLE["refused"]))
def test_what_cannot_be_deployed_is_refused(notebook: Notebook, code: str, words: str, hint: str) -> None:
    """The error names what the function uses, and the way out."""
    with raises(HandlerError, re.escape(words), hint=hint):
        module_source(notebook(code).report, "application")


READS = ("open('data.csv')", "open('data.csv', 'rb')", "pd.read_csv('data.csv')", "Path('data.csv').read_text()")
KEEPS = (
    *("open('data.csv', 'w')", "open('data.csv', mode='a')", "open('absent.csv')", "open(day)", "open('/etc/passwd')"),
    *(
        "'data.csv'.strip()",
        "day.open('data.csv')",
        "Path('data.csv').write_text('')",
        f"pd.read_sql('{'x' * 500}', day)",
    ),
)


@pytest.mark.parametrize("call", [*READS, *KEEPS])
def test_a_file_of_this_machine(notebook: Notebook, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that reads one by its name is refused; it may write one, and read what is not here."""
    monkeypatch.chdir(tmp_path)
    Path("data.csv").touch()
    fn = notebook(f"import pandas as pd\nfrom pathlib import Path\ndef report(day): return {call}").report
    if call in KEEPS:
        assert call in module_source(fn).text
    else:
        with raises(HandlerError, r"report reads data\.csv, a file of this machine", hint="put it into a bucket"):
            module_source(fn)


def test_a_global_variable_that_changes(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    """Each instance of the service has its own: that is said; one that is only read is not."""
    module_source(notebook("N = 0\ndef report():\n    global N\n    N += 1").report)
    assert "report changes N, a global variable: each instance" in capsys.readouterr().out
    module_source(notebook("N = 0\ndef report():\n    global N\n    return N").report)
    assert capsys.readouterr().out == ""


def test_functions_of_local_files(notebook: Notebook, deployed: Callable[[Any], Any]) -> None:
    """A function of a file beside the notebook is written along, with its own globals; the module itself is refused."""
    helpers = notebook("LIMIT = 3\ndef clean(x): return x + LIMIT")
    code = f"from {helpers.__name__} import clean\nimport {helpers.__name__} as helpers\n"
    assert deployed(notebook(f"{code}def report(): return clean(1)").report)() == 4
    with pytest.raises(HandlerError, match="uses the module helpers, which is not installed"):
        module_source(notebook(f"{code}def report(): return helpers.clean(1)").report)
    with pytest.raises(HandlerError, match="uses LIMIT, and so does another function"):
        module_source(notebook(f"{code}LIMIT = 4\ndef report(): return clean(LIMIT)").report)


CELLS = """
from IPython.core.interactiveshell import InteractiveShell
from cloudtasks_nb.handlers.source import module_source
shell = InteractiveShell.instance()
for cell in (
    "import enum\\nclass Kind(enum.Enum):\\n    A = 1",
    "class Kind(enum.Enum):\\n    B = 2",
    "%pwd",
    "def report(kind: Kind):\\n    return kind.value",
):
    shell.run_cell(cell, store_history=True, silent=False)
print(module_source(shell.user_ns["report"]).text)
"""


def test_cells_of_a_notebook() -> None:
    """A class of a notebook, which has no file, is that of the newest cell that defines it."""
    done = run(sys.executable, "-c", CELLS)
    assert done.returncode == 0, done.stderr
    assert "B = 2" in done.stdout
    assert "A = 1" not in done.stdout
    assert done.stdout.endswith("def report(kind: Kind):\n    return kind.value\n\n")


IPYTHON = """
from IPython.core.interactiveshell import InteractiveShell
from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.source import module_source
shell = InteractiveShell.instance()
def report(expression):
    shell.run_cell(f"def report(): return {expression}", store_history=True, silent=False)
    try:
        print("written", module_source(shell.user_ns["report"]).text.count("open"))
    except HandlerError as error:
        print(error.message, "|", error.hint)
shell.run_cell("41 + 1", store_history=True, silent=False)
for expression in ("open('x', 'w')", "In[0]", "Out[1]", "_ + 1", "_1", "_i1", "exit()", "quit()", "get_ipython()"):
    report(expression)
shell.run_cell("from io import open as before\\ndef open(path): return before(path)\\ndef _(text): return text")
report("open(_('x'))")
"""


def test_what_ipython_puts_into_the_namespace() -> None:
    """Its `open` is the builtin; the rest is refused with a way that can be followed, and what is one's own is not."""
    done = run(sys.executable, "-c", IPYTHON)
    assert done.returncode == 0, done.stderr
    written, *refused, own = [line for line in done.stdout.splitlines() if line.startswith(("report", "written"))]
    assert (written, own) == ("written 1", "written 3")
    names = ["In", "Out", "_", "_1", "_i1", "exit", "quit", "get_ipython"]
    assert [line.split(" | ")[0] for line in refused] == [
        f"report uses {name}, which only a notebook has" for name in names
    ]
    hints = [
        "found = In[3]",
        "found = Out[3]",
        "found = _,",
        "found = _1,",
        "found = _i1,",
        *["ct.GiveUp"] * 2,
        "subprocess",
    ]
    assert [hint for line, hint in zip(refused, hints, strict=True) if hint not in line] == []


def requirements(code: str, notebook: Notebook, *extra: str) -> dict[str, str]:
    """Return the requirements of a function, by name."""
    lines = requirement_lines(module_source(notebook(code).report).modules, extra, "ours.whl")
    return {line.partition("=")[0].partition(">")[0]: line for line in lines}


ALWAYS = {"./ours.whl", "cryptography", "google-auth", "gunicorn", "obstore", "orjson", "requests"}


@cases(*map(tuple, TABLE["required"]))
def test_requirements(notebook: Notebook, code: str, names: list[str]) -> None:
    """Each imported distribution is required in the version that is installed here, beside those of every handler."""
    found = requirements(code, notebook)
    assert {*names} | ALWAYS <= set(found)
    assert "tqdm" in names or {*names} | ALWAYS == set(found)
    assert all(found[name] == f"{name}=={metadata.version(name)}" for name in names)


def test_what_the_requirements_need() -> None:
    """It is pinned too, as it is installed here; what is named, or not installed, is not."""
    found = dependency_lines(["./ours.whl", "requests>=2", "absent-library>=1", "idna", "no requirement"])
    assert {f"{name}=={metadata.version(name)}" for name in ("certifi", "charset-normalizer", "urllib3")} == set(found)
    assert dependency_lines(["pandas<1", "requests @ git+https://example.com/requests"]) == []


def test_requirements_of_the_user(notebook: Notebook) -> None:
    """They are added, and take the place of what was found."""
    code = "import pandas as pd\ndef report(): return pd.NA"
    found = requirements(code, notebook, "pandas>=2", "Pyarrow", "gunicorn==23.0.0")
    assert (found["pandas"], found["Pyarrow"], found["gunicorn"]) == ("pandas>=2", "Pyarrow", "gunicorn==23.0.0")


def test_a_missing_requirement_is_named(notebook: Notebook) -> None:
    """A module of no installed distribution can be named with requirements=."""
    code = "def report():\n    from absent_library import something"
    hint = 'requirements=["absent_library"]'
    with raises(HandlerError, "absent_library is of no installed distribution", hint=hint):
        requirements(code, notebook)
    assert requirements(code, notebook, "absent-library>=1")["absent-library"] == "absent-library>=1"


def test_a_local_file_is_no_requirement(notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of the same name in the package index is somebody else's: the hint does not name it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_local_helpers.py").write_text("def clean(x): return x")
    hint = "from my_local_helpers import …, at the top of a cell"
    with raises(HandlerError, "my_local_helpers is not installed: it is a file", hint=hint):
        requirements("def report():\n    import my_local_helpers as mine\n    return mine.clean(1)", notebook)


def test_a_function_that_exec_made_has_no_source(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect` takes what is known as ``<string>`` for its text: from Python 3.13 on that of ``python -c``."""
    monkeypatch.setitem(linecache.cache, "<string>", (1, None, ["def report(): return 2\n"], "<string>"))
    with raises(HandlerError, "the source of report is not known"):
        module_source(notebook("exec('def report(): return 1')").report)
