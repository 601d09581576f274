"""The buttons that retry, resend, resume or cancel rows of a batch, their questions, and their lines of Python."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ENDS
from cloudtasks_nb._names import CODES, QueueName
from cloudtasks_nb.display.charts import counts_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import find_secrets, mask_text
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.row_query import RowQuery
from cloudtasks_nb.fanout.batch.view import BatchView
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels.batch_list import method_of
from cloudtasks_nb.panels.batch_rows import BatchRows, RowsView
from cloudtasks_nb.panels.forms.code import quoted
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.footer import Question

__all__ = ["BatchActions", "contains_code", "places_code", "retry_code"]

_SHORT = 2  # places that are written one by one
_ASK_ABOVE = 10  # rows; a verb on more of them is confirmed in a prompt first


class _Shown(Protocol):
    """The batch that is shown, and its rows."""

    batch: Batch | None
    view: BatchView | None
    rows: BatchRows

    def follow(self, refs: Sequence[int]) -> None:
        """Show rows that were sent again, whatever their states become."""

    def changed(self) -> None:
        """Show the batch as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """Rows that would be sent again."""

    counts: Mapping[str, int]  #: how many rows are in which state
    scope: str  #: which rows these are
    code: Callable[[str], str]  #: returns the line of Python, given the expression of the batch
    send: Callable[[], object]  #: sends them
    refs: Callable[[], Iterable[int]] = list  #: returns them

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.counts.values())


_NOTHING = _Again(counts={}, scope="", code=str, send=lambda: None)


