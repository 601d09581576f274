"""All rows of a batch in its panel: why they failed, which are chosen, and what is done with all of them at once."""

from __future__ import annotations

import datetime as dt
import re
import threading
from array import array
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch import row_query
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.row_query import RowQuery, RowReader
from cloudtasks_nb.fanout.batch.stored_results import own_key
from cloudtasks_nb.fanout.causes import Fault
from cloudtasks_nb.fanout.outbox.outcomes import Cause
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels import BatchPanel, batch_failures, batch_rows
from cloudtasks_nb.panels.widgets import rows as table_rows
from cloudtasks_nb.store.results import ResultWriter, StoredResult, tag_of
from tests.cases import cases
from tests.unit.fanout.conftest import Outcome, record_outcomes
from tests.unit.panels import user
from tests.unit.panels.conftest import NOW, Harness

KEY, SHOP, BAD = "KeyError: …", "ValueError: no shop", "INTERNAL"
ROWS = pd.DataFrame({"shop": ["bern", "basel", "chur", "<b>", "bern"] * 6, "day": range(30)})
#: What the rows at these positions ended with; of the others nothing is known.
MESSAGES = {**dict.fromkeys(range(12), "KeyError: 7"), **dict.fromkeys((13, 14), SHOP), 15: "INTERNAL(13): code 500"}


def record(
    harness: Harness,
    batch: Batch,
    state: State | None,
    messages: Mapping[int, str | None],
    fault: Fault | None = None,
) -> None:
    """Store how the last attempts on rows ended, and let the batch count its rows."""
    refs = batch_view(batch).reader.refs(RowQuery())
    tries = batch.tasks()["try"].tolist()
    found: Any = {"attempts": 2, "last_attempt_time": NOW, "duration": 250_000, "fault": fault}
    status = 0 if state is State.SUCCEEDED else 13
    record_outcomes(
        harness.catalog.outbox,
        batch.id,
        [
            Outcome(ref=refs[row], attempt=tries[row], state=state, last_status=status, last_message=text, **found)
            for row, text in messages.items()
        ],
    )
    harness.publish("reports")
    name = "pending" if state is None else state.name.lower()
    harness.until(batch, lambda: getattr(batch.progress(), name) >= len(messages))


@pytest.fixture
def batch(harness: Harness) -> Batch:
    """Return a batch of 30 rows, of which 15 failed for three reasons, 2 are tried again and 10 succeeded."""
    made = harness.sent(harness.queue().fan_out(ROWS, url="https://svc/{shop}", body=["day"], progress=False))
    record(harness, made, State.FAILED, MESSAGES)
    record(harness, made, State.SUCCEEDED, dict.fromkeys(range(18, 28)))
    record(harness, made, None, {16: SHOP, 17: "KeyError: 9"})
    return made


@pytest.fixture
def panel(batch: Batch) -> BatchPanel:
    """Return its panel."""
    made: BatchPanel = user.show(batch.panel())
    made.settle()
    return made


def answer(batch: Batch, task: str, result: Any, *, error: str | None = None) -> None:
    """Store what a handler returned, or the traceback of its exception."""
    begun, status = dt.datetime(2026, 1, 2, tzinfo=dt.UTC), 500 if error else 200
    found: Any = {"attempt": 2, "status": status, "started": begun, "duration": 0.25, "result": result, "error": error}
    tag = tag_of(own_key(batch._outbox, batch.id), task)
    ResultWriter(batch._connection.store).put(StoredResult(task=task, tag=tag, **found))


def pick(panel: BatchPanel, choices: Any, key: str, do: str = "pick") -> None:
    """Click one of several buttons."""
    user.send_message(choices, do=do, key=key)
    panel.settle()


def find(panel: BatchPanel, text: str) -> None:
    """Search for a text."""
    panel.view.rows.text.value = text
    panel.settle()


def days(panel: BatchPanel) -> list[int]:
    """Return which rows are shown, by their day."""
    return sorted(on_page(panel))


def tries(batch: Batch) -> list[int]:
    """Return which rows have a second task, by position."""
    number = batch.tasks()["try"]
    return number.index[number == 2].tolist()


