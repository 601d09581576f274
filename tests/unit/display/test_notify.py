"""Messages and progress of a thread go to one output: a panel's, or the notebook's."""

import threading

import pytest

from cloudtasks_nb.display import progress_bar
from cloudtasks_nb.display.notify import Output, current_output, notify, redirect
from cloudtasks_nb.display.progress_bar import Bar


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
