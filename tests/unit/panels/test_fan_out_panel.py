"""The form of a fan-out: choices, first tasks, plan, question, and the batch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import polars as pl
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.display import progress_bar
from cloudtasks_nb.handlers.serving import served_as
from cloudtasks_nb.panels import FanOutPanel, fan_out
from cloudtasks_nb.panels.forms import notebook
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeShell, Harness, entry

FLIGHTS = pd.DataFrame({"origin": ["EWR", "JFK", "LGA", "EWR"], "day": ["d1", "d1", "d1", "d2"]})


@pytest.fixture
def shell(shell: FakeShell) -> FakeShell:
    """Give a notebook with a DataFrame."""
    shell.user_ns |= {"_": FLIGHTS, "flights": FLIGHTS}
    return shell


@pytest.fixture
def panel(harness: Harness, shell: FakeShell) -> FanOutPanel:
    """Return a form that is visible."""
    return user.show(FanOutPanel(harness.context(), queue="reports"))


def upload(panel: FanOutPanel, name: str, content: bytes, part: int = 4) -> None:
    """Upload a file in parts, as the page does, and wait until it is read."""
    for start in range(0, len(content), part):
        facts = {"name": name, "size": len(content), "start": start}
        user.send_message(panel.source.upload, content[start : start + part], **facts)
    panel.settle()


def test_dataframes_of_the_notebook_are_offered(panel: FanOutPanel, shell: FakeShell) -> None:
    """The newest first, as soon as its cell has ended; what was chosen stays; hidden names and series are none."""
    assert panel.source.choice.options == ("flights  (4 rows, 2 columns)",)
    shell.cell(days=pl.DataFrame({"day": ["d1"]}), count=3, column=FLIGHTS["day"])
    assert panel.source.choice.options == ("days  (1 row, 1 column)", "flights  (4 rows, 2 columns)")
    assert panel.source.name == "flights"
    assert panel.request.body.options == ["origin", "day"]
    panel.source.choose("days")
    assert panel.request.body.options == ["day"]


def test_a_frame_that_was_made_anew_is_seen(panel: FanOutPanel, shell: FakeShell) -> None:
    """The same name, other columns: they are offered, and a column that is chosen and gone is chosen no more."""
    user.fill(panel, url="https://svc/run", body=["origin", "day"])
    shell.cell(flights=FLIGHTS[["day"]].assign(shop=1))
    assert panel.request.body.options == ["day", "shop"]
    assert panel.request.body.value == ["day"]


def test_missing_data_are_reported(harness: Harness, shell: FakeShell) -> None:
    """A quiet note while the form is filled in, an error when a plan is made."""
    shell.user_ns.clear()
    panel = FanOutPanel(harness.context(), queue="reports")
    panel.settle()
    assert "there are no data yet" in panel.preview.value
    user.click(panel, panel.make_plan)
    assert panel.footer.alert["text"] == "it is not chosen yet what each task calls"
    user.plan(panel, url="https://svc/run")
    assert panel.footer.alert["text"] == "there are no data yet"


def test_a_parquet_file_can_be_uploaded(panel: FanOutPanel) -> None:
    """Its line reads Parquet."""
    upload(panel, "x.PARQUET", FLIGHTS.to_parquet(), part=1000)
    assert panel.source.columns == ["origin", "day"]
    user.fill(panel, url="https://svc/{day}")
    assert 'fan_out(pd.read_parquet("x.PARQUET"), url' in panel.footer.line


@cases(("x.csv", "CSV"), ("x.parquet", "Parquet"))
def test_a_file_that_cannot_be_read_is_named(panel: FanOutPanel, name: str, kind: str) -> None:
    """The error stands in the panel; what was chosen before still is."""
    upload(panel, name, b"\xff\xfe\x00")
    assert panel.footer.alert["text"].startswith(f"{name} cannot be read as {kind}")
    assert panel.source.name == "flights"


def test_the_first_tasks_are_shown_while_it_is_filled(panel: FanOutPanel) -> None:
    """Three of them as they would be sent, escaped; a wrong template says what is wrong with it."""
    user.fill(panel, url="https://svc/{origin}?<b>", body=["day"], headers="X-Day: {day}", signed="me@p.iam")
    shown = panel.preview.value
    assert shown.count("<section") == 3
    assert "https://svc/EWR?&lt;b&gt;" in shown
    assert "X-Day: d1" in shown
    assert "&quot;day&quot;: &quot;d1&quot;" in shown
    assert "signed as me@p.iam" in shown
    user.fill(panel, url="https://svc/{origim}")
    assert "origim" in panel.preview.value
    assert "ctn-wrong" in panel.preview.value
    user.click(panel, panel.make_plan)
    assert "origim" in panel.footer.alert["text"]
    assert "the columns are origin, day" in panel.footer.alert["hint"]
    assert panel.send.disabled
    user.fill(panel, url="https://svc/{origin}")
    assert (panel.footer.alert, "ctn-wrong" in panel.preview.value) == ({}, False)


def test_a_row_that_cannot_be_a_task_says_why(panel: FanOutPanel, shell: FakeShell) -> None:
    """The reason is shown in place of the task."""
    shell.cell(flights=pd.DataFrame({"origin": ["EWR", None], "day": ["d1", "d2"]}))
    user.fill(panel, url="https://svc/{origin}")
    assert panel.preview.value.count("<section") == 2
    assert "origin" in panel.preview.value.partition('aria-label="task 2"')[2]
    assert "ctn-wrong" in panel.preview.value


def test_secrets_are_neither_shown_nor_kept_on_the_page(panel: FanOutPanel) -> None:
    """A token that was typed becomes dots, is sent all the same, and is asked for by the line of Python."""
    user.fill(panel, url="https://svc/run", headers="Authorization: Bearer abc\nX-Team: data")
    assert panel.request.headers.value == "Authorization: •••\nX-Team: data"
    assert "Bearer" not in panel.preview.value
    assert "Authorization: •••" in panel.preview.value
    assert panel.request.arguments["headers"] == {"Authorization": "Bearer abc", "X-Team": "data"}
    assert panel.footer.line.startswith("import getpass; tasks.queue(")
    assert 'headers={"Authorization": getpass.getpass("Authorization"), "X-Team": "data"}' in panel.footer.line
    user.fill(panel, headers="Authorization: •••\nX-Team: other")
    assert panel.request.arguments["headers"] == {"Authorization": "Bearer abc", "X-Team": "other"}
    user.fill(panel, headers="X-Team: other")
    user.fill(panel, headers="Authorization: Bearer new")
    assert panel.request.arguments["headers"] == {"Authorization": "Bearer new"}


def test_the_secret_of_a_url_is_not_kept_on_the_page(panel: FanOutPanel) -> None:
    """It becomes dots, stays when the rest of the URL is edited, is sent, and is asked for by the line of Python."""
    user.fill(panel, url="https://svc/run?token=abc&day={day}")
    assert panel.request.url.value == "https://svc/run?token=•••&day={day}"
    assert "https://svc/run?token=•••&amp;day=d1" in panel.preview.value
    user.fill(panel, url="https://svc/again?token=•••&day={day}&sig=s1")
    assert panel.request.url.value == "https://svc/again?token=•••&day={day}&sig=•••"
    assert panel.request.arguments["url"] == "https://svc/again?token=abc&day={day}&sig=s1"
    line = 'url="https://svc/again?token=" + getpass.getpass("token") + "&day={day}&sig=" + getpass.getpass("sig")'
    assert line in panel.footer.line
    compile(panel.footer.line, "cell", "exec")
    user.fill(panel, url="https://svc/run?token=new")
    assert panel.request.arguments["url"] == "https://svc/run?token=new"


def test_a_line_that_is_no_header_is_named(panel: FanOutPanel) -> None:
    """The error is shown in place of the first tasks; the empty field shows how a header is written."""
    assert panel.request.headers.placeholder == "X-Team: data"
    user.fill(panel, url="https://svc/run", headers="X-Team data")
    assert "X-Team data" in panel.preview.value
    assert panel.footer.line == ""


@cases(
    ({}, 'fan_out(flights, url="https://svc/run")'),
    ({"body": ["day"], "key": ["origin", "day"]}, 'body=["day"], key=["origin", "day"])'),
    ({"key": ["position of the row"], "skip": True}, 'key=ct.ROW, errors="skip")'),
    ({"name": ' a "b" ', "signed": "me@p.iam"}, 'service_account="me@p.iam", name="a \\"b\\"")'),
    (
        {"delay": " 10min ", "method": "PUT", "deadline": "60s"},
        'delay="10min", method="PUT", dispatch_deadline="60s")',
    ),
    ({"delay": "{wait}", "method": "POST"}, 'delay="{wait}")'),
    ({"pause_at": " 5% "}, 'pause_at="5%")'),
    ({"pause_at": "10"}, "pause_at=10)"),
)
def test_the_line_of_python_follows_the_form(
    panel: FanOutPanel, shell: FakeShell, harness: Harness, values: dict[str, Any], line: str
) -> None:
    """Each field becomes an argument; the line makes the batch that the form would make."""
    shell.cell(flights=FLIGHTS.assign(wait="1min"))
    user.fill(panel, url="https://svc/run", **values)
    assert panel.footer.line.endswith(line)
    names = {"tasks": SimpleNamespace(queue=harness.queue), "ct": ct, **shell.user_ns}
    harness.sent(eval(panel.footer.line, names))  # noqa: S307 - the line is there to be run
    user.click(panel, panel.make_plan)
    assert "known: 4 in the queue" in panel.plan_card.value


@pytest.mark.parametrize(("typed", "argument"), [(" 2 ", "2"), ("50%", '"50%"'), ("0.5", "0.5")])
def test_a_canary_is_sent_first(panel: FanOutPanel, harness: Harness, typed: str, argument: str) -> None:
    """The form and its line hold the same rows back."""
    user.fill(panel, url="https://svc/run", canary=typed)
    assert panel.footer.line.endswith(f'run", canary={argument})')
    names = {"tasks": SimpleNamespace(queue=harness.queue), "flights": FLIGHTS}
    batch = user.send(panel)
    harness.until(batch, lambda: batch.progress().unsent == 2)
    again = eval(panel.footer.line, names)  # noqa: S307 - the line is there to be run
    assert again == batch
    assert "canary: 0 of 2 done; 2 rows wait for it" in repr(again)


def test_a_canary_that_failed_is_resumed(panel: FanOutPanel, shell: FakeShell, harness: Harness) -> None:
    """The bar says why the other rows wait; a button sends them, after a question."""
    shell.cell(flights=pd.DataFrame({"n": range(14)}))
    user.fill(panel, url="https://svc/run", canary="2")
    batch = user.send(panel)
    harness.until(batch, lambda: batch.progress().unsent == 12)
    good, bad = batch.tasks()["task"][:2]
    held = "canary: 1 of 2 rows failed (NOT_FOUND): the other 12 rows are not sent"
    with (
        user.wait_for(panel.view.actions.resume, "description", lambda text: text == "Resume (12)"),
        user.wait_for(panel.view.bar, "value", lambda text: held in text),
    ):
        harness.publish("reports", [entry(1, good), entry(2, bad, attempt=5, status="NOT_FOUND")])
    user.click(panel, panel.view.actions.resume)
    assert user.confirm(panel).verb == "Send 12 rows"
    harness.sent(batch)
    assert panel.footer.line == f'tasks.batch("{batch.id}").resume()'


def test_a_served_function_is_a_url(panel: FanOutPanel, shell: FakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of its variable is offered with what it is, and stands in the line as it is."""

    class Served:
        url, name, closed = "http://127.0.0.1:9/x", "report", False

    monkeypatch.setattr(notebook, "Handler", Served)
    shell.cell(report_url=Served())
    label = "report_url  (a function served in this kernel)"
    assert panel.request.url.options == (label,)
    user.fill(panel, url=label)
    assert panel.request.url.value == "report_url"
    assert panel.footer.line.endswith("fan_out(flights, url=report_url)")
    assert "http://127.0.0.1:9/x" in panel.preview.value


