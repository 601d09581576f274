"""The queues with state, depth and limits, kept up to date; buttons that pause, resume, purge and edit limits."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb._frames import QUEUES, frame, is_missing
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, UNLIMITED
from cloudtasks_nb.display.card import facts_html, html_card, lines_html, section_html, state_html
from cloudtasks_nb.display.charts import sparkline
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text, counted, percent_text
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.code import quoted
from cloudtasks_nb.panels.forms.request_form import field
from cloudtasks_nb.panels.panel import WIDE, Panel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.footer import Question
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.service.costs import log_note
from cloudtasks_nb.service.watch import Snapshot

__all__ = ["LimitsForm", "QueuesPanel"]

_COLUMNS = (
    Column("queue", kind="name", width="min(12em, 30cqw)"),
    Column("state", kind="state"),
    Column("tasks", kind="count"),
    Column("held_up_by", "Held up by", kind="lines", hidden_if="empty", tip="Why its tasks wait although it runs"),
    Column("oldest_due", "Oldest due", kind="due", tip="The schedule of the task that waits longest"),
    Column(
        "failed_last_minute",
        "Failed/min",
        kind="count",
        hidden_if="empty",
        tip="Attempts that failed in the last minute, by the log of the queue",
    ),
    Column(
        "done_last_minute",
        "Attempts/min",
        kind="count",
        tip="Attempts that ended in the last minute, good and bad: a task that is tried again counts each time",
    ),
    Column("running", kind="count"),
    Column("rate", "Rate /s", kind="count"),
    Column("max_concurrent", "At once", kind="count"),
)
_MANY = 8  # queues above which a field to search them is shown
_KEPT = 120  # most depths of a queue in its sparkline
_FRESH = 2.0  # seconds for which a panel that becomes visible does not list the queues again
_SEEN = 3  # times the interval; after that the chart has a gap
_AT_LIMIT = 0.9  # share of the queue's rate from which on the queue is what limits its tasks
_MINUTE = 60_000_000  # microseconds
_STALE = 15.0  # seconds after which a snapshot makes the panel list the queues again


class QueuesPanel(Panel):
    """The queues of a connection, or one queue.

    Buttons change the selected queues; without a selection, the current one, which is `queue`.

    Parameters
    ----------
    context : PanelContext
    framed : bool
    on_open : callable, optional
        Called with the short id of a queue that is opened by Enter or a double click.
    on_pick : callable, optional
        Called with the short id of a queue that is clicked, or becomes the only selected one, before it is shown.
    on_queues : callable, optional
        Called with the short ids of all queues after each listing.
    on_made : callable, optional
        Called after a queue was made, with the message about that.
    """

    def __init__(
        self,
        context: PanelContext,
        *,
        framed: bool = True,
        on_open: Callable[[str], object] | None = None,
        on_pick: Callable[[str], object] | None = None,
        on_queues: Callable[[list[str]], object] = lambda _: None,
        on_made: Callable[[str], object] = lambda _: None,
    ) -> None:
        super().__init__(context, "Queues", framed=framed)
        self._on_pick, self._on_queues, self._on_made = on_pick or self.use, on_queues, on_made
        self._depths: dict[str, deque[tuple[float, float | None]]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._failures: dict[str, dict[str, int]] = {}  # queue -> id in the log and time of attempts that have failed
        self._since = 0  # from when on the logs are read, microseconds since 1970
        self._read = 0.0
        self._showing = threading.RLock()
        self.table = self.attach(Table(_COLUMNS, key="queue", label="queues", empty="No queues yet"))
        self.table.on_open = on_open
        self.table.on_select = lambda queues: self.guarded(self._selected, queues)
        self.table.on_show = lambda queue: self.guarded(self._on_pick, queue)
        self.table.on_page = lambda _: self.guarded(self.resubscribe)
        self.totals, self.card = widgets.HTML(), widgets.HTML()
        self.editor = widgets.VBox().add_class("ctn-editor")
        self._edited = ""  # the queue whose limits are in the form
        self._make_buttons()
        self.notify("", line="tasks.queues()")
        self._fill()
        self.refresh()

    def _make_buttons(self) -> None:
        button = self.change_button
        self.target = widgets.HTML().add_class("ctn-target")
        self.find = widgets.Text(placeholder="Find a queue", layout=WIDE)
        self.control(self.find, lambda: self.table.filter(self.find.value))
        self.find.tooltip = "Show only queues with this in their name or state"
        tip = "Stop dispatching; tasks are still accepted"
        self.pause = button("Pause", lambda: self._switch("pause", "paused"), tip)
        self.resume = button("Resume", lambda: self._switch("resume", "resumed"), "Dispatch again")
        self.edit = button("Edit limits", self._edit, "Rate, concurrency, retries")
        self.new = button("New queue", self._open_new, "Create a queue")
        self.purge = button("Purge", self._ask_purge, "Delete all its tasks", style="danger")

    @cached_property
    def _editing(self) -> list[widgets.Widget]:
        """What is in the editor while limits are edited; made when it is first opened."""
        self.form = LimitsForm(lambda: self.guarded(self._preview))
        self._form_title = widgets.HTML()
        self.save = self.change_button("Save limits", self._save, style="primary")
        self.cancel = self.change_button("Cancel", self._close_form)
        return [self._form_title, self.form, self.row(self.save, self.cancel)]

    @cached_property
    def _creating(self) -> list[widgets.Widget]:
        """The same for a new queue."""
        self.new_name = widgets.Text("reports", description="Name", placeholder="letters, digits and hyphens")
        self.new_name.tooltip = "Name of the new queue"
        self.create = self.button("Create queue", self._create, changes=True, style="primary")
        drop = self.button("Close", self._close_form, changes=False, inline=True)
        title = section_html("A new queue", "")
        settings = ", ".join(f"{name}={value}" for name, value in self.context.new_settings.items())
        what = "It holds tasks, and calls their functions or URLs no faster than its limits allow."
        note = f'<p class="ctn-quiet">{what} It is made with {html.escape(settings)}; Edit limits changes that.</p>'
        return [widgets.HTML(title + note), self.row(self.new_name, self.create, drop)]

    def _fill(self) -> None:
        self._close_form()
        buttons = [self.target, self.pause, self.resume, self.edit, self.purge]
        buttons = [] if self.context.read_only else buttons if self.context.create is None else [*buttons, self.new]
        editor = [] if self.context.read_only else [self.editor]
        self.fill(self.totals, self.row(*buttons, self.find), *editor, self.table, self.card)

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queues on the page, with their logs; Google's quota allows to read one of them."""
        read = set(self.table.page_keys) if self.context.local else {self.queue}
        return {self.context.name(queue): self._since if queue in read else None for queue in self.table.page_keys}

    def became_visible(self) -> None:
        """List the queues, unless that was done in the last two seconds."""
        self._since = self.context.connection.clock.micros() - _MINUTE
        if time.monotonic() > self._read + _FRESH:
            self.spawn(asyncio.to_thread(self.refresh))

    def queue_changed(self) -> None:
        """Make the queue the current one; another one is not selected any more."""
        self.table.show(self.queue)
        if len(self.table.selected) == 1 and self.table.selected != [self.queue]:
            self.table.select([])
        self._show()

    def refresh(self) -> None:
        """List the queues with their settings and statistics."""
        self._read = time.monotonic()
        found = self.context.queues()
        self.watching.record_answer(self.context.connection.clock.micros() / 1e6)
        waiting = {name: self._absent(found.loc[name]) for name in found.index}
        rows = [self._remember(found.loc[[name]], held_up_by=waiting[name]) for name in found.index]
        with self._lock:
            self._values = {name: self._values[name] for name in found.index}
        self.table.load(pd.concat(rows) if rows else found.assign(held_up_by=None, failed_last_minute=None))
        self.find.layout.display = None if len(found) > _MANY else "none"
        self.resubscribe()
        self._show()
        self._on_queues(found.index.tolist())
        if found.empty and self.context.create is not None and not self.context.read_only:
            self._open_new()

    def apply(self, snapshot: Snapshot) -> None:
        """Show the settings and statistics of one queue."""
        values = snapshot.values  # noqa: PD011 - a mapping, no frame
        if snapshot.gone:
            self._values.pop(snapshot.queue.queue, None)
            self.table.drop([snapshot.queue.queue])
            self.resubscribe()
        elif values is not None:
            row = frame(QUEUES, {key: [value] for key, value in values.items()}, index="queue")
            self.table.patch(self._remember(row, failed_last_minute=self._count_failures(snapshot, values)))
        self._show()
        if time.monotonic() > self._read + _STALE:
            self._read = time.monotonic()
            self.spawn(asyncio.to_thread(self.refresh))

    def static_html(self) -> str:
        """Return the totals and the table."""
        return self.totals.value + self.table.html()

    def _remember(self, row: pd.DataFrame, **more: Any) -> pd.DataFrame:
        """Keep the values of one queue's row, and add its depth to the sparkline; return the row for the table.

        What only a listing or only a snapshot knows is kept until the next one.
        """
        values: dict[Any, Any] = row.reset_index().iloc[0].to_dict()
        name, now = values["queue"], time.monotonic()
        depth = None if is_missing(values["tasks"]) else float(values["tasks"])
        with self._lock:
            before = self._values.get(name, {"held_up_by": None, "failed_last_minute": None})
            kept = {key: more.get(key, before[key]) for key in ("held_up_by", "failed_last_minute")}
            depths = self._depths.setdefault(name, deque(maxlen=_KEPT))
            if depths and now - depths[-1][0] > _SEEN * max(self.every, _FRESH):
                depths.append((now, None))  # a gap: the queue was not watched meanwhile
            depths.append((now, depth))
            self._values[name] = {**values, **kept}
        kept["held_up_by"] = kept["held_up_by"] or _limit(values)
        return row.assign(**{key: [value] for key, value in kept.items()})

    def _absent(self, values: Mapping[str, Any]) -> str | None:
        """Return which handlers the tasks of a queue wait for; known of the embedded emulator only."""
        if self.context.connection.endpoint.http is None or is_missing(values["tasks"]) or not values["tasks"]:
            return None
        absent = self.context.connection.absent_handlers(values["name"])
        return f"nothing listens at {', '.join(absent)}" if absent else None

    def _count_failures(self, snapshot: Snapshot, values: Mapping[str, Any]) -> int | None:
        """Return how many attempts failed in the last minute; None if the log has none of them."""
        failures = self._failures.setdefault(snapshot.queue.queue, {})
        failures |= {one.insert_id: one.time for one in snapshot.entries if one.status not in ("OK", "")}
        for name in [name for name, at in failures.items() if at < snapshot.at - _MINUTE]:
            del failures[name]
        known = values["log_sampling_ratio"] and (snapshot.log_until is not None or snapshot.entries)
        return len(failures) if known else None

    def _selected(self, queues: list[str]) -> None:
        if len(queues) == 1:
            self._on_pick(queues[0])
        self._show()

    def _show(self) -> None:
        """Show the card of the current queue, and on which queues the buttons act."""
        with self._showing:  # the last thread has the newest selection
            self._show_picked(self._picked())

    def _show_picked(self, picked: list[str]) -> None:
        one = picked[0] if len(picked) == 1 else None
        names = ", ".join(picked)
        words = counted(len(picked), "queues") if len(picked) > 1 else one or "no queue"
        self.target.value = f'<b title="{html.escape(names)}">{html.escape(words)}</b>'
        with self._lock:
            values = self._values.get(one) if one else None
            depths = tuple(self._depths[values["queue"]]) if values else ()
        self.card.value = _queue_card(values, depths, note=self._log_note(values)) if values else ""
        self.totals.value = _queues_html([self._values[name] for name in list(self._values)])
        states = {self._values[name]["state"] for name in picked if name in self._values}
        self.enable(self.pause, "RUNNING" in states)
        self.enable(self.resume, bool(states - {"RUNNING"}))
        self.enable(self.edit, one is not None)
        self.enable(self.purge, one is not None)

    def _log_note(self, values: Mapping[str, Any]) -> str:
        """Return what the log of a busy queue costs; an emulator's costs nothing."""
        if self.context.local or is_missing(values["done_last_minute"]):
            return ""
        return log_note(self.context.name(values["name"]), values["done_last_minute"], values["log_sampling_ratio"])

    def _picked(self) -> list[str]:
        """Return the selected queues; without a selection the current one, or the only one."""
        selected: list[str] = self.table.selected
        if selected or (self.table.current is None and self.table.total != 1):
            return selected
        return [self.table.current or self.table.page_keys[0]]

    def _one(self) -> str:
        picked = self._picked()
        if len(picked) != 1:
            raise InvalidInputError(f"{len(picked)} queues are selected", hint="select one")
        return picked[0]

    def _switch(self, verb: str, done: str) -> None:
        names = self._picked()  # now: what is selected when the work runs may be others
        self.start(lambda: self._call(names, verb, done), changes=True)

    def _call(self, names: list[str], verb: str, done: str) -> None:
        for name in names:
            getattr(self.context.queue(name), verb)()
            self.notify(f"{done} {name}", line=self.context.line(name, verb))
        self.poll_now()
        if len(names) > 1:
            loop = f"for name in {quoted(names)}: tasks.queue(name).{verb}()"
            self.notify(f"{done} {len(names)} queues: {', '.join(names)}", line=loop)

    def _ask_purge(self) -> None:
        name = self._one()
        depth = self._values[name]["tasks"]
        many = "all tasks" if is_missing(depth) else f"about {counted(int(depth), 'tasks')}"
        self.ask(
            Question(
                title=f"Purge the queue {name}?",
                scope=f"Deletes {many}: everything in {self.context.name(name)} at that moment, including scheduled "
                "and retrying tasks. This cannot be undone.",
                verb=f"Purge {many}",
                line=self.context.line(name, "purge"),
                typed=name,
            ),
            lambda: self._call([name], "purge", "purged"),
        )

    def _edit(self) -> None:
        name = self._one()
        with self.owner.making():
            fields = self._editing
        self._edited = name
        self.form.show(self._values[name])
        self._form_title.value = section_html(f"Limits of {name}", "")
        self.editor.layout.display = None  # before its fields are drawn: the first one then gets the focus
        self.editor.children = fields

    def _open_new(self) -> None:
        self.editor.layout.display = None
        with self.owner.making():
            self.editor.children = self._creating

    def _create(self) -> None:
        name = self.new_name.value.strip()
        assert self.context.create is not None  # noqa: S101 - else there is no button
        self.context.create(name)  # its note says with which settings
        done = self.footer.status or f"the queue {name} was there already"
        self._close_form()
        self.refresh()
        self._on_pick(name)  # which takes the status down
        self.notify(done, line=f"tasks.queue({quoted(name)}, create=True)")
        self._on_made(done)

    def _close_form(self) -> None:
        self.editor.children = ()
        self.editor.layout.display = "none"

    def _preview(self) -> None:
        """Show the line of Python for the changes in the form, while it is edited."""
        changes = self.form.changes
        self.footer.alert = {}  # the last error was about a value that was still being typed
        if changes:
            self.footer.line = self.context.line(self._edited, "update", **changes)
        self.enable(self.save, bool(changes))

    def _save(self) -> None:
        queue, changes, words = self._edited, self.form.changes, self.form.words
        self.start(lambda: self._update(queue, changes, words), changes=True)

    def _update(self, queue: str, changes: Mapping[str, Any], words: str) -> None:
        self.context.queue(queue).update(**changes)
        self.notify(f"{queue}: {words}", line=self.context.line(queue, "update", **changes))
        self._close_form()
        self.poll_now()


