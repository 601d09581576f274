"""The types that the wheel has, as the type checkers of its users read them."""

import sys
from pathlib import Path

import pytest

from tests.packages.environments import PATIENCE
from tests.processes import run

pytest.importorskip("basedpyright", reason="make test-packages installs it")
pytest.importorskip("mypy", reason="make test-packages installs it")

PROGRAM = """import cloudtasks_nb as ct

tasks = ct.local()
queue = tasks.queue("reports", create=True, rate=5, min_backoff="10s").update(max_concurrent=8)
queue.map(len, ["a"], workers=2)
tasks.queue("reports", create=True, max_concurent=8)
queue.update(max_concurent=8)
queue.map("len", ["a"])
"""


CHECKERS = (["mypy", "--config-file="], ["basedpyright", "--level=error", "--pythonpath", sys.executable])


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda one: one[0])
def test_mistakes_are_found(tmp_path: Path, checker: list[str]) -> None:
    """Misspelt settings and what is no function are errors, and what is right is none."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    done = run(sys.executable, "-m", *checker, file, cwd=tmp_path, timeout=PATIENCE)
    errors = [line for line in done.stdout.splitlines() if "error" in line and "program.py:" in line]
    assert [int(line.partition("program.py:")[2].partition(":")[0]) for line in errors] == [6, 7, 8], done.stdout
    assert ["max_concurent" in line for line in errors] == [True, True, False]