@pytest.fixture
def report(shell: FakeShell) -> Iterator[Callable[[str], None]]:
    """Give a function that a cell of the notebook defines, for a result; end its handler."""
    made: list[Any] = []

    def define(result: str, divisor: int = 1) -> None:
        def report(origin: str, day: str) -> str:
            return f"{origin} {day} {result} {1 / divisor}"

        report.__module__ = "__main__"
        made.append(report)
        shell.cell(report=report)

    yield define
    for function in made:
        if handler := served_as(function):
            handler.close()


def test_a_function_of_the_notebook_is_served_when_it_is_used(
    panel: FanOutPanel, shell: FakeShell, report: Callable[[str], None]
) -> None:
    """It is offered by its name; what a cell defines anew is served at the same URL, without a click."""
    report("first")
    label = "report  (a function of this notebook)"
    assert panel.request.url.options == (label,)
    assert served_as(shell.user_ns["report"]) is None
    user.fill(panel, url=label)
    assert panel.footer.line.endswith("fan_out(flights, url=ct.serve(report))")
    handler = served_as(shell.user_ns["report"])
    assert handler is not None
    assert handler.url in panel.preview.value
    user.click(panel, panel.make_plan)
    shell.cell(other=1)
    assert not panel.send.disabled, "another cell is no reason to plan again"
    report("second")
    panel.settle()
    assert served_as(shell.user_ns["report"]) is handler
    assert panel.send.disabled


