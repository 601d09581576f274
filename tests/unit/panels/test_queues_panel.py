"""The queues: figures that follow the watcher, and the buttons for selected queues."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.errors import QueueNotFoundError, ServiceError
from cloudtasks_nb.panels import QueuesPanel, queues
from tests.cases import cases
from tests.unit.panels import user
from tests.unit.panels.conftest import NOW, FakeContext, FakeWatcher, MakeContext, entry, snapshot


@pytest.fixture
def panel(context: FakeContext) -> QueuesPanel:
    """Return a panel of emails and reports that is visible."""
    return user.show(QueuesPanel(context))


def shown(panel: QueuesPanel) -> str:
    """Return the card."""
    return str(panel.card.value)


def test_only_the_page_is_watched(make_context: MakeContext, watcher: FakeWatcher) -> None:
    """Of thirty queues the twenty on the page; after turning it the others."""
    names = [f"q{number:02}" for number in range(30)]
    panel = user.show(QueuesPanel(make_context(*names)))
    assert sorted(one.queue.queue for one in watcher.subscribed) == names[:20]
    panel.table.turn(1)
    assert sorted(one.queue.queue for one in watcher.subscribed) == names[20:]


def test_figures_follow_the_watcher(panel: QueuesPanel, watcher: FakeWatcher) -> None:
    """Table and card show the newest depth, the sparkline the ones before; figures that are not known are left out."""
    user.look_at(panel.table, "reports")
    for depth in (1_500, 1_000):
        watcher.publish(snapshot("reports", tasks=depth, state="PAUSED"))
    assert "1,000" in panel.static_html()
    assert "<b>1,000</b> tasks" in shown(panel)
    assert "between 1,000 and 2,000" in shown(panel)
    assert "PAUSED" in shown(panel)
    watcher.publish(snapshot("reports", tasks=None, running=None, effective_rate=None))
    assert "depth not known" in shown(panel)


@pytest.mark.parametrize("local", [False, True])
def test_what_the_log_of_a_busy_queue_costs(make_context: MakeContext, watcher: FakeWatcher, *, local: bool) -> None:
    """The card of a queue at Google shows it; the log of an emulator costs nothing."""
    panel = user.show(QueuesPanel(make_context("reports", local=local)))
    watcher.publish(snapshot("reports", done_last_minute=1_000_000, log_sampling_ratio=1.0))
    for words in ("at 1,000,000 attempts a minute the log has", "a day after the first 50 GiB"):
        assert (words in shown(panel)) is not local


def test_a_queue_that_is_deleted_goes(panel: QueuesPanel, watcher: FakeWatcher) -> None:
    """A deleted queue is removed and not watched any more."""
    watcher.publish(snapshot("reports", QueueNotFoundError("gone", code="NOT_FOUND")))
    assert panel.table.page_keys == ["emails"]
    assert [one.queue.queue for one in watcher.subscribed] == ["emails"]


def test_a_failed_snapshot_leaves_the_figures(panel: QueuesPanel, watcher: FakeWatcher) -> None:
    """The figures stay, and a warning is shown."""
    watcher.publish(snapshot("reports", ServiceError("broken")))
    assert (panel.table.total, panel.footer.warning) == (2, "broken")


def test_queues_are_listed_again_from_time_to_time(
    panel: QueuesPanel, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot 15 seconds after the last list makes the panel list the queues again."""
    made: list[int] = []
    monkeypatch.setattr(panel, "refresh", lambda: made.append(1))
    panel._read -= 60
    watcher.publish(snapshot("reports"))
    watcher.publish(snapshot("reports"))
    panel.settle()
    assert made == [1]


def test_the_only_queue_need_not_be_selected(make_context: MakeContext) -> None:
    """A panel of one queue shows its card at once."""
    panel = QueuesPanel(make_context("reports"))
    assert "reports" in shown(panel)
    assert not panel.purge.disabled