class BatchActions:
    """Buttons that change rows of a batch, and ask first where many rows are concerned.

    Parameters
    ----------
    panel : Panel
    shown : BatchDetails
        The batch, and which of its rows are selected.
    """

    def __init__(self, panel: Panel, shown: _Shown) -> None:
        self._panel, self._shown = panel, shown
        self._showing = threading.RLock()
        self._sent_status = ""  # that rows were sent again; shown until all of them have ended
        button = panel.change_button
        self.retry = button("Retry failed", self._ask_retry, "A new task for each row that failed")
        self.resume = button("Resume", self._ask_resume, "Send the unsent rows")
        self.cancel = button(
            "Cancel rest", self._ask_cancel, "Stop sending, and delete the tasks that are not done", style="danger"
        )
        tip = "A new task for each selected row that is done; if none is selected, for each row that you have chosen"
        self.resend = button("Send again", lambda: self._ask_again(self._again()), tip)
        self.buttons = (self.retry, self.resume, self.cancel)  #: for the batch as a whole; `resend` is for chosen rows

    def show(self) -> None:
        """Show on each button how many rows it would change."""
        with self._showing:  # the last caller has the newest numbers
            batch = self._shown.batch
            progress = None if batch is None else batch.progress()
            failed, gone = (progress.failed or 0, progress.gone or 0) if progress else (0, 0)
            counts = {
                self.retry: ("Retry failed", failed) if failed or not gone else ("Send again", gone),
                self.resend: ("Send again", self._again().count),
                self.resume: ("Resume", self._shown.view.waiting() if self._shown.view else 0),
                self.cancel: ("Cancel rest", progress.total - progress.done if progress else 0),
            }
            for button, (verb, count) in counts.items():
                waits = button is self.resume and self._queue_waits()
                text = "Resume the queue" if waits else f"{verb} ({count:,})" if count else verb
                if button.description != text:
                    button.description = text
                self._panel.enable(button, bool(count) or waits)
            self._show_sent()

    def _queue_waits(self) -> bool:
        """Return whether nothing goes on because the queue is paused."""
        batch = self._shown.batch
        return batch is not None and method_of(batch.progress()) == "queue.resume"

    def _show_sent(self) -> None:
        """Show the outcomes of rows that were sent again in the status, as soon as all of them have ended."""
        course = self._shown.rows.followed
        if course and not course[State.SENT.word] and self._sent_status == self._panel.footer.status:
            rows, _, states = counts_text(course, "rows").partition(": ")
            self._panel.notify(f"of {rows} that were sent again, {states}")

    def ask_retry_cause(self, cause: str) -> None:
        """Try the rows again that failed because of this, by its key; after a question if they are many."""
        batch, view, _ = self._opened()
        self._ask_again(_of_query(view, batch, RowQuery(state=State.FAILED.word, cause=cause)), retry=True)

    def _opened(self) -> tuple[Batch, BatchView, str]:
        """Return the batch, what is shown of it, and the Python expression that returns it."""
        batch, view = self._shown.batch, self._shown.view
        if batch is None or view is None:  # the buttons are disabled then
            raise LookupError("no batch is shown")
        return batch, view, "batch" if view.part else f"tasks.batch({quoted(batch.id)})"

    def _again(self) -> _Again:
        """Return which rows `resend` sends: the selected ones, else those that are chosen, if the user has chosen."""
        rows, view, batch = self._shown.rows, self._shown.view, self._shown.batch
        shown, whole = rows.shown, rows.whole  # once: another thread may show other rows meanwhile
        selected = [] if whole else rows.selected
        if view is None or batch is None or not (whole or selected or shown.chosen):
            return _NOTHING
        query = shown.query
        if selected:
            refs: Sequence[int] = view.reader.ended(selected)
            counts: Mapping[str, int] = view.reader.final(refs)
            scope = "that are selected"
        elif shown.found is None:
            return _of_query(view, batch, query)
        else:
            refs, counts = shown.found.refs, shown.found.final
            states = counts_text(counts, "rows").partition(": ")[2]
            scope = f"of {shown.periods} ({states})" if shown.periods else "that were found"
        by_text = not (selected or shown.periods or query.cause) and query.text
        return _Again(
            counts=counts,
            scope=scope,
            code=lambda code: _resend_code(
                code, _found_code(shown) if by_text else f"batch.tasks(){places_code(view.reader.positions(refs))}"
            ),
            send=lambda: view.send_again(query, refs),
            refs=lambda: refs,
        )

    def _ask_retry(self) -> None:
        batch, view, _ = self._opened()
        progress = batch.progress()
        if not progress.failed:  # then the button sends rows whose outcome is not known
            self._ask_again(_of_query(view, batch, RowQuery(state=State.GONE.word)))
            return
        failed = _of_query(view, batch, RowQuery(state=State.FAILED.word))
        self._ask_again(replace(failed, scope=f"that failed, of {progress.total:,}"), retry=True)

    def _ask_again(self, again: _Again, *, retry: bool = False) -> None:
        """Send rows again, after a question if they are many or some succeeded; `retry` says it as that button does."""
        batch, _, code = self._opened()
        rows, succeeded, gone = (
            counted(again.count, "rows"),
            *map(again.counts.get, (State.SUCCEEDED.word, State.GONE.word)),
        )
        verb, done = (f"Retry {rows}", "tried") if retry else (f"Send {rows} again", "sent")
        which = f"All {rows} {again.scope}" if retry else f"The {rows} {again.scope}, of {batch.progress().total:,}"
        twice = f" {counted(succeeded, 'rows')} of them succeeded: what they do is done once more." if succeeded else ""
        twice += f" {counted(gone, 'rows')} of them may have run: nobody can tell." if gone else ""
        question = Question(
            title=f"Retry {rows} of batch {batch.id}?" if retry else f"Send {rows} of batch {batch.id} again?",
            scope=f"{which}: each gets a new task in {batch.queue}.{twice}",
            verb=verb,
            line=again.code(code),
            danger=False,
        )
        self._start(
            again.send,
            f"{rows} of batch {batch.id} will be {done} again",
            question,
            ask=again.count > _ASK_ABOVE or bool(succeeded or gone),
            again=again.refs,
        )

    def resume_queue(self, name: QueueName) -> None:
        """Resume a queue; may wait."""
        self._panel.context.open_queue(name).resume()
        self._panel.notify(f"resumed {name.queue}", line=self._panel.context.line(name.queue, "resume"))

    def _ask_resume(self) -> None:
        batch, view, code = self._opened()
        if self._queue_waits():
            self._panel.start(lambda: self.resume_queue(self._panel.context.name(batch.queue)), changes=True)
            return
        count = view.waiting()
        rows = counted(count, "rows")
        question = Question(
            title=f"Send the remaining rows of batch {batch.id}?",
            scope=f"Creates {counted(count, 'tasks')} in {batch.queue}, of {batch.progress().total:,} rows.",
            verb=f"Send {rows}",
            line=f"{code}.resume()",
            danger=False,
        )
        self._start(batch.resume, f"sending {rows} of batch {batch.id}", question, ask=count > _ASK_ABOVE)

    def _ask_cancel(self) -> None:
        batch, view, code = self._opened()
        progress = batch.progress()
        left = progress.total - progress.done
        rows = counted(left, "rows")
        question = Question(
            title=f"Cancel the rest of batch {batch.id}?",
            scope=f"{rows} of {progress.total:,} are not done: {progress.unsent or 0:,} will not be sent, "
            f"{counted(progress.pending, 'tasks')} in {batch.queue} will be deleted. Running attempts continue.",
            verb=f"Cancel {rows}",
            line=f"{code}.cancel()",
            typed=batch.id if left > _ASK_ABOVE else None,
        )
        before, status = progress.cancelled or 0, f"cancelling {rows} of batch {batch.id}"

        def cancel() -> None:
            batch.cancel()
            self._panel.notify(status, line=question.line)
            self._show_cancelled(batch, view, before, status)

        self._start(cancel, "", question, ask=True)

    def _show_cancelled(self, batch: Batch, view: BatchView, before: int, status: str) -> None:
        """Replace this status by how many rows were cancelled, as soon as the cancellation has ended."""

        def check() -> None:  # on the background loop, where the progress is counted
            if view.working():
                return
            end()
            if self._panel.footer.status == status:  # nothing else was done meanwhile
                rows = counted(max(0, batch.progress().cancelled - before), "rows")
                self._panel.notify(f"cancelled {rows} of batch {batch.id}")

        end = view.listen(check)
        self._panel.owner.at_close(end)
        _loop.call_soon(check)

    def _start(
        self,
        work: Callable[[], object],
        status: str,
        question: Question,
        *,
        ask: bool,
        again: Callable[[], Iterable[int]] = list,
    ) -> None:
        """Start `work`, after the user confirmed the question if `ask`; then show the status, if there is one.

        `work` sends the rows that `again` returns, and these stay in the table.
        """
        batch, _, _ = self._opened()

        def run() -> None:
            refs = [*again()]
            if refs:
                self._panel.notify(f"{question.verb} of batch {batch.id} …")
            work()
            if status:
                self._panel.notify(status, line=question.line)
            if refs:
                self._sent_status = status
                self._shown.follow(refs)
            self._shown.changed()

        if ask:
            self._panel.ask(question, run)
        else:
            self._panel.start(run, changes=True)


