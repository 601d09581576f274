"""The source of a function and of what it uses."""

import linecache
import re
import sys
import textwrap
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

JOB = "class Job:\n    def report(self): return 1"


@pytest.fixture
def deployed(notebook: Notebook) -> Callable[[Any], Any]:
    """Return a function as the module that is written for it defines it."""
    return lambda fn: getattr(notebook(module_source(fn).text), fn.__name__)


DATES = "import datetime as dt\nFROM, AT = dt.date(2013, 1, 1), dt.datetime(2013, 1, 1, tzinfo=dt.UTC)"
WRAPPED = "    @functools.wraps(fn)\n    def call(): return 2 * fn()\n    return call"
TWICE = f"import functools\ndef twice(fn):\n{WRAPPED}"
KIND = "import dataclasses, enum\nclass Kind(enum.Enum):\n    A = 1"
CLASSES = f"{KIND}\n@dataclasses.dataclass\nclass Item:\n    kind: Kind"
COMPILED = "import decimal, logging, re\nLOG, WORD = logging.getLogger('a.b'), re.compile('a+', re.I)"
RATE = f"{COMPILED}\nRATE = {{'x': decimal.Decimal('1.50')}}"
TUPLE = {"a": (1, [None, 2.5])}


@cases(
    ("def report(): return 1", 1),
    ("import math\nimport os.path as p\ndef report(): return p.join('a', str(math.floor(2.5)))", "a/2"),
    ("from math import sqrt as root\ndef report(): return root(4)", 2.0),
    ("import xml.etree.ElementTree\ndef report(): return xml.etree.ElementTree.fromstring('<a/>').tag", "a"),
    ("def one(): return 1\ndef two(): return one() + one()\ndef report(): return two() + one()", 3),
    ("def odd(n): return n and even(n - 1)\ndef even(n): return n < 1 or odd(n-1)\ndef report(): return odd(3)", 1),
    ("LIMIT = 5\nA = {'a': (1, [None, 2.5]), 'b': {True}}\ndef report(): return A, LIMIT", ({**TUPLE, "b": {True}}, 5)),
    ("EMPTY, BEST = (), float('-inf')\ndef report(): return EMPTY, BEST", ((), float("-inf"))),
    (f"{DATES}\ndef report(): return f'{{FROM}} {{AT}}'", "2013-01-01 2013-01-01 00:00:00+00:00"),
    (f"{TWICE}\n@twice\ndef other(): return 3\nDAYS = 2\ndef report(days=DAYS): return days * other()", 12),
    ("import functools\n@functools.lru_cache\ndef slow(n): return n\ndef report(): return slow(3)", 3),
    (f"{CLASSES}\ndef report(item: Item = None): return Item(Kind.A).kind.name", "A"),
    ("class Base:\n    x = 1\nclass Sub(Base):\n    def y(self): return self.x\ndef report(): return Sub().y()", 1),
    ("def load(): return 1\nfetch = load\ndef report(): return fetch()", 1),
    ("if True:\n    def report():\n        return '''\nselect'''", "\nselect"),
    ("def report(day: 'a day of 2013' = 1): return day", 1),
    (f"{RATE}\ndef report(): return LOG.name, WORD.findall('A'), str(RATE['x'])", ("a.b", ["A"], "1.50")),
    ("def display(x): return x\ndef report(): return display(2)", 2),
    ("tokenizer, URLS = 'bpe', ['a://b/c:d@e']\ndef report(): return tokenizer, URLS", ("bpe", ["a://b/c:d@e"])),
    ("df = 'a global of the same name'\ndef report():\n    df = [1]\n    return [df for df in df]", [1]),
    (
        "def report():\n    import json\n    def inner(x): return json.dumps([x, N])\n    return inner(1)\nN = 2",
        "[1, 2]",
    ),
)
def test_what_a_function_uses_is_written_along(notebook: Notebook, deployed: Any, code: str, result: Any) -> None:
    """Imports, functions, classes and small constants; the written module gives what the notebook gives."""
    report = notebook(code).report
    assert deployed(report)() == result


def test_an_async_function(notebook: Notebook) -> None:
    """Async functions are written as they are."""
    text = module_source(notebook("import asyncio\nasync def report(): await asyncio.sleep(0)").report).text
    assert text.endswith("import asyncio\n\n\nasync def report(): await asyncio.sleep(0)\n")


def test_a_function_of_an_installed_package_is_imported() -> None:
    """Its source stays where it is."""
    source = module_source(textwrap.dedent)
    assert "from textwrap import dedent" in source.text
    assert set(source.modules) == {"textwrap"}


