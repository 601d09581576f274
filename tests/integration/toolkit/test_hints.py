"""Every hint that is a line of code works when it is followed."""

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import CloudTasksError
from tests.integration.toolkit.hint_table import HINTS, START, Hint

#: Runs lines, and returns the value of the last one.
Run = Callable[[str], Any]
FOLLOWED = [one for one in HINTS if one.follow]


def pattern(text: str) -> str:
    """Return the pattern of a text in which § stands for anything."""
    return ".*?".join(map(re.escape, text.split("§"))) + ("$" if text.endswith("§") else "")


@pytest.fixture
def run(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run lines as cells of one notebook."""
    notebook = ModuleType("cells_of_a_test")
    monkeypatch.setitem(sys.modules, "cells_of_a_test", notebook)
    names = vars(notebook)
    names |= {"tmp_path": tmp_path, "monkeypatch": monkeypatch}
    cells: list[str] = []

    def run(code: str) -> Any:
        cells.append(code)
        path = tmp_path / f"cell_{len(cells)}.py"
        path.write_text(code, errors="surrogateescape")
        lines = ast.parse(code).body
        last = lines.pop() if lines and isinstance(lines[-1], ast.Expr) else None
        exec(compile(ast.Module(lines, []), path, "exec"), names)  # noqa: S102 - our own code
        if isinstance(last, ast.Expr):
            names["it"] = eval(compile(ast.Expression(last.value), path, "eval"), names)  # noqa: S307 - our own code
        return names.get("it")

    return run


@pytest.mark.parametrize("hint", FOLLOWED, ids=lambda one: one.hint)
def test_a_hint_that_is_followed(hint: Hint, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The mistake shows it, its lines run as they stand there, and what they promise is so."""
    run(START)
    run(hint.before)
    capsys.readouterr()
    try:
        shown = f"{run(hint.mistake)!r}"
    except CloudTasksError as error:
        shown = str(error)
    shown += "\n" + "".join(capsys.readouterr())
    assert (there := re.search(pattern(hint.hint), shown)), shown
    shown = shown[there.start() :]

    def copied(marked: re.Match[str]) -> str:
        found = re.search(pattern(marked[1]), shown, re.MULTILINE)
        assert found, f"{marked[1]} is not in: {shown}"
        return found[0]

    run(re.sub("«(.*?)»", copied, hint.follow))
    assert run(hint.then)
