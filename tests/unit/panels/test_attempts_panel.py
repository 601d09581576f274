"""The attempts of a queue: newest first, filtered, and opened with the error of the handler in this kernel."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.errors import PermissionDeniedError
from cloudtasks_nb.panels import AttemptsPanel
from cloudtasks_nb.panels.cards import task
from cloudtasks_nb.service.oplog import Entry, Wanted
from tests.cases import cases
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeContext, FakeWatcher, entry, snapshot

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Return the log, which a test fills; newest first."""
    entries: list[Entry] = []

    async def read(_transport: Any, _queue: Any, wanted: Wanted, limit: int) -> list[Entry]:
        if any(isinstance(one, Exception) for one in entries):
            raise entries.pop()  # type: ignore[misc]  # a test puts an error there
        return [one for one in entries if not wanted.statuses or one.status in wanted.statuses][:limit]

    monkeypatch.setattr("cloudtasks_nb.panels.attempts.read", read)
    return entries


@pytest.fixture
def panel(log: list[Entry], context: FakeContext) -> AttemptsPanel:
    """Return a panel of three attempts, one of which failed, that is visible."""
    log += [entry(3, "t3"), entry(2, "t2", status="INTERNAL", retry_time=1), entry(1, "t1")]
    return user.show(AttemptsPanel(context, queue="reports"))


def publish(panel: AttemptsPanel, watcher: FakeWatcher, *entries: Entry) -> None:
    """Let the watcher see entries of the log, and wait until they are shown."""
    watcher.publish(snapshot("reports", entries=entries))
    panel.settle()


def test_the_log_is_read_when_the_panel_becomes_visible(log: list[Entry], context: FakeContext) -> None:
    """A hidden panel reads nothing."""
    log.append(entry(1, "t1"))
    panel = AttemptsPanel(context, queue="reports")
    assert panel.table.total == 0
    user.show(panel)
    assert panel.table.page_keys == ["i1"]


def test_the_log_is_followed_from_what_was_read(panel: AttemptsPanel, watcher: FakeWatcher, log: list[Entry]) -> None:
    """The watcher reads the log from a minute before the newest attempt, for late entries."""
    assert [one.since for one in watcher.subscribed] == [log[0].time - 60_000_000]
    assert panel.footer.at > 0


def test_only_the_newest_are_kept(panel: AttemptsPanel, watcher: FakeWatcher) -> None:
    """At most 2,000 attempts are kept in memory, and the panel says that there are more."""
    assert panel.kept.value == ""
    publish(panel, watcher, *(entry(n, f"t{n}") for n in range(10, 2_010)))
    assert panel.table.total == 2_000
    assert "i3" not in panel.table.page_keys
    assert "The newest 2,000 attempts of this period; there are more." in panel.kept.value


def test_a_status_is_read_again_when_not_all_attempts_were(panel: AttemptsPanel, log: list[Entry]) -> None:
    """A status then finds attempts that are older than the newest 2,000; back with all, these are read again."""
    log[:] = [*(entry(5_000 - n, f"t{n}") for n in range(2_500)), entry(7, "old", status="INTERNAL")]
    panel.start_refresh()
    panel.settle()
    log[:] = [*log, *(entry(9_000 - n, f"a{n}", status="ABORTED") for n in range(2_500))]
    for status, total in (("INTERNAL", 1), ("any answer", 2_000), ("errors", 2_000)):
        panel.status.value = status
        panel.settle()
        assert panel.table.matching == panel.table.total == total
        assert bool(panel.kept.value) is (total == 2_000)
    assert "The newest 2,000 attempts that failed of this period" in panel.kept.value
    assert panel.footer.line == 'tasks.queue("reports").attempts("1h", 2000).query(\'status != "OK"\')'


@cases(
    ("any answer", "", ["i3", "i2", "i1"]),
    ("errors", "", ["i2"]),
    ("OK", "", ["i3", "i1"]),
    ("ABORTED", "", []),
    ("any answer", "INTERN", ["i2"]),
)
def test_attempts_are_filtered(panel: AttemptsPanel, status: str, text: str, keys: list[str]) -> None:
    """All, those that are errors, or one code; the search covers every text of a row."""
    panel.status.value, panel.find.value = status, text
    assert panel.table.page_keys == keys


def test_a_row_opens_with_the_handlers_traceback(panel: AttemptsPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card shows the traceback of this attempt, escaped; without a handler in this kernel, the log entry."""
    calls = pd.DataFrame(
        {"task": ["t2", "t2", "t3"], "attempt": [1, 2, 1], "error": [f"KeyError: {EVIL}", "of the second", None]}
    )
    handler = SimpleNamespace(calls=lambda: calls, url="https://example.com/run")
    monkeypatch.setattr(task, "served_at", lambda _url: handler)
    panel.start_refresh()
    panel.settle()
    panel.find.value = "keyerror"  # the message of an attempt can be found
    assert panel.table.page_keys == ["i2"]
    panel.find.value = "of the second"
    assert panel.table.page_keys == []
    panel.find.value = ""
    user.look_at(panel.table, "i2")
    assert "KeyError: &lt;img" in panel.detail.value
    assert "of the second" not in panel.detail.value
    monkeypatch.setattr(task, "served_at", lambda _url: None)
    user.look_at(panel.table, "i3")
    for word in ("t3", ">URL<", "https://example.com/run"):
        assert word in panel.detail.value
    assert "Raised" not in panel.detail.value


def test_log_entries_are_escaped(panel: AttemptsPanel, watcher: FakeWatcher) -> None:
    """A log entry cannot bring markup into the page."""
    publish(panel, watcher, entry(9, "t9", url=f"https://x/{EVIL}", status="INTERNAL"))
    user.look_at(panel.table, "i9")
    for html in (panel.detail.value, panel.static_html()):
        assert "<img" not in html
        assert "&lt;img" in html


@cases((0.0, "update(log_sampling_ratio=1.0)"), (0.5, "logs only 50 % of its operations"), (1.0, ""))
def test_an_incomplete_log_is_reported(panel: AttemptsPanel, watcher: FakeWatcher, ratio: float, words: str) -> None:
    """A note says that attempts are missing when the queue logs a part of its operations."""
    watcher.publish(snapshot("reports", log_sampling_ratio=ratio))
    assert words in panel.hint.value
    assert bool(words) is bool(panel.hint.value)


def test_another_queue_and_another_time_are_read(panel: AttemptsPanel, log: list[Entry]) -> None:
    """The table shows the new queue and time, and the line of Python names them."""
    log[:] = [entry(7, "t7")]
    user.use(panel, "emails")
    assert panel.table.page_keys == ["i7"]
    log[:] = []
    panel.back.value = 86_400
    panel.settle()
    assert (panel.table.total, panel.footer.line) == (0, 'tasks.queue("emails").attempts("24h", 2000)')


def test_what_is_known_of_one_queue_is_not_said_of_another(panel: AttemptsPanel, log: list[Any]) -> None:
    """That a queue has more attempts than are shown is not said while, or although, another one cannot be read."""
    log[:] = [entry(5_000 - n, f"t{n}") for n in range(2_500)]
    panel.start_refresh()
    panel.settle()
    assert "there are more" in panel.kept.value
    log[:] = [PermissionDeniedError("no access to the log")]
    user.use(panel, "emails")
    assert (panel.kept.value, panel.footer.at) == ("", 0.0)
