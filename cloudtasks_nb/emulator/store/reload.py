"""Memory rebuilt from the journal: one scan over the small columns, a second for a million tasks."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.pb import beta
from cloudtasks_nb.emulator.model.queues import QueueConfig
from cloudtasks_nb.emulator.store.journal import Journal
from cloudtasks_nb.emulator.store.memory import LAST_NUMBER, QueueState, sequence

__all__ = ["Contents", "load"]

_CHUNK = 10_000


@dataclass(slots=True, kw_only=True)
class Contents:
    """What the store keeps in memory."""

    queues: dict[str, QueueState] = field(default_factory=dict)  #: by name
    by_number: dict[int, QueueState] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  #: of all queues, deleted ones included: the log knows them
    deleted: dict[str, int] = field(default_factory=dict)  #: queue name -> when it is free again
    graves: dict[tuple[int, int], int] = field(default_factory=dict)  #: (queue, last dead number) -> until
    operations: dict[str, int] = field(default_factory=dict)  #: name -> key in the journal
    settings: dict[str, bytes] = field(default_factory=dict)


def load(journal: Journal, now: int, default_tombstone: int) -> Contents:
    """Read what the store keeps in memory.

    Parameters
    ----------
    journal : Journal
        The store's file.
    now : int
        Microseconds since 1970; names that are free again are left out.
    default_tombstone : int
        Microseconds, for queues that do not set their own.
    """
    # A million new names are no garbage: looking through them again and again would take as long as reading them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _load(journal, now, default_tombstone)
    finally:
        if collecting:
            gc.enable()


def _load(journal: Journal, now: int, default_tombstone: int) -> Contents:
    contents = Contents()
    contents.settings = dict(journal.read("SELECT key, value FROM settings"))
    contents.operations = dict(journal.read("SELECT name, seq FROM operations ORDER BY seq"))
    contents.graves = {
        (q, upto): until for q, upto, until in journal.read("SELECT q, upto, until FROM graves ORDER BY q, upto")
    }
    for q, name, config, usable_at, deleted_until in journal.read("SELECT * FROM queues ORDER BY q"):
        contents.names[q] = name
        if deleted_until is not None:
            contents.deleted[name] = deleted_until
            continue
        message = beta.Queue.FromString(config)
        queue = QueueState(
            q=q, name=name, message=message, config=QueueConfig.of(message, default_tombstone), usable_at=usable_at
        )
        contents.queues[name] = contents.by_number[q] = queue
        # A name deleted and made again: the deletion is history.
        contents.deleted.pop(name, None)
        _load_tasks(journal, queue, [(upto, until) for (of, upto), until in contents.graves.items() if of == q], now)
    for q, task, until in journal.stream("SELECT q, id, until FROM tombs WHERE until > ? ORDER BY seq", (now,)):
        if q in contents.by_number:
            contents.by_number[q].tombs[task] = until
    return contents


def _load_tasks(journal: Journal, queue: QueueState, graves: list[tuple[int, int]], now: int) -> None:
    base = sequence(queue.q, 0)
    floor = queue.floor = max((upto for upto, _ in graves), default=0)
    _load_taken_names(journal, queue, graves, now)
    bounds = (base + floor + 1, sequence(queue.q, LAST_NUMBER))
    for seq, *columns in journal.stream("SELECT * FROM attempts WHERE seq BETWEEN ? AND ?", bounds):
        queue.attempts[seq - base] = Attempts.of_row(columns)
    number, attempts = floor, queue.attempts
    rows = journal.stream("SELECT seq - ?, due, id FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq", (base, *bounds))
    while chunk := rows.fetchmany(_CHUNK):
        numbers, dues, ids = zip(*chunk, strict=True)
        queue.live.update(zip(ids, numbers, strict=True))
        if attempts:
            dues = tuple(attempts[n].due if n in attempts else due for n, due in zip(numbers, dues, strict=True))
        queue.due.add_all(numbers, dues, now)
        number = numbers[-1]
    queue.next_number = number + 1


def _load_taken_names(journal: Journal, queue: QueueState, graves: list[tuple[int, int]], now: int) -> None:
    """Read the names of purged tasks that are not free yet: their rows lie in the graves."""
    base, above = sequence(queue.q, 0), 0
    for upto, until in sorted(graves):
        if until > now:
            rows = journal.stream("SELECT id FROM tasks WHERE seq BETWEEN ? AND ?", (base + above + 1, base + upto))
            queue.tombs.update((task, until) for (task,) in rows)
        above = upto
