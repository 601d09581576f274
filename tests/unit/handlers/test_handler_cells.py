"""Tracebacks have the numbers of the cells, as the analyst sees them."""

import asyncio
import datetime as dt
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.compilerop import CachingCompiler

from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import ReceivedRequest, TaskFunction, name_cells

CELL = "def report():\n    raise ValueError('no day')\n"


def answered(fn: Any) -> Answer:
    """Return the answer to a task."""
    request = ReceivedRequest(time=dt.datetime.now(dt.UTC), body=b"")
    return TaskFunction(fn=fn, verifier=None).answer(request, run=asyncio.run)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a shell in which a cell has run as the seventh."""
    shell = SimpleNamespace(compile=CachingCompiler(), user_ns={})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    exec(compile(CELL, shell.compile.cache(CELL, 7), "exec"), shell.user_ns)  # noqa: S102 - as IPython does
    return shell


def test_a_cell_has_its_number(shell: Any) -> None:
    """Other files stay as they are."""
    error: Any = answered(shell.user_ns["report"]).error
    assert '  File "cell [7]", line 2, in report\n' in error
    trace = '  File "/home/ada/etl.py", line 1, in f\n'
    assert name_cells(trace) == trace


@pytest.mark.parametrize("ipython", [None, SimpleNamespace(), SimpleNamespace(get_ipython=lambda: None)])
def test_without_a_notebook_nothing_is_named(monkeypatch: pytest.MonkeyPatch, ipython: Any) -> None:
    """A service has no IPython, or it is being imported, or it runs no cells."""
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert name_cells('  File "<ipython-input-1>", line 1, in f\n') == '  File "<ipython-input-1>", line 1, in f\n'
