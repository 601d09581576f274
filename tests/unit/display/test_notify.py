"""Messages and progress of a thread go to one output: a panel's, or the notebook's."""

import io
import sys
import threading
from types import SimpleNamespace

import pytest

from cloudtasks_nb.display import notify as notify_module
from cloudtasks_nb.display import progress_bar
from cloudtasks_nb.display.notify import Output, current_output, in_notebook, notify, redirect
from cloudtasks_nb.display.progress_bar import Bar


def test_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel's shell has a kernel; a terminal, with IPython or without, has none."""
    for shell, notebook in [(SimpleNamespace(kernel=object()), True), (object(), False), (None, False)]:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_notebook() is notebook
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_the_notes_of_a_script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on stderr, above a bar too: what a script prints is its own data."""
    monkeypatch.setattr(notify_module, "in_notebook", lambda: False)
    monkeypatch.setattr(progress_bar, "_DELAY", 0)
    notify("made queue reports")
    with Bar("waiting") as bar:
        bar.add()
        bar.notify("paused")
    printed, notes = capsys.readouterr()
    assert printed == ""
    assert {"made queue reports", "paused"} <= {*notes.splitlines()}


def test_lines_and_bars_are_redirected(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the block nothing is printed or drawn; after it lines are printed again."""
    monkeypatch.setattr(progress_bar, "_DELAY", 0)
    seen: list[object] = []
    with redirect(Output(message=seen.append, progress=lambda *facts: seen.append(facts))):
        notify("made queue reports")
        with Bar("listing", 10, unit="tasks") as bar:
            bar.add(3)
            bar.notify("one is left out")
    assert seen == ["made queue reports", ("listing", 3, 10), "one is left out"]
    notify("paused")
    assert capsys.readouterr() == ("paused\n", "")


def test_other_threads_are_not_redirected() -> None:
    """The output of a cell that runs meanwhile stays in the notebook."""
    found: list[Output | None] = []
    with redirect(Output(message=print, progress=print)):
        thread = threading.Thread(target=lambda: found.append(current_output()))
        thread.start()
        thread.join()
        assert current_output() is not None
    assert found == [None]
    assert current_output() is None


def test_others_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters in a line are escapes, above a bar too; secrets are dots."""
    monkeypatch.setattr(progress_bar, "_DELAY", 0)
    notify("ValueError: \x1b]0;PWNED\x07\x1b[2J\u202e, token=abc\nand more")
    with Bar("waiting") as bar:
        bar.add()
        bar.notify("\x1b[2J")
    assert capsys.readouterr().out == "ValueError: \\x1b]0;PWNED\\x07\\x1b[2J\\u202e, token=•••\nand more\n\\x1b[2J\n"


def test_characters_that_the_output_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line with an arrow is shown where Windows writes the output to a file: the verb goes on."""
    monkeypatch.setattr(progress_bar, "_DELAY", 0)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    notify("é → x")
    with Bar("waiting") as bar:
        bar.add()
        bar.notify("é → y")
    sys.stdout.flush()
    assert written.getvalue().decode("cp1252").split("\n") == ["é \\u2192 x", "é \\u2192 y", ""]
