"""One word and one sentence for a batch, and the same word in every view."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import IN_QUEUE
from cloudtasks_nb.cli import commands
from cloudtasks_nb.display import progress_bar
from cloudtasks_nb.display.browser_tab import BrowserTab
from cloudtasks_nb.display.colours import COLOURS, colour
from cloudtasks_nb.fanout.batch import live
from cloudtasks_nb.fanout.batch.catalog import Catalog, outbox_path
from cloudtasks_nb.fanout.batch.gate import read_batch
from cloudtasks_nb.fanout.batch.progress import NOT_READ, Facts, Progress, Status, dated_reason
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.batch.status import aged, part_of, progress_of, read_facts, status_of, stored_progress
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchFacts, Cancel, whole
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import NOW, chunks, put, put_facts, refs, spool

ROWS = 100
MOMENT = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
FAR = dt.datetime(2126, 1, 1, 12, tzinfo=dt.UTC)
AGO = dt.timedelta(seconds=2)


@dataclass(frozen=True)
class Situation:
    """Rows of a batch, what is stored of it, and what this process knows besides."""

    word: str | None
    reason: str  #: how it begins
    rows: Mapping[str, int] = field(default_factory=dict)  #: so many in each state; the others are unsent
    known: Mapping[str, Any] = field(default_factory=dict)  #: facts that are not stored; times are so long ago
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    doubtful: bool = False
    imported: bool = False
    action: str | None = None


SEEN = {"watched": True, "at": AGO, "sends": True}
LIMITED = {**SEEN, "rate": 1.2, "limit": 1.0}
PAUSED = {**SEEN, "paused": "q"}
LATER = {**SEEN, "waiting": 100, "scheduled": 100}
ABSENT = {**SEEN, "absent": [("no handler listens at h:1 (bmi)", "ct.serve(bmi)")]}
ALL_SENT = {"sent": 100}
AHEAD = {"aa": 2_787}
TWO_AHEAD = {**AHEAD, "bb": 10}
FAILED_NOW = {**SEEN, "failed_at": AGO}
HELD = {"canary": 10}
CANCELLED = {"cancel": Cancel(at=0, by="")}
RESUME, RETRY = "batch.resume()", "batch.retry_failed()"
THOSE = "batch.tasks().query(\"state == '{}'\")"
AGAIN = f"batch.resend({THOSE})"

SITUATIONS = {
    "healthy": Situation("running", "", {"sent": 60, "succeeded": 40}, {**SEEN, "rate": 5.0, "limit": 500.0}),
    "being sent": Situation("running", "", {"sent": 40}, SEEN),
    "rate-limited": Situation("running", "at the queue's limit of 1/s, not before ", ALL_SENT, LIMITED),
    "scheduled": Situation("running", "100 rows are scheduled for later", ALL_SENT, LATER),
    "scheduled once": Situation(
        "running", "100 rows are scheduled for 2126-01-01 12:00:00 UTC", ALL_SENT, {**LATER, "due": FAR}
    ),
    "one at a time": Situation(
        "running", "at the queue's limit of 1 at a time (max_concurrent)", ALL_SENT, {**SEEN, "at_once": 1}
    ),
    "behind a batch": Situation("running", "2,787 tasks of batch aa before it", ALL_SENT, {**SEEN, "ahead": AHEAD}),
    "behind two": Situation("running", "2,797 tasks of 2 batches before it", ALL_SENT, {**SEEN, "ahead": TWO_AHEAD}),
    "beside a batch": Situation("running", "", ALL_SENT, {**SEEN, "ahead": AHEAD, "rate": 5.0}),
    "settling": Situation("running", "3 settling: ", {"sent": 3, "succeeded": 97}, {**SEEN, "settling": 3}),
    "a canary that runs": Situation(
        "running", "canary: 4 of 10 done; 90 rows wait", {"succeeded": 4, "sent": 6}, SEEN, HELD
    ),
    "a log that cannot be read": Situation("running", "no right", ALL_SENT, {**SEEN, "troubles": ["no right"]}),
    "a paused queue": Situation("paused", "the queue q is paused", ALL_SENT, PAUSED, action="queue.resume()"),
    "a dead target": Situation(
        "stopped",
        "no handler listens at h:1 (bmi); the batch goes on by itself when one does",
        ALL_SENT,
        ABSENT,
        action="ct.serve(bmi)",
    ),
    "a dead emulator": Situation("stopped", "nothing answers", {"sent": 99}, {**SEEN, "silent": "nothing answers"}),
    "a dead sender": Situation(
        "stopped", "60 unsent, and no process sends", {"sent": 40}, {"watched": True, "at": AGO}, action=RESUME
    ),
    "rows in doubt": Situation(
        "stopped", "100 may have been sent by a process that has ended", doubtful=True, action=RESUME
    ),
    "a refused sender": Situation("stopped", "no right to", known={"error": "no right to create"}, action=RESUME),
    "a canary that failed": Situation(
        "held", "canary: 1 of 10 rows failed", {"succeeded": 9, "failed": 1}, SEEN, HELD, action=RESUME
    ),
    "paused by failures": Situation(
        "held", "paused: 30 of 40 rows failed", {"succeeded": 10, "failed": 30}, SEEN, {"pause_at": "5%"}, action=RESUME
    ),
    "failing": Situation("failing", "1 failed (", {"sent": 99, "failed": 1}, FAILED_NOW, action="batch.errors()"),
    "throttled": Situation(
        "failing",
        "last errors of rows that are tried again: RESOURCE_EXHAUSTED 60",
        {"sent": 99, "failed": 1},
        {**FAILED_NOW, "retried": {"RESOURCE_EXHAUSTED": 60}},
        action="batch.errors()",
    ),
    "failing for long": Situation(
        "failing",
        "last errors of rows that are tried again: RESOURCE_EXHAUSTED 60; the next attempt is due at 2126-01-01 12:00",
        {"sent": 60, "succeeded": 40},
        {**SEEN, "failed_at": dt.timedelta(hours=3), "retried": {"RESOURCE_EXHAUSTED": 60}, "due": FAR},
        action="batch.errors()",
    ),
    "cancelled from elsewhere": Situation(
        "cancelling",
        "60 rows are left to cancel",
        {"sent": 60, "cancelled": 40},
        SEEN,
        facts={"cancel": Cancel(at=0, by="")},
    ),
    "read long ago": Situation("running", "", ALL_SENT, {"at": dt.timedelta(hours=3)}),
    "not read yet": Situation(None, NOT_READ, ALL_SENT),
    "only in the store": Situation(None, NOT_READ, imported=True),
    "all succeeded": Situation("succeeded", "", {"succeeded": 100}),
    "all gone": Situation(
        "unknown",
        "100 gone: no longer in the queue, and neither the log nor a result shows why; they may have run",
        {"gone": 100},
        {**SEEN},
        action=THOSE.format("gone"),
    ),
    "some failed": Situation("failed", "2 failed (", {"failed": 2, "gone": 3, "succeeded": 95}, action=RETRY),
    "the queue was deleted": Situation("unknown", "1 gone", {"gone": 1, "cancelled": 99}, action=THOSE.format("gone")),
    "cancelled": Situation(
        "cancelled", "1 cancelled", {"cancelled": 1, "succeeded": 99}, action=AGAIN.format("cancelled")
    ),
    "rejected rows": Situation(
        "rejected", "2 rejected", {"rejected": 2, "succeeded": 98}, action=THOSE.format("rejected")
    ),
}


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    """Give the outbox of this home."""
    with Outbox(outbox_path()) as made:
        yield made


def make(outbox: Outbox, case: Situation) -> str:
    """Store a batch as a situation has it."""
    description = {IMPORTED: True} if case.imported else {}
    facts = BatchFacts(**{"options": case.options, **case.facts})
    batch = spool(outbox, chunks(range(ROWS)), description=description, facts=facts).batch
    left = iter(refs(outbox, batch))
    if case.doubtful:
        outbox.requests.queue(batch).turn([], 9, now=NOW)
        outbox.requests.find_doubtful(batch)
    for name, count in case.rows.items():
        put(outbox, batch, [next(left) for _ in range(count)], State[name.upper()])
    return batch


def facts_of(outbox: Outbox, batch: str, case: Situation, now: dt.datetime) -> Facts:
    """Return what the process knows that knows most of a batch."""
    known: dict[str, Any] = {
        name: now - value if isinstance(value, dt.timedelta) else value for name, value in case.known.items()
    }
    return replace(read_facts(outbox, *read_batch(outbox, batch), now), **known)


def seen(outbox: Outbox, batch: str, case: Situation, now: dt.datetime) -> Progress:
    """Return how the batch is in that process."""
    return progress_of(replace(facts_of(outbox, batch, case, now), split=dict.fromkeys(IN_QUEUE)))


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_view_has_the_same_word(
    outbox: Outbox, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repr, bar, browser tab, list, panel, command line and frames render what one function has decided."""
    case = SITUATIONS[name]
    batch = make(outbox, case)
    now = dt.datetime.now(dt.UTC)
    progress = seen(outbox, batch, case, now)
    assert (progress.state, (progress.reason or "")[: len(case.reason)]) == (case.word, case.reason)
    assert progress.action == case.action
    word = case.word or ""
    assert not word or colour(word) != COLOURS["unsent"]
    facts = facts_of(outbox, batch, case, now)
    shown = Report(batch=batch, name=None, queue="q", badge="p", facts=facts, progress=progress)
    assert word in shown.text().splitlines()[1]
    assert (f"<b>{word}</b>" if word else NOT_READ) in shown.html(methods=False)
    assert (progress.reason or "") in shown.text()
    put_facts(outbox, batch, progress=asdict(progress))
    announced = outbox.requests.announce_sender(batch) if case.known.get("sends") else None
    for others in (stored_progress(outbox, outbox.batches.get(batch), now), *as_others_list(outbox, batch)):
        assert others.state == case.word
    commands.main(["batches"])
    if announced is not None:
        announced.release()
    assert word in capsys.readouterr().out
    assert word in tab_text(progress, monkeypatch)
    assert word in bar_text(progress, monkeypatch)


