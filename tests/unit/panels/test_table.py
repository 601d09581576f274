"""The Python side of the table: messages to and from the browser, and callbacks."""

import threading
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb._frames import TASKS, frame
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.table import Table
from tests.cases import cases

COLUMNS = [Column("task"), Column("state", kind="state"), Column("attempts", kind="count")]


def tasks(numbers: range | list[int], state: str = "ready") -> pd.DataFrame:
    """Make a Tasks frame whose names are its numbers."""
    names = [f"n{number}" for number in numbers]
    columns: dict[str, list[Any]] = {"task": names, "name": names}
    columns |= {"state": [state] * len(names), "attempts": list(numbers)}
    return frame(TASKS, columns, index="task")


class Browser:
    """A fake browser."""

    def __init__(self, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table = table
        self.sent: list[dict[str, Any]] = []
        monkeypatch.setattr(table, "_send", lambda message, **_buffers: self.sent.append(message))

    def send(self, **content: Any) -> None:
        """Send a custom message."""
        self._handle({"method": "custom", "content": content})

    def select(self, *keys: str, base: str = "", without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Write the selection, and return it."""
        chosen = {
            "version": self.table._selected.state["version"] + 1,
            "base": base,
            "keys": list(keys),
            "without": list(without),
        }
        self.send(do="select", selection=chosen)
        return chosen

    def _handle(self, data: dict[str, Any]) -> None:
        self.table._handle_msg({"content": {"data": data}, "buffers": []})

    @property
    def page(self) -> dict[str, Any]:
        """The current page."""
        return dict(self.table.get_state("_page")["_page"])

    @property
    def summary(self) -> dict[str, Any]:
        """The current revision, counts and error."""
        return dict(self.table.get_state("_summary")["_summary"])

    @property
    def names(self) -> list[str]:
        """Ids of the rows on the page."""
        return [row[0] for row in self.page["rows"]]

    def updates(self) -> list[str]:
        """Names of the traits that were sent since the last call, without echoes."""
        states = [message["state"] for message in self.sent if message["method"] == "update"]
        self.sent.clear()
        return sorted(name for state in states for name in state)


@pytest.fixture
def table() -> Iterator[Table]:
    """Return a table of 12 rows, 5 on a page."""
    made = Table(COLUMNS, page_size=5)
    made.load(tasks(range(12)))
    yield made
    made.close()


@pytest.fixture
def browser(table: Table, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """Return the other side of the table."""
    return Browser(table, monkeypatch)


def test_only_the_page_travels(browser: Browser) -> None:
    """Of twelve rows the browser gets five, and the counts of all."""
    assert browser.names == ["n0", "n1", "n2", "n3", "n4"]
    assert (browser.page["matching"], browser.page["caption"]) == (12, "1\u20135 of 12 tasks")


def test_columns_that_are_not_shown_are_searched_after_the_rows_were_cleared_too() -> None:
    """The panel of tasks clears its table when another queue is chosen, and searches URLs and bodies as before."""
    table = Table([Column("task")], key="task", searched=["url"])
    for url in ("https://x/first", "https://x/second"):
        table.clear()
        table.load({"task": ["a"], "url": [url]})
        table.filter("https://x")
        assert table.page_keys == ["a"]
    table.close()


def test_unchanged_rows_are_not_sent(table: Table, browser: Browser) -> None:
    """Loading equal rows sends no message; changed rows and their counts are sent together."""
    revision = browser.summary["revision"]
    table.load(tasks(range(12)))
    assert (browser.updates(), browser.summary["revision"]) == ([], revision)
    table.patch(tasks([3], state="failed"))
    assert (browser.updates(), browser.summary["revision"]) == (["_page", "_summary"], revision + 1)
    browser.select("n1")
    assert browser.updates() == ["_summary"]


@cases((0, ["n0", "n4"]), (1, ["n5", "n9"]), (2, ["n10", "n11"]), (99, ["n10", "n11"]), (-1, ["n0", "n4"]))
def test_pages_turn(table: Table, browser: Browser, asked: int, names: list[str]) -> None:
    """A page number out of range becomes the nearest page."""
    browser.send(do="page", page=asked)
    assert [browser.names[0], browser.names[-1]] == names
    assert table.page_keys == browser.names


def test_a_page_that_vanishes_becomes_the_last(table: Table, browser: Browser) -> None:
    """When rows go, the page shown is never behind the end."""
    table.turn(2)
    table.load(tasks(range(7)))
    assert browser.names == ["n5", "n6"]


def test_the_browser_sorts(browser: Browser) -> None:
    """A click on a heading sorts, and the first page is shown."""
    browser.send(do="page", page=1)
    browser.send(do="sort", column="attempts", descending=True)
    assert browser.names[:2] == ["n11", "n10"]
    assert browser.page["sort"] == ["attempts", "descending"]
    browser.send(do="sort", column=None, descending=False)
    assert browser.names[:2] == ["n0", "n1"]


def test_every_answer_is_told_apart_from_a_refresh(table: Table, browser: Browser) -> None:
    """The browser waits for its answer even if the page that it asked for is the one it has."""
    answers = browser.page["answers"]
    browser.send(do="page", page=0)
    assert browser.page["answers"] == answers + 1
    table.patch(tasks([3], state="failed"))
    assert browser.page["answers"] == answers + 1


def test_filter_and_sort_name_columns_that_are_there(table: Table) -> None:
    """A misspelt column is refused and changes nothing; one that is loaded but not shown will do."""
    with pytest.raises(InvalidInputError, match="did you mean state"):
        table.filter(stat="failed")
    with pytest.raises(InvalidInputError, match="no column"):
        table.sort("nothing")
    table.filter(method=["GET"])
    assert table.matching == 0


def test_selected_are_the_keys_that_are_there(table: Table, browser: Browser) -> None:
    """A row that vanished is not selected, and is again when it returns; a load never changes the selection."""
    chosen = browser.select("n7", "n2")
    assert table.selected == ["n2", "n7"]
    table.load(tasks([2, 3]))
    assert (table.selected, browser.summary["selected"]) == (["n2"], 1)
    table.load(tasks(range(12)))
    assert table.selected == ["n2", "n7"]
    assert table.get_state("_selection") == {"_selection": chosen}


def test_the_newest_selection_counts_in_any_order(table: Table, browser: Browser) -> None:
    """A selection is applied with its message; an equal or older one that arrives later changes nothing."""
    chosen = {"version": 7, "base": "", "keys": ["n1", "n4"], "without": []}
    browser.send(do="select", selection=chosen)
    assert table.selected == ["n1", "n4"]
    browser.updates()
    browser.send(do="select", selection=chosen)
    browser.send(do="select", selection={**chosen, "version": 6, "keys": ["n1"]})
    assert (table.selected, browser.updates()) == (["n1", "n4"], [])


def test_the_newest_selection_is_reported_last(table: Table, browser: Browser) -> None:
    """A slow callback, or one that changes the table, gets each state in order."""
    reported: list[list[str]] = []
    busy, go = threading.Event(), threading.Event()

    def slow(keys: list[str]) -> None:
        if not reported:
            busy.set()
            assert go.wait(240)
            table.drop(["n2"])
        reported.append(keys)

    table.on_select = slow
    thread = threading.Thread(target=browser.select, args=("n1", "n2"))
    thread.start()
    assert busy.wait(240)
    browser.select("n2", "n3")
    assert reported == []
    go.set()
    thread.join(240)
    assert reported == [["n1", "n2"], ["n3"]]


def test_all_that_match_are_those_of_the_moment(table: Table, browser: Browser) -> None:
    """Rows that come later are not selected; exceptions and additions are counted."""
    table.filter("n1")
    base = f"{browser.page['filter']}.77"
    browser.select(base=base)
    assert (table.selected, browser.summary["base"]) == (["n1", "n10", "n11"], base)
    table.filter()
    table.patch(tasks([100]))
    browser.select("n3", base=base, without=("n10",))
    assert table.selected == ["n1", "n3", "n11"]
    assert [(row[0], row[2]) for row in browser.page["rows"]][:3] == [("n0", False), ("n1", True), ("n2", False)]
    browser.select()
    assert table.selected == []


def test_a_panel_selects(table: Table, browser: Browser) -> None:
    """`select` writes the selection for the browser too."""
    table.select(["n3", "n9"])
    assert table.selected == ["n3", "n9"]
    assert browser.updates() == ["_selection", "_summary"]


def test_callbacks_report_changes(table: Table, browser: Browser) -> None:
    """Callbacks report selection, rows on the page, and opened rows, each once."""
    reported: list[tuple[str, Any]] = []
    table.on_select = lambda keys: reported.append(("select", keys))
    table.on_page = lambda keys: reported.append(("page", keys))
    table.on_open = lambda key: reported.append(("open", key))
    browser.select("n1", "n11")
    browser.send(do="page", page=2)
    browser.send(do="open", key="n10")
    browser.send(do="open", key="gone meanwhile")
    table.drop(["n11"])
    assert reported == [
        ("select", ["n1", "n11"]),
        ("page", ["n0", "n1", "n2", "n3", "n4"]),
        ("page", ["n10", "n11"]),
        ("open", "n10"),
        ("select", ["n1"]),
        ("page", ["n10"]),
    ]


def test_the_row_that_is_looked_at(table: Table, browser: Browser) -> None:
    """A click shows a row and selects nothing; Enter opens it, or shows it in a table without `on_open`."""
    seen: list[str] = []
    table.on_show = seen.append
    browser.send(do="show", key="n3")
    browser.send(do="show", key="gone meanwhile")
    browser.send(do="open", key="n4")
    assert (seen, table.current, browser.summary["current"], table.selected) == (["n3", "n4"], "n4", "n4", [])
    table.on_open = lambda key: seen.append(f"open {key}")
    browser.send(do="open", key="n5")
    assert (seen[2:], table.current) == (["open n5"], "n5")
    table.drop(["n5"])
    assert (table.current, seen[3:]) == (None, [])
    table.show("n7")
    assert (table.current, seen[3:]) == ("n7", [])
    table.show(None)
    assert browser.summary["current"] is None


def test_an_exception_of_a_callback_is_seen(table: Table, browser: Browser) -> None:
    """It goes to `on_error`; without one it is raised, and later changes are reported all the same."""

    def fail(key: object) -> None:
        message = f"<b>no {key}"
        raise ValueError(message)

    table.on_select = fail
    with pytest.raises(ValueError, match="no"):
        table.select(["n1"])
    table.on_open = fail
    caught: list[Exception] = []
    table.on_error = caught.append
    browser.send(do="open", key="n1")
    browser.select("n2")
    assert [str(error) for error in caught] == ["<b>no n1", "<b>no ['n2']"]


def test_a_click_that_arrives_late_changes_nothing(table: Table, browser: Browser) -> None:
    """The first click of a double click may arrive after its end: the current row stays."""
    shown: list[str] = []
    table.on_show = shown.append
    browser.send(do="open", key="n2", view="a", number=3)
    browser.send(do="show", key="n1", view="a", number=1)
    assert (table.current, shown) == ("n2", ["n2"])
    browser.send(do="show", key="n1", view="the page of another browser, or after a reload", number=1)
    assert (table.current, shown) == ("n1", ["n2", "n1"])


def test_threads_load_while_the_browser_asks(table: Table, browser: Browser) -> None:
    """Loads of other threads and requests of the browser leave a consistent page."""

    def refresh() -> None:
        for number in range(30):
            table.load(tasks(range(number % 3, 12), state="running" if number % 2 else "ready"))

    threads = [threading.Thread(target=refresh) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(60):
        browser.send(do="page", page=number % 3)
        browser.select(f"n{number % 12}")
    for thread in threads:
        thread.join(240)
    table.load(tasks(range(12)))
    browser.send(do="page", page=2)
    browser.select("n11")
    assert (browser.names, table.selected) == (["n10", "n11"], ["n11"])
    revisions = [m["state"]["_summary"]["revision"] for m in browser.sent if "_summary" in m.get("state", {})]
    assert revisions == sorted(set(revisions))


def test_an_empty_table_says_so(browser: Browser, table: Table) -> None:
    """Not loaded, empty and nothing found have different texts."""
    fresh = Table(COLUMNS, label="batches")
    assert fresh.get_state("_page")["_page"]["empty"] == "Not loaded yet"
    fresh.load({name: [] for name in ("name", *(column.name for column in COLUMNS))})
    assert fresh.get_state("_page")["_page"]["empty"] == "No batches"
    table.filter("nothing has this")
    assert browser.page["empty"] == "None of 12 tasks matches"


def test_exports_get_a_table_of_the_page(table: Table) -> None:
    """The bundle has a static table of the page, with a caption."""
    table.turn(1)
    bundle, _metadata = table._repr_mimebundle_()  # type: ignore[misc]  # only a closed widget has none
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "n7" in bundle["text/html"]
    assert "n4" not in bundle["text/html"]
    assert "6\u201310 of 12 tasks" in bundle["text/html"]
    assert bundle["text/plain"] == "<Table of 12 tasks>"
    table.filter("n1")
    assert "3 that match, of 12 tasks" in table.html()


def test_a_closed_table_ignores_refreshes(table: Table) -> None:
    """A late refresh does no harm."""
    table.close()
    table.load(tasks(range(3)))
    assert table.total == 3
