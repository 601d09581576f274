"""The list of batches, one batch as a panel with its run, and what can be done about it by how much it touches."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.display.browser_tab import browser_tab
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.fanout.outbox.outbox import Batches
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels import BatchesPanel, BatchPanel, Dashboard, batch_rows
from cloudtasks_nb.panels.cards import task
from tests.unit.display.test_charts import parsed
from tests.unit.fanout.conftest import Outcome, record_outcomes, refs
from tests.unit.panels import user
from tests.unit.panels.conftest import NOW as AT
from tests.unit.panels.conftest import FakeQueue, Harness, snapshot

ROWS = pd.DataFrame({"origin": ["EWR", "JFK", "LGA"], "note": ["<b>", "x", "y"]})


def fan_out(harness: Harness, rows: pd.DataFrame | int = ROWS, queue: str = "reports", **words: Any) -> Batch:
    """Send a batch."""
    data = pd.DataFrame({"n": range(rows)}) if isinstance(rows, int) else rows
    return harness.sent(harness.queue(queue).fan_out(data, url="https://svc/run", progress=False, **words))


@pytest.fixture
def panel(harness: Harness) -> BatchesPanel:
    """Return a list that is visible."""
    return user.show(BatchesPanel(harness.context(), queue="reports"))


def own(batch: Batch, **words: Any) -> BatchPanel:
    """Open the panel of one batch."""
    panel: BatchPanel = batch.panel(**words)
    return user.show(panel)


def test_batches_are_listed_newest_first(harness: Harness) -> None:
    """The list shows name, counts and state, of all queues or of one; trouble comes before what runs or has ended."""
    done, failed = fan_out(harness, name="night"), fan_out(harness, 2)
    elsewhere = fan_out(harness, 4, queue="emails")
    harness.finish(done)
    harness.finish(failed, 0)
    running = fan_out(harness, 5, name="<b>")
    panel = BatchesPanel(harness.context(), queue="reports")
    assert panel.table.page_keys == [failed.id, running.id, elsewhere.id, done.id]
    shown = panel.static_html()
    for words in ("night", "&lt;b&gt;", "succeeded", "running", "failed", "3 of 3<", "0 of 5<", "left</span> <b>9<"):
        assert words in shown
    panel.scope.index = 1
    assert panel.table.page_keys == [failed.id, running.id, done.id]
    panel.use("emails")
    assert panel.table.page_keys == [elsewhere.id]
    panel.scope.index = 0
    assert panel.table.matching == panel.table.total == 4
    board = Dashboard(harness.context("emails"), only=harness.context().name("emails"))
    board.turn_to("Batches")
    assert board.parts["Batches"].table.page_keys == [elsewhere.id], "the panel of a queue begins with its own"


def test_the_list_reads_no_rows(panel: BatchesPanel, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again with each snapshot, and does not show how large the batches are."""
    fan_out(harness)
    monkeypatch.delattr(Batches, "sizes")
    panel.refresh()
    assert panel.table.total == 1


def test_the_chosen_batch_is_opened(panel: BatchesPanel, harness: Harness) -> None:
    """The panel shows bar, causes and failed rows, everything escaped, and the line of Python that opens the batch."""
    batch = fan_out(harness, name="<i>night")
    harness.finish(batch, 0)
    panel.refresh()
    user.look_at(panel.table, batch.id)
    panel.settle()
    shown = panel.static_html()
    assert "&lt;i&gt;night" in shown
    assert "<i>night" not in shown
    assert "1 failed row<" in shown
    assert "&lt;b&gt;" in shown
    assert "NOT_FOUND" in shown
    assert panel.footer.line == f'batch = tasks.batch("{batch.id}")'


def test_a_batch_that_is_deleted_elsewhere_is_shown_no_longer(panel: BatchesPanel, harness: Harness) -> None:
    """It leaves the list, and what was shown of it; its details, when they are drawn before the list, show no error."""
    batch = fan_out(harness)
    harness.finish(batch)
    panel.refresh()
    user.look_at(panel.table, batch.id)
    panel.settle()
    batch.delete()
    panel.guarded(panel.view.draw)
    panel.settle()
    assert (panel.view.batch, panel.view.static_html(), panel.table.page_keys) == (None, "", [])
    assert panel.footer.alert == {}


def test_of_several_the_last_that_was_clicked_is_shown(panel: BatchesPanel, harness: Harness) -> None:
    """Nothing is selected."""
    first, second = fan_out(harness), fan_out(harness, 2)
    panel.refresh()
    user.look_at(panel.table, second.id)
    user.look_at(panel.table, first.id)
    panel.settle()
    assert panel.view.batch is not None
    assert (panel.view.batch.id, panel.table.selected) == (first.id, [])


def test_nothing_is_listed_before_the_first(panel: BatchesPanel) -> None:
    """An empty list says so, and no details are shown."""
    assert "No batch was sent from here yet" in panel.static_html()
    assert panel.view.static_html() == ""
    assert panel.view.draw() == 0.0
    user.click(panel, panel.view.actions.retry)
    assert "no batch is shown" in panel.footer.alert["text"]