def _of_query(view: BatchView, batch: Batch, query: RowQuery) -> _Again:
    """Return how all rows are sent again that a query chooses without a text."""
    state = query.state or (State.FAILED.word if query.cause else "")
    counts = {state: view.reader.count(replace(query, state=state))} if state in ENDS else {}
    if query.cause or query.state == State.FAILED.word:
        causes = view.reader.causes() if query.cause else {}
        text = causes[query.cause].text if query.cause in causes else query.cause
        return _Again(
            counts=counts,
            scope="that failed" + (f" with {mask_text(text)}" if text else ""),
            code=lambda code: retry_code(code, text, [one.text for one in causes.values()]),
            send=lambda: batch.retry_failed(pd.DataFrame({"cause": [query.cause]}) if query.cause else None),
            refs=lambda: view.reader.each(RowQuery(state=State.FAILED.word, cause=query.cause)),
        )
    return _Again(
        counts=counts,
        scope=f"in state {query.state}",
        code=lambda code: _resend_code(code, f"batch.tasks().query({quoted(_of_state(query.state))})"),
        send=lambda: view.send_again(query, None),
        refs=lambda: view.reader.each(query),
    )


def retry_code(batch: str, cause: str, causes: Iterable[str]) -> str:
    """Return the line of Python that retries the rows that failed because of `cause`, and no others.

    Parameters
    ----------
    batch : str
        The Python expression of the batch.
    cause : str
        As `batch.errors()` names it; empty: any.
    causes : iterable of str
        All causes: ``retry_failed("INTERNAL")`` chooses by the status, and ``retry_failed("KeyError")`` by the type.

    Examples
    --------
    >>> retry_code("batch", "KeyError: …", ["KeyError: …"])
    'batch.retry_failed("KeyError: …")'
    >>> retry_code("batch", "INTERNAL", ["INTERNAL", "KeyError: …"])
    '(batch := batch).retry_failed((errors := batch.errors())[errors["cause"] == "INTERNAL"])'
    """
    if not cause:
        return f"{batch}.retry_failed()"
    secrets = find_secrets(cause)
    others = [other for other in causes if other != cause]
    wider = any(other not in CODES if cause in CODES else other.partition(":")[0] == cause for other in others)
    if not wider and not secrets:
        return f"{batch}.retry_failed({quoted(cause)})"
    test = f".str.fullmatch({quoted(_without(cause, secrets))})" if secrets else f" == {quoted(cause)}"
    return f'(batch := {batch}).retry_failed((errors := batch.errors())[errors["cause"]{test}])'


