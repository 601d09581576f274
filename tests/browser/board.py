"""The dashboard in a browser: locators and waits that tests use in place of selectors."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

__all__ = ["CONTRAST", "EVIL", "PANEL", "Board"]

#: Markup in data; where it ever becomes an element, `window.pwned` is set.
EVIL = "<img src=x onerror=window.pwned=1>"

#: The last cell of most notebooks: all of a connection, looked at every second.
PANEL = "panel = tasks.panel(); panel.every = 1; panel"

#: Contrast of a node's text against what is painted below it, as WCAG counts it.
CONTRAST = """(node) => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (...layers) => {
    for (const layer of layers) { paint.fillStyle = layer; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => colour
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const grounds = [];
  for (let at = node; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
  const ground = rgb(...grounds), text = rgb(...grounds, getComputedStyle(node).color);
  const [low, high] = [light(ground), light(text)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


class Board:
    """A panel with tabs, and the panel of the open tab."""

    def __init__(self, book: Any) -> None:
        self.book = book
        self.page: Page = book.page
        self.root: Locator = self.page.locator(".ctn-panel").first
        self.part: Locator = self.root.locator(".ctn-panel:visible")  #: the panel of the open tab
        self.rows: Locator = self.part.locator("tr[data-key]")  #: rows of the open tab's table
        self.status: Locator = self.part.locator(".ctn-status")  #: status in the footer of the open tab
        self.line: Locator = self.part.locator(".ctn-line code")  #: the line of Python
        self.bar: Locator = self.part.get_by_role("progressbar")  #: the bar of the batch that is shown
        expect(self.root).to_be_visible()

    @property
    def keys(self) -> list[str]:
        """Keys of these rows."""
        found: list[str] = self.rows.evaluate_all("rows => rows.map(row => row.dataset.key)")
        return found

    def row(self, key: str) -> Locator:
        """Find a row by its key."""
        return self.part.locator(f'tr[data-key="{key}"]')

    def tick(self, row: Locator) -> None:
        """Select a row by its checkbox; a click elsewhere on it only shows what it is about."""
        row.locator(".ctn-mark").click()

    def button(self, name: str, *, exact: bool = False) -> Locator:
        """Find a button of the open tab."""
        return self.part.get_by_role("button", name=name, exact=exact)

    def field(self, name: str) -> Locator:
        """Find a field of the open tab."""
        return self.part.get_by_label(name, exact=True)

    def square(self, day: str) -> Locator:
        """Find a square of the calendar."""
        return self.part.locator(f'.ctn-calendar button[data-key^="{day}"]')

    def open(self, tab: str) -> None:
        """Open a tab and wait until its panel is there."""
        self.root.get_by_role("tab", name=tab).click()
        self.part.locator(".ctn-footer").wait_for()

    def open_table(self, tab: str) -> None:
        """Open a tab and wait until its table has rows and loads no more."""
        self.open(tab)
        self.rows.first.wait_for()
        self.at_rest()

    def at_rest(self) -> None:
        """Wait until the work of the open tab has ended."""
        expect(self.part).to_have_attribute("aria-busy", "false")
