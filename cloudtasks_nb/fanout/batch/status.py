"""Say in one word and one sentence how a batch is, and what helps if nothing answers; every view shows this."""

from __future__ import annotations

import datetime as dt
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from cloudtasks_nb._frames import IN_QUEUE, STATES
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.times import time_text
from cloudtasks_nb.fanout.batch.completion import failed_notification
from cloudtasks_nb.fanout.batch.gate import Gate, cancelled_by, gate_of
from cloudtasks_nb.fanout.batch.progress import NOT_READ, Facts, Progress, Status, unpack
from cloudtasks_nb.fanout.batch.report import RENDER, RESUME, causes_text, endings, retries_text
from cloudtasks_nb.fanout.batch.sharing import has_others
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope
from cloudtasks_nb.fanout.plan.render import read_target
from cloudtasks_nb.fanout.states import SUCCESSES, State
from cloudtasks_nb.service.absent_handlers import describe_absent
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import Endpoint

__all__ = [
    "absent_handlers",
    "aged",
    "part_of",
    "progress_of",
    "read_facts",
    "status_of",
    "stored_progress",
    "unanswered_note",
]

_RECENT = 5.0  # seconds for which figures need no age
_FRESH = dt.timedelta(seconds=15)  # for which what another process has stored counts as seen now
_AT_LIMIT = 0.9  # share of the queue's rate from which on the queue is what limits the batch
_FARTHEST = 1e9  # seconds; what is expected later is no forecast


def status_of(facts: Facts) -> Status:
    """Return how a batch is.

    Examples
    --------
    >>> now, counts = dt.datetime.now(dt.UTC), dict.fromkeys(State, 0)
    >>> status_of(Facts(now=now, counts=counts | {State.GONE: 9, State.SUCCEEDED: 1})).state
    'unknown'
    >>> status_of(Facts(now=now, counts=counts | {State.UNSENT: 9}))
    stopped: 9 unsent, and no process sends them → batch.resume()
    """
    earlier, opened = facts.earlier, facts.counts[State.UNSENT] + facts.counts[State.SENT]
    found = next(_now(facts, opened), None) if opened else _end(facts)
    if found is not None:
        state, reason, action = found
        if facts.notification is not None:
            why, line = facts.notification
            reason = f"{reason or 'all rows succeeded'}; the notification failed: {why}"
            action = action or line
    elif facts.unread or (facts.at is None and not facts.sends):
        return Status(reason=NOT_READ)
    elif earlier is not None and facts.at and abs(facts.now - facts.at) < _FRESH and _is_of_queue(earlier):
        return earlier  # another process watches the batch, and has stored this
    else:
        state, reason, action = "running", None, None
    moves = found is not None and state in {"running", "failing"}
    rate, eta = _forecast(facts, opened) if moves else (None, None)
    if earlier is not None and earlier.state == state:
        since = earlier.since
    elif facts.silent and state == "stopped":
        since = facts.at or facts.now
    else:
        since = facts.now if opened else facts.changed
    known: dict[str, Any] = {"at": facts.at, "rate": rate, "eta": eta, "owner": facts.owner if opened else None}
    return Status(state=state, reason=reason, since=since, action=action, **known)


def progress_of(facts: Facts, status: Status | None = None) -> Progress:
    """Return how a batch is, and its number of rows in each state; of one that was not read, the total is known.

    Parameters
    ----------
    status : Status, optional
        How it is; else it follows from the facts.
    """
    split = dict.fromkeys(IN_QUEUE) if facts.unread else facts.split
    names: dict[str, Any] = {
        state.word: None if facts.unread else count for state, count in facts.counts.items() if state is not State.SENT
    }
    known = asdict(status or status_of(facts))
    total, settling = sum(facts.counts.values()), facts.settling
    return Progress(total=total, **names, **split, settling=settling, sources=facts.sources, **known)


def aged(progress: Progress, now: dt.datetime) -> Progress:
    """Return how a batch is with its age at a moment, by the clock of the service."""
    age = 0.0 if progress.at is None or progress.finished else (now - progress.at).total_seconds()
    return replace(progress, age=round(age), rate=None, eta=None) if age > _RECENT else progress


