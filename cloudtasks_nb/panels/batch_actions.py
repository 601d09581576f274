"""What can be done about a batch: retry, send again, resume, cancel; each asked about by how much it touches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.panels.context import quoted
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.cells import counted
from cloudtasks_nb.panels.widgets.prompt import Question

__all__ = ["BatchActions", "Chosen"]

_FEW = 10  # rows for which a click is enough


class Chosen(Protocol):
    """What the actions are about."""

    batch: Batch | None
    sending: bool  #: whether this process sends it

    @property
    def again(self) -> int:
        """How many of the chosen rows can be sent again."""
        ...

    @property
    def again_well(self) -> int:
        """How many of these have succeeded."""
        ...

    def again_rows(self) -> tuple[pd.DataFrame, str]:
        """Read these rows; the frame as Python too."""
        ...


class BatchActions:
    """Buttons for one batch.

    Parameters
    ----------
    panel : Panel
    chosen : Chosen
        The batch, and the rows of it that were chosen.
    done : callable
        Called after something was done.
    """

    def __init__(self, panel: Panel, chosen: Chosen, done: Callable[[], object]) -> None:
        self._panel, self._chosen, self._done = panel, chosen, done
        self._showing = threading.RLock()
        button = panel.button
        self.retry = button(
            "Retry failed", self._ask_retry, changes=True, quick=True, tip="A new task for each row that failed"
        )
        self.again = button(
            "Send again", self._ask_again, changes=True, quick=True, tip="A new task for each selected row that is done"
        )
        self.resume = button("Resume", self._ask_resume, changes=True, quick=True, tip="Send what is unsent")
        self.cancel = button(
            "Cancel rest",
            self._ask_cancel,
            changes=True,
            quick=True,
            look="danger",
            tip="Stop sending, and delete the tasks that are not done",
        )
        self.show()

    @property
    def buttons(self) -> tuple[widgets.Button, ...]:
        """The buttons, for a row."""
        return self.retry, self.again, self.resume, self.cancel

    def show(self) -> None:
        """Show how many rows each would touch."""
        with self._showing:  # who comes last has seen the newest
            self._show()

    def _show(self) -> None:
        batch = self._chosen.batch
        progress = None if batch is None else batch.progress()
        unsent = progress.unsent if progress is not None and not self._chosen.sending else 0
        counts = {
            self.retry: ("Retry failed", progress.failed if progress else 0),
            self.again: ("Send again", self._chosen.again),
            self.resume: ("Resume", unsent),
            self.cancel: ("Cancel rest", progress.total - progress.done if progress else 0),
        }
        for button, (verb, count) in counts.items():
            text = f"{verb} ({count:,})" if count else verb
            if button.description != text:
                button.description = text
            self._panel.able(button, bool(count))

    def _batch(self) -> tuple[Batch, str]:
        """Return the batch, and as Python."""
        batch = self._chosen.batch
        if batch is None:  # the buttons are disabled then
            raise LookupError("no batch is shown")
        return batch, f"tasks.batch({quoted(batch.id)})"

    def _ask_retry(self) -> None:
        batch, code = self._batch()
        failed = batch.progress().failed
        line = f"{code}.retry_failed()"
        question = Question(
            title=f"Retry {counted(failed, 'rows')} of batch {batch.id}?",
            scope=f"All {counted(failed, 'rows')} that failed, of {batch.progress().total:,}: each gets a new task "
            f"in {batch.queue}.",
            verb=f"Retry {counted(failed, 'rows')}",
            line=line,
            danger=False,
        )

        def retry() -> None:
            batch.retry_failed()
            self._tell(f"{counted(failed, 'rows')} of batch {batch.id} will be tried again", line)

        self._ask(question if failed > _FEW else None, retry)

    def _ask_again(self) -> None:
        batch, _ = self._batch()
        count, well = self._chosen.again, self._chosen.again_well
        again = f" {counted(well, 'rows')} of them succeeded: what they do is done once more." if well else ""
        question = Question(
            title=f"Send {counted(count, 'rows')} of batch {batch.id} again?",
            scope=f"The {counted(count, 'rows')} selected of {batch.progress().total:,}: each gets a new task in "
            f"{batch.queue}.{again}",
            verb=f"Send {counted(count, 'rows')} again",
            danger=False,
        )
        self._ask(question if count > _FEW or well else None, self._send_again)

    def _send_again(self) -> None:
        batch, _ = self._batch()
        rows, code = self._chosen.again_rows()
        batch.resend(rows)
        self._tell(f"{counted(len(rows), 'rows')} of batch {batch.id} will be sent again", code)

    def _ask_resume(self) -> None:
        batch, code = self._batch()
        unsent = batch.progress().unsent
        question = Question(
            title=f"Send what is left of batch {batch.id}?",
            scope=f"Creates {counted(unsent, 'tasks')} in {batch.queue}, of {batch.progress().total:,} rows.",
            verb=f"Send {counted(unsent, 'rows')}",
            line=f"{code}.resume()",
            danger=False,
        )

        def resume() -> None:
            batch.resume()
            self._tell(f"sending {counted(unsent, 'rows')} of batch {batch.id}", f"{code}.resume()")

        self._ask(question if unsent > _FEW else None, resume)

    def _ask_cancel(self) -> None:
        batch, code = self._batch()
        progress = batch.progress()
        left = progress.total - progress.done
        question = Question(
            title=f"Cancel the rest of batch {batch.id}?",
            scope=f"{counted(left, 'rows')} of {progress.total:,} are not done: {progress.unsent:,} will not be sent, "
            f"{counted(progress.pending, 'tasks')} in {batch.queue} will be deleted. Attempts that run go on.",
            verb=f"Cancel {counted(left, 'rows')}",
            line=f"{code}.cancel()",
            typed=batch.id if left > _FEW else None,
        )

        def cancel() -> None:
            batch.cancel()
            self._tell(f"cancelling {counted(left, 'rows')} of batch {batch.id}", f"{code}.cancel()")

        self._panel.ask(question, cancel)

    def _ask(self, question: Question | None, work: Callable[[], object]) -> None:
        if question is None:
            self._panel.start(work, changes=True)
        else:
            self._panel.ask(question, work)

    def _tell(self, status: str, line: str) -> None:
        self._panel.notify(status, line=line)
        self._done()
