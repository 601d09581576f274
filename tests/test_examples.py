"""Every public name has an example in its docstring, and every example shows what happens.

An example may use the names below without making them: `ct`, `pd` and the fixtures of `NAMES`. Each docstring runs with
its own connection to an empty emulator, in its own home and in an empty folder.
"""

import ast
import datetime as dt
import doctest
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import cloudtasks_nb as ct
from cloudtasks_nb import errors, handlers, magics, testing
from cloudtasks_nb.client import clock

#: The modules whose names are public, each with what stands before its names.
MODULES: dict[str, ModuleType] = {
    "": ct,
    "errors.": errors,
    "handlers.": handlers,
    "testing.": testing,
    "clock.": clock,
}
#: Of the magics, users call only these; IPython calls the others.
MAGICS = {"%load_ext": magics.load_ipython_extension, "%ct": magics.CloudTasksMagics.ct}
#: Names without a docstring that could have an example, each with the reason.
EXEMPT = {"ROW": "a constant", "errors": "a module", "Deployment.url": "gcloud asks Google for it"}
EXEMPT |= {"Handler.answer_to": "`Plan.try_one` calls it", "Handler.replace": "`serve` calls it"}

#: What an example may use without making it.
NAMES = (
    *("tasks", "queue", "df", "report", "handler", "batch", "plan", "get_ipython"),
    *("cloud_tasks", "cloud_tasks_emulator", "cloud_tasks_emulator_arguments", "google", "monkeypatch"),
)

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# The fixtures of the pytest plugin, for its own examples.
cloud_tasks = testing.cloud_tasks
cloud_tasks_emulator = testing.cloud_tasks_emulator
cloud_tasks_emulator_arguments = testing.cloud_tasks_emulator_arguments
_cloud_tasks_started = testing._cloud_tasks_started


def members(kind: type) -> dict[str, Any]:
    """Return the public methods and properties that a class of this package defines itself."""
    kinds = (property, staticmethod, classmethod)
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    }


def public() -> dict[str, Any]:
    """Return every public function, class, method and property, by its dotted name."""
    found: dict[str, Any] = {"cloudtasks_nb": ct, **MAGICS}
    for prefix, module in MODULES.items():
        for name in module.__all__:
            value = getattr(module, name)
            found[prefix + name] = value
            if inspect.isclass(value):
                found |= {f"{prefix}{name}.{member}": it for member, it in members(value).items()}
    once = {id(value): name for name, value in reversed(found.items())}  # a name may stand in two modules
    return {name: found[name] for name in reversed(once.values()) if name not in EXEMPT}


def docstring(value: Any) -> str:
    """Return a docstring; that of the function behind a fixture."""
    return inspect.getdoc(getattr(value, "_get_wrapped_function", lambda: value)()) or ""


PUBLIC = public()
WITH_EXAMPLE = [name for name, value in PUBLIC.items() if ">>>" in docstring(value)]


def test_every_public_name_has_an_example() -> None:
    """Each docstring has the section "Examples" with something to type; a package's docstring is its own example."""
    titled = [name for name in WITH_EXAMPLE if re.search(r"^Examples\n-+\n", docstring(PUBLIC[name]), re.MULTILINE)]
    assert set(PUBLIC) - {*titled, "cloudtasks_nb"} == set()


def used(examples: list[doctest.Example]) -> set[str]:
    """Return the names that examples use before they are assigned."""
    made: set[str] = set()
    found: set[str] = set()
    for example in examples:
        names = [node for node in ast.walk(ast.parse(example.source)) if isinstance(node, ast.Name)]
        found |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - made
        made |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return found


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_example_is_true(name: str, request: pytest.FixtureRequest, alone: None) -> None:
    """An example runs as it stands, and prints what it shows."""
    text = docstring(PUBLIC[name])
    test = doctest.DocTestParser().get_doctest(text, {"ct": ct, "pd": pd}, name, None, None)
    test.globs |= {one: request.getfixturevalue(one) for one in NAMES if one in used(test.examples)}
    shown: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=shown.append, clear_globs=False)
    for value in test.globs.values():
        if isinstance(value, ct.Client):
            value.close()
    if shown:
        pytest.fail("".join(shown), pytrace=False)


@pytest.fixture
def tasks(alone: None) -> Iterator[ct.Client]:
    """Connect to the emulator."""
    with ct.local() as client:
        yield client


@pytest.fixture
def queue(tasks: ct.Client) -> ct.Queue:
    """Give the queue "reports", which tries each task once, so that failures are quick."""
    return tasks.queue("reports", create=True, rate=500, max_attempts=1)


@pytest.fixture(scope="module")
def google() -> Iterator[testing.StrictEmulator]:
    """Run a strict emulator."""
    with testing.strict_emulator() as emulator:
        yield emulator


@pytest.fixture
def df() -> pd.DataFrame:
    """Give three rows; the last one has a day that does not exist."""
    return pd.DataFrame({"day": ["2013-01-01", "2013-01-02", "2013-02-30"], "origin": ["JFK", "LGA", "EWR"]})


@pytest.fixture
def report() -> Callable[..., Any]:
    """Give a function that returns the day of the week, and raises for a day that does not exist."""

    def report(day: str, origin: str) -> dict[str, str]:
        return {"weekday": f"{dt.date.fromisoformat(day):%A}"}

    return report


@pytest.fixture
def handler(report: Callable[..., Any]) -> ct.Handler:
    """Serve the function."""
    return ct.serve(report)


@pytest.fixture
def get_ipython(tasks: ct.Client) -> Callable[[], InteractiveShell]:
    """Give the shell of a notebook that has the variable `tasks`."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}), user_ns={"tasks": tasks})
    return lambda: shell


@pytest.fixture
def batch(queue: ct.Queue, df: pd.DataFrame, handler: ct.Handler) -> ct.Batch:
    """Give a batch that is done: two rows succeeded, the last one failed."""
    made = queue.fan_out(df, url=handler, progress=False)
    made.wait("240s")
    return made


@pytest.fixture
def plan(queue: ct.Queue, df: pd.DataFrame, handler: ct.Handler) -> ct.Plan:
    """Give the plan of the same batch."""
    return queue.fan_out(df, url=handler, progress=False, dry_run=True)