def test_a_batch_has_a_panel_of_its_own(harness: Harness) -> None:
    """The bar of `batch.panel()` is updated while the panel is visible, and when it becomes visible again."""
    batch = fan_out(harness).whole
    panel = own(batch)
    assert batch.id in panel.title
    assert panel.footer.line == f'batch = tasks.batch("{batch.id}")'
    with user.wait_for(panel.view.bar, "value", lambda html: "<b>3</b> of 3 done" in html):
        harness.finish(batch)
    before = panel.view.bar.value
    user.show(panel, visible=False)
    grown = fan_out(harness, pd.concat([ROWS, ROWS.assign(note="new")]), name=batch.id)
    assert grown.id == batch.id
    assert panel.view.bar.value == before
    with user.wait_for(panel.view.bar, "value", lambda html: "of 6 done" in html):
        user.show(panel)


@pytest.mark.parametrize("failed", [10, 11])
def test_failed_rows_are_retried_by_a_click(harness: Harness, failed: int) -> None:
    """For more than ten a question comes first; the line does the same, and afterwards there is nothing to retry."""
    batch = fan_out(harness, 30)
    harness.finish(batch, *range(failed))
    panel = own(batch)
    retry = panel.view.actions.retry
    assert retry.description == f"Retry failed ({failed})"
    user.click(panel, retry)
    if failed > 10:
        assert batch.progress().failed == failed
        question = user.confirm(panel)
        assert (question.verb, question.typed, question.danger) == ("Retry 11 rows", None, False)
        assert "of 30" in question.scope
    harness.sent(batch)
    panel.refresh()
    assert (retry.description, retry.disabled) == ("Retry failed", True)
    assert panel.footer.line == f'tasks.batch("{batch.id}").retry_failed()'
    assert batch.tasks()["try"].tolist() == [2] * failed + [1] * (30 - failed)


