"""The form of a backfill, and the calendar from which what failed is sent again."""

import re
import threading
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.display.calendar import Periods
from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.batch.backfill import Backfill
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.panels import BackfillPanel, backfill
from tests.cases import cases
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeShell, Harness


@pytest.fixture
def panel(harness: Harness, shell: FakeShell) -> BackfillPanel:
    """Return a form that is visible."""
    return user.show(BackfillPanel(harness.context(), queue="reports"))


def squares(panel: BackfillPanel) -> dict[str, str]:
    """Return the squares of the calendar: the day, and what its tooltip says."""
    found = re.findall(r'data-key="([^"]*)"[^>]* title="[^:"]*: ([^"]*)"', panel.view.periods.calendar.html)
    return {key[:10]: words for key, words in found}


def pick(panel: BackfillPanel, *days: str) -> None:
    """Select squares."""
    panel.view.periods.calendar.pick([f"{day}T00:00:00+00:00" for day in days])
    panel.settle()


def test_missing_fields_are_named(panel: BackfillPanel) -> None:
    """The first missing field is named, and not as an error."""
    assert "the first day is not chosen yet" in panel.preview.value
    user.fill(panel, start="2026-01-01")
    assert "the last day is not chosen yet" in panel.preview.value
    user.fill(panel, end="2026-01-31")
    assert "it is not chosen yet what each task calls" in panel.preview.value
    assert panel.footer.alert == {}


@cases(
    ({}, 'backfill("2026-01-01", "2026-01-31", freq="D", url="https://svc/{partition}")'),
    ({"freq": "h"}, 'backfill("2026-01-01", "2026-01-31 23:59", freq="h", url="https://svc/{partition}")'),
    ({"tz": "Europe/Zurich", "newest_first": True}, 'freq="D", tz="Europe/Zurich", newest_first=True, url='),
    ({"across": "shop: bern, 7; size: 1"}, 'across={"shop": ["bern", 7], "size": [1]}, url='),
    ({"body": ["start"], "name": "all"}, 'url="https://svc/{partition}", body=["start"], name="all")'),
    ({"canary": "3", "pause_at": "5%"}, 'url="https://svc/{partition}", canary=3, pause_at="5%")'),
)
def test_the_line_of_python_follows_the_form(panel: BackfillPanel, values: dict[str, Any], line: str) -> None:
    """For periods shorter than a day the whole last day is included."""
    user.fill(panel, start="2026-01-01", end="2026-01-31", url="https://svc/{partition}", **values)
    assert line in panel.footer.line


@cases(("shop", "neither a DataFrame nor a dict"), ("shop:", "has no values"), ("start: 1", "which every backfill has"))
def test_an_invalid_across_is_reported(panel: BackfillPanel, across: str, message: str) -> None:
    """The error is shown in place of the first tasks, and in the footer when a plan is made."""
    user.fill(panel, start="2026-01-01", end="2026-01-31", url="https://svc/{partition}", across=across)
    assert message in panel.preview.value
    user.click(panel, panel.make_plan)
    assert message in panel.footer.alert["text"]


def test_across_may_be_a_variable(panel: BackfillPanel, shell: FakeShell) -> None:
    """The line of Python has the name of the variable."""
    shell.cell(shops=pd.DataFrame({"shop": ["bern"], "size": [2]}))
    user.fill(panel, start="2026-01-01", end="2026-01-31", url="https://svc/{shop}", across="shops")
    assert "across=shops, url=" in panel.footer.line
    assert "https://svc/bern" in panel.preview.value


def test_the_plan_has_partitions_and_verdicts(panel: BackfillPanel, harness: Harness) -> None:
    """Rows that the batch has already are counted apart."""
    batch = harness.days("2026-01-05")
    harness.finish(batch)
    user.plan(panel, start="2026-01-01", end="2026-01-08", url="https://svc/{partition}")
    assert "2026-01-01 … 2026-01-08, 8 days in UTC" in panel.plan_card.value
    assert "known: 5 succeeded" in panel.plan_card.value
    assert panel.send.description == "Send 3 tasks"


