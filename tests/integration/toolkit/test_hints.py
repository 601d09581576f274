"""Every hint that is a line of Python works when it is followed; `hints.toml` is the table of them."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import CloudTasksError
from tests.hint_source import CODE, HintSource

#: Runs lines as one cell of a notebook, and returns the value of the last one.
Run = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A row of the table, as its head describes."""

    hint: str
    given: tuple[str, ...] = ()
    before: str = ""
    mistake: str = ""
    follow: str = ""
    then: str = "True"
    unfollowed: str = ""


TABLE = tomllib.loads(Path(__file__).with_name("hints.toml").read_text(encoding="utf-8"))
#: Those that `test_map_as_people_know_it.py` follows.
IN_PYTHON = ("queue.map(add, [1, 3], [2, 4])", "functools.partial(add, b=5)")
HINTS = [Hint(**row) for row in TABLE["hint"]]
#: What is copied from a hint.
COPIED = re.compile("«(.*?)»")
PACKAGE = Path(ct.__file__).parent
#: Hints that cannot be followed at all.
MOST_UNFOLLOWED = 6
#: Hints with code that are found at least: the package has all forms that `HintSource` knows.
LEAST_FOUND = 160


def pattern(text: str) -> str:
    """Return the pattern of a text in which § stands for anything."""
    return ".*?".join(map(re.escape, text.split("§"))) + ("$" if text.endswith("§") else "")


@pytest.fixture
def run(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the cells of a notebook, whose functions have a source as those of a notebook do."""
    notebook = ModuleType("notebook_of_hints")
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    names = vars(notebook)
    names |= {"__file__": str(tmp_path / "notebook.py"), "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    cells: list[str] = []

    def run(code: str) -> Any:
        cells.append(code)
        path = tmp_path / f"cell_{len(cells)}.py"
        path.write_text(code, encoding="utf-8")
        lines = ast.parse(code).body
        last = lines.pop() if lines and isinstance(lines[-1], ast.Expr) else None
        exec(compile(ast.Module(lines, []), path, "exec"), names)  # noqa: S102 - our own code
        if isinstance(last, ast.Expr):
            names["it"] = eval(compile(ast.Expression(last.value), path, "eval"), names)  # noqa: S307 - our own code
        return names.get("it")

    return run


@pytest.mark.parametrize("hint", [one for one in HINTS if not one.unfollowed], ids=lambda one: one.hint.strip()[:60])
def test_a_hint_that_is_followed(hint: Hint, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The mistake shows it, its lines run as they stand there, and what they promise is so."""
    for cell in (*(TABLE["before"][name] for name in ("start", *hint.given)), hint.before):
        run(cell)
    capsys.readouterr()
    try:
        shown = f"{run(hint.mistake)!r}"
    except CloudTasksError as error:
        shown = str(error)
    shown += "\n" + "".join(capsys.readouterr())
    there = re.search(pattern(hint.hint), shown)
    assert there, shown

    def copied(marked: re.Match[str]) -> str:
        found = re.compile(pattern(marked[1]), re.MULTILINE).search(shown, there.start())
        assert found, f"{marked[1]} is not in: {shown}"
        return found[0]

    run(COPIED.sub(copied, hint.follow))
    assert run(hint.then)


def test_every_hint_with_code_is_in_the_table() -> None:
    """A hint of the package that has a line of Python is in the table; very few are not followed."""
    source = HintSource(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert len(source.hints()) >= LEAST_FOUND
    followed = [*IN_PYTHON, *(one.hint for one in HINTS)]
    missing = [text for text in source.hints() if not any(re.search(pattern(text), one) for one in followed)]
    assert missing == []
    assert sum(bool(one.unfollowed) for one in HINTS) <= MOST_UNFOLLOWED


def test_every_line_of_a_hint_is_followed() -> None:
    """The rows of a hint leave out none of the lines of Python that it has."""
    followed = defaultdict[str, str](str)
    for one in HINTS:
        followed[one.hint] += one.hint if one.unfollowed else " ".join(COPIED.findall(one.follow))
    assert [code[0] for hint in followed for code in CODE.finditer(hint) if code[0] not in followed[hint]] == []
