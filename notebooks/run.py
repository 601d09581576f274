#!/usr/bin/env python
"""Run notebooks from top to bottom, each in a fresh kernel, and print the outputs of the cells tagged ``show``.

Used by `make demo`, `make notebooks` and the tests. A run has a home of its own, so it neither sees nor leaves batches
of the person who starts it. The exit code is 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

__all__ = ["main"]

#: Seconds that a kernel may take to start, a cell to run, or its output to arrive, before it counts as hung.
_PATIENCE = 300
_WIDGET = "application/vnd.jupyter.widget-view+json"
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks named on the command line, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--inplace", action="store_true", help="store the outputs in the notebooks")
    options = parser.parse_args(arguments)
    return max(_run(path, inplace=options.inplace) for path in options.notebooks)


def _run(path: Path, *, inplace: bool) -> int:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat is typed in part
    began = time.monotonic()
    try:
        with _own_home():
            _execute(notebook, path.resolve().parent)
    except (CellExecutionError, CellTimeoutError, RuntimeError) as error:  # the last: no kernel
        text = f"{path}: {error}\n"
        sys.stderr.write(text if sys.stderr.isatty() else _COLOUR.sub("", text))
        return 1
    if inplace:
        _forget_machine(notebook)
        _keep_static_forms(notebook)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]  # nbformat is typed in part
    for text in _shown(notebook):
        sys.stdout.write(f"{text.rstrip()}\n\n")
    sys.stderr.write(f"{path}: {len(notebook.cells)} cells ran in {time.monotonic() - began:.1f} s\n")
    return 0


@contextmanager
def _own_home() -> Iterator[None]:
    """Give kernels an empty home for batches and IPython's settings; the environment is what they inherit."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="cloudtasks-nb-run-", ignore_cleanup_errors=True) as home:
        os.environ.update(CLOUDTASKS_NB_HOME=f"{home}/cloudtasks_nb", IPYTHONDIR=f"{home}/ipython")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    client = NotebookClient(
        notebook,
        timeout=_PATIENCE,
        startup_timeout=_PATIENCE,
        iopub_timeout=_PATIENCE,  # output that comes later is lost without a word
        kernel_name="python3",
        record_timing=False,  # it would make every stored run differ from the one before
        extra_arguments=["--log-level=ERROR"],  # a kernel on loopback need not warn that its sockets are not encrypted
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def _forget_machine(notebook: nbformat.NotebookNode) -> None:
    """Drop what tells the machine's Python apart, so that a stored run differs only where its outputs do."""
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}


def _keep_static_forms(notebook: nbformat.NotebookNode) -> None:
    """Drop the widgets, which need their kernel; the copy of a panel is an output of its own, others keep HTML."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(_WIDGET, None)
        cell["outputs"] = [one for one in cell.get("outputs", []) if one.get("data", {}).get("text/html") != ""]


def _shown(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for cell in notebook.cells:
        if "show" in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                yield output.get("text") or output.get("data", {}).get("text/plain", "")


if __name__ == "__main__":
    sys.exit(main())
