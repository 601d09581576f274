"""Two homes that share a store act in any order; a model knows what became of each row, and counts the calls."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchExistsError
from tests.integration.conftest import Emulator
from tests.integration.fanout.conftest import Serve, sent

HOMES, ROWS = st.sampled_from(["ada", "bob"]), st.integers(1, 8)
BROKEN = st.sets(st.integers(0, 7), max_size=4)  # rows for which the function fails
LIVES = st.sampled_from(["goes on", "is restarted", "is wiped"])  # what the home did before a step
NAME, FEW = "march", 3
_numbers = count()


class World:
    """What all examples share."""

    def __init__(self, emulator: Emulator, serve: Serve, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.emulator, self.serve, self.folder, self.patch = emulator, serve, folder, patch


class TwoHomes(RuleBasedStateMachine):
    """Both homes, and the model: of each row how it is, and in which try."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.id = world, f"two-homes-{next(_numbers)}"
        self.folder = world.folder / self.id
        self.broken = set[int]()
        self.calls = Counter[int]()
        self.states: dict[int, str] = {}
        self.tries = Counter[int]()
        self.called = Counter[int]()  # by the model
        self.lives = Counter[str]()
        self.clients: dict[str, ct.Client] = {}
        self.cancelled = False  # a home has cancelled, after which nothing is sent for the first time
        self.handler = world.serve(self.double, name=self.id, store=self.folder / "store")

    def double(self, day: int) -> int:
        """Double a number, unless it is broken."""
        self.calls[day] += 1
        if day in self.broken:
            raise LookupError(day)
        return 2 * day

    def client(self, home: str) -> ct.Client:
        """Return the connection of a home."""
        if home not in self.clients:
            self.world.patch.setenv("CLOUDTASKS_NB_HOME", str(self.folder / f"{home}-{self.lives[home]}"))
            made = ct.connect(
                "demo", "us-central1", endpoint=self.world.emulator.ready["grpc"], store=self.folder / "store"
            )
            made.batches()
            self.clients[home] = made
        return self.clients[home]

    def queue(self, home: str) -> ct.Queue:
        """Return the queue, as a home sees it."""
        return self.client(home).queue(self.id, create=True, max_attempts=1)

    def run_cell(self, home: str, rows: int, body: Any = ("day",)) -> ct.Batch:
        """Run the cell."""
        df = pd.DataFrame({"day": range(rows), "more": "x"})
        batch: ct.Batch = self.queue(home).fan_out(df, url=self.handler, body=list(body), name=NAME, progress=False)
        return batch

    def send(self, rows: Iterator[int]) -> None:
        """Have the model send rows."""
        for row in rows:
            self.tries[row] += 1
            self.called[row] += 1
            self.states[row] = "failed" if row in self.broken else "succeeded"

    def check(self, batch: ct.Batch) -> set[int]:
        """Compare what a home tells at first with the model; return the rows that it knows."""
        shown = batch.tasks()
        for day, state, number in zip(shown["day"], shown["state"], shown["try"], strict=True):
            assert (day, state, number) == (day, self.states[day], self.tries[day])
        results = batch.results()
        assert dict(zip(results["day"], results["state"], strict=True)) == {
            day: self.states[day] for day in shown["day"]
        }
        known = results["result"].notna()
        assert (results.loc[known, "result"] == 2 * results.loc[known, "day"]).all()
        assert set(results.loc[results["state"] == "succeeded", "day"]) == set(results.loc[known, "day"])
        assert set(batch.failed()["day"]) == {day for day in shown["day"] if self.states[day] == "failed"}
        assert self.calls == self.called
        return set(shown["day"])

    def act(self, home: str, life: str, broken: set[int]) -> ct.Client:
        """Begin a step in a home: the function was edited, and the kernel may have been restarted before."""
        self.broken = broken
        if life != "goes on" and home in self.clients:
            self.clients.pop(home).close()
        self.lives[home] += life == "is wiped"
        return self.client(home)

    def both(self, batch: ct.Batch) -> set[int]:
        """Compare what both homes tell; return the rows that the one of a batch knows."""
        batch.wait("60s")
        found = self.check(batch)
        for home in ("ada", "bob"):
            self.check(self.client(home).batch(NAME))
        return found

    @precondition(lambda self: not self.cancelled)
    @rule(home=HOMES, life=LIVES, broken=BROKEN, rows=ROWS)
    def cell(self, home: str, life: str, broken: set[int], rows: int) -> None:
        """Rows that nobody has sent are sent; the batch answers for the rows of the cell, its whole for all."""
        self.act(home, life, broken)
        batch = self.run_cell(home, rows)
        self.send(row for row in range(rows) if row not in self.states)
        assert self.both(batch) == set(range(rows))
        assert self.check(batch.whole) >= set(range(rows))

    @precondition(lambda self: self.states)
    @rule(home=HOMES, life=LIVES, broken=BROKEN)
    def retry(self, home: str, life: str, broken: set[int]) -> None:
        """What has failed by now, wherever, is sent again."""
        batch = self.act(home, life, broken).batch(NAME)
        batch.retry_failed(trust=True)
        known = set(batch.tasks()["day"])
        self.send(row for row, state in list(self.states.items()) if state == "failed" and row in known)
        self.both(batch)

    @precondition(lambda self: self.states)
    @rule(home=HOMES, life=LIVES, broken=BROKEN, row=ROWS)
    def resend(self, home: str, life: str, broken: set[int], row: int) -> None:
        """Rows that are final are sent again."""
        batch = self.act(home, life, broken).batch(NAME)
        known = batch.tasks()
        chosen = known[known["day"] < row]
        batch.resend(chosen, trust=True)
        self.send(iter(sorted(chosen["day"])))
        self.both(batch)

    @precondition(lambda self: self.states)
    @rule(home=HOMES, life=LIVES, broken=BROKEN)
    def resume(self, home: str, life: str, broken: set[int]) -> None:
        """Nothing is left that could be sent."""
        batch = self.act(home, life, broken).batch(NAME)
        batch.resume(trust=True)
        self.both(batch)

    @precondition(lambda self: self.states)
    @rule(home=HOMES, life=LIVES, rows=ROWS)
    def other_templates(self, home: str, life: str, rows: int) -> None:
        """They are refused in each home."""
        self.act(home, life, self.broken)
        with pytest.raises(BatchExistsError):
            self.run_cell(home, rows, ("day", "more"))

    @precondition(lambda self: self.states and not self.cancelled)
    @rule(home=HOMES, life=LIVES)
    def cancel(self, home: str, life: str) -> None:
        """Rows that wait in the queue are cancelled in each home."""
        self.act(home, life, self.broken)
        self.queue(home).pause()
        batch = sent(self.run_cell(home, 9))
        batch.cancel().wait("60s")
        self.queue(home).resume()
        for row in set(range(9)) - self.states.keys():
            self.states[row], self.tries[row] = "cancelled", 1
        self.cancelled = True
        self.both(batch)

    def teardown(self) -> None:
        """Close all."""
        for client in self.clients.values():
            client.close()
        self.handler.close()


@pytest.mark.parametrize("examples", [FEW, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_homes_and_one_store(
    emulator: Emulator, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    """No frame contradicts the model, and no row is called once too often."""
    world = World(emulator, serve, tmp_path, monkeypatch)
    run_state_machine_as_test(
        lambda: TwoHomes(world),  # type: ignore[arg-type]  # it is called
        settings=settings(
            max_examples=examples,
            stateful_step_count=6,
            derandomize=examples == FEW,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
