"""The dashboard in a browser: locators and waits that tests use in place of selectors."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

#: Markup in data; where it ever becomes an element, the page logs an error, which fails the test.
EVIL = "<img src=x onerror=console.error(1)>"

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
#: Texts of a panel that are too pale, with their contrast. In one script: a refresh between finding and measuring an
#: element may replace it.
_PALE = f"""(panel) => {{
  const texts = "button:enabled:not([aria-disabled=true]), label, h4, b, td, th, [role=heading], "
    + ".lm-TabBar-tabLabel, .ctn-badge, .ctn-card [style*=opacity], .ctn-quiet, .ctn-age, .ctn-line code";
  const seen = [...panel.querySelectorAll(texts)]
    .filter((node) => node.offsetParent && node.innerText.trim().length > 1); // a sign alone counts as graphics
  if (seen.length < 10) throw new Error(`only ${{seen.length}} texts are visible`);
  return seen.map((node) => [node.innerText, ({CONTRAST})(node)]).filter(([, contrast]) => contrast < 4.5);
}}"""
#: Charts and bars that reach over the right edge of their panel.
_TOO_WIDE = """(panel) => [...panel.querySelectorAll("[role=img], [role=progressbar]")]
  .filter((node) => node.checkVisibility())
  .filter((node) => node.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1)
  .map((node) => node.getAttribute("aria-label"))"""


def violations(page: Page, context: str = "body") -> list[str]:
    """Return which rules of axe-core, a checker of accessibility, a part of the page breaks seriously, and where."""
    found = Axe().run(page, context=context, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {node['html']}: {node['failureSummary']}" for rule in bad for node in rule["nodes"]]


class Board:
    """A panel with tabs, and the panel of the open tab; or a panel alone."""

    def __init__(self, book: Any, *, tabs: bool = True) -> None:
        self.book = book
        self.page: Page = book.page
        self.root: Locator = self.page.locator(".ctn-panel").first
        #: The panel of the open tab.
        self.part: Locator = self.root.locator(".ctn-panel:visible") if tabs else self.root
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

    def check(self) -> None:
        """Stop refreshing; check accessibility, the contrast of texts, and that charts fit in a narrow panel too."""
        self.book.python("panel.every = 0")
        expect(self.part.locator(".ctn-age")).to_contain_text("refreshing is off")
        self.at_rest()
        for width in (700, 1000):
            self.page.set_viewport_size({"width": width, "height": 1400})
            wide = self.part.evaluate(_TOO_WIDE)
            assert not wide, f"at {width} px: {wide}"
        self.page.mouse.move(0, 0)
        pale = self.root.evaluate(_PALE)
        assert not pale, pale
        broken = violations(self.page, ".ctn-panel")
        assert not broken, broken