def test_two_failed_days_are_retried_from_the_calendar(panel: BackfillPanel, harness: Harness) -> None:
    """Failed days are selected in the calendar and sent again until all succeed."""
    user.fill(panel, start="2026-01-01", end="2026-01-05", url="https://svc/{partition}")
    batch = harness.sent(user.send(panel))
    with user.wait_for(panel.view.periods.calendar, "html", lambda html: html.count("✕</button>") == 2):
        harness.finish(batch, 1, 3)
    assert squares(panel)["2026-01-02"] == "1 row: 1 failed"
    pick(panel, "2026-01-02", "2026-01-04")
    actions, rows = panel.view.actions, panel.view.rows.table
    assert rows is not None
    assert (actions.resend.description, rows.total) == ("Send again (2)", 2)
    assert panel.view.periods.calendar.words == "2026-01-02, 2026-01-04: 2 rows: 2 failed"
    user.click(panel, actions.resend)
    assert panel.footer.status == f"2 rows of batch {batch.id} will be sent again"
    assert panel.footer.line == f'(batch := tasks.batch("{batch.id}")).resend(batch.tasks().iloc[[1, 3]])'
    harness.sent(batch)
    with user.wait_for(
        panel.view.periods.calendar, "html", lambda html: html.count(': 1 row: 1 succeeded" title=') == 5
    ):
        harness.finish(batch)
    assert set(squares(panel).values()) == {"1 row: 1 succeeded"}
    assert batch.tasks()["try"].tolist() == [1, 2, 1, 2, 1]


def test_what_succeeded_is_asked_about(panel: BackfillPanel, harness: Harness) -> None:
    """Rows that succeeded are sent again only after a question."""
    user.fill(panel, start="2026-01-01", end="2026-01-05", url="https://svc/{partition}")
    batch = harness.sent(user.send(panel))
    harness.finish(batch, 1)
    panel.view.draw()
    pick(panel, "2026-01-02", "2026-01-03")
    question = user.asked(panel, panel.view.actions.resend)
    assert "1 row of them succeeded" in question.scope
    assert "The 2 rows of 2 days, 2026-01-02 to 2026-01-03 (1 failed, 1 succeeded), of 5: each" in question.scope
    user.reply(panel, None)
    assert batch.tasks()["try"].tolist() == [1] * 5


def test_backfills_of_the_queue_are_offered(harness: Harness, shell: FakeShell) -> None:
    """The newest backfill of the queue is shown at once, another one when it is chosen."""
    first = harness.days("2026-01-02")
    second = harness.days("2026-01-03", url="https://svc/other")
    harness.sent(harness.queue("emails").backfill("2026-01-01", "2026-01-01", freq="D", url="https://svc/x"))
    harness.sent(harness.queue().fan_out(pd.DataFrame({"n": [1]}), url="https://svc/x"))
    panel: Any = BackfillPanel(harness.context(), queue="reports")
    panel.settle()
    assert [value for _, value in panel.series.options] == [second.id, first.id]
    assert panel.view.batch.id == second.id
    panel.series.value = first.id
    panel.settle()
    assert panel.view.batch.id == first.id
    user.use(panel, "emails")
    assert panel.view.batch.queue == "emails"
    user.use(panel, "nothing")
    assert (panel.view.batch, panel.series.options) == (None, (("none yet", ""),))


def test_read_only_shows_the_calendar_without_buttons(harness: Harness, shell: FakeShell) -> None:
    """The calendar is there, as in the output of the batch, its squares can be selected, and no button is laid out."""
    batch = harness.days("2026-01-03")
    harness.finish(batch, 1)
    panel = user.show(BackfillPanel(harness.context(read_only=True), queue="reports"))
    assert panel.range not in panel.children
    pick(panel, "2026-01-02")
    assert panel.view.rows.table is not None
    assert not any(button in str(panel.view.children) for button in ("Retry", "Cancel rest"))
    for page in (panel.static_html(), batch._repr_mimebundle_()["text/html"]):
        assert page.count('class="ctn-calendar" role="img"') == 1
    panel.view.actions.retry.click()
    assert panel.footer.alert["text"] == "this panel is read-only"
    assert batch.tasks()["try"].tolist() == [1, 1, 1]


def test_an_older_click_does_not_undo_a_newer_one(panel: BackfillPanel, harness: Harness) -> None:
    """Messages with an older number are ignored."""
    harness.days("2026-01-03")
    calendar = panel.view.periods.calendar
    user.send_message(calendar, n=2, keys=["a", "b"])
    user.send_message(calendar, n=1, keys=["a"])
    panel.settle()
    assert calendar.picked == ["a", "b"]


