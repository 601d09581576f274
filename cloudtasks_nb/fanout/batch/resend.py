"""Choose the rows of a batch that are sent again, and open a new try for each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError, PreconditionError
from cloudtasks_nb.fanout.batch.errors import causes_hint, choose, names_of
from cloudtasks_nb.fanout.batch.report import RENDER
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Wanted
from cloudtasks_nb.fanout.outbox.records import Choice, Scope
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = ["NewTries", "check_rendered"]


def check_rendered(outbox: Outbox, scope: Scope, states: Collection[State], rows: Wanted = None) -> None:
    """Refuse to send rows that this home did not render: it does not have their requests.

    Parameters
    ----------
    states, rows
        As for `Outcomes.elsewhere`.

    Raises
    ------
    PreconditionError
        If there are some.
    """
    if count := outbox.outcomes.elsewhere(scope, states, rows):
        were = "was" if count == 1 else "were"
        text = f"{counted(count, 'rows')} of batch {scope.batch} {were} not rendered in this home: nothing is sent"
        raise PreconditionError(text, resource=scope.batch, hint=f"{RENDER}, then retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTries:
    """Opens a new try for rows of a batch that are final."""

    outbox: Outbox
    rows: Scope  #: those that are meant
    tasks: Callable[[], pd.DataFrame]  #: `Batch.tasks`; called only for rows of `Batch.results`, which have no tasks

    def retry_failed(self, where: Any) -> bool:
        """Open one for failed rows, as `Batch.retry_failed` describes; return whether there is something to send.

        Raises
        ------
        InvalidInputError
            If rows failed, but none of these, or if `where` is something else.
        PreconditionError
            If this home did not render some of them.
        """
        if isinstance(where, pd.DataFrame) and ("cause" not in where or {"task", "state"} & {*where}):
            self._open(self._with_tasks(where, "retry_failed"), {State.FAILED})
            return True
        if not self.outbox.batches.counts(self.rows)[State.FAILED]:
            notify(f"nothing is sent again: no row of batch {self.rows.batch} is in state failed")
            return False
        choice = None if where is None else choose(where, self.outbox, self.rows)
        if choice is not None:
            self._check_choice(choice, where)
        check_rendered(self.outbox, self.rows, {State.FAILED}, choice)
        self.outbox.outcomes.new_try(self.rows, choice)
        return True

    def resend(self, df: Any) -> None:
        """Open one for the final rows of a frame, as `Batch.resend` describes.

        Raises
        ------
        InvalidInputError
            If it is another frame.
        PreconditionError
            If this home did not render some of its rows.
        """
        self._open(self._with_tasks(df, "resend"), FINAL)

    def _check_choice(self, choice: Choice, where: Any) -> None:
        """Raise if no failed row is chosen; print what is assumed of the rows whose HTTP status is not known."""
        count = self.outbox.causes.matching(self.rows, choice)
        if not count:
            shown = "these causes" if isinstance(where, (pd.DataFrame, pd.Series)) else f"where={where!r}"
            hint = causes_hint(self.outbox, self.rows)
            raise InvalidInputError(
                f"no failed row of batch {self.rows.batch} has {shown}", resource=self.rows.batch, hint=hint
            )
        assumed = count - self.outbox.causes.matching(self.rows, replace(choice, assumed=frozenset()))
        if assumed:
            notify(
                f"the HTTP status of {assumed:,} of the {counted(count, 'rows')} is not known; they are chosen by "
                f"their last status: {names_of(choice.assumed)}"
            )

    def _open(self, df: pd.DataFrame, allowed: Collection[State]) -> None:
        """Open one for those rows of a frame that are in an allowed state; print which are left out, and why."""
        wanted = df["task"].dropna().unique().tolist()
        if strange := [task for task in wanted if batch_of(str(task)) != self.rows.batch]:
            raise InvalidInputError(
                f"{len(strange):,} of {len(wanted):,} tasks are not of batch {self.rows.batch}: {strange[0]}",
                resource=self.rows.batch,
                hint="take rows of batch.tasks() or batch.failed() of this batch; nothing was sent",
            )
        found = self.outbox.rows.locate(self.rows.batch, wanted)
        inside = set(self.outbox.rows.within(self.rows, found.values()))
        if outside := [task for task, ref in found.items() if ref not in inside]:
            raise InvalidInputError(
                f"{len(outside):,} of {len(wanted):,} tasks are of rows of batch {self.rows.batch} that are not in "
                f"this input: {outside[0]}",
                resource=self.rows.batch,
                hint="nothing was sent; batch.whole has the same methods for all rows of the batch",
            )
        rows = [(ref, task) for task, ref in found.items()]
        check_rendered(self.outbox, self.rows, allowed, rows)
        opened = self.outbox.outcomes.new_try(self.rows, rows, allowed)
        if opened < len(df):
            reasons = [
                (len(wanted) - len(found), "has", "have", "a newer try"),
                (len(found) - opened, "is", "are", "not final" if allowed is FINAL else "not in state failed"),
                (int(df["task"].isna().sum()), "never was", "never were", "a task"),
            ]
            why = ", ".join(f"{n:,} {one if n == 1 else several} {what}" for n, one, several, what in reasons if n)
            notify(f"{opened:,} of {len(df):,} sent again" + (f": {why}" if why else ""))

    def _with_tasks(self, df: Any, method: str) -> pd.DataFrame:
        """Return rows of `tasks()` as they are, and rows of `results()` with their tasks.

        These are found by their labels. What the frame has of the input tells rows of another batch with the same
        labels, and rows whose values were edited, which would be sent as they are stored.
        """
        if isinstance(df, pd.DataFrame) and "task" in df.columns:
            return df
        if isinstance(df, pd.DataFrame) and "error" in df.columns:
            known = self.tasks()
            inputs = known.columns[: known.columns.get_loc("url")]
            shared = [name for name in inputs if name in df.columns]
            if known.index.is_unique and df.index.isin(known.index).all() and (shared or inputs.empty):
                known = known.loc[df.index]
                if _values(known[shared]).equals(_values(df[shared])):
                    return known
        raise InvalidInputError(
            f"{method}() wants rows of tasks(), failed() or results() of this batch",
            resource=self.rows.batch,
            hint=f"failed = batch.failed(); batch.{method}(failed.head(3))",
        )


def _values(columns: pd.DataFrame) -> pd.DataFrame:
    """Return values that are equal whatever the types of their columns: a page of results may have others."""
    return pd.DataFrame(columns.astype(object).where(columns.notna(), None))
