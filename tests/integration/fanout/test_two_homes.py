"""Two homes that share a store act in any order; a model knows what became of each row, and counts the calls."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchExistsError, BatchNotFoundError, PreconditionError
from tests.integration.conftest import Emulator
from tests.integration.fanout import doomed
from tests.integration.fanout.conftest import Serve, reached

BOTH = ("ada", "bob")
HOMES = st.sampled_from(BOTH)
ROWS = st.sets(st.integers(0, 7)).map(lambda rows: sorted({0, *rows}))  # any two of them have a row in common
BROKEN = st.sets(st.integers(0, 7), max_size=4)  # rows for which the function fails
LIVES = st.sampled_from(["goes on", "is restarted", "is wiped"])  # what the home did before a step
FINAL = ("succeeded", "failed", "cancelled")
DEATHS = st.fixed_dictionaries({"accepted": st.integers(0, 3), "recorded": st.booleans(), "published": st.booleans()})
AGAIN = ["retry", "resend", "resume", "update"]
FEW = 3
_numbers = count()


class Model:
    """Of each row how it is and in which try, by what was sent from either home, and what only one home knows."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}  # of rows that were sent
        self.tries = Counter[int]()
        self.calls = Counter[int]()
        self.formulas: dict[int, int] = {}  # by which rows were computed
        self.deleted = set[int]()  # rows whose newest result was deleted with the batch; a home may have read it before
        self.own: dict[str, dict[int, tuple[str, int]]] = {home: {} for home in BOTH}  # tries that were not sent

    def row(self, home: str, row: int) -> tuple[str, int]:
        """Return state and try of a row that a home shows."""
        own = self.own[home].get(row, ("unsent", 1))
        return own if own[1] > self.tries[row] else (self.states[row], self.tries[row])

    def state(self, home: str, row: int) -> str:
        """Return the state of a row that a home shows."""
        return self.row(home, row)[0]

    def unsent(self, home: str) -> set[int]:
        """Return the rows that a home was about to send when it was killed, and that it sends with any others."""
        return {row for row in self.own[home] if self.state(home, row) == "unsent"}

    def wanted(self, home: str, verb: str, rows: Iterable[int], known: set[int], formula: int | None) -> set[int]:
        """Return the rows that a verb in a home sends, which knows some rows."""
        states = {row: self.state(home, row) for row in {*rows, *known}}
        chosen = {
            "cell": {row for row in rows if states[row] == "unsent"},
            "retry": {row for row in known if states[row] == "failed"},
            "resend": {row for row in known.intersection(rows) if states[row] != "unsent"},
            "resume": {row for row in known if states[row] == "unsent"},
            "update": self.stale(home, known, formula).intersection(rows),
        }[verb]
        return chosen if verb == "retry" and not chosen else chosen | self.unsent(home)

    def stale(self, home: str, known: set[int], formula: int | None) -> set[int]:
        """Return which rows were computed by another formula."""
        ended = {row for row in known if self.state(home, row) in ("succeeded", "failed")}
        return {row for row in ended if self.formulas[row] != formula}

    def open(self, home: str, row: int) -> None:
        """Have a row get a try that is not sent."""
        state, number = self.row(home, row)
        self.own[home][row] = "unsent", number + (state != "unsent")

    def send(self, home: str, row: int, state: str, formula: int) -> None:
        """Send a row, and have it end."""
        self.open(home, row)
        self.tries[row] = self.own[home].pop(row)[1]
        self.states[row], self.formulas[row] = state, formula
        self.calls[row] += state != "cancelled"
        self.deleted.discard(row)

    def cancel(self) -> None:
        """Have each home drop what it has not sent."""
        for home in BOTH:
            for row in self.unsent(home):
                self.own[home][row] = "cancelled", self.own[home][row][1]


