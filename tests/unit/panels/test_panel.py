"""The base class of panels: errors, work in threads, questions, read-only, and updates while visible."""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import CloudTasksError, EndpointError, InvalidInputError, UnavailableError
from cloudtasks_nb.panels import Panel
from cloudtasks_nb.panels.widgets.footer import Question
from cloudtasks_nb.service.watch import Snapshot
from tests.cases import cases
from tests.unit.panels import user
from tests.unit.panels.conftest import NOW, FakeContext, FakeWatcher, MakeContext, snapshot

QUESTION = Question(
    title="Purge <b>?", scope="about 2 tasks", verb="Purge 2 tasks", typed="reports", line="queue.purge()"
)


class Sample(Panel):
    """A panel with a button of each kind."""

    def __init__(self, context: FakeContext, *, framed: bool = True) -> None:
        super().__init__(context, "Sample <i>", queue="reports", framed=framed)
        self.seen: list[Snapshot] = []
        self.done: list[str] = []
        self.read = self.button("Read", lambda: self.work("read"), changes=False)
        self.write = self.button("Write", lambda: self.work("write"), changes=True)
        self.quick = self.button("Quick", lambda: self.work("quick"), changes=True, inline=True)
        self.work: Callable[[str], object] = self.done.append
        self.tools = self.row(self.read, self.write, self.quick)
        self.fill(self.tools)

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Watch one queue."""
        return {self.context.name(self.queue or ""): None}

    def apply(self, snapshot: Snapshot) -> None:
        """Write it down; one without tasks is an error of the panel's own."""
        self.seen.append(snapshot)
        if snapshot.values is not None and not snapshot.values["tasks"]:
            raise RuntimeError("no tasks")


@pytest.fixture
def panel(context: FakeContext) -> Sample:
    """Return a panel that is visible."""
    return user.show(Sample(context))


def test_work_runs_in_a_thread_of_its_own(panel: Sample) -> None:
    """Only quick work runs in the thread of the click."""
    threads: dict[str, threading.Thread] = {}
    panel.work = lambda name: threads.setdefault(name, threading.current_thread())
    panel.write.click()
    user.click(panel, panel.quick)
    assert threads["write"] is not threading.current_thread()
    assert threads["quick"] is threading.current_thread()


def test_one_work_at_a_time(panel: Sample) -> None:
    """Buttons are disabled while work runs; a late click is refused with a message."""
    began, go = threading.Event(), threading.Event()

    def slow(name: str) -> None:
        panel.done.append(name)
        began.set()
        assert go.wait(240)

    panel.work = slow
    panel.write.click()
    assert began.wait(240)
    busy = panel.footer.busy, panel.read.disabled, panel.write.disabled
    panel.read.click()
    assert "busy: wait" in panel.footer.status
    go.set()
    panel.settle()
    assert busy == (True, True, True)
    assert (panel.footer.busy, panel.read.disabled, panel.done) == (False, False, ["write"])


def test_long_work_is_stopped_by_its_button(panel: Sample) -> None:
    """The Stop button is visible while work runs, and does not stop the next work."""
    stop = panel.stop_button()
    began = threading.Event()

    def until_stopped(_name: str) -> None:
        began.set()
        assert panel.stopping.wait(240)

    panel.work = until_stopped
    panel.read.click()
    assert began.wait(240)
    shown = stop.layout.display
    user.click(panel, stop)
    assert (shown, stop.layout.display) == (None, "none")
    panel.work = lambda _: panel.done.append(str(panel.stopping.is_set()))
    user.click(panel, panel.read)
    assert panel.done == ["False"]


@pytest.mark.parametrize("button", ["write", "quick"])
def test_an_exception_in_a_callback_is_shown(panel: Sample, button: str) -> None:
    """The panel shows it with its traceback until the next click."""
    nothing: dict[str, str] = {}
    panel.work = nothing.__getitem__
    getattr(panel, button).click()
    panel.settle()
    assert panel.footer.alert["text"] == f"KeyError: '{button}'"
    assert "Traceback" in panel.footer.alert["trace"]
    assert not panel.footer.busy
    panel.work = panel.done.append
    user.click(panel, panel.write)
    assert panel.footer.alert == {}


