"""Who hears what is said: a panel in its own thread, nobody else."""

from __future__ import annotations

import threading

import pytest

from cloudtasks_nb.display.notify import Listener, hearing, listener, notify
from cloudtasks_nb.display.progress_bar import Bar

__all__: list[str] = []


def test_lines_and_bars_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    """Inside the block nothing is printed or drawn; behind it everything is as before."""
    heard: list[object] = []
    with hearing(Listener(said=heard.append, moved=lambda *facts: heard.append(facts))):
        notify("made queue reports")
        with Bar("listing", 10, unit="tasks") as bar:
            bar._next = 0
            bar.add(3)
    assert heard == ["made queue reports", ("listing", 3, 10)]
    notify("paused")
    assert capsys.readouterr() == ("paused\n", "")


def test_other_threads_are_not_heard() -> None:
    """A cell that runs meanwhile speaks for itself."""
    found: list[Listener | None] = []
    with hearing(Listener(said=print, moved=print)):
        thread = threading.Thread(target=lambda: found.append(listener()))
        thread.start()
        thread.join()
        assert listener() is not None
    assert found == [None]
    assert listener() is None
