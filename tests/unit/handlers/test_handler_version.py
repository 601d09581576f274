"""The version of a function."""

import asyncio
import functools
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.handlers import serve
from cloudtasks_nb.handlers.version import Version, version_of
from tests.cases import cases
from tests.stored import best_results
from tests.unit.handlers.conftest import Notebook, post, report
from tests.unit.handlers.test_handler_store import BATCH, TASK

VERSIONS = tomllib.loads(Path(__file__).with_name("versions.toml").read_text(encoding="utf-8"))
USES, REPORT = VERSIONS["uses"], VERSIONS["report"]
CHANGES = [(*change, kind == "same") for kind in ("same", "other") for change in VERSIONS[kind]]


@pytest.fixture
def version(notebook: Notebook) -> Callable[..., Version]:
    """Return the version of a function of a notebook, with what is before its definition."""
    return lambda code, before=USES: version_of(notebook(before + code).report)


def test_the_value_is_golden(version: Callable[..., Version]) -> None:
    """It is the same on every release of Python."""
    assert version(REPORT) == Version(digits="09126f6e9fc4", uncovered=())


@pytest.mark.parametrize(("old", "new", "same"), CHANGES)
def test_what_changes_it(version: Callable[..., Version], old: str, new: str, same: bool) -> None:  # noqa: FBT001
    """Code and constants do, of what the function uses too; layout, docstrings and what it changes itself do not."""
    code = USES + REPORT
    assert old in code
    assert (version(code.replace(old, new, 1), "") == version(code, "")) is same


@cases(
    ("import pandas as pd\nSHOPS = pd.DataFrame()\ndef report(): return SHOPS", ("SHOPS (DataFrame)",)),
    ("MODEL = [1, object()]\ndef report(): return MODEL", ("MODEL (object)",)),
    ("import tests\ndef report(): return tests", ("tests (module)",)),
)
def test_what_is_not_covered(version: Callable[..., Version], code: str, uncovered: tuple[str, ...]) -> None:
    """Data, objects and modules of this machine are named."""
    found = version(code, "")
    assert re.fullmatch("[0-9a-f]{12}", found.digits or "")
    assert found.uncovered == uncovered


def test_functions_of_several_kinds(notebook: Notebook) -> None:
    """Each has a version of its own: lambdas, closures, cached and partial functions, methods, those of libraries."""
    code = """import functools
class Job:
    def report(self): return 1
def make(n):
    def inner(): return n
    return inner
def plain(n=1): return n
@functools.lru_cache
def cached(): return 1
async def later(): return 1
one = lambda x: x + 1
two = lambda x: x + 2
kinds = [one, two, make(1), make(2), plain, functools.partial(plain, 1), functools.partial(plain, n=2), cached, later]
kinds += [Job().report, Job, len, functools.reduce]
"""
    kinds = notebook(code).kinds
    found = [version_of(kind).digits for kind in kinds]
    assert None not in found
    assert len(set(found)) == len(found)
    assert version_of(notebook(code).two).digits == found[1]


class Strange:
    """It cannot be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_source_that_is_not_known(notebook: Notebook) -> None:
    """The version is that of the code, which changes with it; what is no function has none."""
    one, two, same = (version_of(notebook(f"exec('def report(): return {n}')").report) for n in (1, 2, 1))
    assert one == same != two
    assert version_of(Strange()) == Version()  # type: ignore[arg-type]


def test_a_handler_stores_it(tmp_path: Path) -> None:
    """With each result, of the function that the handler has now."""
    handler = serve(report, store=tmp_path)
    assert post(handler.url, b'{"day": "mon"}', X_CloudTasks_TaskName=TASK).status == 200
    stored = best_results(tmp_path, BATCH)[TASK]
    assert (stored.version, stored.revision) == (handler.version, None)
    serve(functools.partial(report, origin="LGA"), name="report")
    assert handler.version not in (None, stored.version)
    data = asyncio.Lock()
    serve(lambda: data, name="report")
    assert handler.uncovered == ("data (Lock)",)
    assert f"version {handler.version} does not cover data (Lock)" in handler._repr_mimebundle_()["text/plain"]