def _limit(values: Mapping[str, Any]) -> str | None:
    """Return that a queue dispatches as fast, or as much at a time, as it may, if it does."""
    names = ("rate", "done_last_minute", "tasks", "running", "max_concurrent")
    rate, done, tasks, running, most = (0 if is_missing(values[name]) else values[name] for name in names)
    if tasks and done and done >= _AT_LIMIT * 60 * rate:
        return f"its limit of {rate:,.6g}/s"
    return f"its limit of {most:,} at a time" if tasks > running >= most > 0 else None


#: Title, hint and type of each field; a duration is a text, which `update` parses.
_FIELDS: dict[str, tuple[str, str, type[float | str]]] = {
    "rate": ("Dispatches a second", "at most 500", float),
    "max_concurrent": ("Running at once", "at most 5,000", int),
    "max_attempts": ("Attempts a task", "unlimited", int),
    "max_retry_duration": ("Retry for at most", "unlimited", str),
    "min_backoff": ("Shortest wait", "0.1s", str),
    "max_backoff": ("Longest wait", "1h", str),
    "max_doublings": ("Doublings of the wait", "16", int),
    "log_sampling_ratio": ("Share that is logged", "1 logs all, 0 logs nothing", float),
}
_NO_LIMIT = "unlimited"
_NO_LIMIT_WORDS = ("", _NO_LIMIT, "no limit", "none")