def test_pause_and_resume_are_done_at_once(panel: QueuesPanel, context: FakeContext, watcher: FakeWatcher) -> None:
    """There is no question; the line of Python does the same, and the watcher reads the queue again."""
    panel.table.select(["reports"])
    user.click(panel, panel.pause)
    assert context.calls == [("pause", "reports")]
    assert (panel.footer.status, panel.footer.line) == ("paused reports", 'tasks.queue("reports").pause()')
    assert "reports" in watcher.refreshed
    panel.table.select(["emails", "reports"])
    user.click(panel, panel.pause)
    assert panel.footer.status == "paused 2 queues: emails, reports"
    assert panel.footer.line == 'for name in ["emails", "reports"]: tasks.queue(name).pause()'


def test_what_the_buttons_act_on_is_the_queue_of_the_panel(panel: QueuesPanel, context: FakeContext) -> None:
    """Without a selection it is the queue that is shown; one that is selected becomes it; a choice elsewhere wins."""
    panel.use("emails")
    assert (panel.table.current, "emails" in panel.target.value, "emails" in shown(panel)) == ("emails", True, True)
    panel.table.select(["reports"])
    assert (panel.queue, panel.table.current) == ("reports", "reports")
    panel.use("emails")
    assert (panel.table.selected, panel.table.current) == ([], "emails")
    panel.table.select(["emails", "reports"])
    assert "2 queues" in panel.target.value
    panel.table.select([])
    user.click(panel, panel.pause)
    assert context.calls == [("pause", "emails")]


def test_a_queue_that_is_chosen_after_the_click_is_left_alone(panel: QueuesPanel, context: FakeContext) -> None:
    """An action is about what was selected when its button was clicked, also if its work begins later."""
    panel.table.select(["reports"])
    with panel._enabling:  # the work cannot begin
        panel.pause.click()
    user.use(panel, "emails")
    assert context.calls == [("pause", "reports")]


def test_purge_wants_the_name(panel: QueuesPanel, context: FakeContext) -> None:
    """Count and full name are in the question; the right name and a click purge."""
    panel.table.select(["reports"])
    question = user.asked(panel, panel.purge)
    assert (question.typed, question.verb) == ("reports", "Purge about 2,000 tasks")
    assert "projects/p/locations/l/queues/reports" in question.scope
    assert context.calls == []
    user.confirm(panel, typed="reports")
    assert (context.calls, panel.footer.status) == ([("purge", "reports")], "purged reports")


def test_only_changed_limits_are_sent(panel: QueuesPanel, context: FakeContext) -> None:
    """The line of Python follows the form; the status shows old and new values."""
    panel.table.select(["reports"])
    user.click(panel, panel.edit)
    fields = panel.form.fields
    assert (fields["rate"].value, fields["max_backoff"].value, panel.save.disabled) == ("50", "3600s", True)
    fields["rate"].value = "5"
    fields["max_backoff"].value = "10min"
    expected = {"rate": 5.0, "max_backoff": "10min"}
    assert panel.footer.line == 'tasks.queue("reports").update(rate=5.0, max_backoff="10min")'
    user.click(panel, panel.save)
    assert context.calls == [("update", "reports", expected)]
    assert panel.footer.status == "reports: rate 50 \u2192 5, max_backoff 3600s \u2192 10min"
    assert panel.editor.layout.display == "none"


@cases(
    ("max_retry_duration", "unlimited", None, ""),
    ("max_retry_duration", "", None, ""),
    ("max_retry_duration", "0s", None, ""),
    ("max_retry_duration", "2h", "2h", "max_retry_duration unlimited \u2192 2h"),
    ("max_attempts", "Unlimited", -1, "max_attempts 5 \u2192 unlimited"),
    ("max_attempts", "", -1, "max_attempts 5 \u2192 unlimited"),
)
def test_no_limit_is_a_word(panel: QueuesPanel, setting: str, typed: str, sent: Any, words: str) -> None:
    """The service's 0s and -1 are shown and typed as unlimited."""
    panel.table.select(["reports"])
    user.click(panel, panel.edit)
    assert "retry time</span> <b>unlimited" in panel.card.value
    assert panel.form.fields["max_retry_duration"].value == "unlimited"
    panel.form.fields[setting].value = typed
    assert panel.form.changes == ({} if sent is None else {setting: sent})
    assert panel.form.words == words


