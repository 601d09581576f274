"""Two homes that share a store, and a function that is edited, in any order; a model knows the results of each row.

Kernels that are killed, cancels and faults are those of `unit/fanout/batch/test_batch_machine.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchExistsError, BatchNotFoundError, PreconditionError
from tests.integration.conftest import Emulator
from tests.integration.fanout.conftest import Serve

BOTH = ("ada", "bob")
HOMES = st.sampled_from(BOTH)
ROWS = st.sets(st.integers(0, 7)).map(lambda rows: sorted({0, *rows}))  # any two of them have a row in common
BROKEN = st.sets(st.integers(0, 7), max_size=4)  # rows for which the function fails
LIVES = st.sampled_from(["goes on", "is restarted", "is wiped"])  # what the home did before a step
FEW = 3
_numbers = count()


class TwoHomes(RuleBasedStateMachine):
    """Both homes, a function that is edited, and of each row how it is, in which try, and by which formula."""

    def __init__(self, emulator: Emulator, serve: Serve, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.emulator, self.serve, self.patch, self.id = emulator, serve, patch, f"two-homes-{next(_numbers)}"
        self.folder = folder / self.id
        self.broken = set[int]()
        self.calls, self.expected = Counter[int](), Counter[int]()
        self.states: dict[int, str] = {}
        self.tries = Counter[int]()
        self.formulas: dict[int, int] = {}
        self.deleted = set[int]()  # rows whose newest result was deleted with the batch; a home may have read it before
        self.lives = Counter[str]()
        self.clients: dict[str, ct.Client] = {}
        self.kept: dict[str, ct.Batch] = {}  # what the cell has returned in a kernel that goes on
        self.given: dict[str, int] = {}  # the formula with which a home has run the cell last
        self.ids: dict[str, str] = {}  # of homes that have the batch
        self.rendered: dict[str, set[int]] = {}  # rows of the cells of a home
        self.claimed = False  # the store has the batch
        self.formula = 1
        self.edit()

    # What both homes do

    def edit(self) -> None:
        """Edit the function: it has another version."""
        self.formula += 1
        formula = self.formula

        def multiply(day: int) -> int:
            self.calls[day] += 1
            if day in self.broken:
                raise LookupError(day)
            return formula * day

        self.patch.setenv("CLOUDTASKS_NB_HOME", str(self.folder / "functions"))
        self.handler = self.serve(multiply, name=self.id, store=self.folder / "store")

    @rule(home=HOMES, life=LIVES, broken=BROKEN, edit=st.booleans(), rows=ROWS)
    def cell(self, *, home: str, life: str, broken: set[int], edit: bool, rows: Sequence[int]) -> None:
        """Rows that nobody has sent are sent; the batch answers for the rows of the cell, its whole for all."""
        self.leave(home, life, broken)
        if edit:
            self.edit()
        self.send(row for row in rows if row not in self.states)
        self.kept[home] = batch = self.run_cell(home, rows)
        self.given[home] = self.formula
        self.rendered[home] = {*rows, *self.rendered.get(home, ())}
        assert self.settle(home, batch) == set(rows)
        assert self.check(home, batch.whole) >= set(rows)

    @precondition(lambda self: self.states)
    @rule(home=HOMES, life=LIVES, broken=BROKEN, verb=st.sampled_from(["retry", "resend", "update"]), rows=ROWS)
    def again(self, home: str, life: str, broken: set[int], verb: str, rows: Sequence[int]) -> None:
        """What has failed by now, wherever, is sent again; so are rows of a frame, and rows of an older version."""
        self.leave(home, life, broken)
        given = self.given_in(home)
        if (batch := self.open(home)) is None or (verb == "update" and given is None):
            return
        known = set(batch.tasks()["day"])
        if verb == "retry":
            wanted = {row for row in known if self.states[row] == "failed"}
            act: Callable[[], object] = batch.retry_failed
        else:
            found = batch.stale() if verb == "update" else batch.tasks()
            wanted = (known if verb == "resend" else self.stale(known, given)).intersection(rows) - self.deleted
            act = partial(batch.resend, found[found["day"].isin(wanted)])
        if wanted <= self.rendered.get(home, set()):
            self.send(wanted)
            act()
        else:
            with pytest.raises(PreconditionError, match="not rendered in this home"):
                act()
        self.settle(home, batch)

    @precondition(lambda self: self.claimed)
    @rule(home=HOMES, life=LIVES, rows=ROWS)
    def other_templates(self, home: str, life: str, rows: Sequence[int]) -> None:
        """They are refused in each home."""
        self.leave(home, life, self.broken)
        with pytest.raises(BatchExistsError):
            self.run_cell(home, rows, ("day", "more"))

    @precondition(lambda self: self.states)
    @rule(home=HOMES, life=LIVES)
    def delete(self, home: str, life: str) -> None:
        """One home forgets the batch, and the store too; the other one has what it had, but for results."""
        self.leave(home, life, self.broken)
        if (batch := self.open(home)) is None:
            return
        batch.delete(others=True)
        self.forget(home)
        self.deleted.update(self.states)
        self.claimed = False
        self.look()

    # How they do it

    def client(self, home: str) -> ct.Client:
        """Return the connection of a home."""
        if home not in self.clients:
            self.patch.setenv("CLOUDTASKS_NB_HOME", str(self.folder / f"{home}-{self.lives[home]}"))
            endpoint = self.emulator.ready["grpc"]
            made = ct.connect("demo", "us-central1", endpoint=endpoint, store=self.folder / "store")
            made.batches()
            self.clients[home] = made
        return self.clients[home]

    def run_cell(self, home: str, rows: Sequence[int], body: Sequence[str] = ("day",)) -> Any:
        """Run the cell."""
        queue = self.client(home).queue(self.id, create=True, max_attempts=1)
        frame = pd.DataFrame({"day": rows, "more": "x"})
        return queue.fan_out(frame, url=self.handler, body=list(body), name="march", progress=False)

    def open(self, home: str) -> ct.Batch | None:
        """Open the batch in a home; None if neither that nor the store has it."""
        try:
            batch = self.client(home).batch("march")
        except BatchNotFoundError:
            assert home not in self.ids
            return None
        self.ids[home] = batch.id
        assert len({*self.ids.values()}) == 1
        return batch

    def leave(self, home: str, life: str, broken: set[int]) -> None:
        """Have the kernel of a home end, or its disk be wiped too; some rows fail from now on."""
        self.broken = broken
        if life != "goes on" and home in self.clients:
            self.clients.pop(home).close()
            self.kept.pop(home, None)
        if life == "is wiped":
            self.lives[home] += 1
            self.forget(home)

    def forget(self, home: str) -> None:
        """Have a home know nothing of the batch."""
        for known in (self.kept, self.given, self.ids, self.rendered):
            known.pop(home, None)

    def given_in(self, home: str) -> int | None:
        """Return the formula of the function that a home was given last; a handler has the version of now."""
        return self.formula if home in self.kept else self.given.get(home)

    def stale(self, known: set[int], formula: int | None) -> set[int]:
        """Return which rows were computed by another formula."""
        return {row for row in known if self.formulas[row] != formula}

    def send(self, rows: Iterable[int]) -> None:
        """Have the model send rows."""
        for row in rows:
            self.states[row], self.formulas[row] = "failed" if row in self.broken else "succeeded", self.formula
            self.tries[row] += 1
            self.expected[row] += 1
            self.deleted.discard(row)
            self.claimed = True

    def settle(self, home: str, batch: ct.Batch) -> set[int]:
        """Wait for the end of what a home does, and look at both; return the rows of its batch."""
        batch.wait("240s")
        known = self.check(home, batch)
        self.look()
        return known

    def look(self) -> None:
        """Compare what homes tell at first with the model."""
        for home in BOTH:
            if (batch := self.open(home)) is not None:
                self.check(home, batch)

    def check(self, home: str, batch: ct.Batch) -> set[int]:
        """Compare what a home tells at first with the model; return the rows that it knows."""
        shown = batch.tasks()
        known = set(shown["day"])
        found = {row: (state, number) for row, state, number in shown[["day", "state", "try"]].itertuples(index=False)}
        assert found == {row: (self.states[row], self.tries[row]) for row in known}
        self.check_results(home, batch, known)
        assert set(batch.failed()["day"]) == {row for row in known if self.states[row] == "failed"}
        assert self.calls == self.expected
        return known

    def check_results(self, home: str, batch: ct.Batch, known: set[int]) -> None:
        """Compare the results, and the versions they are of; those that were deleted may be known or not."""
        results, given = batch.results(), self.given_in(home)
        told = results.dropna(subset="result")
        values: dict[int, Any] = dict(zip(told["day"], told["result"], strict=True))
        succeeded = {row for row in known if self.states[row] == "succeeded"}
        assert set(results.loc[results["state"] == "succeeded", "day"]) == succeeded
        assert succeeded - self.deleted <= values.keys() <= succeeded
        assert values == {row: self.formulas[row] * row for row in values}
        if given is None:
            with pytest.raises(PreconditionError, match="no version is known"):
                batch.stale()
            return
        stale = self.stale(known, given)
        assert stale - self.deleted <= set(batch.stale()["day"]) <= stale

    def teardown(self) -> None:
        """Close all."""
        for client in self.clients.values():
            client.close()
        self.handler.close()


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("examples", [FEW, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_homes_and_one_store(
    emulator: Emulator, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    """No frame contradicts the model, and no row is called once too often."""
    make: Callable[[], TwoHomes] = lambda: TwoHomes(emulator, serve, tmp_path, monkeypatch)  # noqa: E731
    run_state_machine_as_test(
        make,  # type: ignore[arg-type]  # it is called
        settings=settings(
            max_examples=examples,
            stateful_step_count=6,
            derandomize=examples == FEW,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