@cases((1, ("succeeded", "EWR d1 first")), (0, ("failed", "ZeroDivisionError")))
def test_one_row_is_tried(
    panel: FanOutPanel, report: Callable[..., None], harness: Harness, divisor: int, said: tuple[str, str]
) -> None:
    """Its answer, or the traceback, is shown until the form is changed; there is no task; the line does the same."""
    report("first", divisor)
    user.fill(panel, url="report  (a function of this notebook)", skip=True)
    user.click(panel, panel.try_one)
    assert panel.footer.alert == {}
    assert panel.footer.status == f"the first row {said[0]}; no task was created"
    assert said[1] in panel.trial.value
    assert panel.trial.value in panel.static_html()
    assert panel.footer.line.endswith('fan_out(flights, url=ct.serve(report), errors="skip", dry_run=True).try_one()')
    assert harness.transport.created == {}
    user.fill(panel, name="night")
    assert panel.trial.value == ""


def test_what_was_sent_folds_to_a_line(panel: FanOutPanel) -> None:
    """The batch is on top; the form comes back as it was filled in, and a secret of the URL stays out of sight."""
    user.fill(panel, url="https://svc/run?token=abc", name="night")
    form = panel._form
    before = form.children
    user.send(panel)
    assert (form.children, panel._folded.layout.display) == ((), None)
    assert "flights" in panel._sent.value
    assert "https://svc/run?token=•••</bdi>, 4 tasks, sent <time" in panel._sent.value
    assert "as they would be sent" not in panel.static_html()
    user.click(panel, panel._folded.children[1])
    assert (form.children, panel._folded.layout.display, panel.name.value) == (before, "none", "night")
    assert "as they would be sent" in panel.static_html()