FRAME = "import pandas as pd\ndf = pd.DataFrame({'a': [1]})\ndef report(): return len(df)"
LOCK = "import threading\nlock = threading.Lock()\ndef inner():\n    with lock: pass\ndef report(): inner()"
INNER = "def outer():\n    rows = []\n    def report(): return rows\n    return report\nreport = outer()"
WRAP = "def wrap(fn):\n    def call(): return fn()\n    return call"
LOAD = "import functools\ndef load(): return 1"


@cases(
    (FRAME, "report uses df, a DataFrame of this kernel", "load it inside the function"),
    (LOCK, "inner uses lock, a lock of this kernel", "make it inside the function"),
    ("f = open(__file__)\nf.close()\ndef report(): f.read()", "report uses f, a TextIOWrapper", "inside the function"),
    ("big = list(range(9999))\ndef report(): return big", "10,000 are deployed at most", "load it inside"),
    ("report = lambda day: day", "a lambda has no source", "def report"),
    (INNER, "report uses rows of the function around it", "or make it a parameter; a decorator needs functools.wraps"),
    (f"{JOB}\nreport = Job().report", "report is a method", "makes the object"),
    (f"{JOB}\nreport = Job.report", "report is a method", "makes the object"),
    ("class Job:\n    def __call__(self): return 1\nreport = Job()", "Job is a Job, not a function", "def run"),
    ("import functools\nreport = functools.partial(print, 1)", "partial is a partial, not a function", "def run"),
    ("exec('def report(): return 1')", "the source of report is not known", "not with exec"),
    ("twice = lambda x: 2 * x\ndef report(): return twice(1)", "report uses twice, a lambda", "def twice(…)"),
    (f"{WRAP}\n@wrap\ndef other(): return 3\ndef report(): return other()", "call uses fn of the", "functools.wraps"),
    ("def report(): return missing + 1", "report uses missing, which is not defined", "define missing first"),
    ("def report():\n    yield 1", "report yields", ""),
    ("report = 'report'", "'report' is not a function", ""),
    (f"{LOAD}\nreport = functools.lru_cache(load)", "load is decorated by an assignment", "above the function"),
    (
        f"{LOAD}\nf = functools.cache(load)\ndef report(): f()",
        "load is decorated by an assignment",
        "above the function",
    ),
    ("def report():\n    from .local import clean", "has a relative import, from .local import clean", "the top"),
    ("def report(): get_ipython().system('ls')", "get_ipython, which only a notebook has", "subprocess.run"),
    ("def report(): display(1)", "display, which only a notebook has", "take it out"),
    ("def application(): return 1\ndef report(): return application()", "for something else", "rename"),
)
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
GIVING_UP = [
    "import cloudtasks_nb as ct\ndef report(): raise ct.GiveUp(str(ct.TryLater))",
    "from cloudtasks_nb import GiveUp\ndef report(): raise GiveUp('no')",
    "def report():\n    from cloudtasks_nb import TryLater\n    raise TryLater('1s')",
]


@cases(
    ("import os\ndef report(): return os.name", set()),
    ("import pandas as pd\ndef report(): return pd.NA", {"pandas"}),
    ("from pandas import Timestamp\ndef report(): return Timestamp(0)", {"pandas"}),
    ("def report():\n    import numpy.linalg\n    from pandas.api import types", {"numpy", "pandas"}),
    ("from google.cloud import logging\ndef report(): return logging.Client", {"google-cloud-logging"}),
    ("def report():\n    from google.cloud import tasks_v2", {"google-cloud-tasks"}),
    ("def report():\n    import google.cloud.logging_v2", {"google-cloud-logging"}),
    ("def report():\n    from google.protobuf.message import Message", {"protobuf"}),
    *((code, set()) for code in GIVING_UP),
    ("import cloudtasks_nb as ct\ndef report(): return ct, ct.GiveUp", {"pandas", "google-cloud-tasks", "tqdm"}),
    ("import cloudtasks_nb as ct\ndef report(): return ct.connect", {"pandas", "google-cloud-tasks", "tqdm"}),
)
def test_requirements(notebook: Notebook, code: str, names: set[str]) -> None:
    """Each imported distribution is required in the version that is installed here, beside those of every handler."""
    found = requirements(code, notebook)
    assert names | ALWAYS <= set(found)
    assert "tqdm" in names or names | ALWAYS == set(found)
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