class World:
    """What all examples share."""

    def __init__(self, emulator: Emulator, serve: Serve, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.emulator, self.serve, self.folder, self.patch = emulator, serve, folder, patch
        command = sys.executable, "-m", doomed.__name__
        root = Path(__file__).parents[3]
        self._kernels = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)

    def kill(self, **order: Any) -> None:
        """Have a kernel take a step, in which it is killed."""
        assert self._kernels.stdin is not None
        assert self._kernels.stdout is not None
        print(json.dumps(order | {"endpoint": self.emulator.ready["grpc"]}), file=self._kernels.stdin, flush=True)
        assert self._kernels.stdout.readline() == f"{-signal.SIGKILL}\n"

    def close(self) -> None:
        """End the process of the kernels."""
        self._kernels.communicate()


class TwoHomes(RuleBasedStateMachine):
    """Both homes, a function that is edited, and the model."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.id = world, f"two-homes-{next(_numbers)}"
        self.folder = world.folder / self.id
        self.model = Model()
        self.broken = set[int]()
        self.calls = Counter[int]()
        self.lives = Counter[str]()
        self.clients: dict[str, ct.Client] = {}
        self.kept: dict[str, ct.Batch] = {}  # what the cell has returned in a kernel that goes on
        self.given: dict[str, int] = {}  # the formula with which a home has run the cell last
        self.ids: dict[str, str] = {}  # of homes that have the batch
        self.claimed = False  # the store has the batch
        self.cancelled = False  # a home has cancelled, after which nothing is sent for the first time
        self.formula = 1
        self.name: str | None = None
        self.edit()

    @initialize(name=st.sampled_from(["march", None]))
    def begin(self, name: str | None) -> None:
        """Choose whether the cell gives the batch a name; without one it is the only batch of each home."""
        self.name = name

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

        self.world.patch.setenv("CLOUDTASKS_NB_HOME", str(self.folder / "functions"))
        self.handler = self.world.serve(multiply, name=self.id, store=self.folder / "store")

    @precondition(lambda self: not self.cancelled)
    @rule(home=HOMES, life=LIVES, broken=BROKEN, edit=st.booleans(), rows=ROWS)
    def cell(self, *, home: str, life: str, broken: set[int], edit: bool, rows: Sequence[int]) -> None:
        """Rows that nobody has sent are sent; the batch answers for the rows of the cell, its whole for all."""
        self.leave(home, life, broken)
        if edit:
            self.edit()
        self.send(home, self.model.wanted(home, "cell", rows, set(), None))
        self.kept[home] = batch = self.run_cell(home, rows)
        self.given[home] = self.formula
        assert self.settle(home, batch) == set(rows)
        assert self.check(home, batch.whole) >= set(rows)

    @precondition(lambda self: self.model.states)
    @rule(home=HOMES, life=LIVES, broken=BROKEN, verb=st.sampled_from(AGAIN), rows=ROWS)
    def again(self, home: str, life: str, broken: set[int], verb: str, rows: Sequence[int]) -> None:
        """What has failed by now, wherever, is sent again; so are rows of a frame; and what is unsent is sent."""
        self.leave(home, life, broken)
        batch = self.open(home)
        if batch is not None and (verb != "update" or self.given_in(home)):
            rows = [row for row in rows if row not in self.model.deleted]
            wanted = self.model.wanted(home, verb, rows, set(batch.tasks()["day"]), self.given_in(home))
            self.send(home, wanted)
            doomed.again(batch, verb, rows)
            self.settle(home, batch)

    @rule(
        home=HOMES,
        broken=BROKEN,
        verb=st.sampled_from(["cell", "retry", "resend"]),
        rows=ROWS,
        death=DEATHS,
        looking=st.sets(HOMES),
    )
    def killed(
        self, home: str, broken: set[int], verb: str, rows: Sequence[int], death: dict[str, Any], looking: set[str]
    ) -> None:
        """Rows whose requests were accepted are sent, and the others are open in that home alone."""
        if home not in self.ids:
            verb = "cell"
        if verb == "cell" and self.cancelled:
            return
        batch = None if verb == "cell" else self.open(home)
        known = set() if batch is None else set(batch.tasks()["day"])
        queue = self.queue(home).name
        self.leave(home, "is restarted", broken)
        self.world.kill(
            **death | ({"published": True} if self.name is None else {}),
            home=str(self.home(home)),
            store=str(self.folder / "store"),
            queue=self.id,
            handler={name: getattr(self.handler, name) for name in ("name", "url", "version")},
            name=self.name,
            verb=verb,
            rows=rows,
        )
        self.world.emulator.drained(queue)
        if verb == "cell":
            self.given[home] = self.formula
        ran = self.calls - self.model.calls
        wanted = self.model.wanted(home, verb, rows, known, None)
        assert ran.keys() <= wanted
        assert bool(wanted and death["accepted"]) <= len(ran) <= 2 * death["accepted"]
        for row in wanted - ran.keys():
            self.model.open(home, row)
        self.send(home, ran)
        self.look(looking)

    @precondition(lambda self: self.claimed and self.name)
    @rule(home=HOMES, life=LIVES, rows=ROWS)
    def other_templates(self, home: str, life: str, rows: Sequence[int]) -> None:
        """They are refused in each home."""
        self.leave(home, life, self.broken)
        with pytest.raises(BatchExistsError):
            self.run_cell(home, rows, ("day", "more"))

    @precondition(lambda self: self.model.states and not self.cancelled)
    @rule(home=HOMES, life=LIVES)
    def cancel(self, home: str, life: str) -> None:
        """Rows that wait in the queue are cancelled in each home."""
        self.leave(home, life, self.broken)
        self.queue(home).pause()
        batch = self.run_cell(home, range(9))
        reached(batch, lambda progress: not (progress.unsent or batch._tracker.sending))
        self.kept[home], self.given[home] = batch, self.formula
        batch.cancel().wait("240s")
        self.queue(home).resume()
        for row in self.model.wanted(home, "cell", range(9), set(), None):
            self.model.send(home, row, "cancelled", self.formula)
        self.model.cancel()
        self.claimed = self.cancelled = True
        self.settle(home, batch)

    @precondition(lambda self: self.model.states and self.name and not self.cancelled)
    @rule(home=HOMES, life=LIVES)
    def delete(self, home: str, life: str) -> None:
        """One home forgets the batch, and the store too; the other one has what it had, but for results."""
        self.leave(home, life, self.broken)
        batch = self.open(home)
        if batch is None:
            return
        self.send(home, self.model.wanted(home, "resume", (), set(batch.tasks()["day"]), None))
        doomed.again(batch, "resume", ())
        self.settle(home, batch)
        batch.delete(others=True)
        self.forget(home)
        self.model.deleted.update(self.model.states)
        self.claimed = False
        self.look()

    # How they do it

    def home(self, home: str) -> Path:
        """Return the folder of a home."""
        return self.folder / f"{home}-{self.lives[home]}"

    def client(self, home: str) -> ct.Client:
        """Return the connection of a home."""
        if home not in self.clients:
            self.world.patch.setenv("CLOUDTASKS_NB_HOME", str(self.home(home)))
            made = ct.connect(
                "demo", "us-central1", endpoint=self.world.emulator.ready["grpc"], store=self.folder / "store"
            )
            made.batches()
            self.clients[home] = made
        return self.clients[home]

    def queue(self, home: str) -> ct.Queue:
        """Return the queue, as a home sees it."""
        return self.client(home).queue(self.id, create=True, max_attempts=1)

    def run_cell(self, home: str, rows: Sequence[int], body: Sequence[str] = ("day",)) -> Any:
        """Run the cell."""
        return doomed.cell(self.queue(home), rows, self.name, self.handler, body)

    def open(self, home: str) -> ct.Batch | None:
        """Open the batch in a home; None if neither that nor the store has it.

        A kernel that goes on while rows are open learns of what others do with them as of its own.
        """
        follows = home in self.clients and bool(self.model.own[home])
        try:
            batch = self.client(home).batch(self.name)
        except BatchNotFoundError:
            assert home not in self.ids
            return None
        self.ids[home] = batch.id
        assert len({*self.ids.values()}) == 1
        if follows:
            states = Counter(self.model.state(home, row) for row in batch.tasks()["day"])
            reached(batch, lambda now: all(getattr(now, state) == states[state] for state in FINAL))
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
        for known in (self.kept, self.given, self.ids):
            known.pop(home, None)
        self.model.own[home].clear()

    def given_in(self, home: str) -> int | None:
        """Return the formula of the function that a home was given last; a handler has the version of now."""
        return self.formula if home in self.kept else self.given.get(home)

    def send(self, home: str, rows: Iterable[int]) -> None:
        """Have the model send rows."""
        for row in rows:
            self.model.send(home, row, "failed" if row in self.broken else "succeeded", self.formula)
            self.claimed = True

    def settle(self, home: str, batch: ct.Batch) -> set[int]:
        """Wait for the end of what a home does, and look at both; return the rows of its batch."""
        known = set(batch.tasks()["day"])
        if any(self.model.state(home, row) == "unsent" for row in known):
            with pytest.raises(PreconditionError, match="no process sends them"):
                batch.wait("240s")
        else:
            batch.wait("240s")
        if not self.model.unsent(home):  # other rows of the batch may be sent, or looked up, too
            reached(batch.whole, lambda progress: progress.done + progress.unsent == progress.total)
        self.check(home, batch)
        self.look()
        return known

    def look(self, homes: Iterable[str] = BOTH) -> None:
        """Compare what homes tell at first with the model."""
        for home in homes:
            if (batch := self.open(home)) is not None:
                self.check(home, batch)

    def check(self, home: str, batch: ct.Batch) -> set[int]:
        """Compare what a home tells at first with the model; return the rows that it knows."""
        model = self.model
        shown = batch.tasks()
        known = set(shown["day"])
        found = {row: (state, number) for row, state, number in shown[["day", "state", "try"]].itertuples(index=False)}
        for row in model.unsent(home):  # in a request that may have been accepted, by what a killed kernel has recorded
            if row in found and found[row][0] == "ready":
                found[row] = "unsent", found[row][1]
        assert found == {row: model.row(home, row) for row in known}
        self.check_results(home, batch, known)
        assert set(batch.failed()["day"]) == {row for row in known if model.state(home, row) == "failed"}
        assert self.calls == model.calls
        return known

    def check_results(self, home: str, batch: ct.Batch, known: set[int]) -> None:
        """Compare the results, and the versions they are of; those that were deleted may be known or not."""
        model, results, given = self.model, batch.results(), self.given_in(home)
        told = results.dropna(subset="result")
        values: dict[int, Any] = dict(zip(told["day"], told["result"], strict=True))
        succeeded = {row for row in known if model.state(home, row) == "succeeded"}
        assert set(results.loc[results["state"] == "succeeded", "day"]) == succeeded
        assert succeeded - model.deleted <= values.keys() <= succeeded
        assert values == {row: model.formulas[row] * row for row in values}
        if given is None:
            with pytest.raises(PreconditionError, match="no version is known"):
                batch.stale()
            return
        stale = model.stale(home, known, given)
        assert stale - model.deleted <= set(batch.stale()["day"]) <= stale

    def teardown(self) -> None:
        """Close all."""
        for client in self.clients.values():
            client.close()
        self.handler.close()


@pytest.fixture
def world(emulator: Emulator, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Give what all examples share."""
    made = World(emulator, serve, tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("examples", [FEW, pytest.param(200, marks=pytest.mark.nightly)])
def test_two_homes_and_one_store(world: World, examples: int) -> None:
    """No frame contradicts the model, and no row is called once too often."""
    make: Callable[[], TwoHomes] = lambda: TwoHomes(world)  # noqa: E731
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