def test_periods_to_come_are_drawn_before_they_are_sent(panel: BackfillPanel, harness: Harness) -> None:
    """What is new and what exists is counted and drawn, also after it was sent; a name of another series is refused."""
    user.fill(panel, start="2026-01-01", end="2026-01-08", across="shop: bern, chur")
    assert "2026-01-01 … 2026-01-08, 8 days in UTC: 16 rows" in panel.preview.value
    assert "it is not chosen yet what each task calls" in panel.preview.value
    user.fill(panel, across="")
    harness.finish(harness.days("2026-01-05"), 1)
    user.fill(panel, url="https://svc/{partition}")
    assert "3 new, 5 exist already (4 succeeded, 1 failed) and will not be sent again" in panel.preview.value
    assert panel.preview.value.count(": 1 row: 1 new") == 3
    sent = "0 new, 8 exist already (3 queued, 4 succeeded, 1 failed)"
    with user.wait_for(panel.preview, "value", lambda html: sent in html):
        batch = harness.sent(user.send(panel))
    user.fill(panel, freq="h", name=batch.name)
    assert "is a backfill of days in UTC, this is a backfill of hours in UTC" in panel.preview.value


@cases(("", 8), ("shop: bern, chur", 16))
def test_a_calendar_of_too_many_rows(
    panel: BackfillPanel, monkeypatch: pytest.MonkeyPatch, across: str, rows: int
) -> None:
    """It is not drawn before they are sent."""
    for most in (rows, rows - 1):
        monkeypatch.setattr(backfill, "_MOST_DRAWN", most)
        user.fill(panel, start="2026-01-01", end="2026-01-08", across=across, name=f"{most}")
        assert (f"{rows} rows, too many to draw before they are planned" in panel.preview.value) == (most < rows)


def test_older_states_of_the_periods_do_not_replace_newer_ones(
    panel: BackfillPanel, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states are read again while an earlier read takes long."""
    batch = harness.days("2026-01-03")
    user.fill(panel, start="2026-01-01", end="2026-01-03", url="https://svc/{partition}")
    read, finish, upcoming = threading.Event(), threading.Event(), Backfill.upcoming

    def read_slowly(backfill: Backfill, record: BatchRecord | None) -> Periods:
        found = upcoming(backfill, record)
        if not read.is_set():
            read.set()
            assert finish.wait(user.PATIENCE)
        return found

    monkeypatch.setattr(Backfill, "upcoming", read_slowly)
    panel.submitted()
    assert read.wait(user.PATIENCE)
    harness.finish(batch)
    _loop.run(panel._show_first(panel._edits))
    finish.set()
    panel.settle()
    assert "0 new, 3 exist already (3 succeeded)" in panel.preview.value


def test_what_exists_is_not_guessed(panel: BackfillPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file of the batches cannot be read, the reason is in place of the periods."""

    def known(_backfill: Backfill) -> None:
        raise OutboxError("the outbox cannot be read: <disk>")

    monkeypatch.setattr(Backfill, "known", known)
    user.fill(panel, start="2026-01-01", end="2026-01-08", url="https://svc/{partition}")
    assert "the outbox cannot be read: &lt;disk&gt;" in panel.preview.value


def test_one_of_many_values_is_shown_alone(panel: BackfillPanel, harness: Harness) -> None:
    """A value is chosen from the list; its squares are selected, and only its rows are sent again."""
    shops = [f"shop {number}" for number in range(13)]
    batch = harness.days("2026-01-02", across={"shop": shops})
    harness.finish(batch, 4)
    user.show(panel)
    panel.view.show(batch)
    view = panel.view.periods.calendar
    assert (view.choices, squares(panel)["2026-01-01"]) == (shops, "13 rows: 12 succeeded, 1 failed")
    user.send_message(view, n=1, keys=[], choice="shop 4")
    panel.settle()
    assert squares(panel)["2026-01-01"] == "1 row: 1 failed"
    user.send_message(view, n=2, keys=["2026-01-01T00:00:00+00:00 shop 4"])
    panel.settle()
    assert view.words == "2026-01-01 of shop 4: 1 row: 1 failed"
    user.click(panel, panel.view.actions.resend)
    harness.sent(batch)
    assert batch.tasks().query("`try` == 2")["shop"].tolist() == ["shop 4"]
