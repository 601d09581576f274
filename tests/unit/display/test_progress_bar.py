"""The progress bar: tqdm's text in a terminal, an output that is replaced in place in a notebook."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from cloudtasks_nb.display import progress_bar
from cloudtasks_nb.display.progress_bar import Bar, Live, bar_html
from tests.cases import cases
from tests.interrupts import interrupted_everywhere


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that the test advances."""
    now = [100.0]
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pretend to be a notebook's kernel; return the list of what is displayed."""
    shown: list[dict[str, Any]] = []

    def display(bundle: dict[str, str], **how: Any) -> Any:
        shown.append({**bundle, **how})
        return SimpleNamespace(display_id="d1")

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return shown


@cases((0.5, "50.0%", "50"), (0.0, "0.0%", "0"), (1.7, "100.0%", "100"), (-1, "0.0%", "0"), (None, "100.0%", None))
def test_a_bar_as_html(share: float | None, width: str, now: str | None) -> None:
    """The share is drawn and given to screen readers; without a share they get no value."""
    made = bar_html(share, "a <b>", label='"x"')
    assert f"width:{width}" in made
    assert re.findall(r'aria-valuenow="(\d+)"', made) == ([] if now is None else [now])
    assert ("a &lt;b&gt;" in made, 'aria-label="&quot;x&quot;"' in made) == (True, True)


def test_short_work_shows_no_bar(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is drawn within the first half second."""
    with Bar("listing", 10) as bar:
        bar.add(5)
        clock[0] += 0.4
        bar.add(5)
    assert capsys.readouterr() == ("", "")


def test_text_in_a_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Later updates show the name, the count and the total, and the bar disappears with its block."""
    with Bar("listing", 10, unit="tasks") as bar:
        clock[0] += 1
        bar.add(4)
        drawn = capsys.readouterr().err
        clock[0] += 0.1
        bar.add(1)
        assert capsys.readouterr().err == ""
    assert [word for word in ("listing", "4/10", "tasks") if word not in drawn] == []
    assert capsys.readouterr().err.endswith("\r")


def test_an_interrupt_leaves_no_lock(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes, it is raised, and other threads can draw their bars afterwards."""
    monkeypatch.setattr(progress_bar, "_PACE", 0.0)

    def work() -> None:
        with Bar("listing", 10) as bar:
            clock[0] += 1
            bar.add(5)
            bar.notify("half of it")
            bar.add(5)

    with ThreadPoolExecutor(1) as other:
        for place in interrupted_everywhere(work):
            for lock in tqdm.get_lock().locks:
                assert other.submit(lock.acquire, False).result(), place
                other.submit(lock.release).result()


@pytest.mark.parametrize("options", [{}, {"show": False}], ids=["tqdm disabled", "not shown"])
def test_a_bar_that_is_not_shown(clock: list[float], capsys: Any, monkeypatch: Any, options: Any) -> None:
    """A setting that disables every tqdm of the process disables this one too; `show=False` counts without output."""
    if not options:
        monkeypatch.setattr(progress_bar, "tqdm", lambda **how: tqdm(**how, disable=True))
    with Bar("listing", 10, **options) as bar:
        clock[0] += 10
        bar.add()
    assert capsys.readouterr() == ("", "")


def test_one_output_in_a_notebook(clock: list[float], notebook: list[dict[str, Any]]) -> None:
    """The bar is displayed once, then replaced in place, and empty at the end."""
    with Bar("reading", 8) as bar:
        for done in (2, 4):
            clock[0] += 1
            bar.to(done)
        clock[0] += 1
        bar.to(6, total=12)
    first, *others = notebook
    assert first["display_id"] is True
    assert [(one["display_id"], one["update"]) for one in others] == [("d1", True)] * 3
    assert [re.findall(r"width:([\d.]+)%", one["text/html"]) for one in notebook] == [["25.0"], ["50.0"], ["50.0"], []]
    assert "6/12" in others[1]["text/plain"]
    assert others[-1]["text/plain"] == ""


def test_a_total_that_is_not_known(clock: list[float], notebook: list[dict[str, Any]]) -> None:
    """A bar without a total shows its count and no share."""
    with Bar("reading", unit="rows") as bar:
        clock[0] += 1
        bar.add(3)
    assert ("aria-valuenow" in notebook[0]["text/html"], "3 rows" in notebook[0]["text/plain"]) == (False, True)


def test_the_same_content_is_not_sent_again(notebook: list[dict[str, Any]]) -> None:
    """An unchanged content causes no message to the browser."""
    live = Live({"text/plain": "a"})
    for content in "ab":
        live.show({"text/plain": content})
    assert [one["text/plain"] for one in notebook] == ["a", "b"]
