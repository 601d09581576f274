"""Say what became of the rows of a fan-out, and which of them an earlier version of its function has computed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.fanout.batch.report import RESUME
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Scope, Spooled, whole
from cloudtasks_nb.fanout.plan.preview import difference
from cloudtasks_nb.fanout.states import FINAL, SUCCESSES, State

__all__ = [
    "advise",
    "computed_note",
    "difference_to",
    "give_function",
    "notify_spooled",
    "notify_versions",
    "stale_rows",
]

#: How to compute rows of an earlier version again, and rows that failed; ``{}`` becomes "it" or "them". Empty: no note
#: about rows of an earlier version and about rows that the batch has, no advice about those that failed.
_advice: ContextVar[tuple[str, str]] = ContextVar(
    "cloudtasks_nb_advice", default=("batch.resend(batch.stale()) computes {} again", "")
)


@contextmanager
def advise(stale: str, *, failed: str = "") -> Iterator[None]:
    """Replace the advice about rows that may be sent again inside the block: callers of `map` have no batch."""
    token = _advice.set((stale, failed))
    try:
        yield
    finally:
        _advice.reset(token)


def _failed_advice(count: int) -> str:
    """Return the advice about rows that have failed, behind a colon; empty if there is none."""
    advice = _advice.get()[1].format("it" if count == 1 else "them")
    return f": {advice}" if advice else ""


def give_function(tracker: Tracker, function: Any, rows: Spooled) -> None:
    """Note which function a batch was given with some rows; say if known rows were computed by another version."""
    tracker.function = function
    value = (function.name, function.version)
    tracker.outbox.batches.change(tracker.batch, lambda facts: replace(facts, function=value))
    if not any(rows.left.get(state) for state in FINAL):
        return
    try:
        with Bar(f"new results of batch {tracker.batch}", unit="results") as bar:
            tracker.outcomes.stored.sync(progress=bar.to)
    except StoreError as error:
        notify(f"by which version of {function.name} rows were computed could not be read: {error.message}")
        return
    notify_versions(tracker, rows.scope or tracker.record.whole)
    if function.uncovered:
        uncovered = ", ".join(function.uncovered)
        cure = 'if that has changed, name="second" makes a new batch of all rows'
        notify(f"the version of {function.name} does not cover {uncovered}; {cure}")


def notify_versions(tracker: Tracker, rows: Scope) -> None:
    """Say how many rows were computed by an earlier version of the function, or by which ones if none was given."""
    results = tracker.outbox.results
    versions, function = results.versions(rows.batch), _given(tracker)
    if function is not None:
        name, version = function
        advice, _ = _advice.get()
        if advice and (stale := len(results.of_versions(rows, versions - {version}))):
            were, them = ("was", "it") if stale == 1 else ("were", "them")
            what = f"{stale:,} of these rows {were} computed by an earlier version of {name}"
            notify(f"{what}: {advice.format(them)}")
    elif len(versions) > 1:
        found = {one or "not known": len(results.of_versions(rows, {one})) for one in versions}
        mixed = [f"{version} ({counted(count, 'rows')})" for version, count in sorted(found.items()) if count]
        if len(mixed) > 1:
            notify(f"these rows were computed by {len(mixed)} versions of a function: {', '.join(mixed)}")


def stale_rows(tracker: Tracker, rows: Scope) -> list[int]:
    """Return the refs of the rows that were computed by another version than that of the function given last.

    Raises
    ------
    PreconditionError
        If no function was given, or its version is not known.
    """
    function = _given(tracker)
    if function is None:
        raise PreconditionError(
            f"no version is known with which the results of batch {rows.batch} could be compared",
            resource=rows.batch,
            hint="queue.fan_out(df, url=handler), with what ct.serve or ct.deploy returned, says which one is wanted",
        )
    results = tracker.outbox.results
    return results.of_versions(rows, results.versions(rows.batch) - {function[1]})


def _given(tracker: Tracker) -> tuple[str, str] | None:
    """Return name and version of the function that the batch was given last, here or by another kernel."""
    if tracker.function is not None:  # its handler may have another version by now
        name, version = tracker.function.name, tracker.function.version
    else:
        name, version = tracker.outbox.batches.facts(tracker.batch).function or ("", None)
    return None if version is None else (name, version)


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
    elif not result.created and (strange is not None or computed_note(result) is None):
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
            f"{count:,} {state.word} {_are(count)} left" + (_failed_advice(count) if state is State.FAILED else "")
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


def computed_note(result: Spooled) -> str | None:
    """Return for the card of `map` how many rows have succeeded before; empty: none has; None: a line says more."""
    stale, failed = _advice.get()
    before = sum(count for state, count in result.left.items() if state in SUCCESSES)
    again = 0 if failed else result.left.get(State.FAILED, 0)  # `map` sends them again
    if stale or result.created or before + again < result.known or not result.known:
        return None
    rows = counted(result.known + result.added, "rows")
    return f"{before:,} of {rows} {'was' if before == 1 else 'were'} computed before" if before else ""


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
