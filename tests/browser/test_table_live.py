"""The table in a real notebook, outside of a panel: by mouse and by keyboard, and while rows come and go."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.board import EVIL

TABLE = """
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.table import Table

def rows(numbers, state="ready"):
    numbers = list(numbers)
    return {"name": [f"n{i}" for i in numbers], "state": [state] * len(numbers), "attempts": numbers}

table = Table([Column("name"), Column("state", kind="state"), Column("attempts", kind="count")])
table.load(rows(range(200)))
table
"""


class View:
    """The table in a browser."""

    def __init__(self, page: Page, book: Any) -> None:
        self.page = page
        self.book = book
        self.root = page.locator(".ctn-table")
        self.grid = page.get_by_role("grid")
        self.status = self.root.get_by_role("status")
        expect(self.root).to_have_attribute("data-revision", "1")

    def row(self, name: str) -> Locator:
        """Find a row by its key."""
        return self.root.locator(f'tr[data-key="{name}"]')

    def tick(self, name: str) -> None:
        """Select a row, or no longer."""
        self.row(name).locator(".ctn-mark").click()

    def button(self, name: str) -> Locator:
        """Find a button below the table."""
        return self.root.get_by_role("button", name=name)

    def heading(self, name: str) -> Locator:
        """Find a heading."""
        return self.grid.get_by_role("columnheader", name=name)

    def settle(self) -> None:
        """Wait until Python has answered everything that was done here."""
        expect(self.root).to_have_attribute("data-settled", "true")

    def run(self, code: str) -> None:
        """Run code in the kernel and wait until what it has changed is drawn."""
        revision = int(self.book.python(f"{code}\nprint(table._sent[1]['revision'])"))
        self.page.wait_for_function(
            "(revision) => Number(document.querySelector('.ctn-table').dataset.revision) >= revision", arg=revision
        )

    @property
    def names(self) -> list[str]:
        """Keys of the rows on the page, in order."""
        found: list[str] = self.root.locator("tr[data-key]").evaluate_all("rows => rows.map(row => row.dataset.key)")
        return found

    @property
    def selected(self) -> list[str]:
        """Keys of the rows that are shown as selected."""
        rows = self.root.locator('tr[aria-selected="true"]')
        return list(rows.evaluate_all("rows => rows.map(row => row.dataset.key)"))

    @property
    def active(self) -> str:
        """Key of the row that has the focus."""
        return str(self.page.evaluate("() => document.activeElement.dataset.key"))

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        for key in keys:
            self.page.keyboard.press(key)

    def selected_in_python(self) -> list[str]:
        """Ask the kernel, once it has heard of what was done here."""
        self.settle()
        return str(self.book.python("print(*table.selected)")).split()


@pytest.fixture
def view(notebook: Callable[..., Any]) -> View:
    """Open a notebook with a table of 200 rows, n0 to n199."""
    book = notebook(TABLE)
    return View(book.page, book)


def test_selection_and_focus_survive_refreshes(view: View) -> None:
    """Rows go above and below: the page is seen whole, the nodes stay the same, and a focused row has a heir."""
    for name in ("n10", "n14", "n17"):
        view.tick(name)
    view.page.evaluate("""document.querySelector('tr[data-key="n15"]').mark = 1""")
    for tick in range(5):
        view.run(f"table.drop(['n{tick}', 'n{199 - tick}']); table.patch(rows([{15 + tick}], 'running'))")
        assert view.page.evaluate("""document.querySelector('tr[data-key="n15"]').mark === 1""")
        assert view.selected == ["n10", "n14", "n17"]
    assert view.selected_in_python() == ["n10", "n14", "n17"]
    assert view.row("n19").inner_text().split() == ["n19", "running", "19"]
    whole = "(node) => node.scrollHeight <= node.clientHeight && node.scrollWidth <= node.clientWidth"
    assert view.root.locator(".ctn-scroll").evaluate(whole)
    view.row("n14").click()
    view.run("table.drop(['n14'])")
    assert view.active == "n15"
    view.run("table.sort('attempts', descending=True)")
    assert view.active == "n194"
    view.run("table.load(rows([])); table.load(rows([1, 2]))")
    view.press("ArrowDown")
    assert view.active == "n2"


def test_the_keyboard_does_everything(view: View) -> None:
    """From the notebook by Tab to the grid; arrows move, space and shift select, Enter opens and sorts."""
    view.book.python("opened = []; table.on_open = opened.append")
    for _ in range(40):
        view.press("Tab")
        if view.page.evaluate("() => document.activeElement.closest('[role=grid]') !== null"):
            break
    assert view.active == "n0"
    view.press("ArrowDown", "Space", "ArrowDown", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown", "Shift+ArrowUp")
    assert (view.active, view.selected) == ("n4", ["n1", "n3", "n4"])
    view.press("End")
    assert view.active == "n19"
    view.press("PageDown")
    expect(view.row("n20")).to_be_focused()
    view.press("PageUp")
    expect(view.row("n0")).to_be_focused()
    view.press("End", "Home", "Enter")
    view.press("ArrowUp", "ArrowRight", "Enter")
    expect(view.heading("Name")).to_have_attribute("aria-sort", "ascending")
    expect(view.heading("Name")).to_be_focused()
    assert view.names[:3] == ["n0", "n1", "n10"]
    view.press("ArrowDown")
    view.press("Control+a")
    view.settle()
    assert len(view.selected) == 20
    view.book.until("opened, len(table.selected)", "['n0'] 22")


def test_clicks_on_rows(view: View) -> None:
    """A click reads a row, a double click opens it, Control and Shift select; what is read is text."""
    view.book.python("seen = []; table.on_show = seen.append; table.on_open = lambda key: seen.append(f'open {key}')")
    view.row("n5").click()
    view.row("n3").locator("td").nth(1).dblclick()
    expect(view.root.locator("[aria-current]")).to_have_count(1)
    expect(view.row("n3")).to_have_attribute("aria-current", "true")
    assert view.selected == []
    view.book.until("seen, table.selected", "['n5', 'n3', 'n3', 'open n3'] []")
    view.row("n9").click(modifiers=["Control"])
    view.tick("n2")
    view.row("n6").click(modifiers=["Shift"])
    assert view.selected == ["n2", "n3", "n4", "n5", "n6", "n9"]
    view.row("n4").click(modifiers=["Shift"])  # a range can shrink
    assert view.selected == ["n2", "n3", "n4", "n9"]
    assert view.selected_in_python() == view.selected
    view.run("table.show('n8')")
    expect(view.row("n8")).to_have_attribute("aria-current", "true")
    view.run(f"evil = {EVIL!r}; table.load({{'name': [evil], 'state': [evil], 'attempts': [1]}})")
    assert view.root.locator("tr[data-key]").inner_text().count(EVIL) == 2
    assert view.page.locator(".jp-OutputArea-output img").count() == 0


def test_headings_and_buttons(view: View) -> None:
    """A heading sorts up, down, not at all; pages turn; all that match are selected, cleared, and one of them not."""
    for sort, first in (("ascending", "n0"), ("descending", "n199"), ("none", "n0")):
        view.heading("Attempts").click()
        view.settle()
        expect(view.heading("Attempts")).to_have_attribute("aria-sort", sort)
        assert view.names[0] == first
    for button, shown in (("Last", (181, 200)), ("Previous", (161, 180)), ("First", (1, 20)), ("Next", (21, 40))):
        view.button(f"{button} page").click()
        expect(view.root.locator(".ctn-span")).to_have_text("{}\u2013{} of 200 tasks".format(*shown))
    expect(view.row("n20")).to_have_attribute("aria-rowindex", "22")
    expect(view.grid).to_have_attribute("aria-rowcount", "201")
    view.run("table.patch(rows(range(120), 'failed')); table.filter(state='failed')")
    view.button("Select all 120 that match").click()
    expect(view.status).to_have_text("120 selected")
    view.tick("n3")
    view.settle()
    assert view.book.python("print(len(table.selected), 'n3' in table.selected)") == "119 False"
    view.run("table.filter('n11')")
    expect(view.status).to_have_text("119 selected, 108 of them hidden by the filter")
    view.button("Clear").click()
    expect(view.status).to_have_text("None selected")
    assert view.selected_in_python() == []
    view.run("table.filter('nowhere')")
    expect(view.grid.locator(".ctn-empty")).to_have_text("None of 200 tasks matches")