class LimitsForm(widgets.VBox):
    """Fields for the settings of one queue.

    Parameters
    ----------
    changed : callable
        Called when the text of a field changes.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._before: dict[str, str] = {}
        self.fields = {setting: _field(setting) for setting in QUEUE_SETTINGS}
        for part in self.fields.values():
            part.observe(lambda _: changed(), "value")
        super().__init__([widgets.HBox(list(self.fields.values())).add_class("ctn-form")])

    def show(self, values: Mapping[str, Any]) -> None:
        """Fill the fields with a row of `tasks.queues()`."""
        self._before = {setting: _text(setting, values[setting]) for setting in QUEUE_SETTINGS}
        for setting, text in self._before.items():
            self.fields[setting].value = text

    @property
    def changes(self) -> dict[str, Any]:
        """The fields whose text was changed, as arguments of `queue.update`.

        Raises
        ------
        InvalidInputError
            If the text of a field is not a number.
        """
        return {setting: _value(setting, text) for setting, text in self._changed_texts()}

    @property
    def words(self) -> str:
        """The changes as words: ``max_attempts 5 → unlimited``."""
        return ", ".join(f"{setting} {self._before[setting]} \u2192 {text}" for setting, text in self._changed_texts())

    def _changed_texts(self) -> list[tuple[str, str]]:
        texts = ((setting, _normal(setting, part.value.strip())) for setting, part in self.fields.items())
        return [(setting, text) for setting, text in texts if text != self._before.get(setting)]


def _field(setting: str) -> widgets.Text:
    title, tip, _ = _FIELDS[setting]
    made: widgets.Text = field(widgets.Text, title, tip, tip=f"{setting}: {tip}")
    return made


def _text(setting: str, value: Any) -> str:
    text = f"{value.total_seconds():g}s" if _FIELDS[setting][2] is str else f"{value:g}"
    return _normal(setting, text)


def _normal(setting: str, text: str) -> str:
    """Return one text for all that mean that there is no limit; other texts as they are."""
    if setting not in UNLIMITED:
        return text
    number = f"{UNLIMITED[setting]}"
    return _NO_LIMIT if text.lower() in (*_NO_LIMIT_WORDS, number, f"{number}s") else text


def _value(setting: str, text: str) -> Any:
    title, _, kind = _FIELDS[setting]
    if text == _NO_LIMIT and setting in UNLIMITED:
        return f"{UNLIMITED[setting]}s" if kind is str else UNLIMITED[setting]
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidInputError(f'{title}: "{text}" is not {wanted}', resource=setting) from None


def _queue_card(values: Mapping[str, Any], depths: Sequence[tuple[float, float | None]], *, note: str = "") -> str:
    """Return the card of a queue.

    Parameters
    ----------
    values : mapping
        A row of `tasks.queues()`, with the name of the queue as `queue`.
    depths : sequence of (float, float or None)
        Times in seconds and the depths then, oldest first.
    note : str
        Shown below.
    """
    name = values["queue"]
    chart = sparkline(depths, label=f"depth of {name}")
    depth = "depth not known" if is_missing(values["tasks"]) else f"<b>{count_text(values['tasks'])}</b> tasks"
    head = f'<div class="ctn-depth">{chart}<div>{depth}<br>{state_html(values["state"])}</div></div>'
    figures = f'<div class="ctn-figures">{head}{facts_html(_figures(values))}</div>'
    return html_card(name, figures, lines_html([note]), label=f"queue {name}")


def _queues_html(queues: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of several queues together; empty for fewer than two."""
    if len(queues) < 2:  # noqa: PLR2004 - they have no sum
        return ""

    def known(name: str) -> list[Any]:
        return [values[name] for values in queues if not is_missing(values[name])]

    failed = known("failed_last_minute")
    figures = {
        "queues": count_text(len(queues)),
        "paused": count_text(paused) if (paused := sum(values["state"] == "PAUSED" for values in queues)) else "",
        "tasks": count_text(sum(known("tasks"))),
        "running": count_text(sum(known("running"))),
        "attempts last minute": count_text(sum(known("done_last_minute"))),
        "failed last minute": count_text(sum(failed)) if failed else "",
        "oldest due": min(known("oldest_due"), default=None),
    }
    return facts_html(figures)


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    def known(name: str, suffix: str = "") -> str:
        return "" if is_missing(values[name]) else f"{count_text(values[name])}{suffix}"

    running = f"{known('running')} of {known('max_concurrent')}" if known("running") else ""
    rate, allowed = known("effective_rate"), known("rate", "/s")
    attempts = "unlimited" if values["max_attempts"] == -1 else known("max_attempts")
    return {
        "running": running,
        "attempts last minute": known("done_last_minute"),
        "failed last minute": known("failed_last_minute"),
        "rate": f"{rate} of {allowed}" if rate and f"{rate}/s" != allowed else allowed,
        "oldest due": "" if is_missing(values["oldest_due"]) else values["oldest_due"],
        "attempts": attempts,
        "retry time": _span(values["max_retry_duration"]) if values["max_retry_duration"] else "unlimited",
        "waits": f"{_span(values['min_backoff'])} to {_span(values['max_backoff'])}",
        "logged": percent_text(values["log_sampling_ratio"]),
        "target": "" if is_missing(values["target"]) else str(values["target"]),
    }


def _span(value: Any) -> str:
    return duration_text(value.total_seconds())
