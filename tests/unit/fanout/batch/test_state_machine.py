"""The state machine of a batch under any order of events, against a plain model of the outbox."""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudtasks_nb.fanout.batch import state as machine
from cloudtasks_nb.fanout.batch.failure_limit import FailureLimit
from cloudtasks_nb.fanout.batch.state import BatchState, Effect, Step
from cloudtasks_nb.fanout.states import FINAL, State

ROWS = 4
ENDS = st.sampled_from([State.SUCCEEDED, State.FAILED, State.GONE])


class BatchModel(RuleBasedStateMachine):
    """One batch: what the outbox has, what runs, and what the machine was told of both."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [State.UNSENT] * ROWS
        self.state = BatchState(counts=self.counts(), local=True)
        self.now, self.round, self.failed = 0.0, 1, 0
        self.sending, self.cancelling, self.limited = False, False, False
        self.asked: Counter[Effect] = Counter()  # effects of now that are not carried out
        self.notified = 0  # in this round
        self.counting: dict[str, Any] | None = None

    def counts(self) -> dict[State, int]:
        """Count the rows in the outbox."""
        return {state: self.rows.count(state) for state in State}

    def limit(self) -> FailureLimit:
        """Return what the outbox has of the failure limit."""
        return FailureLimit(limit=3, round=self.round, failed=self.failed, stopped=self.limited)

    def tell(self, step: Step) -> None:
        """Take over the state after an event, and check the effects that must not come at any time."""
        self.state, effects = step
        self.asked.update(effects)
        if Effect.NOTIFY in effects:
            self.notified += 1
            assert [self.left(), self.sending, self.cancelling] == [[], False, False]
        if Effect.BEGIN_CANCEL in effects:
            assert not self.limited, "cancelled twice in one round"
            self.limited = self.cancelling = True
        self.sending = self.sending or Effect.BEGIN_SENDING in effects

    def left(self) -> list[int]:
        """Return the rows that are not final."""
        return [row for row, state in enumerate(self.rows) if state not in FINAL]

    def set(self, before: State, after: State, *, most: int = ROWS) -> int:
        """Move rows from one state to another in the outbox."""
        moved = [row for row, state in enumerate(self.rows) if state is before][:most]
        for row in moved:
            self.rows[row] = after
        return len(moved)

    @initialize(sending=st.booleans())
    def take_up(self, sending: bool) -> None:  # noqa: FBT001 - drawn
        """Take the batch up for the first time."""
        self.start(sending=sending)

    def start(self, *, sending: bool) -> None:
        """Begin a round, or call `on_complete`."""
        self.notified = 0
        self.tell(machine.start(self.state, counts=self.counts(), sending=sending, limit=self.limit()))

    @rule(before=st.sampled_from([State.FAILED, State.GONE, State.CANCELLED]), sending=st.booleans())
    def try_again(self, before: State, sending: bool) -> None:  # noqa: FBT001 - drawn
        """Make new tries, and send them here or elsewhere."""
        if self.set(before, State.UNSENT):
            self.round, self.failed, self.limited = self.round + 1, self.counts()[State.FAILED], False
        self.start(sending=sending)

    @precondition(lambda self: self.sending)
    @rule(most=st.integers(1, ROWS))
    def send(self, most: int) -> None:
        """Send rows."""
        self.tell(machine.rows_sent(self.state, at=self.now, count=self.set(State.UNSENT, State.SENT, most=most)))

    @precondition(lambda self: self.sending)
    @rule()
    def end_sending(self) -> None:
        """End the sending, whatever is sent."""
        self.sending = False
        self.tell(machine.work_changed(self.state, sending=False, cancelling=self.cancelling))

    @precondition(lambda self: not self.cancelling)
    @rule()
    def cancel(self) -> None:
        """Begin to cancel, as a user does."""
        self.start(sending=False)
        self.cancelling = True
        self.tell(machine.work_changed(self.state, sending=self.sending, cancelling=True))

    @precondition(lambda self: self.cancelling)
    @rule(most=st.integers(0, ROWS))
    def end_cancelling(self, most: int) -> None:
        """Delete tasks, and end the cancellation."""
        self.set(State.SENT, State.CANCELLED, most=most)
        self.tell(machine.rows_changed(self.state))
        self.cancelling = False
        self.tell(machine.work_changed(self.state, sending=self.sending, cancelling=False))

    @precondition(lambda self: self.state.watching)
    @rule(end=ENDS, most=st.integers(0, ROWS), dispatching=st.booleans())
    def apply_snapshot(self, end: State, most: int, dispatching: bool) -> None:  # noqa: FBT001 - drawn
        """Store outcomes."""
        self.set(State.SENT, end, most=most)
        self.tell(machine.rows_changed(self.state, dispatching=dispatching))

    @rule(before=st.sampled_from([State.SENT, State.GONE]), after=st.sampled_from([State.SUCCEEDED, State.GONE]))
    def end_search(self, before: State, after: State) -> None:
        """End a search for missing rows, or another read of the log for those that are gone."""
        self.set(before, after, most=1)
        self.tell(machine.rows_changed(self.state))

    @precondition(lambda self: self.asked[Effect.COUNT] and self.counting is None)
    @rule()
    def begin_count(self) -> None:
        """Read the counts, which are handed to the machine later."""
        self.asked[Effect.COUNT] -= 1
        if self.state.stale:
            self.counting = {
                "at": self.now,
                "number": self.state.changes,
                "counts": self.counts(),
                "limit": self.limit(),
            }

    @precondition(lambda self: self.counting is not None)
    @rule()
    def end_count(self) -> None:
        """Hand over the counts that were read."""
        count, self.counting = self.counting, None
        assert count is not None
        self.tell(machine.rows_counted(self.state, **count))

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0, 60.0, 500.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass; the timer goes off when it is due, or later."""
        self.now += seconds
        wake = self.state.wake
        if wake is not None and wake <= self.now:
            self.tell(machine.time_passed(self.state, at=self.now))
            assert self.state.wake is None or self.state.wake > self.now, "the timer goes off without end"

    @invariant()
    def is_consistent(self) -> None:
        """A round has at most one end; no open row is unwatched; what is finished is."""
        assert self.notified <= 1
        assert (self.state.sending, self.state.cancelling) == (self.sending, self.cancelling)
        assert self.state.watching or self.state.working or not self.state.open
        assert not (self.state.finished and (self.left() or self.sending or self.cancelling))
        assert not self.state.finished or self.notified == 1

    def teardown(self) -> None:
        """Whatever has happened, the batch ends once, and is watched no longer than is of use."""
        self.set(State.UNSENT, State.SENT)
        self.set(State.SENT, State.SUCCEEDED)
        self.sending = self.cancelling = False
        self.tell(machine.work_changed(self.state, sending=False, cancelling=False))
        for _ in range(100):
            if self.cancelling:  # a count of before has the limit exceeded
                self.end_cancelling(0)
            if self.counting is not None:
                self.end_count()
            elif self.asked[Effect.COUNT]:
                self.begin_count()
            elif self.state.wake is not None:
                self.wait(self.state.wake - self.now)
        assert self.state.finished
        assert self.notified == 1
        assert not self.state.watching
        assert self.state.wake is None


TestBatchModel = BatchModel.TestCase
TestBatchModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBatchModel.__doc__ = BatchModel.__doc__