def _without(text: str, secrets: Sequence[tuple[int, int, str]]) -> str:
    """Return the regular expression of a text with anything in place of each secret."""
    ends = [0, *(end for _, end, _ in secrets)]
    begins = [*(begin for begin, _, _ in secrets), len(text)]
    return ".*".join(re.escape(text[end:begin]) for end, begin in zip(ends, begins, strict=True))


def _resend_code(batch: str, rows: str) -> str:
    return f"(batch := {batch}).resend({rows})"


def _found_code(shown: RowsView) -> str:
    """Return the Python that chooses the rows that were found by their state and a text."""
    query = shown.query
    frame = "batch.tasks()" + (f".query({quoted(_of_state(query.state))})" if query.state in ENDS else "")
    return f"(rows := {frame})[{contains_code(query.text, shown.columns)}]"


def _of_state(state: str) -> str:
    return f"state == '{state}'"


def places_code(places: Iterable[int]) -> str:
    """Return the Python that chooses rows of a frame by their places; those at equal distances are one range.

    Examples
    --------
    >>> places_code([3, 4, 5]), places_code([1, 3]), places_code([0, 1, 2, 6, 8, 10])
    ('.iloc[3:6]', '.iloc[[1, 3]]', '.iloc[[*range(0, 3), *range(6, 11, 2)]]')
    """
    runs: list[range] = []
    for place in places:
        last = runs[-1] if runs else range(0)
        if len(last) == 1:
            runs[-1] = range(last.start, place + 1, place - last.start)
        elif last and place == last.stop - 1 + last.step:
            runs[-1] = range(last.start, place + 1, last.step)
        else:
            runs.append(range(place, place + 1))
    if len(runs) == 1 and runs[0].step == 1:
        return f".iloc[{runs[0].start}:{runs[0].stop}]"
    parts = [str([*run])[1:-1] if len(run) <= _SHORT else f"*{run}" for run in runs]
    return f".iloc[[{', '.join(parts)}]]"


def contains_code(text: str, columns: Sequence[str]) -> str:
    """Return the Python that does the same as the search of `RowReader` for the frame `rows` with these columns.

    Examples
    --------
    >>> contains_code("day:1", ["day", "task"])
    'rows["day"].astype(str).str.lower() == "1"'
    """
    name, colon, value = text.partition(":")
    if colon and name in columns:
        return f"rows[{quoted(name)}].astype(str).str.lower() == {quoted(value.strip().lower())}"
    return (
        'rows.loc[:, :"task"].assign(message=rows["last_message"]).apply(lambda column: '
        f"column.astype(str).str.contains({quoted(text)}, case=False, regex=False)).any(axis=1)"
    )
