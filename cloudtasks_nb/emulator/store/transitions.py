"""Attempts: what a task goes through from its dispatch to its end."""

from __future__ import annotations

from dataclasses import replace

from cloudtasks_nb.emulator.model.attempts import Attempts, Outcome
from cloudtasks_nb.emulator.model.clock import LAST_INSTANT, Clock
from cloudtasks_nb.emulator.model.retry import RetryPolicy
from cloudtasks_nb.emulator.store.journal import Write
from cloudtasks_nb.emulator.store.memory import Claim, QueueState, sequence
from cloudtasks_nb.emulator.store.oplog import Subject
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["Transitions"]


class Transitions:
    """The part of the state machine that the dispatcher drives.

    Parameters
    ----------
    store : Store
        Queues and tasks.
    clock : Clock
        What time it is.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def claim(self, queue: QueueState, number: int) -> Claim | None:
        """Return a task that its due entry points to, or None if the entry is out of date."""
        if number in queue.running:
            return None
        stored = self._store.read_task(queue, number)
        if stored is None or queue.live.get(stored.id) != number:
            return None
        attempts = queue.attempts.get(number) or Attempts(due=stored.due)
        return Claim(queue, stored, attempts) if attempts.due <= self._clock.now() else None

    def claim_now(self, queue: QueueState, task_id: str) -> Claim:
        """Return a task that is run by hand, whatever its due time and even while it runs.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it is not there.
        """
        stored = self._store.task(queue, task_id)
        return Claim(queue, stored, queue.attempts.get(stored.number) or Attempts(due=stored.due))

    def begin(self, claim: Claim) -> Attempts:
        """Note that an attempt is sent, and return the attempts as they were before."""
        queue, number = claim.queue, claim.task.number
        before = replace(claim.attempts)
        claim.attempts.begin(self._clock.now())
        queue.attempts[number] = claim.attempts
        queue.started(number)
        return before

    def undo(self, claim: Claim, before: Attempts) -> None:
        """Take back an attempt that reached nobody: the task is due as it was."""
        queue, number = self._store.current(claim.queue), claim.task.number
        if queue is None:
            return
        queue.stopped(number)
        if queue.live.get(claim.task.id) != number:
            return
        if before.dispatches:
            queue.attempts[number] = before
        else:
            queue.attempts.pop(number, None)
        queue.due.add(number, before.due, self._clock.now())

    def end(
        self, claim: Claim, outcome: Outcome, policy: RetryPolicy, subject: Subject, *, called_at: int | None = None
    ) -> bool:
        """Note how an attempt ended and return whether the task is gone.

        Parameters
        ----------
        claim : Claim
            What was begun.
        outcome : Outcome
            How it ended.
        policy : RetryPolicy
            Of the task, else of its queue.
        subject : Subject
            For the log.
        called_at : int, optional
            When a run by hand was asked for; the next attempt is counted from then.
        """
        queue, task, attempts = self._store.current(claim.queue), claim.task, claim.attempts
        if queue is None:
            return True
        now = self._clock.now()
        queue.stopped(task.number)
        queue.count_execution(now)
        attempts.end(outcome, now, app_engine=subject.target_type != "HTTP")
        alive = queue.live.get(task.id) == task.number
        if alive:
            queue.attempts[task.number] = attempts
        over = outcome.succeeded or policy.gives_up(attempts.dispatches, now - attempts.first_dispatched)
        if alive and not over:
            attempts.due = min((called_at or now) + policy.backoff(attempts.failures), LAST_INSTANT)
            self._store.journal.put(Write.ATTEMPTS, (sequence(queue.q, task.number), *attempts.row()))
            queue.due.add(task.number, attempts.due, now)
        elif alive:
            self._store.end_task(queue, task.number, task.id, now)
        if subject.ratio:
            self._store.log.responded(subject, attempts, attempts.due if alive and not over else 0)
        return over or not alive