@cases(
    (UnavailableError("nobody answers", hint="start it"), {"text": "nobody answers", "hint": "start it"}),
    (ZeroDivisionError(), {"text": "ZeroDivisionError"}),
    (CloudTasksError(), {"text": "A call of Cloud Tasks or of this package failed."}),
)
def test_an_error_has_its_message_and_hint(panel: Sample, error: Exception, alert: dict[str, str]) -> None:
    """An exception without a message is named; the browser can dismiss the error."""
    panel.fail(error)
    assert alert.items() <= panel.footer.alert.items()
    user.send_message(panel.footer, do="dismiss")
    assert panel.footer.alert == {}


def test_errors_from_elsewhere_are_shown_too(panel: Sample, watcher: FakeWatcher, monkeypatch: Any) -> None:
    """Exceptions of `apply`, of a coroutine and of `watched_queues` are shown."""

    async def broken() -> None:
        raise ValueError("in the background")

    watcher.publish(snapshot("reports", tasks=0))
    assert panel.footer.alert["text"] == "RuntimeError: no tasks"
    panel.spawn(broken())
    panel.settle()
    assert panel.footer.alert["text"] == "ValueError: in the background"
    monkeypatch.setattr(panel, "watched_queues", lambda: 1 / 0)
    panel.guarded(panel.resubscribe)
    assert panel.footer.alert["text"] == "ZeroDivisionError: division by zero"


def test_an_error_of_a_service_that_did_not_answer_goes_when_it_answers(panel: Sample, watcher: FakeWatcher) -> None:
    """The status says what the error was; other errors stay until they are dismissed."""
    watcher.publish(snapshot("reports"))
    at, gone = panel.footer.at, UnavailableError("nobody answers", hint="start it")
    panel.fail(gone)
    watcher.publish(snapshot("reports", gone))
    assert (panel.footer.alert["text"], panel.footer.at > 0) == ("nobody answers", True)
    assert (panel.footer.warning, panel.footer.at) == ("nobody answers \u2192 start it", at)
    watcher.publish(snapshot("reports"))
    assert (panel.footer.alert, panel.footer.warning) == ({}, "")
    assert panel.footer.status == "The service answers again. Before: nobody answers"
    panel.fail(InvalidInputError("no"))
    watcher.publish(snapshot("reports"))
    assert panel.footer.alert["text"] == "no"


def test_a_panel_that_watches_nothing_hears_of_it_too(context: FakeContext, watcher: FakeWatcher) -> None:
    """It watches its queue until the service answers."""
    panel = user.show(Panel(context, "Form", queue="reports"))
    assert watcher.subscribed == []
    panel.fail(UnavailableError("nobody answers"))
    assert [one.queue.queue for one in watcher.subscribed] == ["reports"]
    watcher.publish(snapshot("reports"))
    assert (panel.footer.alert, watcher.subscribed) == ({}, [])