def part_of(outbox: Outbox, whole: Facts, status: Status, rows: Scope) -> tuple[Facts, Progress]:
    """Return what is known of some rows of a batch, and how they are.

    They are as the batch, whose `status` is given, until they are final, and then as they have ended.
    """
    counts = outbox.batches.counts(rows)
    sent = counts[State.SENT]
    split = dict.fromkeys(IN_QUEUE, None if sent else 0)
    facts = replace(whole, split=split, settling=min(whole.settling, sent), **_counted(outbox, rows, counts))
    status = replace(status, rate=None, eta=None)
    if not (facts.unread or sent or counts[State.UNSENT]):
        state, reason, action = _end(facts)
        status = replace(status, state=state, reason=reason, action=action, since=None, owner=None)
    return facts, progress_of(facts, status)


def stored_progress(outbox: Outbox, record: BatchRecord, now: dt.datetime) -> Progress:
    """Return how a batch is by what is stored on this machine; `now` is the time of the service."""
    return aged(progress_of(read_facts(outbox, record, gate_of(outbox, record), now)), now)


def read_facts(outbox: Outbox, record: BatchRecord, gate: Gate, now: dt.datetime) -> Facts:
    """Return what is stored of a batch on this machine."""
    counts, stored = record.counts, record.facts.progress
    earlier = None if stored is None else unpack(stored)
    same = earlier is not None and earlier.pending == counts[State.SENT]
    failing = earlier is not None and earlier.state == "failing" and earlier.succeeded == counts[State.SUCCEEDED]
    unknown = None if counts[State.SENT] else 0
    waits = counts[State.UNSENT] + record.doubtful > 0  # else it is known of each row that it was sent
    return Facts(
        now=now,
        at=None if earlier is None else earlier.at,
        split={name: getattr(earlier, name) if same else unknown for name in IN_QUEUE},
        sources={} if earlier is None else earlier.sources,
        earlier=None if earlier is None else earlier.status,
        failed_at=earlier.since if earlier is not None and failing else None,
        doubtful=record.doubtful,
        changed=record.changed,
        gate=gate,
        cancelling=record.facts.cancels_all or cancelled_by(record) is not None,
        unread=has_others(record) and waits and record.facts.log_read is None and record.facts.log_error is None,
        notification=failed_notification(record),
        sends=waits and outbox.requests.has_sender(record.id),
        **_counted(outbox, record.whole, counts),
    )


def _counted(outbox: Outbox, rows: Scope, counts: Mapping[State, int]) -> dict[str, Any]:
    """Return the facts that follow from counts of rows, as arguments of `Facts`."""
    causes = outbox.causes
    return {
        "counts": counts,
        "causes": causes.failed(rows) if counts[State.FAILED] else {},
        "retried": causes.retrying(rows) if counts[State.SENT] else {},
        "lost": causes.lost(rows) if counts[State.GONE] else {},
    }


def _is_of_queue(earlier: Status) -> bool:
    """Return whether a state is told by the queue; what the rows tell may have changed since."""
    return earlier.state in {"running", "failing", "paused", "stopped"} and earlier.action != RESUME


_Found = tuple[str, str | None, str | None]  # state, reason and action


def _end(facts: Facts) -> _Found:
    """Return how rows have ended."""
    names = {state.name.lower(): count for state, count in facts.counts.items()}
    well = not any(count for state, count in facts.counts.items() if state not in SUCCESSES)
    end = STATES[(State.SUCCEEDED if well else State.GONE).word].end
    return next(iter(endings(names, facts)), (str(end), None, None))


def _now(facts: Facts, opened: int) -> Iterator[_Found]:
    """Yield how a batch is that has not ended: the first one counts. None if of its tasks nothing is known now."""
    if facts.silent:
        yield "stopped", facts.silent, None
    if facts.absent:
        which, line = facts.absent[0]
        yield "stopped", f"{which}; the batch goes on by itself when one does", line
    unsent = facts.counts[State.UNSENT]
    if unsent + facts.doubtful and not (facts.sends or facts.cancelling or facts.gate.held or facts.unread):
        yield _unsent(facts, unsent)
    if facts.cancelling:
        yield "cancelling", next(iter(facts.troubles), _left_to_cancel(opened)), None
    if facts.gate.held:
        yield "held", facts.gate.reason(causes_text(facts.causes, 1, "{}")), RESUME
    if not facts.watched or facts.unread:
        return
    if facts.paused:
        yield "paused", f"the queue {facts.paused} is paused and dispatches nothing", "queue.resume()"
    reason = next(_reasons(facts, opened), None)
    if facts.failed_at is not None:
        again = f"the next attempt is due at {time_text(facts.due)} UTC" if facts.retried and facts.due else None
        yield "failing", "; ".join(filter(None, (_failures(facts) or reason, again))) or None, "batch.errors()"
    yield "running", reason, None


