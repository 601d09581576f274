"""The list of batches answers an operator, and its buttons do what the batch below offers."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb._frames import IN_QUEUE
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.progress import Facts
from cloudtasks_nb.fanout.batch.status import progress_of, status_of
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels import BatchesPanel
from tests.cases import cases
from tests.unit.fanout.conftest import PLACE
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeQueue, Harness

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SINCE = NOW - dt.timedelta(minutes=6)
SEEN = {"watched": True, "at": NOW, "sends": True}
ABSENT = ("no handler listens at 127.0.0.1:9 (bill)", "ct.serve(bill)")
LOST = {"the queue was deleted before any attempt": 10_000}
GONE = "batch.resend(batch.tasks().query(\"state == 'gone'\"))"

#: Queue -> rows by state, and what is known besides: in the order in which they are sent.
BATCHES: dict[str, tuple[dict[State, int], dict[str, Any]]] = {
    "orders": ({State.SENT: 91_000, State.SUCCEEDED: 9_000}, {"rate": 193.0, "limit": 500.0}),
    "nightly": ({State.GONE: 10_000}, {"lost": LOST}),
    "crm": ({State.SENT: 19_768, State.SUCCEEDED: 232}, {"rate": 1.1, "limit": 1.0}),
    "webhooks": (
        {State.SENT: 15_180, State.SUCCEEDED: 4_757, State.FAILED: 63},
        {"failed_at": NOW, "causes": {"INTERNAL": 63}, "retried": {"RESOURCE_EXHAUSTED": 4_233}, "rate": 36.0},
    ),
    "invoices": ({State.SENT: 20_000}, {"absent": [ABSENT]}),
    "reports": ({State.SENT: 60, State.SUCCEEDED: 40}, {"paused": "reports"}),
}

#: What an operator asks of each: what is wrong, why, where, since when, how much, when it ends, what helps.
ANSWERS = [
    ("paused", "the queue reports is paused and dispatches nothing", "reports", "40 of 100", None, "Resume queue"),
    ("stopped", f"{ABSENT[0]}; the batch goes on by itself when one does", "invoices", "0 of 20,000", None, ABSENT[1]),
    (
        "failing",
        "last errors of rows that are tried again: RESOURCE_EXHAUSTED 4,233",
        *("webhooks", "4,820 of 20,000", "12:07:01", "Show causes"),
    ),
    ("unknown", f"10,000 gone: {next(iter(LOST))}", "nightly", "0 known of 10,000", "11:54:00", "Send again"),
    (
        "running",
        "at the queue's limit of 1/s, not before 2026-01-01 17:29:28 UTC",
        *("crm", "232 of 20,000", "17:29:28", ""),
    ),
    ("running", "", "orders", "9,000 of 100,000", "12:07:51", ""),
]


def listed(queue: str, number: int, counts: Mapping[State, int], known: Mapping[str, Any]) -> Any:
    """Return a batch as the catalog lists it."""
    made = dict.fromkeys(State, 0) | dict(counts)
    split = {**dict.fromkeys(IN_QUEUE, 0), "ready": made[State.SENT]}
    facts = Facts(now=NOW, counts=made, changed=SINCE, split=split, **{**SEEN, **known})
    status = replace(status_of(facts), since=SINCE)
    record = BatchRecord(
        id=f"a{number}",
        identity=b"",
        place=replace(PLACE, queue=queue),
        name=f"all {queue}",
        recipe=b"",
        description={},
        created=NOW,
        changed=NOW,
        counts=made,
        round=0,
    )
    return record, progress_of(facts, status)


def cells(panel: BatchesPanel) -> list[list[Any]]:
    """Return the cells of the list as the browser gets them."""
    return [row for _, row, _ in panel.table.get_state()["_page"]["rows"]]


def press(panel: BatchesPanel, batch: str, text: str) -> None:
    """Press the button in the row of a batch, which is the only one, and wait until the work is done."""
    assert [row[-1]["button"] for row in cells(panel)] == [text]
    user.send_message(panel.table, do="press", key=batch, text=text)
    panel.settle()


def test_the_list_alone_answers_an_operator(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble first: what is wrong, where, since when, what helps, and when it ends, in numbers that are never cut."""
    found = [listed(queue, number, *BATCHES[queue]) for number, queue in enumerate(reversed(BATCHES))]
    monkeypatch.setattr(Catalog, "progress", lambda _: found)
    panel = BatchesPanel(harness.context(), queue="reports")
    answers = []
    for state, title, reason, since, done, end, helps in cells(panel):
        name, place = title.split("\n")
        queue, _ = place.split(" · ")
        assert name == f"all {queue}"
        assert dt.datetime.fromtimestamp(since / 1e3, dt.UTC) == SINCE
        ends = f"{dt.datetime.fromtimestamp(end / 1e3, dt.UTC):%H:%M:%S}" if isinstance(end, int) else None
        answers.append(
            (state[0], reason, queue, done["bar"], ends, helps["button"] if isinstance(helps, dict) else helps)
        )
    assert answers == ANSWERS
    assert cells(panel)[3][-1]["title"] == GONE
    assert cells(panel)[2][4]["title"] == "20,000 rows: 4,757 succeeded, 63 failed, 15,180 ready"
    shown = panel.static_html()
    for words in ("need you</span> <b>4<", "running</span> <b>2<", "rows left</span> <b>146,008<", "17:29:28"):
        assert words in shown
    assert "resend(batch.tasks()" in shown, "an export has no buttons"
    panel.table.sort("done")
    assert [row[4]["bar"] for row in cells(panel)][-1] == "40 of 100"


