"""Say what became of the rows of a fan-out that were stored."""

from __future__ import annotations

from collections.abc import Collection

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.report import RESUME
from cloudtasks_nb.fanout.batch.versions import failed_advice
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Spooled, whole
from cloudtasks_nb.fanout.plan.preview import difference
from cloudtasks_nb.fanout.states import FINAL, SUCCESSES, State

__all__ = ["difference_to", "notify_spooled"]


def difference_to(outbox: Outbox, batch: str, shown: bytes, same: Collection[str]) -> str:
    """Return why a batch has none of some rows, if one column differs; the others are as for `difference`."""
    return next((difference(page.shown, shown, same) or "" for page in outbox.rows.pages(whole(batch))), "")


def notify_spooled(result: Spooled, name: str | None, *, held: bool, shared: bool, strange: str | None) -> None:
    """Print which batch the rows were added to, and which rows were left out.

    `strange` is a text if it is a surprise that the batch had none of them: why that is, or empty.
    """
    batch = f"batch {result.batch}" if name in (None, result.batch) else f"batch {name} ({result.batch})"
    parts = []
    if not result.created and not (result.known or result.added or result.rejected or result.duplicates):
        parts.append(f"there are no rows here; {batch} stays as it is")
    elif not result.created:
        if strange is None:
            parts.append(f"{batch} has {result.known:,} of these rows already")
        else:
            parts += [f"warning: {batch} has none of these rows", *filter(None, [strange])]
        extend = " and extend it" if result.by_id else ""
        parts.append(
            f"{counted(result.added, 'new ones')} will be sent{extend}" if result.added else "nothing new to send"
        )
        if unsent := result.left.get(State.UNSENT, 0):
            then = f"they are held back: {RESUME}" if held else "the sending goes on"
            parts.append(f"{unsent:,} of those that it has {_are(unsent)} still unsent: {then}")
        parts += [
            f"{count:,} {state.word} {_are(count)} left" + (failed_advice(count) if state is State.FAILED else "")
            for state, count in result.left.items()
            if state in FINAL and state not in SUCCESSES
        ]
        if result.by_id and not shared:
            parts.append(f'another disk needs name="{result.batch}"')
    if rejected := result.rejected:
        parts.append(f"{counted(rejected, 'rows')} {_are(rejected)} rejected: batch.tasks() has the reasons")
    if result.duplicates:
        parts.append(f"{counted(result.duplicates, 'duplicates')} {_are(result.duplicates)} left out")
    if parts:
        notify("; ".join(parts))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
