"""The newest attempts on a queue's tasks, from the operations log, and the details of the selected attempt."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ATTEMPTS, column
from cloudtasks_nb._names import CODES, QueueName
from cloudtasks_nb.display.card import facts_html, html_card, section_html
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import percent_text
from cloudtasks_nb.display.times import from_micros
from cloudtasks_nb.panels.cards.task import errors_of_attempts, tracebacks
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.row_columns import BATCH, MESSAGE, ROW, SEARCHED, TARGET, find_field, row_columns
from cloudtasks_nb.panels.widgets.cells import Column, code_html
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.service.oplog import Entry, Wanted, read
from cloudtasks_nb.service.watch import Snapshot

__all__ = ["AttemptsPanel"]

_COLUMNS = (
    Column("status", "Answer", kind="state"),
    ROW,
    MESSAGE,
    Column("time", kind="time", width="11em"),
    BATCH,
    Column("attempt", "Attempt", kind="count"),
    Column("duration", "Took", kind="duration", width="6em"),
    TARGET,
)
_ANY, _ERRORS = "any answer", "errors"
_STATUSES: dict[str, tuple[str, ...]] = {_ANY: (), _ERRORS: tuple(name for name in CODES if name != "OK")}
_SINCE = (("last 15 minutes", 900), ("last hour", 3_600), ("last 6 hours", 21_600), ("last day", 86_400))
_KEPT = 2_000  # most attempts in the table
_SECOND = 1_000_000


class AttemptsPanel(Panel):
    """Attempts on the tasks of a queue, newest first."""

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        super().__init__(context, f"Attempts on {queue}" if framed else "Attempts", queue=queue, framed=framed)
        self._entries: dict[str, Entry] = {}  # by insert id, changed under the lock
        self._since: int | None = None
        self._status = _ANY  # what was read of the log
        self._more = False  # the log has more attempts of the period than the table
        self.table = self.attach(
            Table(
                _COLUMNS,
                key="insert_id",
                label="attempts",
                selectable=False,
                empty="No attempts in the log in this time",
                searched=SEARCHED,
            )
        )
        self.table.sort("time", descending=True)
        self.table.on_show = lambda key: self.guarded(self._open, key)
        self.detail = widgets.HTML().add_class("ctn-follow")
        self.hint = widgets.HTML()
        self.kept = widgets.HTML()
        self._make_controls()
        self._show_line()
        self.fill(self.row(self.status, self.back, self.find), self.hint, self.kept, self.table, self.detail)

    def _make_controls(self) -> None:
        options = (_ANY, _ERRORS, *CODES)
        self.status = self.control(widgets.Dropdown(options=options, layout={"width": "12em"}), self._choose_status)
        self.status.tooltip = "Show only these answers"
        self.back = self.control(widgets.Dropdown(options=_SINCE, value=3_600, layout={"width": "11em"}), self._reread)
        self.back.tooltip = "Show attempts of this period"
        self.find = self.control(find_field(), self._filter)

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queue; its log is read from shortly before the newest attempt in the table."""
        return {self.context.name(self.queue): self._since} if self.queue and self._since is not None else {}

    def became_visible(self) -> None:
        """Read the log when the panel becomes visible, unless it was read within the last ten minutes."""
        stale = self._since is None or self.context.connection.clock.micros() - self._since > 600 * _SECOND
        if stale and not self.footer.busy:
            self.start(self.refresh, changes=False)

    def queue_changed(self) -> None:
        """Empty the table, and read the attempts on the other queue if the panel is visible."""
        with self._lock:
            self._since, self._entries, self._more = None, {}, False
            self.table.clear()
        self.detail.value = self.hint.value = self.kept.value = ""
        self._reread()

    def refresh(self) -> None:
        """Read the newest attempts again."""
        while self.queue:
            queue, now = self.context.name(self.queue), self.context.connection.clock.micros()
            status, period = self.status.value, self.back.value
            wanted = Wanted(since=now - period * _SECOND, statuses=_STATUSES.get(status, (status,)))
            found = _loop.run(read(self.context.connection.transport, queue, wanted, _KEPT + 1))
            rows = self._frame(found[:_KEPT])
            with self._lock:
                if queue.queue != self.queue:
                    continue  # another queue was chosen meanwhile
                self._status, self._more = status, len(found) > _KEPT
                self._entries = {entry.insert_id: entry for entry in found[:_KEPT]}
                self.table.load(rows)
                self._since = max([entry.time for entry in found], default=now) - 60 * _SECOND
                self.watching.record_answer(now / _SECOND, queue)
                self.read_until(now / _SECOND)
            self._show_kept()
            break
        self.resubscribe()

    def apply(self, snapshot: Snapshot) -> None:
        """Add new attempts; only the newest 2,000 are kept."""
        values = snapshot.values  # noqa: PD011 - a mapping, no frame
        if snapshot.queue.queue != self.queue:
            return
        if values is not None:
            self._show_sampling(values["log_sampling_ratio"])
        wanted = _STATUSES.get(self._status, (self._status,))
        with self._lock:
            new = [
                entry
                for entry in snapshot.entries
                if not entry.deleted and entry.insert_id not in self._entries and (not wanted or entry.status in wanted)
            ][-_KEPT:]
            self._entries.update((entry.insert_id, entry) for entry in new)
        if new:
            self.spawn(self._add(new))

    async def _add(self, new: Sequence[Entry]) -> None:
        """Show new attempts; the oldest make room for them."""
        rows = await asyncio.to_thread(self._frame, new)
        with self._lock:
            self.table.patch(rows[rows.index.isin(list(self._entries))])
            over = max(0, len(self._entries) - _KEPT)
            oldest = sorted(self._entries.values(), key=lambda entry: entry.time)[:over]
            for entry in oldest:
                del self._entries[entry.insert_id]
            self.table.drop([entry.insert_id for entry in oldest])
            self._more |= bool(over)
        self._show_kept()

    def _show_kept(self) -> None:
        """Say that older attempts are not shown."""
        ends = {_ANY: "", _ERRORS: " that failed"}.get(self._status, f' that ended with "{self._status}"')
        text = f"The newest {_KEPT:,} attempts{html.escape(ends)} of this period; there are more."
        more = f'<span class="ctn-quiet">{text} Narrow it with a status or a shorter period.</span>'
        self.kept.value = more if self._more else ""

    def _choose_status(self) -> None:
        """Filter the attempts that were read; read the log again if it may have more with this status."""
        self._filter()
        self._show_line()
        if self._more or self._status not in {_ANY, self.status.value}:
            self._reread()

    def static_html(self) -> str:
        """Return the current page of the table."""
        return self.table.html()

    def _reread(self) -> None:
        self._show_line()
        if self.footer.visible:
            self.start_next(self.refresh)
        else:
            self._since = None  # read when it becomes visible

    def _show_line(self) -> None:
        minutes = self.back.value // 60
        since = f"{minutes // 60}h" if minutes >= 60 else f"{minutes}min"  # noqa: PLR2004 - an hour
        words = {} if self.status.value in _STATUSES else {"status": self.status.value}
        line = self.context.line(self.queue or "", "attempts", since, _KEPT, **words)
        self.footer.line = f"""{line}.query('status != "OK"')""" if self.status.value == _ERRORS else line

    def _show_sampling(self, ratio: float) -> None:
        fix = html.escape(self.context.line(self.queue or "", "update", log_sampling_ratio=1.0))
        none = f"This queue writes no log, so its attempts are not known: <code>{fix}</code>; {LOG_PRICE}"
        some = f"This queue logs only {percent_text(ratio)} of its operations, so attempts are missing here."
        self.hint.value = none if not ratio else some if ratio < 1 else ""

    def _filter(self) -> None:
        self.footer.alert = {}  # the last error was about a text that was still being typed
        self.table.filter(self.find.value, status=_STATUSES.get(self.status.value, (self.status.value,)) or None)

    def _open(self, key: Any) -> None:
        entry = self._entries.get(str(key))
        if entry is not None:
            self.detail.value = self._card(entry)

    def _frame(self, entries: Sequence[Entry]) -> pd.DataFrame:
        """Return attempts as rows of the table; reads from this machine, so not on the background loop."""
        names = ("time", "status", "attempt", "task", "duration", "retry_time", "url")
        made = {name: column([getattr(entry, name) for entry in entries], ATTEMPTS[name]) for name in names}
        made |= row_columns(self.context.catalog, [one.task for one in entries], [one.url for one in entries])
        failed, message = [one for one in entries if one.status != "OK"], self.context.connection.message
        here = errors_of_attempts(one.url for one in failed)
        causes = [here.get((one.task, one.attempt)) or message(one.queue, one.task, one.attempt) for one in failed]
        why = dict(zip([one.insert_id for one in failed], causes, strict=True))
        made["message"] = column([why.get(one.insert_id) for one in entries], "text")
        return pd.DataFrame(made, index=pd.Index([one.insert_id for one in entries], name="insert_id", dtype="str"))

    def _card(self, entry: Entry) -> str:
        message = self.context.connection.message(entry.queue, entry.task, entry.attempt)
        limit = f" of {entry.max_attempts}" if entry.max_attempts > 0 else ""
        shown: dict[str, str | datetime | None] = {
            "answer": entry.status,
            "attempt": f"{entry.attempt}{limit}",
            "time": from_micros(entry.time),
            "took": "" if entry.duration is None else duration_text(entry.duration),
            "next try": from_micros(entry.retry_time),
            "URL": entry.url,
            "message": message or "",
        }
        error = tracebacks(entry.url, entry.task).get(entry.attempt)
        parts = [facts_html(shown)] + ([section_html("Raised in this kernel", code_html(error))] if error else [])
        return html_card(f"Attempt {entry.attempt} of task {entry.task}", *parts)