def _unsent(facts: Facts, unsent: int) -> _Found:
    """Return how a batch is whose rows no process sends."""
    if facts.gate.unrendered:
        return "held", f"{facts.gate.unrendered}: {RENDER}", None
    rows = [f"{unsent:,} unsent"] if unsent else []
    if facts.doubtful:
        rows.append(f"{facts.doubtful:,} may have been sent by a process that has ended")
    return "stopped", facts.error or f"{', '.join(rows)}, and no process sends them", RESUME


def _left_to_cancel(rows: int) -> str:
    return f"{counted(rows, 'rows')} {'is' if rows == 1 else 'are'} left to cancel"


def _reasons(facts: Facts, opened: int) -> Iterator[str]:
    """Yield what a batch waits for that runs: the first one counts."""
    yield from facts.troubles
    if facts.gate.note:
        yield facts.gate.note
    if facts.settling:
        yield f"{facts.settling:,} settling: their log entries are awaited"
    if facts.scheduled == opened:
        are, when = "is" if opened == 1 else "are", f"{time_text(facts.due)} UTC" if facts.due else "later"
        yield f"{counted(opened, 'rows')} {are} scheduled for {when}"
    if facts.ahead and not facts.rate:
        which = f"batch {next(iter(facts.ahead))}" if len(facts.ahead) == 1 else f"{len(facts.ahead)} batches"
        yield f"{counted(sum(facts.ahead.values()), 'tasks')} of {which} before it"
    _, eta = _forecast(facts, opened)
    until = "" if eta is None else f", not before {time_text(eta)} UTC"
    if until and facts.limit and (facts.rate or 0) >= _AT_LIMIT * facts.limit:
        yield f"at the queue's limit of {facts.limit:,.6g}/s{until}"
    if facts.at_once is not None:
        yield f"at the queue's limit of {facts.at_once:,} at a time (max_concurrent){until}"


def _failures(facts: Facts) -> str | None:
    """Return why rows fail."""
    if facts.retried:
        return retries_text(facts.retried)
    return _end(facts)[1] if facts.causes else None


def _forecast(facts: Facts, opened: int) -> tuple[float | None, dt.datetime | None]:
    """Return rows that end in a second, and when the last one does; no rate brings rows that wait for their time."""
    rate = facts.rate if facts.rate is None or not facts.limit else min(facts.rate, facts.limit)
    if not rate or facts.gate.until is not None or facts.waiting >= opened:
        return rate, None
    seconds = opened / rate
    return rate, facts.now + dt.timedelta(seconds=seconds) if seconds < _FARTHEST else None


def absent_handlers(connection: Connection, outbox: Outbox, record: BatchRecord) -> Sequence[tuple[str, str | None]]:
    """Return which handlers of this machine a batch waits for: a sentence and what starts each. Makes a call."""
    addresses = connection.absent_handlers(record.place.queue_name)
    if not addresses:
        return ()
    pages = outbox.rows.pages(record.whole, wire=True)
    urls = (read_target(wire)[0] for page in pages for wire in page.wire if wire)
    own = urllib.parse.urlsplit(next(urls, "")).netloc  # other batches share the queue
    target = str(record.description.get("url", ""))
    name = target.removeprefix("handler:") if target.startswith("handler:") else ""
    return [describe_absent(address, f"http://{address}/{name}") for address in addresses if address == own]


def unanswered_note(message: str, since: dt.datetime | None, endpoint: Endpoint, unsent: int) -> str:
    """Return the sentence for the user, with the one next step that helps.

    Parameters
    ----------
    message : str
        That nothing answers.
    since : datetime, optional
        When the service answered last.
    unsent : int
        Rows that are only in the outbox.
    """
    line = f"{message} since {time_text(since)} UTC" if since else message
    kept = f", and {unsent:,} unsent rows in the outbox" if unsent else ""
    if endpoint.folder is not None:
        return (
            f"{line}: its tasks are safe in the folder{kept}; ct.local({endpoint.folder!r}) starts the emulator "
            "again, and the batch continues by itself"
        )
    if endpoint.http is not None:
        return (
            f"{line}: the emulator was temporary, so its tasks are lost; run the cells again from ct.local() on: "
            "they send all rows to a new one"
        )
    if endpoint.local:
        kept = f"{unsent:,} unsent rows are safe in the outbox; " if unsent else ""
        return f"{line}: {kept}start the emulator again at this address, and the batch continues by itself"
    return f"{line}: the tasks are safe in Cloud Tasks{kept}; the batch continues by itself as soon as it answers"
