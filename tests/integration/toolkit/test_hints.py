"""Every hint that is a line of code works when it is followed."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import CloudTasksError
from tests.cases import cases
from tests.hint_source import CODE, HintSource
from tests.integration.toolkit.hint_table import HINTS, START, Hint

#: Runs lines, and returns the value of the last one.
Run = Callable[[str], Any]
FOLLOWED = [one for one in HINTS if one.follow]
PACKAGE = Path(ct.__file__).parent


def pattern(text: str) -> str:
    """Return the pattern of a text in which § stands for anything."""
    return ".*?".join(map(re.escape, text.split("§"))) + ("$" if text.endswith("§") else "")


def by_hint(table: Iterable[Hint]) -> dict[str, str]:
    """Return what is followed of each hint, in all its rows."""
    found = defaultdict[str, str](str)
    for one in table:
        found[one.hint] += one.unfollowed and one.hint
        found[one.hint] += " ".join(re.findall("«(.*?)»", one.follow))
    return found


@pytest.fixture
def run(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run lines as cells of one notebook."""
    notebook = ModuleType("cells_of_a_test")
    monkeypatch.setitem(sys.modules, "cells_of_a_test", notebook)
    names = vars(notebook)
    names |= {"__file__": str(tmp_path / "notebook.py"), "tmp_path": tmp_path, "monkeypatch": monkeypatch}
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


def test_every_hint_with_code_is_in_the_table() -> None:
    """A hint of the package that is a line of Python stands in the table, which follows it."""
    table = [one.hint for one in HINTS]
    source = HintSource(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert [text for text in sorted(source.hints()) if not any(re.search(pattern(text), one) for one in table)] == []


def test_every_line_of_a_hint_is_followed() -> None:
    """The rows of a hint leave out none of its lines."""
    rows = by_hint(HINTS).items()
    assert [code[0] for hint, followed in rows for code in CODE.finditer(hint) if code[0] not in followed] == []


@cases(
    'raise Error("no", hint="queue.resume() goes on")',
    'raise Error("no", hint=f"{name}.tasks() has them; queue.resume() goes on")',
    '_NEXT = "queue.resume() goes on"\nraise Error("no", hint=_NEXT)',
    'def run():\n    what, hint = "no", "queue." + "wait() or " + "queue.resume() goes on"\n    raise Error(what, hint=hint)',
    'def next_step():\n    return "queue.resume() goes on"\nprint(Status(action=next_step()))',
    'def error(text, hint): ...\nraise error("no", "queue.resume() goes on")',
    'print(f"{text} → queue.resume() goes on")',
)
def test_a_hint_is_found_in_the_source(source: str) -> None:
    """However it comes into the error; a text that is no hint is not found."""
    assert any("queue.resume() goes on" in one for one in HintSource([source]).hints())
    assert HintSource(["print('queue.resume() goes on')"]).hints() == set()