def test_google_cannot_call_a_function_of_the_notebook(
    harness: Harness, report: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is not offered."""
    report("first")
    monkeypatch.setattr(harness.transport, "endpoint", replace(harness.transport.endpoint, local=False))
    assert FanOutPanel(harness.context(), queue="reports").request.url.options == ()


def test_a_deployed_service_is_a_url(panel: FanOutPanel, shell: FakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is offered by the name of its variable; the form shows account and audience of the tokens."""

    class Deployed:
        url, name = "https://report-abc.a.run.app", "report"
        service_account, audience = "caller@p.iam", "https://report.internal"

    monkeypatch.setattr(notebook, "Deployment", Deployed)
    shell.cell(service=Deployed())
    user.fill(panel, url="service  (the service report)")
    assert panel.request.url.value == "service"
    assert panel.request.signed.placeholder == "caller@p.iam, for https://report.internal"
    assert panel.footer.line.endswith("fan_out(flights, url=service)")
    assert "signed as caller@p.iam" in panel.preview.value
    user.fill(panel, url="https://svc/run")
    assert panel.request.signed.placeholder.startswith("service account")


def test_urls_of_earlier_batches_are_offered(panel: FanOutPanel) -> None:
    """The newest first, each once and without its secret, which is sent when it is chosen."""
    for url, name in (("https://svc/old", "a"), ("https://svc/run?token=abc", "b"), ("https://svc/old", "c")):
        user.fill(panel, url=url, name=name)
        user.send(panel)
    labels = ("https://svc/old  (used by the batch c)", "https://svc/run?token=•••  (used by the batch b)")
    assert panel.request.url.options == labels
    user.fill(panel, url=labels[1])
    assert panel.request.url.value == "https://svc/run?token=•••"
    assert panel.request.arguments["url"] == "https://svc/run?token=abc"


def test_a_secret_is_typed_letter_by_letter(panel: FanOutPanel) -> None:
    """What is typed behind the dots is added to the secret; a dot that is deleted is its last letter."""
    for typed in (
        "https://svc/?token=a",
        "https://svc/?token=•••b",
        "https://svc/?token=•••c",
        "https://svc/?token=••",
    ):
        user.fill(panel, url=typed)
    assert panel.request.url.value == "https://svc/?token=•••"
    assert panel.request.arguments["url"] == "https://svc/?token=ab"


def test_options_that_are_seldom_needed_are_folded(panel: FanOutPanel) -> None:
    """Those that are set are named while they are out of sight, and a wrong one is an error in place."""
    toggle, part = panel.request.toggle, panel.request.delay
    assert (toggle.description, part.layout.display) == ("More options", None)
    toggle.click()
    user.fill(panel, url="https://svc/run", delay="soon")
    assert toggle.description == "Fewer options"
    assert "delay=&#x27;soon&#x27; is not a duration" in panel.preview.value
    user.fill(panel, delay="1h", deadline="60s")
    assert "deadline 1 min" in panel.preview.value
    toggle.click()
    assert toggle.description == "More options (delay=1h, dispatch_deadline=60s)"
    user.fill(panel, name="march", headers="X-Token: abc")
    panel.request.show_more(on=False)
    assert toggle.description == "More options (headers, name, delay=1h, dispatch_deadline=60s)"
    assert "ctn-fields" in panel.request._dom_classes, "by which the style sheet aligns the fields"


def stop_at_the_first_report(panel: FanOutPanel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Press Stop as soon as the bar shows rows; return the texts of the bar."""
    monkeypatch.setattr(progress_bar, "_DELAY", 0)
    monkeypatch.setattr(progress_bar, "_PACE", 0)
    shown: list[str] = []

    def note(change: Any) -> None:
        if change["new"]:
            shown.append(change["new"])
            panel.stop_button().click()

    panel.meter.observe(note, "value")
    return shown


def test_planning_can_be_stopped(panel: FanOutPanel, shell: FakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar counts the rows; Stop ends it at its next step, and says so."""
    shell.cell(flights=pd.DataFrame({"n": range(6_000)}))
    user.fill(panel, url="https://svc/run")
    shown = stop_at_the_first_report(panel, monkeypatch)
    user.click(panel, panel.make_plan)
    assert len(shown) == 1
    assert "planning: 2,000 of 6,000 rows" in shown[0]
    assert panel.footer.status == "stopped: there is no plan, and nothing was stored or sent"
    assert (panel.footer.alert, panel.plan_card.value, panel.meter.value, panel.send.disabled) == ({}, "", "", True)


def test_storing_can_be_stopped(
    panel: FanOutPanel, shell: FakeShell, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card says what happens meanwhile; nothing is stored, and the plan can be sent after all."""
    shell.cell(flights=pd.DataFrame({"n": range(6_000)}))
    user.plan(panel, url="https://svc/run")
    user.click(panel, panel.send)
    cards: list[str] = []
    panel.plan_card.observe(lambda change: cards.append(change["new"]), "value")
    shown = stop_at_the_first_report(panel, monkeypatch)
    user.confirm(panel)
    assert "storing: 2,000 of 6,000 rows" in shown[0]
    assert [("nothing was sent yet" in card, "are being stored" in card) for card in cards] == [
        (False, True),
        (True, False),
    ]
    assert panel.footer.status == "stopped: nothing was stored or sent"
    assert harness.catalog.outbox.batches.find() == []
    panel.meter.unobserve_all()
    user.click(panel, panel.send)
    user.confirm(panel)
    assert panel.view.batch is not None
    assert panel.view.batch.progress().total == 6_000


def test_a_large_plan_keeps_few_tasks(
    panel: FanOutPanel, shell: FakeShell, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counts are those of all rows, the first bad row is named, and what is sent is the whole frame."""
    monkeypatch.setattr(fan_out, "_WHOLE", 2_000)
    harness.transport.open.clear()  # of more than 300 sent tasks the fake watcher would have to list pages
    numbers = [*range(2_500), None, 2_501]
    shell.cell(flights=pd.DataFrame({"n": numbers}, index=range(10, 2_512)))
    user.plan(panel, url="https://svc/{n}", skip=True)
    assert "<b>2,501</b> <span>tasks</span> <small>of 2,502 rows" in panel.plan_card.value
    assert '<td style="text-align:left">2500</td>' in panel.plan_card.value
    user.click(panel, panel.send)
    user.confirm(panel)
    batch = panel.view.batch
    assert batch is not None
    assert batch.tasks().index.tolist() == list(range(10, 2_512))


def test_the_plan_comes_before_the_send(panel: FanOutPanel, harness: Harness) -> None:
    """Counts, sizes and time; nothing is sent by it, and a change of the form takes it back."""
    assert panel.send.disabled
    user.plan(panel, url="https://svc/run", body=["origin", "day"])
    card = panel.plan_card.value
    for words in (
        "<b>4</b> <span>tasks",
        "of 4 rows",
        "≥ 80 ms</b> <span>to drain",
        "at 50 a second, 8 at once",
    ):
        assert words in card
    assert (panel.send.description, panel.send.disabled) == ("Send 4 tasks", False)
    assert harness.transport.created == {}
    user.fill(panel, name="night")
    assert (panel.plan_card.value, panel.send.description, panel.send.disabled) == ("", "Send", True)


def test_a_plan_says_when_it_would_end(panel: FanOutPanel) -> None:
    """If the form says how long an attempt takes; what is no duration is an error, and there is no plan."""
    user.plan(panel, url="https://svc/run", duration="2s")
    assert "ends after about 2.1 s" in panel.plan_card.value
    assert "duration" not in panel.footer.line
    user.plan(panel, duration="soon")
    assert panel.footer.alert["text"] == "duration='soon' is not a duration"
    assert (panel.plan_card.value, panel.send.disabled) == ("", True)


def test_a_form_that_is_changed_while_it_is_planned_is_planned_again(panel: FanOutPanel) -> None:
    """The plan that is shown, and sent, is that of the form as it is."""
    user.fill(panel, url="https://svc/run")
    real, changes = panel.plan, ["https://svc/last", "https://svc/next"]

    def slow() -> Any:
        found = real()
        if changes:
            panel.request.url.value = changes.pop()
        return found

    panel.plan = slow  # type: ignore[method-assign]  # the form is changed while it is planned
    user.click(panel, panel.make_plan)
    assert 'url="https://svc/last"' in panel.footer.line
    assert not panel.send.disabled


def test_rows_in_the_way_block_the_send(panel: FanOutPanel) -> None:
    """They are counted and named; leaving them out lets the others go."""
    user.plan(panel, url="https://svc/run", body=["origin"])
    assert panel.send.disabled
    assert "1 row with the key of an earlier one: in the way" in panel.plan_card.value
    assert "duplicate of row 0" in panel.plan_card.value
    user.plan(panel, skip=True)
    assert "left out" in panel.plan_card.value
    assert (panel.send.description, panel.send.disabled) == ("Send 3 tasks", False)


def test_rows_that_another_batch_has_block_the_send(panel: FanOutPanel, shell: FakeShell, harness: Harness) -> None:
    """The card names them and the way out; a name for the batch is one."""
    user.fill(panel, url="https://svc/run", name="days")
    batch = harness.sent(user.send(panel))
    user.fill(panel, url="https://svc/run", name="")
    shell.cell(flights=pd.concat([FLIGHTS, pd.DataFrame({"origin": ["LGA"], "day": ["d2"]})], ignore_index=True))
    user.click(panel, panel.make_plan)
    way_out = '4 of these 5 rows are in the batch days already; name="days" sends the other 1, '
    way_out += "any new name sends all"
    assert panel.footer.status == f"planned 1 task; {way_out}"
    assert panel.send.disabled
    assert "the batch days has this row" in panel.plan_card.value
    user.plan(panel, name=batch.id)
    assert (panel.send.description, panel.send.disabled) == ("Send 1 task", False)


def test_a_paused_queue_is_told_before_the_send(panel: FanOutPanel, harness: Harness) -> None:
    """What will not be dispatched has no time to drain; it can be sent all the same."""
    harness.transport.paused = True
    user.plan(panel, url="https://svc/run")
    assert "at 50 a second, 8 at once, once the queue, which is paused, is resumed" in panel.plan_card.value
    assert not panel.send.disabled


def test_few_tasks_are_sent_by_a_click(panel: FanOutPanel, harness: Harness) -> None:
    """The bar of the batch appears and reaches its end by itself."""
    user.plan(panel, url="https://svc/run")
    line = panel.footer.line
    panel.notify("retried", line="batch.retry_failed()")  # whose line is not that of the plan
    user.click(panel, panel.send)
    assert panel.footer.alert == {}
    batch = panel.view.batch
    assert batch is not None
    assert (panel.footer.status, panel.footer.line) == (f"started batch {batch.id}", line)
    assert panel.send.disabled
    harness.sent(batch)
    with user.wait_for(panel.view.bar, "value", lambda html: "<b>4</b> of 4 done" in html):
        harness.finish(batch, 1)
    assert "NOT_FOUND" in panel.view.bar.value
    assert len(harness.transport.created) == 4


def test_the_same_form_again_sends_what_is_new(panel: FanOutPanel, shell: FakeShell, harness: Harness) -> None:
    """The batch grows by the rows that it does not have, and the foot says so."""
    user.fill(panel, url="https://svc/run", name="night")
    first = user.send(panel)
    shell.cell(flights=pd.concat([FLIGHTS, pd.DataFrame({"origin": ["LGA"], "day": ["d2"]})]))
    second = user.send(panel)
    assert (second.id, second.progress().total) == (first.id, 5)
    assert f"batch night ({first.id}) has 4 of these rows already; 1 new one will be sent" in panel.footer.status


@pytest.mark.parametrize(("local", "typed"), [(True, None), (False, "reports")])
def test_many_tasks_are_asked_about(
    panel: FanOutPanel,
    shell: FakeShell,
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    *,
    local: bool,
    typed: str | None,
) -> None:
    """More than 100 are; very many on Google have a price and want the queue's name. Nothing is sent before."""
    monkeypatch.setattr(fan_out, "_MANY", 2)
    shell.cell(flights=pd.DataFrame({"n": range(101)}))
    monkeypatch.setattr(harness.transport, "endpoint", replace(harness.transport.endpoint, local=local))
    store = Store("memory://team")
    monkeypatch.setattr(store, "url", "gs://team/tasks")  # which has a price
    monkeypatch.setattr(harness.connection, "store", store)
    user.plan(panel, url="https://svc/run")
    assert ("<b>$0.00</b> <span>estimated" in panel.plan_card.value, "$" in panel.plan_card.value) == (not local,) * 2
    question = user.asked(panel, panel.send)
    cost = "It costs about $0.00: operations $0.00, queue log $0.00, writing results $0.00"
    assert (question.verb, question.typed, cost in question.scope) == ("Send 101 tasks", typed, not local)
    assert "projects/p/locations/l/queues/reports" in question.scope
    assert (question.danger, harness.transport.created) == (False, {})
    user.confirm(panel, typed or "")
    assert panel.view.batch is not None


def test_another_queue_wants_another_plan(panel: FanOutPanel) -> None:
    """What was planned and sent is of the old one."""
    user.fill(panel, url="https://svc/run")
    user.send(panel)
    user.use(panel, "emails")
    assert panel.view.batch is None
    assert panel.footer.line.startswith('tasks.queue("emails")')
    assert panel.static_html() == panel.preview.value


def test_read_only_has_no_form(harness: Harness, shell: FakeShell) -> None:
    """Nothing to fill in, and a button that was kept does nothing."""
    panel = FanOutPanel(harness.context(read_only=True), queue="reports", framed=False)
    assert set(panel.children) == {panel.plan_card, panel.view, panel.footer}
    panel.send.click()
    assert panel.footer.alert["text"] == "this panel is read-only"


def test_closing_forgets_the_notebook(harness: Harness, shell: FakeShell) -> None:
    """No listener is left for the ends of cells."""
    panel = FanOutPanel(harness.context(), queue="reports")
    panel.settle()
    assert len(shell.listeners) == 1
    panel.close()
    panel.close()
    assert shell.listeners == []