def test_notes_and_progress_of_verbs_are_shown_in_the_footer(panel: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    """They are not printed into the output of the running cell."""

    def speak(_name: str) -> None:
        bar = Bar("listing", 10, unit="tasks")
        bar._next = 0
        bar.add(4)
        panel.done.append(panel.footer.status)
        notify("made queue reports")

    panel.work = speak
    user.click(panel, panel.write)
    assert (panel.done, panel.footer.status) == (["listing: 4 of 10"], "made queue reports")
    assert capsys.readouterr().out == ""


def test_read_only_leaves_out_and_blocks(make_context: MakeContext) -> None:
    """Buttons that change anything are left out; clicks, questions and work are refused."""
    panel = Sample(make_context("reports", read_only=True))
    assert panel.tools.children == (panel.read,)
    for button in (panel.write, panel.quick):
        user.click(panel, button)
        assert (panel.done, panel.footer.alert["text"]) == ([], "this panel is read-only")
    with pytest.raises(InvalidInputError, match="read-only"):
        panel.ask(QUESTION, panel.write.click)
    with pytest.raises(InvalidInputError, match="read-only"):
        panel.start(panel.write.click, changes=True)


def test_a_question_wants_the_name_typed(panel: Sample) -> None:
    """Nothing is done before the exact name is typed, nor after the question was cancelled."""
    answers: tuple[Any, ...] = (("report", []), ("Reports", []), (None, []), ("reports ", ["it"]))
    for typed, done in answers:
        asks = typed in ("report", "Reports")
        panel.ask(QUESTION, lambda: panel.done.append("it"))
        assert panel.footer.question["title"] == "Purge <b>?"
        user.reply(panel, typed)
        assert (panel.done, panel.prompt.question is not None, bool(panel.footer.question)) == (done, asks, asks)
    user.reply(panel, "reports")
    assert panel.done == ["it"], "a late answer to a question that is over does nothing"


def test_it_watches_only_while_visible(panel: Sample, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is watched while it is hidden, closed, or not refreshed; what it has missed by then is shown."""
    shown: list[bool] = []
    monkeypatch.setattr(panel, "became_visible", lambda: shown.append(panel.live))

    def watching() -> int:
        return len(watcher.subscribed)

    assert watching() == 1
    user.show(panel, visible=False)
    assert watching() == 0
    user.show(panel)
    panel.every = 0
    assert (watching(), panel.footer.paused) == (0, "refreshing is off")
    assert len(shown) == 1
    panel.every = 30
    assert ([one.every for one in watcher.subscribed], panel.footer.paused) == ([30], "")
    assert shown == [True, True]
    panel.every = 3
    assert (panel.interval.value, panel.interval.label, watcher.subscribed[0].every) == (3, "3 s", 3)
    panel.interval.value = 10
    assert panel.every == 10
    panel.close()
    assert watching() == 0


@pytest.mark.parametrize("seconds", [0.5, 31, -1])
def test_the_interval_has_bounds(panel: Sample, seconds: float) -> None:
    """The interval is 1 to 30 seconds."""
    with pytest.raises(InvalidInputError, match="1 to 30 seconds"):
        panel.every = seconds


def test_another_queue_is_watched_after_a_switch(panel: Sample, watcher: FakeWatcher) -> None:
    """A late snapshot of the old queue is not shown."""
    late = watcher.subscribed[0].listener
    panel.use("emails")
    assert [one.queue.queue for one in watcher.subscribed] == ["emails"]
    late(snapshot("reports"))
    assert panel.seen == []


def test_the_badge_names_the_project(make_context: MakeContext) -> None:
    """The header shows LOCAL or the project, and whether the panel is read-only; the title is escaped."""
    for local, words in ((True, "LOCAL"), (False, ">p<")):
        head = Sample(make_context("reports", local=local, read_only=True)).children[0].children[0].value
        assert words in head
        assert "read-only" in head
        assert "Sample &lt;i&gt;" in head


def test_it_is_live_once_it_is_shown(context: FakeContext, watcher: FakeWatcher) -> None:
    """A displayed panel counts as visible until the browser reports otherwise."""
    panel = Sample(context)
    panel._repr_mimebundle_()
    assert len(watcher.subscribed) == 1
    user.show(panel, visible=False)
    panel._repr_mimebundle_()
    assert watcher.subscribed == []


def test_exports_show_html_beside_the_widget_and_when_it_is_closed(panel: Sample) -> None:
    """A closed panel has no widget and is not live; text and HTML show the last content and say that it is closed."""
    bundle: dict[str, Any] = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "Sample &lt;i&gt;" in bundle["text/html"]
    assert bundle["text/plain"] == "<Sample Sample <i> [LOCAL]>"
    panel.close()
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == repr(panel) == "<Sample Sample <i> [LOCAL] (closed)>"
    assert "Sample &lt;i&gt;" in bundle["text/html"]
    assert "the panel is closed" in bundle["text/html"]
    assert set(bundle) == {"text/plain", "text/html"}
    assert not panel.live


def test_colab_shows_widgets_that_are_not_its_own(panel: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output names the widget manager that Colab loads for a panel."""
    output = SimpleNamespace(enable_custom_widget_manager=lambda: None, _widgets=SimpleNamespace(_installed_url="URL"))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    bundle, metadata = panel._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert bundle[view]["model_id"] == panel.model_id
    assert metadata == {view: {"colab": {"custom_widget_manager": {"url": "URL"}}}}


def test_waiting_has_an_end(panel: Sample) -> None:
    """`settle` raises after its timeout."""
    go = threading.Event()
    panel.work = lambda _: go.wait(240)
    panel.read.click()
    with pytest.raises(TimeoutError, match="has not ended"):
        panel.settle(timeout=0)
    go.set()


def test_work_that_no_thread_can_do(panel: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is shown, and the panel is free for the next click."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        panel.read.click()
    panel.settle(timeout=0)
    assert (panel.footer.busy, panel.footer.alert["text"]) == (False, "RuntimeError: can't start new thread")
    user.click(panel, panel.read)
    assert (panel.done, panel.footer.alert) == (["read"], {})


def test_each_watched_queue_has_an_age_and_a_warning_of_its_own(panel: Sample, watcher: FakeWatcher) -> None:
    """The panel has the age of the oldest, and every warning; a queue that is watched no more does not count."""
    names = {panel.context.name(queue): None for queue in ("reports", "emails")}
    panel.watched_queues = lambda: names  # type: ignore[method-assign]  # a panel of two queues
    panel.resubscribe()
    for queue, second in (("reports", 1), ("emails", 2), ("emails", 3)):
        watcher.publish(replace(snapshot(queue), at=NOW + second * 1_000_000))
    watcher.publish(snapshot("reports", UnavailableError("no statistics")))
    watcher.publish(replace(snapshot("emails"), at=NOW + 3_000_000))
    assert (panel.footer.at, panel.footer.warning) == (NOW / 1e6 + 1, "no statistics")
    del names[panel.context.name("reports")]
    panel.resubscribe()
    watcher.publish(replace(snapshot("emails"), at=NOW + 4_000_000))
    assert (panel.footer.at, panel.footer.warning) == (NOW / 1e6 + 4, "")


def test_a_service_that_is_silent_is_told_once(panel: Sample, watcher: FakeWatcher) -> None:
    """Above everything and since when; the age stays that of the last answer, and the banner goes with the next."""
    silence = snapshot("reports", EndpointError("nothing answers at 127.0.0.1:1", hint="ct.local() starts one"))
    watcher.publish(snapshot("reports"))
    watcher.publish(silence)
    assert panel.banner is not None
    assert panel.banner in panel.children[:2]
    shown = panel.banner.text.value
    assert "The emulator does not answer since" in shown
    assert 'datetime="2026-01-02T00:00:00.000Z"' in shown
    assert (panel.footer.alert, panel.footer.at) == ({}, NOW / 1e6)
    panel.notify("The service answers again.")
    watcher.publish(snapshot("reports"))
    assert not panel.banner.shown
    watcher.publish(silence)
    assert (panel.banner.shown, panel.footer.status) == (True, "")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_silent_emulator_is_started_again(
    make_context: MakeContext, watcher: FakeWatcher, *, read_only: bool
) -> None:
    """By a button in the banner, where it keeps its tasks; the queues are then read at once."""
    context, started = make_context("reports", read_only=read_only), []
    context.connection.restart = lambda: started.append(1)
    panel = user.show(Sample(context))
    watcher.publish(snapshot("reports", EndpointError("nothing answers")))
    assert panel.banner is not None
    buttons = panel.banner.children[1:]
    assert [button.description for button in buttons] == ([] if read_only else ["Start it again"])
    user.click(panel, *buttons)
    assert len(started) == len(watcher.refreshed) == len(buttons)


def test_a_clock_that_was_moved_is_said(panel: Sample, watcher: FakeWatcher) -> None:
    """The header has it as long as it lasts, from the next snapshot on."""
    known = panel.context.connection.clock.known
    assert panel.head is not None
    for advanced, shown in ((7_200_000_000, True), (0, False)):
        known.advanced = advanced
        watcher.publish(snapshot("reports"))
        assert ("clock +2 h" in panel.head.value) is shown


def test_only_what_a_panel_makes_is_closed_with_it(context: FakeContext) -> None:
    """A widget of the user stays."""
    own, panel = widgets.HTML(), Sample(context)
    panel.close()
    assert [one.comm for one in (panel.footer, panel.interval, panel.layout)] == [None] * 3
    assert own.comm is not None
    own.close()


def test_what_the_browser_sends_is_handled_while_a_cell_runs(panel: Sample) -> None:
    """The kernel may not choose a shell for it: that would be the main one, which waits for the cell."""
    assert vars(panel.read.comm)["_reply_subshell_for"] is None
