"""The tabs: made when they are opened, for one queue, with one interval."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import ServiceError
from cloudtasks_nb.panels import Dashboard, Panel
from cloudtasks_nb.panels import dashboard as dashboard_module
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeContext, FakeWatcher, MakeContext, open_widgets, queues_frame


def titles(dashboard: Dashboard) -> list[str]:
    """Return the titles of the tabs."""
    return [dashboard.tabs.get_title(place) for place in range(len(dashboard.tabs.children))]


def open_fields(queues: Any) -> list[Any]:
    """Return what is in the row of the form that is open in the list of queues."""
    return [field for row in queues.editor.children for field in getattr(row, "children", ())]


class Part(Panel):
    """A tab that records its refreshes."""

    def __init__(self, context: FakeContext, *, queue: str, framed: bool) -> None:
        super().__init__(context, "Part", queue=queue, framed=framed)
        self.refreshed: list[str | None] = []
        self.refuses = False
        self.fill()

    def refresh(self) -> None:
        """Record the queue."""
        if self.refuses:
            raise ServiceError("not now")
        self.refreshed.append(self.queue)

    def static_html(self) -> str:
        """Return a word."""
        return "the part"


@pytest.fixture(autouse=True)
def _tabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_module, "_TABS", (("Tasks", Part, False), ("Backfill", Part, True)))


@pytest.fixture
def dashboard(context: FakeContext) -> Dashboard:
    """Return the whole of a connection with the queues emails and reports."""
    made: Dashboard = Dashboard(context)
    return made


def part(dashboard: Dashboard, name: str = "Tasks") -> Part:
    """Open a tab and return what is in it."""
    dashboard.turn_to(name)
    found = dashboard.parts[name]
    assert isinstance(found, Part)
    return found


def test_tabs_are_made_when_opened(dashboard: Dashboard) -> None:
    """The first tab is made at once, the others when they are opened."""
    assert titles(dashboard) == ["Queues", "Tasks", "Backfill"]
    assert list(dashboard.parts) == ["Queues"]
    made = part(dashboard)
    assert dashboard.current is made
    dashboard.turn_to("Queues")
    assert part(dashboard) is made


def test_a_tab_loads_while_the_browser_draws_it(dashboard: Dashboard) -> None:
    """What was opened counts as visible until the browser reports, but not after another tab was opened."""
    assert not part(dashboard).footer.visible  # nor is the dashboard
    dashboard.turn_to("Queues")
    user.show(dashboard)
    tasks = part(dashboard)
    assert tasks.footer.visible
    backfill = part(dashboard, "Backfill")
    assert (tasks.footer.visible, backfill.footer.visible) == (False, True)
    user.show(tasks)
    dashboard.turn_to("Queues")
    assert (tasks.footer.visible, backfill.footer.visible) == (True, False)  # the browser reports on Tasks


def test_all_tabs_are_about_one_queue(dashboard: Dashboard) -> None:
    """A queue is chosen in the header, selected in the list, or opened there, which shows its tasks."""
    made = part(dashboard)
    queues: Any = dashboard.parts["Queues"]
    assert (dashboard.choice.options, made.queue) == (("emails", "reports"), "emails")
    dashboard.choice.value = "reports"
    assert (made.queue, queues.table.current) == ("reports", "reports")
    user.look_at(queues.table, "emails")
    assert (made.queue, dashboard.choice.value) == ("emails", "emails")
    dashboard.turn_to("Queues")
    queues.table.on_open("reports")
    assert (dashboard.current, made.queue) == (made, "reports")


def test_there_may_be_no_queue_yet(make_context: MakeContext) -> None:
    """A tab says so, has a button that leads to the form for a new one, and is made when there is one."""
    dashboard = Dashboard(make_context())
    dashboard.turn_to("Tasks")
    note, way = dashboard.tabs.children[1].children
    assert (dashboard.current, "no queue yet" in note.value) == (None, True)
    dashboard.refresh()
    dashboard.start_refresh()
    user.click(dashboard, *way.children)
    queues: Any = dashboard.current
    assert (queues.new_name.value, queues.create in open_fields(queues)) == ("reports", True)
    dashboard.turn_to("Tasks")
    dashboard.offer(["reports"])
    assert part(dashboard).queue == "reports"


def test_the_first_queue_is_created_by_two_clicks(make_context: MakeContext) -> None:
    """The form is open from the start and says what is set; the tab that led to it has the new queue."""
    names: list[str] = []

    def create(name: str) -> None:
        names.append(name)
        notify(f"made queue {name} with max_attempts=5")

    context = replace(
        make_context(), create=create, new_settings={"max_attempts": 5}, queues=lambda: queues_frame(names)
    )
    dashboard = Dashboard(context)
    dashboard.turn_to("Tasks")
    user.click(dashboard, *dashboard.tabs.children[1].children[1].children)
    queues: Any = dashboard.current
    assert "max_attempts=5" in queues.editor.children[0].value
    queues.new_name.value = " night "
    user.click(queues, queues.create)
    assert (queues.footer.status, queues.footer.line) == (
        "made queue night with max_attempts=5",
        'tasks.queue("night", create=True)',
    )
    assert (names, dashboard.queue, queues.editor.children) == (["night"], "night", ())
    tasks = dashboard.parts["Tasks"]
    assert dashboard.current is tasks
    assert (tasks.queue, tasks.footer.status) == ("night", queues.footer.status)
    dashboard.turn_to("Queues")
    user.click(queues, queues.new, queues.create)
    assert (names, dashboard.current) == (["night", "night"], queues)


def test_who_only_reads_creates_no_queue(make_context: MakeContext) -> None:
    """There is neither a form nor a button."""
    dashboard = Dashboard(make_context(read_only=True))
    dashboard.turn_to("Tasks")
    queues: Any = dashboard.parts["Queues"]
    assert (queues.editor.children, dashboard.tabs.children[1].children[1].children) == ((), ())


def test_queues_that_come_and_go_are_offered(dashboard: Dashboard) -> None:
    """The choice stays as long as its queue is there."""
    made = part(dashboard)
    dashboard.use("reports")
    seen: list[str | None] = []
    made.queue_changed = lambda: seen.append(made.queue)  # type: ignore[method-assign]  # to hear of it
    dashboard.offer(["emails", "invoices", "reports"])
    assert (dashboard.choice.value, made.queue, seen) == ("reports", "reports", [])
    dashboard.offer(["invoices"])
    assert (dashboard.choice.value, made.queue) == ("invoices", "invoices")


def test_a_queue_that_is_chosen_while_a_tab_is_made(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new tab, the other tabs and the header are about the same queue in the end."""

    def slow(context: FakeContext, *, queue: str, framed: bool) -> Part:
        made = Part(context, queue=queue, framed=framed)
        other = threading.Thread(target=dashboard.use, args=("reports",))
        other.start()
        other.join(240)
        return made

    monkeypatch.setitem(dashboard._makers, "Tasks", slow)
    made = part(dashboard)
    queues: Any = dashboard.parts["Queues"]
    assert {made.queue, dashboard.queue, dashboard.choice.value, queues.queue} == {"reports"}


