"""The notebooks run from top to bottom, follow the rules, and contain nothing of the machine that ran them."""

import ast
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests import processes
from tests.notebooks import outputs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
RUN = FOLDER / "run.py"
#: What the notebooks import from beside them.
MODULES = (FOLDER / "google_stand_in.py", FOLDER / "nyc_flights.py")
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

MAX_CELL_LINES = 14
MAX_BYTES = 500_000
#: Seconds after which a notebook counts as hung.
PATIENCE = 600

#: Paths of the machine that ran a notebook.
MACHINE_PATH = re.compile(
    "|".join(
        [r"/(?:home|Users|root|tmp|var/folders|private)/", r"[A-Z]:\\+Users", "site-packages", re.escape(str(ROOT))]
    )
)

#: These run in `make test`, the others in `make test-all` only.
DAILY = {"00_from_google.ipynb", "01_quickstart.ipynb", "03_fan_out.ipynb"}


def stored(path: Path) -> dict[str, Any]:
    """Return a notebook as it is stored."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the cells of one kind."""
    return [cell for cell in stored(path)["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    """Return a cell's text."""
    return "".join(cell["source"])


def run(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run notebooks/run.py as `make` does."""
    environment = {**os.environ, "CLOUDTASKS_NB_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return processes.run(sys.executable, RUN, *arguments, environment=environment, timeout=PATIENCE)


def write_notebook(path: Path, *code: str, tags: tuple[str, ...] = ()) -> Path:
    """Write a notebook with these code cells, all with the same tags."""
    cell: dict[str, Any] = {"cell_type": "code", "metadata": {"tags": tags}, "outputs": [], "execution_count": None}
    made = [{**cell, "id": f"c{i}", "source": text} for i, text in enumerate(code)]
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return path


def test_notebooks_are_numbered() -> None:
    """Each notebook has a number of its own, so that a reader knows the order, and there is a first one."""
    names = [path.name for path in NOTEBOOKS]
    assert [name for name in names if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", name)] == []
    assert [number for number, count in Counter(name[:2] for name in names).items() if count > 1] == []
    assert names[:2] == ["00_from_google.ipynb", "01_quickstart.ipynb"]


@pytest.mark.parametrize(
    "name", [pytest.param(p.name, marks=[] if p.name in DAILY else pytest.mark.nightly) for p in NOTEBOOKS]
)
def test_notebook_runs(name: str, tmp_path: Path) -> None:
    """A notebook runs to its end in a fresh kernel and leaves no error in any output."""
    for path in (FOLDER / name, *MODULES):
        shutil.copy(path, tmp_path)
    copy = tmp_path / name
    done = run("--inplace", copy, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr[-5000:]
    check_outputs(cells(copy, "code"), name)
    check_cards(cells(copy, "code"), name)
    before, after = ([*chain(*map(shown_lines, cells(path, "code")))] for path in (FOLDER / name, copy))
    changed = [*difflib.unified_diff(before, after, f"{name}, stored", f"{name}, run anew", n=1, lineterm="")]
    assert changed == [], "\n".join(["the stored outputs are not those of today: run `make notebooks`", *changed])


def shown_lines(cell: dict[str, Any]) -> list[str]:
    """Return what a cell shows, below its id; one that is tagged as different in each run shows nothing here."""
    varies = outputs.VARIES in cell["metadata"].get("tags", ())
    return [f"cell {cell['id']}:", *([] if varies else outputs.shown(cell).splitlines())]


def check_cards(code: list[dict[str, Any]], name: str) -> None:
    """Fail if a card contradicts the result of its cell, or claims that a batch goes on without saying when."""
    for cell in code:
        result = outputs.result_counts(cell)
        for card in outputs.cards(cell):
            where = f"{name}, cell {cell['id']}: run `make notebooks`\n{card}"
            assert result in (None, outputs.counts(card)), where
            assert "as of " in card or not re.search(r"running|failing|in the queue|\d/s\b", card), where


def check_outputs(code: list[dict[str, Any]], name: str) -> None:
    """Fail if the cells printed nothing at all, or an error."""
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds, name
    assert "error" not in kinds, name


def test_stored_outputs_are_of_one_run_from_top_to_bottom() -> None:
    """The stored outputs were made by `make notebooks`: every code cell ran once, in order, without an error."""
    for path in NOTEBOOKS:
        code = cells(path, "code")
        counts = [cell["execution_count"] for cell in code]
        assert counts == list(range(1, len(code) + 1)), f"{path.name}: run `make notebooks`"
        check_outputs(code, path.name)
        check_cards(code, path.name)


def test_first_cell_says_what_the_notebook_is_about() -> None:
    """A notebook begins with a title and what the reader will be able to do."""
    firsts = {path.name: stored(path)["cells"][0] for path in NOTEBOOKS}
    assert {cell["cell_type"] for cell in firsts.values()} == {"markdown"}
    assert [name for name, cell in firsts.items() if not re.match(r"# .+\n\s*\S", source(cell))] == []


def test_code_cells_are_short() -> None:
    """A code cell has at most 14 lines."""
    texts = [(path.name, source(cell)) for path in NOTEBOOKS for cell in cells(path, "code")]
    assert [(name, text) for name, text in texts if len(text.splitlines()) > MAX_CELL_LINES] == []


def private_names(code: str) -> list[str]:
    """Return the names with one underscore that code imports or takes from an object."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found += [part for alias in node.names for part in alias.name.split(".")]
            found += (getattr(node, "module", None) or "").split(".")
    return [name for name in found if re.match(r"_(?!_)", name)]


def test_only_public_names_are_used() -> None:
    """A reader never needs a name that starts with an underscore."""
    transform = TransformerManager().transform_cell
    code = [(path.name, transform(source(cell))) for path in NOTEBOOKS for cell in cells(path, "code")]
    assert [(name, private) for name, text in code for private in private_names(text)] == []


def test_stored_files_are_small_and_have_no_path_of_the_machine() -> None:
    """A notebook can be read in a diff, and no output names a folder of the machine that ran it."""
    assert [path.name for path in NOTEBOOKS if path.stat().st_size >= MAX_BYTES] == []
    for path in NOTEBOOKS:
        outputs = json.dumps([cell.get("outputs", []) for cell in stored(path)["cells"]], indent=0).splitlines()
        # Pictures are random letters and digits, which may contain any of these.
        text = [line for line in outputs if not line.startswith('"image/')]
        assert [line[:200] for line in text if MACHINE_PATH.search(line)] == [], path.name
        assert stored(path)["metadata"]["language_info"] == {"name": "python"}, f"{path.name}: run `make notebooks`"


def test_stored_widgets_are_static() -> None:
    """A stored panel is a table for viewers without a kernel: the file has its HTML, and no widget."""
    for path in NOTEBOOKS:
        outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
        assert "widgets" not in stored(path)["metadata"], path.name
        assert [kind for output in outputs for kind in output.get("data", ()) if "widget" in kind] == [], path.name


def test_run_prints_only_what_is_tagged(tmp_path: Path) -> None:
    """`make demo` shows printed text and last values of the cells tagged `show`, and of no others."""
    shown = write_notebook(tmp_path / "a.ipynb", "print('shown')", "6 * 7", tags=("show",))
    silent = write_notebook(tmp_path / "b.ipynb", "print('not shown')")
    before = silent.read_bytes()
    done = run(shown, silent, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["shown", "42"]
    assert silent.read_bytes() == before


def test_run_fails_with_the_cell_that_failed(tmp_path: Path) -> None:
    """A failing cell makes the exit code 1, is shown with its error, and nothing is stored."""
    path = write_notebook(tmp_path / "a.ipynb", "x = 0", "1 / x")
    before = path.read_bytes()
    done = run("--inplace", path, home=tmp_path / "home")
    assert done.returncode == 1
    assert "1 / x" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert path.read_bytes() == before


def test_run_says_in_one_line_that_a_kernel_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that dies before it answers makes the exit code 1."""
    kernel = tmp_path / "jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": [sys.executable, "-c", ""], "display_name": "dead", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = write_notebook(tmp_path / "a.ipynb", "1")
    done = run(path, home=tmp_path / "home")
    assert done.returncode == 1
    assert f"{path}: Kernel died" in done.stderr


def test_run_has_a_home_of_its_own(tmp_path: Path) -> None:
    """A run does not use the home of its caller, and two runs do not share a home."""
    path = write_notebook(tmp_path / "a.ipynb", "import os\nprint(os.environ['CLOUDTASKS_NB_HOME'])", tags=("show",))
    done = run(path, path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    homes = done.stdout.split()
    assert len({*homes, str(tmp_path / "home")}) == 3
    assert not any(Path(home).parent.exists() for home in homes)


def test_cards_tell_what_their_cell_did(tmp_path: Path) -> None:
    """Cards of a retry, new rows, a cancel, a canary, an interrupt and a restart: each agrees with its own cell."""
    begin = outputs.BEGIN.format(home=str(tmp_path / "shared"), folder=str(tmp_path / "folder"))
    first = write_notebook(
        tmp_path / "a.ipynb",
        begin,
        'batch = send(range(10), name="ten")\nbatch',
        "batch.wait()",
        "bad.remove(3)\nbatch.retry_failed().wait()",
        'send(range(14), name="ten").wait()',
        'queue.pause()\nstopped = send(range(50, 55), name="stopped").cancel().wait()\nqueue.resume()\nstopped',
        'held = send(range(100, 120), name="held", canary=1)\ntry:\n    held.wait()\n'
        "except ct.errors.PreconditionError as error:\n    print(error)",
        'slow = send([1000, 1001], name="slow")\nthreading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n'
        "try:\n    slow.wait()\nexcept KeyboardInterrupt:\n    print('interrupted')",
        "go.set()\nslow.wait()",
        'come = send(range(20, 23), name="come")\nfor part in come.as_completed():\n    pass\ncome.progress()',
        "queue.map(work, range(200, 204))",
    )
    after_restart = write_notebook(tmp_path / "b.ipynb", begin, 'tasks.batch("ten")', 'tasks.batch("ten").wait()')
    done = run("--inplace", first, after_restart, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr[-5000:]
    code = cells(first, "code") + cells(after_restart, "code")
    check_cards(code, "a notebook")
    found = [[outputs.counts(card) for card in outputs.cards(cell)] for cell in code[2:6] + code[9:11] + code[-2:]]
    assert found == [
        [{"succeeded": 9, "failed": 1}],
        [{"succeeded": 10}],
        [{"succeeded": 14}],
        [{"cancelled": 5}],
        [{"succeeded": 3}],
        [{"succeeded": 4}],
        [{"succeeded": 14}],
        [{"succeeded": 14}],
    ]
    (held,), (interrupted,), (ended,) = map(outputs.cards, code[6:9])
    assert all(re.search(r"as of \d\d:\d\d:\d\d UTC", card) for card in (held, interrupted))
    assert outputs.counts(ended) == {"succeeded": 2}
