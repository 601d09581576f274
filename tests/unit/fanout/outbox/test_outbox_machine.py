"""Spools, senders, outcomes, new tries and cancels in any order: what must hold after each step."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, Request, whole
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import NOW, all_rows, chunks, refs, spool, tell


class Anything(RuleBasedStateMachine):
    """Spools, senders, outcomes, new tries and cancels in any order."""

    requests: Bundle[Request] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.outbox = Outbox(Path(self.folder.name) / "outbox.sqlite3")
        self.queues = [self.outbox.requests.queue(""), self.outbox.requests.queue("")]
        self.given: list[set[str]] = [set(), set()]  # tasks of requests that a sender has, and has not answered
        self.under_way: set[int] = set()  # rows that may be in a request

    @initialize()
    def begin(self) -> None:
        """Make the batch."""
        self.batch = spool(self.outbox, chunks(range(3), size=2), name="n").batch
        self.queues = [self.outbox.requests.queue(self.batch), self.outbox.requests.queue(self.batch)]

    @rule(first=st.integers(0, 20), n=st.integers(0, 9), bad=st.sets(st.integers(0, 30), max_size=3))
    def lengthen(self, first: int, n: int, bad: set[int]) -> None:
        """Add rows, some of which are no tasks."""
        rows = range(first, first + n)
        spool(self.outbox, chunks(rows, size=4, rejected=dict.fromkeys(bad, "bad")), name="n", skip=True)

    @rule(
        target=requests,
        who=st.integers(0, 1),
        want=st.integers(1, 2),
        size=st.integers(1, 4),
        last=st.none() | st.integers(0, 30),
    )
    def take(self, who: int, want: int, size: int, last: int | None) -> Any:
        """Get requests: each task once, unsent, and none behind the last one that may be sent, if it never was."""
        known, states = refs(self.outbox, self.batch), self.outbox.rows.states(whole(self.batch))
        until = None if last is None else known[last % len(known)]
        found = self.queues[who].turn([], want, now=NOW, size=size, until=until)
        tasks = dict(zip(known, all_rows(self.outbox, self.batch, "tasks"), strict=True))
        for one in found:
            # What is sent again may be in two requests: without locks, two senders have taken it at once.
            assert one.tried or self.given[who].isdisjoint(one.tasks)
            assert one.tried or (len(one.refs) <= size and (until is None or max(one.refs) <= until))
            assert one.tried or {states[known.index(ref)] for ref in one.refs} == {State.UNSENT}
            assert list(one.tasks) == [tasks[ref] for ref in one.refs]
            self.given[who].update(one.tasks)
            self.under_way.update(one.refs)
        return multiple(*found)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        """Begin to send anew."""
        self.queues[who] = self.outbox.requests.queue(self.batch)
        self.given[who] = set()

    @rule(who=st.integers(0, 1), request=consumes(requests), cut=st.lists(st.integers(0, 3), min_size=3, max_size=3))
    def answer(self, who: int, request: Request, cut: list[int]) -> None:
        """Hear what became of the rows of a request."""
        parts = [request.refs[at::4] for at in range(4)]
        sent, again, rejected, gone = (parts[at] for at in sorted(range(4), key=lambda at: [*cut, 0][at]))
        ack = Ack(seq=request.seq, sent=sent, again=again, rejected=dict.fromkeys(rejected, "no"), gone=gone)
        self.queues[who].turn([ack], 0, now=NOW)
        for given in self.given:
            given.difference_update(request.tasks)

    @rule(at=st.integers(0, 30), attempt=st.integers(1, 3), state=st.sampled_from([*State, None]))
    def hear(self, at: int, attempt: int, state: State | None) -> None:
        """Hear an outcome, which may be old or impossible."""
        known = refs(self.outbox, self.batch)
        tell(self.outbox, self.batch, known[at % len(known)], attempt=attempt, state=state, attempts=1)

    @rule(at=st.none() | st.sets(st.integers(0, 30), max_size=4), allowed=st.sets(st.sampled_from(State)))
    def retry(self, at: set[int] | None, allowed: set[State]) -> None:
        """Open new tries."""
        known, tasks = refs(self.outbox, self.batch), all_rows(self.outbox, self.batch, "tasks")
        rows = None if at is None else [(known[i % len(known)], tasks[i % len(known)]) for i in at]
        self.outbox.outcomes.new_try(whole(self.batch), rows, allowed)

    @rule()
    def cancel(self) -> None:
        """Cancel: what is unsent then may be in a request."""
        sum(self.outbox.requests.cancel(whole(self.batch)))
        states = zip(refs(self.outbox, self.batch), self.outbox.rows.states(whole(self.batch)), strict=True)
        assert {ref for ref, state in states if state == State.UNSENT} <= self.under_way

    @invariant()
    def counts_are_those_of_the_rows(self) -> None:
        """Count what is there and compare."""
        if self.queues[0].batch:
            found = Counter(self.outbox.rows.states(whole(self.batch)))
            assert {state: n for state, n in self.outbox.batches.counts(whole(self.batch)).items() if n} == found

    @invariant()
    def each_key_is_there_once(self) -> None:
        """No two rows share a task, and each is found by it."""
        if self.queues[0].batch:
            tasks = [task for task in all_rows(self.outbox, self.batch, "tasks") if task]
            assert len(set(tasks)) == len(tasks)
            assert len(self.outbox.rows.locate(self.batch, tasks)) == len(tasks)

    def teardown(self) -> None:
        """No row is lost: a last sender gets all that is unsent."""
        if self.queues[0].batch:
            queue = self.outbox.requests.queue(self.batch)
            while requests := queue.turn([], 5, now=NOW):
                queue.turn([Ack(seq=one.seq, sent=one.refs) for one in requests], 0, now=NOW)
            assert self.outbox.batches.counts(whole(self.batch))[State.UNSENT] == 0
        self.outbox.close()
        self.folder.cleanup()


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=30, stateful_step_count=30)
