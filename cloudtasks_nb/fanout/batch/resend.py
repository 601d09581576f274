"""Choose the rows of a batch that are sent again, and open a new try for each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pandas as pd

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch.errors import causes_hint, choose, names_of
from cloudtasks_nb.fanout.batch.trust import Trusting
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Choice
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = ["resend", "retry_failed"]


def retry_failed(
    outbox: Outbox,
    batch: str,
    where: Any,
    tasks: Callable[[], pd.DataFrame],
    *,
    trust: bool = False,
    now: int | None = None,
) -> bool:
    """Open a new try for failed rows, as `Batch.retry_failed` describes; return whether there is something to send.

    Parameters
    ----------
    tasks : callable
        `Batch.tasks`; called only for rows of `Batch.results`, which have no tasks.
    trust : bool
        Also for rows that this home did not render.
    now : int, optional
        As for `Outcomes.new_try`.

    Raises
    ------
    InvalidInputError
        If rows failed, but none of these, or if `where` is something else.
    PreconditionError
        If nobody trusts some of them.
    """
    trusting = Trusting("batch.retry_failed(…, trust=True)", trust)
    if isinstance(where, pd.DataFrame) and ("task" in where.columns or "cause" not in where.columns):
        _send_again(outbox, batch, _with_tasks(where, batch, "retry_failed", tasks), {State.FAILED}, trusting, now)
        return True
    causes = [cause for cause in outbox.causes.found(batch) if cause.failed]
    if not causes:
        notify(f"nothing is sent again: no row of batch {batch} is in state failed")
        return False
    choice = None if where is None else choose(where, causes, batch)
    if choice is not None:
        _check_choice(outbox, batch, choice, where)
    trusting.check(outbox, batch, {State.FAILED}, choice=choice)
    outbox.outcomes.new_try(batch, None, {State.FAILED}, choice, now)
    return True


def resend(
    outbox: Outbox,
    batch: str,
    df: Any,
    tasks: Callable[[], pd.DataFrame],
    *,
    trust: bool = False,
    now: int | None = None,
) -> None:
    """Open a new try for the final rows of a frame, as `Batch.resend` describes.

    Parameters
    ----------
    tasks, trust, now
        As for `retry_failed`.

    Raises
    ------
    InvalidInputError
        If it is another frame.
    PreconditionError
        If nobody trusts some of its rows.
    """
    frame = _with_tasks(df, batch, "resend", tasks)
    _send_again(outbox, batch, frame, FINAL, Trusting("batch.resend(df, trust=True)", trust), now)


def _check_choice(outbox: Outbox, batch: str, choice: Choice, where: Any) -> None:
    """Raise if no failed row is chosen; print what is assumed of the rows whose HTTP status is not known."""
    count = outbox.causes.matching(batch, choice)
    if not count:
        shown = "these causes" if isinstance(where, (pd.DataFrame, pd.Series)) else f"where={where!r}"
        hint = causes_hint(outbox.causes.failed(batch))
        raise InvalidInputError(f"no failed row of batch {batch} has {shown}", resource=batch, hint=hint)
    assumed = count - outbox.causes.matching(batch, replace(choice, assumed=frozenset()))
    if assumed:
        notify(
            f"the HTTP status of {assumed:,} of the {counted(count, 'rows')} is not known; they are chosen by "
            f"their last status: {names_of(choice.assumed)}"
        )


def _send_again(
    outbox: Outbox,
    batch: str,
    df: pd.DataFrame,
    allowed: Collection[State],
    trusting: Trusting,
    now: int | None,
) -> None:
    """Open a new try for those rows of a frame that are in an allowed state; print which are left out, and why."""
    wanted = df["task"].dropna().unique().tolist()
    strange = [task for task in wanted if batch_of(str(task)) != batch]
    if strange:
        raise InvalidInputError(
            f"{len(strange):,} of {len(wanted):,} tasks are not of batch {batch}: {strange[0]}",
            resource=batch,
            hint="take rows of batch.tasks() or batch.failed() of this batch; nothing was sent",
        )
    found = outbox.rows.locate(batch, wanted)
    inside = set(outbox.rows.within(batch, found.values()))
    if outside := [task for task, ref in found.items() if ref not in inside]:
        raise InvalidInputError(
            f"{len(outside):,} of {len(wanted):,} tasks are of rows of batch {batch} that are not in this input: "
            f"{outside[0]}",
            resource=batch,
            hint="nothing was sent; batch.whole has the same methods for all rows of the batch",
        )
    rows = [(ref, task) for task, ref in found.items()]
    trusting.check(outbox, batch, allowed, rows)
    opened = outbox.outcomes.new_try(batch, rows, allowed, now=now)
    if opened < len(df):
        reasons = [
            (len(wanted) - len(found), "has", "have", "a newer try"),
            (len(found) - opened, "is", "are", "not final" if allowed is FINAL else "not in state failed"),
            (int(df["task"].isna().sum()), "never was", "never were", "a task"),
        ]
        why = ", ".join(f"{n:,} {one if n == 1 else several} {what}" for n, one, several, what in reasons if n)
        notify(f"{opened:,} of {len(df):,} sent again" + (f": {why}" if why else ""))


def _with_tasks(df: Any, batch: str, method: str, tasks: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return rows of `tasks()` as they are, and rows of `results()` with their tasks.

    These are found by their labels. What the frame has of the input tells rows of another batch with the same labels,
    and rows whose values were edited, which would be sent as they are stored.
    """
    if isinstance(df, pd.DataFrame) and "task" in df.columns:
        return df
    if isinstance(df, pd.DataFrame) and "error" in df.columns:
        known = tasks()
        inputs = known.columns[: known.columns.get_loc("url")]
        shared = [name for name in inputs if name in df.columns]
        if known.index.is_unique and df.index.isin(known.index).all() and (shared or inputs.empty):
            known = known.loc[df.index]
            if _values(known[shared]).equals(_values(df[shared])):
                return known
    raise InvalidInputError(
        f"{method}() wants rows of tasks(), failed() or results() of this batch",
        resource=batch,
        hint='failed = batch.failed(); batch.retry_failed(failed[failed["last_status"] == "INTERNAL"])',
    )


def _values(columns: pd.DataFrame) -> pd.DataFrame:
    """Return values that are equal whatever the types of their columns: a page of results may have others."""
    return pd.DataFrame(columns.astype(object).where(columns.notna(), None))
