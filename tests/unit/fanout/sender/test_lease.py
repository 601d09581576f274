"""Rows of a shared batch are sent only while this home has a lease."""

import pytest

from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests.raising import raises
from tests.unit.fanout.conftest import FakeClock, FakeObserver, Service, assert_each_once, raising, refs, run_send

ROWS = 1_250


class Limited:
    """A lease that ends after some checks; `told` has what was called, and how many tasks there were then."""

    def __init__(self, service: Service, checks: int, refused: PreconditionError | None = None) -> None:
        self.service, self.checks, self.refused = service, checks, refused
        self.told: list[tuple[str, int]] = []
        self.held = False
        self.clock = FakeClock()
        self.ended_at = 0.0  # seconds

    def lock(self) -> "Limited":
        """Nobody else sends."""
        return self

    def release(self) -> None:
        """Let others send."""

    async def begin(self) -> None:
        """Get it."""
        self.told.append(("begin", len(self.service.created)))
        if self.refused is not None:
            raise self.refused

    def check(self) -> None:
        """Count."""
        self.checks -= 1
        if self.checks < 0:
            raise StoreError("the lease has ended")

    async def end(self, *, held: bool = False) -> None:
        """Give it back."""
        self.held, self.ended_at = held, self.clock.elapsed
        self.told.append(("end", len(self.service.created)))


@pytest.mark.parametrize("left", [True, False])
def test_rows_that_are_held_back_keep_the_lease(outbox: Outbox, batch: str, *, left: bool) -> None:
    """The gate may open, so that the same home goes on; without rows that wait it is given back."""
    lease, observer = Limited(service := Service(), 99), FakeObserver()
    observer.until = refs(outbox, batch)[199 if left else -1]
    run_send(outbox, batch, service, observer=observer, lease=lease)
    assert (lease.held, len(service.created)) == (left, 200 if left else ROWS)


def test_operations_are_answered_before_the_end_is_told(outbox: Outbox, batch: str) -> None:
    """The lease has run out meanwhile."""
    lease = Limited(service := Service(unfinished=9), 2)
    with raises(StoreError, match="the lease has ended"):
        run_send(outbox, batch, service, lease=lease, clock=lease.clock)
    assert outbox.batches.counts(whole(batch))[State.SENT] == 200
    assert service.calls["GetOperation"] == 2 * 9


def test_a_request_without_an_answer_delays_the_end(outbox: Outbox, batch: str) -> None:
    """The service may still carry it out: 60 s later nobody does."""
    lease = Limited(service := Service(after=raising("DEADLINE_EXCEEDED", 1)), 1)
    with raises(StoreError, match="the lease has ended"):
        run_send(outbox, batch, service, lease=lease, clock=lease.clock)
    assert lease.ended_at >= 60
    lease = Limited(Service(), 99)
    run_send(outbox, batch, lease.service, lease=lease, clock=lease.clock)
    assert lease.ended_at < 60


@pytest.mark.parametrize("checks", [0, 1, 5])
def test_no_request_is_handed_out_without_a_lease(outbox: Outbox, batch: str, checks: int) -> None:
    """Its rows stay unsent, the end is told after all answers have come, and the next lease sends each once."""
    service = Service()
    lease = Limited(service, checks)
    with raises(StoreError, match="the lease has ended"):
        run_send(outbox, batch, service, lease=lease)
    counts = outbox.batches.counts(whole(batch))
    assert (counts[State.SENT], counts[State.UNSENT]) == (100 * checks, ROWS - 100 * checks)
    assert lease.told == [("begin", 0), ("end", 100 * checks)]
    run_send(outbox, batch, service, lease=Limited(service, 100))
    assert_each_once(outbox, batch, service, ROWS)


def test_another_home_has_the_lease(outbox: Outbox, batch: str) -> None:
    """Nothing is sent, and this home may try again at once."""
    service = Service()
    for _ in range(2):
        with raises(PreconditionError, match="ann@laptop"):
            run_send(
                outbox, batch, service, lease=Limited(service, 9, PreconditionError("ann@laptop sends this batch"))
            )
    assert not service.created
