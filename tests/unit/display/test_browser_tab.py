"""The title of the browser's tab."""

from collections.abc import Iterator
from typing import Any

import pytest

from cloudtasks_nb.display.browser_tab import BrowserTab
from tests.cases import cases


class Tab(BrowserTab):
    """A tab that keeps what it sends to the browser."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        super().__init__()

    def send(self, content: Any, buffers: Any = None) -> None:  # noqa: ARG002 - as a widget has it
        """Keep a message."""
        self.sent.append(content)


@pytest.fixture
def tab() -> Iterator[Tab]:
    """Make a tab, and close it."""
    made = Tab()
    yield made
    made.close()


def see(tab: Tab, batch: str, done: int, total: int = 10, state: str = "running", rows: int = 0) -> str:
    """Show how far a batch is, and return the text in the title."""
    tab.show(batch, done=done, total=total, state=state, rows=rows, detail="10 rows")
    return str(tab.text)


@cases(
    *(("succeeded", 10, "\u2713 10 succeeded"), ("failed", 1_000, "\u2715 1,000 failed")),
    *(("rejected", 2, "\u2715 2 rejected"), ("unknown", 2, "? 2 unknown"), ("cancelled", 4, "\u2013 4 cancelled")),
)
def test_the_end_of_a_batch_is_told(tab: Tab, state: str, rows: int, text: str) -> None:
    """The title has the share, then the end until the user is back; the page is told once."""
    tab.watch("a")
    assert (see(tab, "a", 3, 10, "stopped"), tab.ended) == ("stopped 30 %", False)
    assert (see(tab, "a", 4), tab.ended) == ("40 %", False)
    assert (see(tab, "a", 10, 10, state, rows), tab.ended) == (text, True)
    see(tab, "a", 10, 10, state, rows)
    assert tab.sent == [{"do": "ended", "batch": "a", "text": text, "detail": "10 rows"}]
    tab._on_message(None, {"do": "seen"}, None)
    assert tab.text == ""
    assert see(tab, "a", 10, 10, state, rows) == ""
    assert see(tab, "a", 5) == "50 %"


def test_nobody_looks_any_more(tab: Tab) -> None:
    """The last one who leaves takes a running batch along; one that has ended stays until the user is back."""
    for _ in range(2):
        tab.watch("a")
    assert see(tab, "a", 4) == "40 %"
    for text in ("40 %", ""):
        tab.unwatch("a")
        assert tab.text == text
    tab.watch("a")
    see(tab, "a", 4)
    see(tab, "a", 10, 10, "succeeded", 10)
    tab.unwatch("a")
    assert tab.text == "\u2713 10 succeeded"


def test_a_batch_that_had_ended_before_is_not_news(tab: Tab) -> None:
    """Nothing is shown of it."""
    tab.watch("a")
    assert see(tab, "a", 10, 10, "failed", 10) == ""
    assert tab.sent == []