def test_causes_come_first(panel: BatchPanel) -> None:
    """Each cause has its rows, those that failed and those that are tried again, and times; the largest is first."""
    names, choices = ("text", "count", "note", "course", "act"), panel.view.failures.choices
    assert [tuple(item[name] for name in names) for item in choices.items] == [
        (KEY, "13", "12 failed, 1 retrying", [1.0], "Retry 12"),
        (SHOP, "3", "2 failed, 1 retrying", [0.231], "Retry 2"),
        (BAD, "1", "failed", [0.077], "Retry 1"),
    ]
    assert {*map(tuple, (item["between"] for item in choices.items))} == {(NOW // 1_000,)}
    shown = panel.static_html()
    assert "2026-01-02 00:00:00 UTC" in panel.view.failures.html()
    assert shown.index("Why rows failed: 3 causes") < shown.index("15 failed rows")


def test_times_are_in_the_zone_of_the_browser(batch: Batch) -> None:
    """The charts follow what the browser tells; a copy that anybody may open has UTC, as has a panel without one."""
    panel = user.show(batch.panel(tz="Asia/Tokyo"))
    panel.refresh()
    charts = panel.view.run._charts
    assert (panel.footer.tz, "(2026-01-02, UTC)" in charts.value) == ("Asia/Tokyo", True)
    for zone, words in (
        ("Asia/Tokyo", "2026-01-02, Asia/Tokyo"),
        ("America/New_York", "2026-01-01, America/New_York"),
        ("not/known", "2026-01-02, UTC"),
    ):
        with user.wait_for(charts, "value", re.compile(re.escape(f"({words})")).search):
            panel.footer.set_state({"zone": zone})
        assert "(2026-01-02, UTC)" in panel.static_html()
    with pytest.raises(InvalidInputError, match="is not a time zone"):
        batch.panel(tz="Europe/Zurick")


def test_a_click_on_a_cause_shows_its_traceback_and_its_rows(panel: BatchPanel, batch: Batch) -> None:
    """The example is the first row's; a second click takes both away."""
    tasks = batch.tasks()["task"]
    trace = "Traceback (most recent call last):\n  <cell>\nKeyError: 7"
    answer(batch, tasks[0], None, error=trace)
    failures = panel.view.failures
    pick(panel, failures.choices, KEY)
    assert "Example: row 0" in failures.example.value
    assert "  &lt;cell&gt;\nKeyError: 7" in failures.example.value
    assert days(panel) == [*range(12), 17]
    assert f"13 rows with the cause {KEY}" in panel.static_html()
    pick(panel, panel.view.rows.states, "retrying")
    assert days(panel) == [17]
    assert failures.choices.picked == KEY
    pick(panel, panel.view.rows.states, "succeeded")
    assert failures.example.value == ""
    pick(panel, failures.choices, SHOP)
    assert f'<pre tabindex="0">{SHOP}</pre>' in failures.example.value
    pick(panel, failures.choices, SHOP)
    assert failures.example.value == ""
    assert "30 rows" in panel.static_html()


def test_a_cause_stays_chosen_while_its_text_changes(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier row fails too, with other words; beside it stands the line of the code."""
    for module in (batch_rows, batch_failures):
        monkeypatch.setattr(module, "_PAUSE_FACTOR", 0)
    batch = harness.sent(harness.queue().fan_out(ROWS, url="https://svc/x", body=["day"], progress=False))
    fault = Fault("ValueError", "report, cell [1] line 12")
    record(harness, batch, State.FAILED, {5: "ValueError: no shop oslo"}, fault)
    panel = user.show(batch.panel())
    failures = panel.view.failures
    pick(panel, failures.choices, str(fault))
    assert "1 row with the cause ValueError: no shop oslo" in panel.static_html()
    record(harness, batch, State.FAILED, {3: "ValueError: no shop wien"}, fault)
    panel.refresh()
    panel.settle()
    assert (failures.choices.picked, days(panel)) == (str(fault), [3, 5])
    (item,) = failures.choices.items
    assert item["text"] == "ValueError: no shop wien … and 1 like it"
    assert item["note"] == "failed · report, cell [1] line 12"
    user.click(panel, panel.view.actions.resend)
    assert panel.footer.line == f'tasks.batch("{batch.id}").retry_failed("ValueError: no shop wien")'


def test_a_row_that_was_tried_again_is_no_example(panel: BatchPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its newest task is another one by the time it is read."""
    monkeypatch.setattr(RowReader, "stored", lambda *_: None)
    pick(panel, panel.view.failures.choices, KEY)
    assert (panel.view.failures.example.value, panel.footer.alert) == ("", {})


def test_causes_that_change_while_they_are_shown_are_no_error(panel: BatchPanel) -> None:
    """Another thread counts them anew: what is shown is of one count."""
    failures = panel.view.failures

    class Changing(dict[str, Cause]):
        def values(self) -> Any:
            failures._causes = {}
            return super().values()

    failures._causes = Changing({BAD: Cause(key=BAD, text=BAD, kind=BAD, where=None, failed=1, retrying=0)})
    failures._offer()
    assert [item["text"] for item in failures.choices.items] == [BAD]


def test_another_batch_does_not_wait_for_a_search(panel: BatchPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search in the rows of the one before ends."""
    searching, given_up = threading.Event(), threading.Event()

    def search(_reader: RowReader, _query: RowQuery, _keep: Any, stopped: Any, **_options: Any) -> array[int]:
        searching.set()
        while not stopped() and not given_up.is_set():
            pass
        return array("q")

    monkeypatch.setattr(RowReader, "search", search)
    panel.view.rows.text.value = "bern"
    searching.wait()
    showing = threading.Thread(target=panel.view.show, args=(None,))
    showing.start()
    showing.join(240)
    waited = showing.is_alive()
    given_up.set()
    showing.join()
    panel.settle()
    assert not waited


def test_one_kind_of_failure_is_retried_by_two_clicks(panel: BatchPanel, batch: Batch, harness: Harness) -> None:
    """More than ten rows are asked about; rows with other causes stay as they are."""
    pick(panel, panel.view.failures.choices, KEY, do="act")
    question = user.confirm(panel)
    assert question.verb == "Retry 12 rows"
    assert KEY in question.scope
    harness.sent(batch)
    assert tries(batch) == list(range(12))
    assert panel.footer.line == f'tasks.batch("{batch.id}").retry_failed("{KEY}")'
    pick(panel, panel.view.failures.choices, SHOP, do="act")
    harness.sent(batch)
    assert tries(batch) == [*range(12), 13, 14]


def test_read_only_causes_have_no_button(batch: Batch) -> None:
    """A message that asks for a retry all the same is refused."""
    panel = user.show(batch.panel(read_only=True))
    assert {item["act"] for item in panel.view.failures.choices.items} == {""}
    pick(panel, panel.view.failures.choices, SHOP, do="act")
    assert panel.footer.alert["text"] == "this panel is read-only"
    assert panel.view.actions.resend not in panel.view.rows._tools.children


def test_rows_are_chosen_by_state(panel: BatchPanel) -> None:
    """Each state has its count; failed rows are shown first, another click shows all, and nothing stays selected."""
    states = panel.view.rows.states
    counts = [(item["key"], item["count"]) for item in states.items]
    assert counts == [("all", "30"), ("failed", "15"), ("retrying", "2"), ("queued", "3"), ("succeeded", "10")]
    assert states.picked == "failed"
    assert days(panel) == [*range(12), 13, 14, 15]
    for state, wanted in (("retrying", [16, 17]), ("queued", [12, 28, 29]), ("succeeded", [*range(18, 28)])):
        pick(panel, states, state)
        assert (states.picked, days(panel)) == (state, wanted)
    pick(panel, states, "succeeded")
    assert states.picked == "all"
    table: Any = panel.view.rows.table
    assert table.total == 30
    table.select(table.page_keys)
    pick(panel, states, "failed")
    assert (panel.view.rows.table, table.selected) == (table, [])


def test_rows_that_fail_later_are_shown_unless_the_user_has_chosen(harness: Harness) -> None:
    """What is shown by itself changes, what was chosen does not."""
    batch = harness.sent(harness.queue().fan_out(ROWS, url="https://svc/x", body=["day"], progress=False))
    first, second = user.show(batch.panel()), user.show(batch.panel())
    pick(second, second.view.rows.states, "queued")
    record(harness, batch, State.FAILED, {3: SHOP})
    for panel in (first, second):
        panel.refresh()
    assert days(first) == [3]
    assert second.view.rows.states.picked == "queued"


def ask(panel: BatchPanel, **message: Any) -> None:
    """Ask the table of rows for something, as the browser does."""
    user.send_message(panel.view.rows.table, **message)
    panel.settle()


def on_page(panel: BatchPanel) -> list[int]:
    """Return the days of the rows on the page, in order."""
    table: Any = panel.view.rows.table
    return [int(day) for day in table._rows._frame["day"]] if table.total else []


def test_one_pager_leads_through_all_rows(panel: BatchPanel) -> None:
    """Only one page is read; all rows are sorted, not those of the page, and no page is turned in vain."""
    rows = panel.view.rows
    pick(panel, rows.states, "all")
    table: Any = rows.table
    assert (on_page(panel), table.total) == (list(range(20)), 30)
    answers = table._sent[0]["answers"]
    for page, wanted in ((1, list(range(20, 30))), (7, list(range(20, 30))), (0, list(range(20)))):
        ask(panel, do="page", page=page)
        assert on_page(panel) == wanted
    assert table._sent[0]["answers"] == answers + 3
    assert "1\u201320 of 30 rows" in panel.static_html()
    ask(panel, do="sort", column="day", descending=True)
    assert (on_page(panel), table._sent[0]["sort"]) == (list(range(29, 9, -1)), ["day", "descending"])
    ask(panel, do="page", page=1)
    assert on_page(panel) == list(range(9, -1, -1))
    ask(panel, do="sort", column="state", descending=False)
    assert [on_page(panel)[0], on_page(panel)[-1]] == [12, 4]
    ask(panel, do="sort", column=None, descending=False)
    assert on_page(panel) == list(range(20))
    ask(panel, do="sort", column="shop", descending=False)
    pick(panel, rows.states, "failed")
    assert (on_page(panel), table._sent[0]["sort"][0]) == ([*range(12), 13, 14, 15], None)


def test_all_rows_that_match_are_selected_on_all_pages(panel: BatchPanel) -> None:
    """Also those that were never on the page; what is left out is not sent again, and other rows are not selected."""
    rows, resend = panel.view.rows, panel.view.actions.resend
    pick(panel, rows.states, "all")
    table: Any = rows.table
    chosen = {"version": 1 + table._selected.state["version"], "base": f"{table._filters}.1", "keys": [], "without": []}
    ask(panel, do="select", selection=chosen)
    assert (table._sent[1]["selected"], len(rows.selected), resend.description) == (30, 30, "Send again (25)")
    ask(panel, do="page", page=1)
    left_out = table._sent[0]["rows"][0][0]
    assert table._sent[0]["rows"][0][2]
    ask(panel, do="select", selection={**chosen, "version": chosen["version"] + 1, "without": [left_out]})
    assert (table._sent[1]["selected"], resend.description) == (29, "Send again (24)")
    pick(panel, rows.states, "failed")
    assert (rows.selected, resend.description) == ([], "Send again (15)")
    ask(panel, do="select", selection={**chosen, "version": chosen["version"] + 9, "base": f"{table._filters}.2"})
    assert rows.whole
    assert user.asked(panel, resend).line.endswith(".retry_failed()")


def test_too_many_rows_to_select_are_refused(panel: BatchPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is selected, and the panel says why."""
    monkeypatch.setattr(table_rows, "_MOST_SELECTED", 29)
    pick(panel, panel.view.rows.states, "all")
    table: Any = panel.view.rows.table
    chosen = {"version": 1 + table._selected.state["version"], "base": f"{table._filters}.1", "keys": [], "without": []}
    ask(panel, do="select", selection=chosen)
    assert panel.view.rows.selected == []
    assert panel.footer.alert["text"] == "30 rows are too many to select: 29 can be"


def test_the_columns_of_a_wide_input_are_chosen(harness: Harness) -> None:
    """Five are shown at first; numbers stand right, on each page."""
    wide = pd.DataFrame({f"c{number}": ["x"] if number % 2 else [number] for number in range(300)})
    panel = user.show(harness.sent(harness.queue().fan_out(wide, url="https://svc/{c7}", progress=False)).panel())
    rows: Any = panel.view.rows

    def shown() -> list[tuple[str, str]]:
        return [(column.name, column.side) for column in rows.table._columns if column.verbatim]

    assert shown() == [("c0", "right"), ("c1", "left"), ("c2", "right"), ("c3", "left"), ("c4", "right")]
    assert rows.pick.description == "Columns (5 of 300)"
    user.click(panel, rows.pick)
    assert (len(rows.columns.options), rows.columns.value) == (300, ["c0", "c1", "c2", "c3", "c4"])
    rows.columns.set_state({"value": ["c299", "c6"]})
    panel.settle()
    assert (shown(), rows.pick.description) == ([("c6", "right"), ("c299", "left")], "Columns (2 of 300)")
    user.click(panel, rows.pick)
    assert rows.columns.layout.display == "none"
    find(panel, "nothing:1")
    names = ", ".join(f"c{number}" for number in range(20))
    assert panel.footer.alert["hint"] == f"it has {names}, 291 others"


@cases(
    ("failed", "BASEL", [1, 6, 11]),
    ("all", "day:1", [1]),
    ("all", "no shop", [13, 14, 16]),
    ("succeeded", "<b>", [18, 23]),
    ("all", "shop: chur", list(range(2, 30, 5))),
    ("all", "https://svc/basel", list(range(1, 30, 5))),
    ("all", "nothing has this", []),
)
def test_all_rows_are_searched(panel: BatchPanel, state: str, text: str, wanted: list[int]) -> None:
    """Input, URL and message are searched in the rows of the chosen state, a column by its value."""
    if state != panel.view.rows.query.state:
        pick(panel, panel.view.rows.states, state)
    find(panel, text)
    assert days(panel) == wanted
    words = f"{counted(len(wanted), f'{state} rows'.removeprefix('all '))} with “{text}”"
    assert words.replace("<", "&lt;").replace(">", "&gt;") in panel.static_html()


def run(harness: Harness, line: str) -> None:
    """Run a line of Python that a panel has shown, as in a cell that has only `tasks`."""
    exec(line, {"tasks": SimpleNamespace(batch=harness.catalog.get)})  # noqa: S102 - this is what is tested


def choose_cause(panel: BatchPanel) -> None:
    """Choose a cause that other rows' status has too."""
    pick(panel, panel.view.failures.choices, BAD)


@cases(
    (lambda panel: pick(panel, panel.view.failures.choices, SHOP), [13, 14], f'.retry_failed("{SHOP}")'),
    (choose_cause, [15], '.retry_failed((errors := batch.errors())[errors["cause"] == "INTERNAL"])'),
    (lambda panel: pick(panel, panel.view.rows.states, "succeeded"), [*range(18, 28)], "state == 'succeeded'"),
    (lambda panel: find(panel, "shop:chur"), [2, 7, 22, 27], '[rows["shop"].astype(str).str.lower() == "chur"])'),
    (lambda panel: find(panel, "no shop"), [13, 14], 'column.astype(str).str.contains("no shop", case=False'),
    (
        lambda panel: panel.view.rows.table.select(panel.view.rows.table.page_keys[1:4]),
        [1, 2, 3],
        ".resend(batch.tasks().iloc[1:4])",
    ),
    ids=["cause", "status", "state", "column", "text", "selection"],
)
def test_the_line_does_the_same_as_the_button(
    panel: BatchPanel,
    batch: Batch,
    harness: Harness,
    choose: Callable[[BatchPanel], None],
    wanted: list[int],
    line: str,
) -> None:
    """All rows that are chosen are sent again by one click; the line is a query, and it runs."""
    if "chur" in line:
        pick(panel, panel.view.rows.states, "all")
    choose(panel)
    panel.settle()
    actions = panel.view.actions
    assert actions.resend.description == f"Send again ({len(wanted)})"
    user.click(panel, actions.resend)
    if len(wanted) > 10 or not set(wanted).isdisjoint(range(18, 28)):  # rows that succeeded are asked about
        assert line in user.confirm(panel).line
    harness.sent(batch)
    assert tries(batch) == wanted
    assert line in panel.footer.line
    record(harness, batch, State.FAILED, {row: MESSAGES.get(row, "KeyError: 7") for row in wanted})
    run(harness, panel.footer.line)
    harness.sent(batch)
    again = batch.tasks()["try"]
    assert again.index[again == 3].tolist() == wanted or "succeeded" in line


def test_results_are_beside_the_inputs(panel: BatchPanel, batch: Batch) -> None:
    """Succeeded rows have the fields of their results as columns; what is not stored is counted."""
    tasks = batch.tasks()["task"]
    pick(panel, panel.view.rows.states, "succeeded")
    assert "10 succeeded rows, of which no results are stored" in panel.static_html()
    for row in range(18, 27):
        answer(batch, tasks[row], {"sold": row, "by": ["<i>"]})
    panel.view.show(batch)
    pick(panel, panel.view.rows.states, "succeeded")
    table: Any = panel.view.rows.table
    assert [column.name for column in table._columns][:5] == ["row", "shop", "day", "sold", "by"]
    shown = panel.static_html()
    assert "10 succeeded rows, 1 of them without a stored result" in shown
    assert "[&quot;&lt;i&gt;&quot;]" in shown
    user.look_at(table, table._shown.ids[0])
    panel.settle()
    assert "&quot;sold&quot;: 18" in panel.view.story.value


def test_rows_are_sorted_by_a_field_of_their_results(
    panel: BatchPanel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are, those without the field last."""
    monkeypatch.setattr(row_query, "_SCANNED", 2)
    tasks = batch.tasks()["task"]
    for row in range(18, 26):
        answer(batch, tasks[row], {"sold": abs(row - 21), "day": row})
    pick(panel, panel.view.rows.states, "succeeded")
    ask(panel, do="sort", column="sold", descending=True)
    assert on_page(panel) == [25, 18, 24, 19, 23, 20, 22, 21, 26, 27]
    ask(panel, do="sort", column="day_result", descending=True)
    assert on_page(panel) == [*range(25, 17, -1), 26, 27]


def test_results_are_shown_as_soon_as_all_have_succeeded(harness: Harness) -> None:
    """Nobody has to look for what the function returned; the rows are not taken for chosen ones."""
    batch = harness.sent(harness.queue().fan_out(ROWS.head(2), url="https://svc/{shop}", progress=False))
    panel = user.show(batch.panel())
    for task in batch.tasks()["task"]:
        answer(batch, task, {"sold": 7})
    harness.finish(batch)
    panel.refresh()
    panel.settle()
    table: Any = panel.view.rows.table
    assert "2 succeeded rows" in panel.static_html()
    assert "sold" in [column.name for column in table._columns]
    assert panel.view.actions.resend.disabled


def test_the_first_five_fields_of_the_results_are_columns(panel: BatchPanel, batch: Batch) -> None:
    """Results with many fields do not push the other columns out of sight; one named as one of ours is among them."""
    answer(batch, batch.tasks()["task"][18], dict.fromkeys(["duration", *"abcdefgh"], 1))
    pick(panel, panel.view.rows.states, "succeeded")
    table: Any = panel.view.rows.table
    names = [column.name for column in table._columns]
    assert [name for name in names if len(name) == 1 or "_result" in name] == ["duration_result", *"abcd"]


def test_a_row_opens_with_its_error_and_its_payload(panel: BatchPanel, batch: Batch) -> None:
    """Traceback or message, request and attempts are below the table."""
    table: Any = panel.view.rows.table
    task = batch.tasks()["task"][13]
    user.look_at(table, table._shown.ids[12])
    panel.settle()
    shown = panel.view.story.value + panel.view.detail.card.value
    for words in ("Row 13", SHOP, "POST https://svc/%3Cb%3E", "&quot;day&quot;: 13", task):
        assert words in shown
    assert panel.view.actions.resend.disabled
    panel.view.show(None)
    assert (panel.view.story.value, panel.view.detail.card.value) == ("", "")


def seen(panel: BatchPanel) -> list[str]:
    """Return the states of the rows that are shown."""
    table: Any = panel.view.rows.table
    return [cells[1][0] for cells in table._shown.cells]


def test_rows_that_are_tried_again_stay_in_sight(
    panel: BatchPanel, batch: Batch, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go from waiting to what they end with; heading and status say how many, and the example goes."""
    monkeypatch.setattr(batch_rows, "_PAUSE_FACTOR", 0)
    failures = panel.view.failures
    pick(panel, failures.choices, KEY)
    pick(panel, failures.choices, KEY, do="act")
    user.confirm(panel)
    harness.sent(batch)
    panel.refresh()
    assert (days(panel), failures.choices.picked, failures.example.value) == (list(range(12)), None, "")
    assert "12 rows that were sent again" in panel.static_html()
    assert "12 queued" in panel.view.rows.html()
    assert panel.footer.status == f"12 rows of batch {batch.id} will be tried again"
    assert panel.view.actions.resend.disabled, "the user has chosen none of them"
    record(harness, batch, State.SUCCEEDED, dict.fromkeys(range(11)))
    panel.refresh()
    assert seen(panel) == ["succeeded"] * 11 + ["ready"]
    record(harness, batch, State.FAILED, {11: SHOP})
    panel.refresh()
    assert panel.footer.status == "of 12 rows that were sent again, 11 succeeded, 1 failed"
    assert days(panel) == list(range(12))
    pick(panel, panel.view.rows.states, "failed")
    assert days(panel) == [11, 13, 14, 15]


def test_the_example_goes_with_its_cause(panel: BatchPanel, batch: Batch, harness: Harness) -> None:
    """Somebody else has retried the rows of the cause that is chosen here."""
    pick(panel, panel.view.failures.choices, BAD)
    assert "Example: row 15" in panel.view.failures.example.value
    batch.retry_failed(BAD)
    panel.refresh()
    assert (panel.view.failures.choices.picked, panel.view.failures.example.value) == (None, "")


def test_a_column_of_the_input_may_have_any_name(harness: Harness) -> None:
    """It is shown, found and sorted by its own values."""
    odd = pd.DataFrame({"_ref": [5, 6], "": ["x", "y"], "<b>": [1, 2]})
    panel = user.show(harness.sent(harness.queue().fan_out(odd, url="https://svc/{_ref}", body=["", "<b>"])).panel())
    table: Any = panel.view.rows.table
    assert [cells[3:6] for cells in table._shown.cells] == [["5", "x", "1"], ["6", "y", "2"]]
    find(panel, "_ref:6")
    assert [cells[3] for cells in table._shown.cells] == ["6"]


def test_a_column_that_the_data_does_not_have_is_named(panel: BatchPanel) -> None:
    """Headings are the names that a search expects; what looks like a column and is none is an error."""
    table: Any = panel.view.rows.table
    assert [column.heading for column in table._columns][:5] == ["Row", "State", "Message", "shop", "day"]
    find(panel, "Shop:bern")
    assert panel.footer.alert == {
        "text": 'the data of this batch has no column "Shop"',
        "hint": "did you mean shop?",
    }
    find(panel, "shop:bern")
    assert (panel.footer.alert, days(panel)) == ({}, [0, 4, 5, 9, 10, 14, 15])


@cases("17", "17.0")
def test_a_whole_number_is_found_beside_missing_ones(harness: Harness, text: str) -> None:
    """Pandas makes floats of such a column: numbers are compared as numbers."""
    rows = pd.DataFrame({"shop": [17, 3, None]}).assign(day=[0, 1, 2])
    panel = user.show(harness.sent(harness.queue().fan_out(rows, url="https://svc", body=["shop", "day"])).panel())
    find(panel, f"shop:{text}")
    assert on_page(panel) == [0]


def test_a_cause_has_its_share_and_what_its_rows_have_in_common(panel: BatchPanel) -> None:
    """The shares are of all rows that fail; what is in common is read with the times."""
    items = {item["text"]: item for item in panel.view.failures.choices.items}
    assert [items[text]["percent"] for text in (KEY, SHOP, BAD)] == ["76 %", "18 %", "6 %"]
    assert items[BAD]["common"] == ""
    panel.view.failures._common = {BAD: "shop=bern 100 %"}
    panel.view.failures._offer()
    items = {item["text"]: item for item in panel.view.failures.choices.items}
    assert items[BAD]["common"] == "shop=bern 100 %"
    assert "shop=bern 100 %" in panel.view.failures.html()