def test_a_limit_that_is_no_number_is_named(panel: QueuesPanel, context: FakeContext) -> None:
    """An invalid value is reported and not sent; the message disappears with a valid one."""
    panel.table.select(["reports"])
    user.click(panel, panel.edit)
    field = panel.form.fields["max_concurrent"]
    field.value = "many"
    assert panel.footer.alert["text"] == 'Running at once: "many" is not a whole number'
    user.click(panel, panel.save)
    assert context.calls == []
    field.value = "9"
    assert panel.footer.alert == {}


def column(panel: QueuesPanel, name: str) -> list[Any]:
    """Return a column of the table."""
    values: list[Any] = panel.table._rows._frame.loc[panel.table.page_keys][name].tolist()
    return values


def test_failures_of_the_last_minute_are_counted(panel: QueuesPanel, watcher: FakeWatcher) -> None:
    """By the log, each once, until they are older; the totals have the sum, and nobody says 0 without a log."""
    bad = tuple(entry(number, "t", status="INTERNAL") for number in range(3))
    for entries in (bad, (*bad[1:], entry(9, "t"))):
        watcher.publish(snapshot("reports", entries=entries))
    assert column(panel, "failed_last_minute")[1] == 3
    assert pd.isna(column(panel, "failed_last_minute")[0])
    assert "failed last minute</span> <b>3<" in panel.totals.value
    watcher.publish(replace(snapshot("reports"), at=NOW + 61_000_000, log_until=NOW))
    assert column(panel, "failed_last_minute")[1] == 0
    watcher.publish(snapshot("reports", log_sampling_ratio=0.0))
    assert pd.isna(column(panel, "failed_last_minute")[1])


@pytest.mark.parametrize(("local", "read"), [(True, 2), (False, 1)])
def test_only_the_log_of_one_queue_is_read_at_google(
    make_context: MakeContext, watcher: FakeWatcher, *, local: bool, read: int
) -> None:
    """Its quota would not do for more."""
    panel = user.show(QueuesPanel(make_context("emails", "reports", local=local)))
    user.use(panel, "reports")
    assert sum(one.since is not None for one in watcher.subscribed) == read


@cases(
    ({"done_last_minute": 60, "rate": 1.0}, "its limit of 1/s"),
    ({"done_last_minute": 20, "rate": 1.0}, None),
    ({"done_last_minute": 60, "rate": 1.0, "tasks": 0}, None),
    ({"done_last_minute": 2, "rate": 1.0, "tasks": 9, "max_concurrent": 3, "running": 3}, "its limit of 3 at a time"),
    ({"done_last_minute": 2, "rate": 1.0, "tasks": 3, "max_concurrent": 3, "running": 3}, None),
)
def test_a_queue_at_its_limit_says_so(
    panel: QueuesPanel, watcher: FakeWatcher, values: dict[str, Any], words: str | None
) -> None:
    """As long as tasks wait for it."""
    watcher.publish(snapshot("reports", **values))
    assert column(panel, "held_up_by")[1] == words


def test_the_chart_has_a_gap_where_nobody_looked(
    panel: QueuesPanel, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the depth was in between is not drawn."""
    user.look_at(panel.table, "reports")
    watcher.publish(snapshot("reports"))
    assert shown(panel).count("<polyline") == 1
    later = time.monotonic() + 180
    monkeypatch.setattr(queues, "time", SimpleNamespace(monotonic=lambda: later))
    monkeypatch.setattr(panel, "refresh", lambda: None)
    for depth in (10, 0):
        watcher.publish(snapshot("reports", tasks=depth))
    assert shown(panel).count("<polyline") == 2
