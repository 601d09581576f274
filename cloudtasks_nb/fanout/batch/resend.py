"""Choose the rows of a batch that are sent again, and open a new try for each of them.

Before tasks are sent that another home has rendered, somebody is asked: with whose token they call whom, as their bytes
say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError, PreconditionError
from cloudtasks_nb.fanout.batch.errors import causes_hint, choose, names_of
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Wanted
from cloudtasks_nb.fanout.outbox.records import Choice, Scope
from cloudtasks_nb.fanout.plan.foreign import Call, call_of, plain_text
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = ["RESEND", "Foreign", "NewTries", "check_trusted", "find_foreign"]

_NAMED = 50  # kinds of calls, and makers, that a text names


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Rows that this home did not render, and that nobody here has trusted."""

    batch: str
    queue: str  #: where their tasks would be created, with its project
    refs: Sequence[int]
    calls: Mapping[Call, int]  #: whom their tasks call, with whose token -> how many rows
    makers: Mapping[str, int]  #: who says to have rendered them -> how many rows

    @property
    def lines(self) -> list[str]:
        """What is known of them: the rarest calls first, which a look would miss."""
        were = "was" if len(self.refs) == 1 else "were"
        rows = f"{counted(len(self.refs), 'rows')} of batch {self.batch}, for queue {self.queue},"
        lines = [f"{rows} {were} not rendered in this home"]
        calls = sorted(self.calls.items(), key=lambda item: (item[1], item[0]))
        lines += [f"{counted(count, 'rows')}: call {call}" for call, count in calls[:_NAMED]]
        if len(calls) > _NAMED:
            left = calls[_NAMED:]
            lines.append(f"{counted(sum(count for _, count in left), 'rows')}: {len(left):,} other calls")
        makers = [
            plain_text(maker) or "somebody" for maker in sorted(self.makers, key=lambda maker: -self.makers[maker])
        ]
        more = f" and {len(makers) - _NAMED:,} others" if len(makers) > _NAMED else ""
        return [*lines, f"the store says that they are of {', '.join(makers[:_NAMED])}{more}, which nothing proves"]


def find_foreign(outbox: Outbox, scope: Scope, states: Collection[State], rows: Wanted = None) -> Foreign | None:
    """Return the rows in some states that this home did not render, with what their tasks do; None if there are none.

    Parameters
    ----------
    states, rows
        As for `Trust.untrusted`.
    """
    makers = outbox.trust.untrusted(scope, states, rows)
    if not makers:
        return None
    pages = outbox.rows.pages_of(scope.batch, makers, wire=True)
    calls = Counter(call_of(task) for page in pages for task in page.wire)
    place = outbox.batches.get(scope.batch).place
    queue = f"{place.queue} of project {place.project}"
    return Foreign(batch=scope.batch, queue=queue, refs=list(makers), calls=calls, makers=Counter(makers.values()))


def check_trusted(outbox: Outbox, foreign: Foreign | None, again: str, *, trust: bool) -> None:
    """Trust rows that a verb would send, and print what they do.

    Parameters
    ----------
    again : str
        The call that sends them: "batch.resume(trust=True)".
    trust : bool
        Whether this is that call.

    Raises
    ------
    PreconditionError
        If it is not: it has the same lines.
    """
    if foreign is None:
        return
    text = "\n  ".join(foreign.lines)
    if not trust:
        hint = f"run the cell that makes these rows, which renders them here; or {again} sends them as they are"
        raise PreconditionError(text, resource=foreign.batch, hint=hint)
    outbox.trust.trust(foreign.refs)
    notify(f"trusted: {text}")


#: The calls that also send rows which this home did not render.
_RETRY, RESEND = "batch.retry_failed(…, trust=True)", "batch.resend(df, trust=True)"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTries:
    """Opens a new try for rows of a batch that are final."""

    outbox: Outbox
    rows: Scope  #: those that are meant
    tasks: Callable[[], pd.DataFrame]  #: `Batch.tasks`; called only for rows of `Batch.results`, which have no tasks
    trust: bool  #: also for rows that this home did not render

    def retry_failed(self, where: Any) -> bool:
        """Open one for failed rows, as `Batch.retry_failed` describes; return whether there is something to send.

        Raises
        ------
        InvalidInputError
            If rows failed, but none of these, or if `where` is something else.
        PreconditionError
            If nobody trusts some of them.
        """
        if isinstance(where, pd.DataFrame) and ("cause" not in where or {"task", "state"} & {*where}):
            self._open(self._with_tasks(where, "retry_failed"), {State.FAILED}, _RETRY)
            return True
        if not self.outbox.batches.counts(self.rows)[State.FAILED]:
            notify(f"nothing is sent again: no row of batch {self.rows.batch} is in state failed")
            return False
        choice = None if where is None else choose(where, self.outbox, self.rows)
        if choice is not None:
            self._check_choice(choice, where)
        self._check_trust({State.FAILED}, _RETRY, choice)
        self.outbox.outcomes.new_try(self.rows, choice)
        return True

    def resend(self, df: Any) -> None:
        """Open one for the final rows of a frame, as `Batch.resend` describes.

        Raises
        ------
        InvalidInputError
            If it is another frame.
        PreconditionError
            If nobody trusts some of its rows.
        """
        self._open(self._with_tasks(df, "resend"), FINAL, RESEND)

    def _check_trust(self, states: Collection[State], again: str, rows: Wanted) -> None:
        check_trusted(self.outbox, find_foreign(self.outbox, self.rows, states, rows), again, trust=self.trust)

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

    def _open(self, df: pd.DataFrame, allowed: Collection[State], again: str) -> None:
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
        self._check_trust(allowed, again, rows)
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