def test_failed_rows_have_the_handlers_error(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table shows the last exception of a handler in this kernel."""
    batch = fan_out(harness)
    harness.finish(batch, 1, 2)
    tasks = batch.tasks()["task"].tolist()
    errors = ["old", "Traceback …\nKeyError: 'x'\n", "?"]
    calls = pd.DataFrame({"task": [tasks[1], tasks[1], None], "attempt": [1, 2, None], "error": errors})
    handler = SimpleNamespace(url="https://svc/run", calls=lambda: calls)
    monkeypatch.setattr(task, "served_at", lambda _url: handler)
    rows = own(batch).view.rows
    assert rows.table is not None
    assert rows.table._rows._frame["last_message"].fillna("-").tolist() == ["KeyError: 'x'", "-"]


def test_a_batch_is_cancelled_by_typing_its_id(harness: Harness) -> None:
    """The question names how many rows will not be sent and how many tasks are deleted."""
    batch = fan_out(harness, 12)
    panel = own(batch)
    question = user.asked(panel, panel.view.actions.cancel)
    assert (question.typed, question.danger) == (batch.id, True)
    assert "12 rows of 12 are not done: 0 will not be sent, 12 tasks in reports will be deleted" in question.scope
    with user.wait_for(panel.footer, "status", lambda status: status == f"cancelled 12 rows of batch {batch.id}"):
        user.confirm(panel, typed=batch.id)
    assert (batch.progress().cancelled, panel.footer.alert) == (12, {})
    assert panel.footer.line == f'tasks.batch("{batch.id}").cancel()'


def test_a_batch_that_is_done_has_no_waiting_rows(harness: Harness) -> None:
    """That is known of every batch without a look at its queue, also by a later kernel; of others it is not."""
    done, sent = fan_out(harness), fan_out(harness, 2)
    harness.finish(done)
    harness.close()  # as the end of a kernel
    later = Harness(harness.watcher)
    waiting = later.catalog.frame()[["scheduled", "ready", "running", "retrying"]]
    later.close()
    assert list(waiting.loc[done.id]) == [0, 0, 0, 0]
    assert waiting.loc[sent.id].isna().all()


def test_what_is_unsent_is_sent_by_resume(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of an ended kernel can be resumed; one that this kernel sends cannot."""
    harness.transport.open.clear()
    panel = own(harness.queue().fan_out(ROWS, url="https://svc/run", progress=False))
    assert panel.view.actions.resume.disabled
    panel.close()
    with monkeypatch.context() as patch:
        patch.setattr(Sending, "begin", lambda *_, **__: None)  # the kernel ends before it sends a row
        batch = harness.queue().fan_out(ROWS, url="https://svc/left", name="left", progress=False)
        harness.close()
    again = Harness(harness.watcher)
    batch = again.catalog.get(batch.id)
    panel = own(batch)
    assert "3 unsent, and no process sends them" in panel.static_html()
    assert panel.view.actions.resume.description == "Resume (3)"
    user.click(panel, panel.view.actions.resume)
    again.sent(batch)
    assert panel.footer.line == f'tasks.batch("{batch.id}").resume()'
    panel.settle()
    panel.close()
    again.close()


def test_a_paused_queue_is_resumed_where_the_bar_says_so(harness: Harness) -> None:
    """The button that resumes the batch, which has nothing to send, resumes the queue meanwhile."""
    batch = fan_out(harness)
    panel = own(batch)
    resume = panel.view.actions.resume
    with user.wait_for(resume, "description", lambda text: text == "Resume the queue"):
        harness.publish("reports", state="PAUSED")
    assert not resume.disabled
    calls: list[tuple[Any, ...]] = []
    context: Any = panel.context
    panel.context = replace(context, open_queue=lambda name: FakeQueue(name=name.queue, calls=calls))
    user.click(panel, resume)
    assert calls == [("resume", "reports")]
    assert panel.footer.line == 'tasks.queue("reports").resume()'


def test_rows_that_are_gone_have_a_button(harness: Harness) -> None:
    """Where nothing failed, the button sends rows that are gone; the question says what that may do."""
    batch = fan_out(harness)
    panel = own(batch)
    retry = panel.view.actions.retry
    assert (retry.description, retry.disabled) == ("Retry failed", True)
    outbox = harness.catalog.outbox
    record_outcomes(outbox, batch.id, [Outcome(ref=ref, state=State.GONE) for ref in refs(outbox, batch.id)])
    harness.until(batch, lambda: batch.progress().gone == 3)
    panel.view.actions.show()
    assert (retry.description, retry.disabled) == ("Send again (3)", False)
    question = user.asked(panel, retry)
    assert question.scope.endswith("3 rows of them may have run: nobody can tell.")
    assert "state == 'gone'" in question.line


def test_rows_that_took_long_to_read_are_not_read_at_each_change(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow rows are read again later, and `draw` returns when."""
    monkeypatch.setattr(batch_rows, "_PAUSE_FACTOR", 1e6)
    batch = fan_out(harness).whole
    harness.finish(batch, 0)
    panel = own(batch)
    table: Any = panel.view.rows.table
    assert table.total == 1
    grown = fan_out(harness, pd.concat([ROWS, ROWS.assign(note="new")]), name=batch.id).whole
    harness.finish(grown, 4)
    assert batch.progress().failed == 2
    assert panel.view.draw() > 0
    assert table.total == 1
    panel.view.show(grown)
    assert table.total == 2


def test_a_batch_has_no_age_once_it_has_ended(harness: Harness, panel: BatchesPanel) -> None:
    """Its panel watches the queue until then; in the list the age is that of the list, whatever batch is open."""
    batch = fan_out(harness)
    alone = own(batch)
    harness.publish("reports")
    assert alone.footer.at == AT / 1e6
    with user.wait_for(alone.footer, "at", lambda at: at == 0.0):
        harness.finish(batch)
    panel.refresh()
    user.look_at(panel.table, batch.id)
    panel.settle()
    assert panel.footer.at == AT / 1e6
    harness.watcher.publish(replace(snapshot("reports"), at=AT + 60_000_000))
    panel.settle()
    panel.refresh()
    assert (alone.footer.at, panel.footer.at) == (0.0, AT / 1e6 + 60)
    assert alone.read_at() > 0


def test_closing_leaves_the_batch(harness: Harness) -> None:
    """The batch goes on, and the panel does not listen to it any more; the title of the tab is not its own."""
    browser_tab.cache_clear()
    batch = fan_out(harness)
    panel = user.show(batch.panel())
    panel.close()
    panel.close()
    assert browser_tab().comm is not None
    shown = panel.view.bar.value
    harness.finish(batch)
    assert batch.progress().succeeded == 3
    assert panel.view.bar.value == shown


def charts(panel: BatchPanel) -> list[str]:
    """Return the accessible names of the charts."""
    return [node.attrib["aria-label"] for node in parsed(panel.view.run.html()).iter("svg")]


def test_a_run_without_an_end_is_not_shown(harness: Harness) -> None:
    """Before a row is done there is nothing; then it appears by itself."""
    batch = fan_out(harness)
    panel = own(batch)
    panel.refresh()
    assert panel.view.run.summary is None
    assert panel.view.run.layout.display == "none"
    with user.wait_for(panel.view.run.layout, "display", lambda display: display is None):
        harness.finish(batch)
    assert panel.view.run.summary is not None


def test_secrets_of_rows_are_masked(harness: Harness) -> None:
    """A token in a column of a slow row is not shown, and markup stays text."""
    rows = pd.DataFrame({"token": ["s3cr3t"], "note": ["<img src=x>"]})
    batch = fan_out(harness, rows, key=["token", "note"])
    harness.finish(batch)
    panel = own(batch)
    panel.refresh()
    page = panel.view.run.html()
    assert "s3cr3t" not in page
    assert "<img" not in page
    assert "&lt;img" in page


def test_a_retry_changes_the_list_at_once(panel: BatchesPanel, harness: Harness) -> None:
    """The list does not wait for the next snapshot of the queue."""
    batch = fan_out(harness)
    harness.finish(batch, 1)
    panel.refresh()
    user.look_at(panel.table, batch.id)
    panel.settle()
    with user.wait_for(panel.totals, "value", lambda html: "rows left</span> <b>1<" in html):
        user.click(panel, panel.view.actions.retry)
    assert "failed" not in panel.table.html()