def test_one_of_thirty_queues_is_found(make_context: MakeContext) -> None:
    """More than eight queues can be searched in the list; a click on one chooses it for all tabs."""
    dashboard = Dashboard(make_context(*(f"q{number:02}" for number in range(30))))
    queues: Any = dashboard.parts["Queues"]
    few: Any = Dashboard(make_context("reports")).parts["Queues"]
    assert (queues.find.layout.display, few.find.layout.display) == (None, "none")
    queues.find.value = "7"
    assert queues.table.page_keys == ["q07", "q17", "q27"]
    dashboard.choice.value = "q17"
    assert (dashboard.queue, queues.table.current) == ("q17", "q17")
    user.look_at(queues.table, "q27")
    assert (dashboard.queue, dashboard.choice.value) == ("q27", "q27")


def test_one_interval_for_all(dashboard: Dashboard, watcher: FakeWatcher) -> None:
    """Also for tabs that are opened later."""
    dashboard.every = 10
    assert part(dashboard).every == 10
    dashboard.every = 0
    user.show(part(dashboard))
    assert (part(dashboard).footer.paused, dashboard.footer.paused) == ("refreshing is off", "")


def test_refresh_is_of_the_open_tab(dashboard: Dashboard) -> None:
    """What goes wrong stands in the tab that it is about."""
    made = part(dashboard)
    dashboard.refresh()
    dashboard.start_refresh()
    dashboard.settle()
    assert made.refreshed == ["emails", "emails"]
    made.refuses = True
    dashboard.start_refresh()
    dashboard.settle()
    assert (made.footer.alert["text"], dashboard.footer.alert) == ("not now", {})


def test_a_queue_has_a_dashboard_of_its_own(make_context: MakeContext) -> None:
    """There is no other to choose."""
    context = make_context("reports")
    dashboard = Dashboard(context, only=context.name("reports"))
    assert titles(dashboard)[0] == "Queue"
    assert part(dashboard).queue == "reports"
    assert dashboard.choice not in dashboard.children[0].children[1].children


def test_exports_show_what_was_opened(dashboard: Dashboard) -> None:
    """Under the title of its tab."""
    part(dashboard)
    html = dashboard._repr_mimebundle_()["text/html"]
    assert "<h4>Queues</h4>" in html
    assert "reports" in html
    assert "<h4>Tasks</h4>the part" in html


@pytest.mark.parametrize("read_only", [False, True])
def test_closing_closes_everything(make_context: MakeContext, watcher: FakeWatcher, *, read_only: bool) -> None:
    """No widget and no subscription of any tab is left, nor what was made on demand or never laid out."""
    before = set(open_widgets())
    dashboard = Dashboard(make_context("reports", read_only=read_only))
    made = part(dashboard)
    user.show(made)
    queues = dashboard.parts["Queues"]
    user.show(queues)
    if not read_only:
        queues.edit.click()
        queues.cancel.click()
        queues.purge.click()
    dashboard.close()
    assert watcher.subscribed == []
    assert [type(open_widgets()[name]).__name__ for name in set(open_widgets()) - before] == []