def as_others_list(outbox: Outbox, batch: str) -> list[Progress]:
    """Return the progress as a tracker has it that was just made, and as `tasks.batches()` lists it."""
    tracked = Tracked(outbox, batch)
    catalog: Any = SimpleNamespace(outbox=outbox, _trackers={}, _connection=tracked.connection)
    return [tracked.tracker.progress, Catalog._progress(catalog, outbox.batches.get(batch))]


def tab_text(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the title of the browser's tab tells of states in which somebody may have to do something."""
    tab, tracker = BrowserTab(), SimpleNamespace(batch="a", progress=progress, listen=lambda _: lambda: None)
    monkeypatch.setattr(_loop, "call_soon", lambda *_: None)
    shown = live._TabProgress(tracker, tab)  # type: ignore[arg-type]  # all that it uses of one
    if progress.finished:  # the end is news only of a batch that was seen before
        tab.show("a", done=0, total=ROWS, state="running", rows=0, detail="")
    shown._show()
    text = str(tab.text)
    tab.close()
    return "running" + text if progress.state == "running" else text


def bar_text(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the bar of `wait`."""
    notes: list[str] = []

    class Bar(progress_bar.Bar):
        def _draw_text(self, now: float) -> None:
            super()._draw_text(now)
            notes.append(str(self._text))
            self.close()

    monkeypatch.setattr(progress_bar, "_DELAY", 0.0)
    live.show_progress(Bar("x"), progress)
    return notes[0]


def test_a_state_has_begun_when_it_was_first_seen(outbox: Outbox) -> None:
    """It keeps its time while the word stays, in whichever process; silence began with the last answer."""
    batch = make(outbox, SITUATIONS["healthy"])
    facts = facts_of(outbox, batch, SITUATIONS["healthy"], MOMENT)
    first = status_of(facts)
    assert first.since == MOMENT
    later = MOMENT + dt.timedelta(minutes=5)
    assert status_of(replace(facts, now=later, earlier=first)).since == MOMENT
    paused = status_of(replace(facts, now=later, earlier=first, paused="q"))
    assert (paused.state, paused.since, paused.rate, paused.eta) == ("paused", later, None, None)
    silent = status_of(replace(facts, now=later, earlier=first, silent="nothing answers"))
    assert (silent.since, silent.at, silent.rate, silent.eta) == (MOMENT - AGO, MOMENT - AGO, None, None)
    assert status_of(replace(facts, cancelling=True, silent="nothing answers")).state == "stopped"


@cases(
    ({"rate": 2.0, "limit": 500.0}, 2.0, 0.5),
    ({"rate": 2.0, "limit": 1.0}, 1.0, 1.0),  # never above the queue's rate
    ({"rate": None, "limit": 1.0}, None, None),
    ({"rate": 2.0, "waiting": 60}, 2.0, None),  # no rate brings rows that wait for their time
    ({"rate": 2.0, "waiting": 59}, 2.0, 0.5),
)
def test_the_forecast(outbox: Outbox, known: dict[str, Any], rate: float | None, minutes: float | None) -> None:
    """It is by what ended lately, and is left out where that tells nothing."""
    case = Situation("running", "", {"sent": 60, "succeeded": 40}, {**SEEN, **known})
    progress = seen(outbox, make(outbox, case), case, MOMENT)
    eta = None if minutes is None else MOMENT + dt.timedelta(minutes=minutes)
    assert (progress.rate, progress.eta) == (rate, eta)


@cases(({}, "succeeded"), ({State.SENT: 1}, "running"), ({State.UNSENT: 1}, "running"), ({State.FAILED: 1}, "failed"))
def test_some_rows_of_a_batch_are_as_they_have_ended(others: dict[State, int], word: str) -> None:
    """Until then they are as the batch is."""
    rows: dict[State, int] = dict.fromkeys(State, 0) | {State.SUCCEEDED: 2} | others
    causes = SimpleNamespace(failed=lambda _: {}, retrying=lambda _: {}, lost=lambda _: {})
    outbox: Any = SimpleNamespace(batches=SimpleNamespace(counts=lambda _: rows), causes=causes)
    _, part = part_of(outbox, Facts(now=MOMENT, counts={}), Status(state="running"), whole("a"))
    assert (part.state, part.total) == (word, 2 + sum(others.values()))


@cases((5.0, None), (14.2, "as of 14 s ago"), (125.0, "as of 2 min 05 s ago"))
def test_figures_have_an_age(outbox: Outbox, seconds: float, text: str | None) -> None:
    """Old ones tell no rate and no end."""
    batch = make(outbox, SITUATIONS["healthy"])
    progress = seen(outbox, batch, SITUATIONS["healthy"], MOMENT)
    assert progress.at is not None
    shown = aged(progress, progress.at + dt.timedelta(seconds=seconds))
    assert (shown.rate is None, shown.eta is None) == (text is not None,) * 2
    facts = Facts(now=MOMENT, counts={})
    card = Report(batch=batch, name=None, queue="q", badge="p", facts=facts, progress=shown).html(methods=False)
    views = (repr(shown), repr(shown.status), dated_reason(shown) or "", card)
    assert [(text or "ago") in view for view in views] == [text is not None] * 4
    assert aged(shown, MOMENT).status == shown.status


def test_an_end_has_no_age(outbox: Outbox) -> None:
    """What is final stays."""
    case = replace(SITUATIONS["all succeeded"], known=SEEN)
    progress = seen(outbox, make(outbox, case), case, MOMENT)
    assert aged(progress, MOMENT + dt.timedelta(hours=1)) == progress


def test_a_batch_fails_until_a_row_succeeds(outbox: Outbox) -> None:
    """Also for a process that opens it later."""
    case = SITUATIONS["failing for long"]
    batch = make(outbox, case)
    put_facts(outbox, batch, progress=asdict(seen(outbox, batch, case, MOMENT)))
    assert read_facts(outbox, *read_batch(outbox, batch), MOMENT).failed_at is not None
    put(outbox, batch, refs(outbox, batch)[:1], State.SUCCEEDED)
    assert read_facts(outbox, *read_batch(outbox, batch), MOMENT).failed_at is None