def test_who_may_only_look_sees_the_line_that_helps(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only list has no buttons."""
    found = [listed(queue, number, *BATCHES[queue]) for number, queue in enumerate(("reports", "webhooks"))]
    monkeypatch.setattr(Catalog, "progress", lambda _: found)
    panel = BatchesPanel(harness.context(read_only=True), queue="reports")
    assert [row[-1] for row in cells(panel)] == ["queue.resume()", "batch.errors()"]


def three(harness: Harness, **words: Any) -> Batch:
    """Send a batch of three rows, of which the last cannot be a task if its URL needs what it lacks."""
    data = pd.DataFrame({"n": range(3), "day": ["mon", "tue", None]})
    return harness.sent(harness.queue().fan_out(data, progress=False, **{"url": "https://svc/run", **words}))


def test_no_batch_needs_anybody(harness: Harness) -> None:
    """Totals of nothing are not shown."""
    panel = BatchesPanel(harness.context(), queue="reports")
    assert panel.totals.value == ""


def test_a_paused_queue_is_resumed(harness: Harness) -> None:
    """In its row; the batch is shown below."""
    batch, calls = three(harness), list[Any]()
    context = replace(harness.context(), open_queue=lambda name: FakeQueue(name=name.queue, calls=calls))
    panel = user.show(BatchesPanel(context, queue="reports"))
    harness.publish("reports", state="PAUSED")
    harness.until(batch, lambda: batch.status().state == "paused")
    panel.refresh()
    press(panel, batch.id, "Resume queue")
    assert calls == [("resume", "reports")]
    assert (panel.footer.status, panel.footer.line) == ("resumed reports", 'tasks.queue("reports").resume()')
    assert (panel.view.batch, panel.table.current) == (batch, batch.id)


def fail(harness: Harness, batch: Batch) -> None:
    """Let all rows fail."""
    harness.finish(batch, 0, 1, 2)


def cancel(harness: Harness, batch: Batch) -> None:
    """Take all rows out of the queue."""
    batch.cancel()
    harness.until(batch, lambda: batch.progress().cancelled == 3)


@cases((fail, "Retry failed"), (cancel, "Send again"))
def test_rows_are_sent_again(harness: Harness, end: Any, verb: str) -> None:
    """By the button that the list has for them."""
    batch = three(harness)
    end(harness, batch)
    panel = user.show(BatchesPanel(harness.context(), queue="reports"))
    press(panel, batch.id, verb)
    harness.sent(batch)
    assert batch.tasks()["try"].tolist() == [2, 2, 2]


def test_rejected_rows_are_shown(harness: Harness) -> None:
    """Nothing is sent."""
    batch = three(harness, url="https://svc/{day}", errors="skip")
    harness.finish(batch)
    panel = user.show(BatchesPanel(harness.context(), queue="reports"))
    press(panel, batch.id, "Show rows")
    table: Any = panel.view.rows.table
    assert (panel.view.rows.query.state, table.total) == ("rejected", 1)


def test_what_nobody_sends_is_resumed(harness: Harness) -> None:
    """A batch of a kernel that has ended."""
    harness.transport.open.clear()
    harness.queue().fan_out(pd.DataFrame({"n": range(3)}), url="https://svc/run", progress=False)
    harness.close()
    again = Harness(harness.watcher)
    panel = user.show(BatchesPanel(again.context(), queue="reports"))
    batch = panel.table.page_keys[0]
    press(panel, batch, "Resume")
    again.sent(again.catalog.get(batch))
    panel.close()
    again.close()


def test_a_button_that_is_gone_does_nothing(harness: Harness) -> None:
    """The batch is shown, as by a click on its row."""
    batch = three(harness)
    harness.finish(batch)
    panel = user.show(BatchesPanel(harness.context(), queue="reports"))
    user.send_message(panel.table, do="press", key=batch.id, text="Retry failed")
    panel.settle()
    assert (panel.view.batch, panel.footer.status) == (batch, "")
    assert batch.tasks()["try"].tolist() == [1, 1, 1]
