"""Five homes share a store, and do at random what colleagues do: ``python -m tests.chaos.team --minutes 10``.

Their kernels are killed, or stopped, some of them for longer than the time after which another home goes on. Before one
that was stopped so long goes on, two hours of the service's time pass, so that the names of tasks are free again: what
two homes send runs twice. In the end all batches are brought to their end, and every home says what it sees.
"""

# ruff: noqa: T201 - a command line program

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from tests.buckets import s3_bucket
from tests.chaos.kernels import SIZE
from tests.chaos.rounds import PATIENCE, Kernel, Kernels, Round, Verdict, play, problem_of
from tests.chaos.run import RESULTS

HOMES = 5
_STOPPED = 2  # kernels at the same time
_GONE = 125.0  # seconds without a beat after which another home goes on
_CARRIED_OUT = 0.5  # seconds in which what was handed over before is delivered
_NEW = 40.0  # seconds after which another batch is begun
_VERBS = {"cell": 8, "take_over": 3, "cancel": 1, "retry_failed": 2, "resume": 1, "delete": 0.4, "read": 4, "wait": 2}
_HEAD = """## A team

Five homes share a store. At random they run the same cells, some with more rows, take batches over, cancel, retry,
resume, delete and read them. Kernels are killed, or stopped for up to 150 s, and then two hours pass for the service.
"""


class TeamRound(Round):
    """Homes that share a store change the same batches."""

    kind = "team"

    def __init__(self, *about: Any, minutes: float = 0.1, store: str = "", long: bool = True) -> None:
        self._minutes, self._store = minutes, store
        super().__init__(*about, long=long)

    def _plan(self) -> None:
        self._homes = [self._folder / f"home-{number}" for number in range(HOMES)]
        self._steps, self._rows, self._again, self._rate = ["team"], 0, [], 20.0
        self._more = {"store": self._store or str(self._folder / "store")}
        self._at = dict[Path, Kernel]()  # the kernel of each home
        self._stopped = dict[Path, tuple[float, float]]()  # when it goes on, and for how long it was stopped
        self._read = len(self._kernels.told)  # lines that are judged
        self._known: dict[int, int] = defaultdict(int)  # rows of each batch that a cell had which did not fail
        self._tried: dict[int, int] = defaultdict(int)  # rows of each batch that a cell had
        self._deleted = set[int]()
        self._ended = dict[int, float]()  # rows that a cancel has ended, and when
        self._first = dict[int, int]()  # rows that a cell had for the first time, and how many cancels had begun then
        self._cancels: Counter[int] = Counter()  # by batch, those that have begun
        self._carried_out: Counter[int] = Counter()  # by batch, those of them that have ended: a kernel may be killed

    def play(self) -> None:
        """Let all homes work, bring the batches to their end, and judge what every home sees."""
        self._began = time.monotonic()
        while (now := time.monotonic() - self._began) < 60 * self._minutes:
            self._disturb_one(self._random.choice(self._homes), int(now / _NEW))
            self._go_on(time.monotonic())
            time.sleep(self._random.uniform(0.05, 0.5))
            self._judge_lines()
        (self._folder / "stop").touch()
        self._go_on(float("inf"))
        self._wait("work")
        self._oracle.mended = True
        homes = self._random.sample(self._homes, HOMES)
        every = [(0.0, verb, *one) for one in self._tried.items() for verb in ("look", "cell", "settle")]
        self._start(homes[0], every, "settle")
        self._wait("settle")
        for home in homes:
            self._start(home, [(0.0, "end", *one) for one in self._tried.items()], "end")
        self._wait("end")
        self.verdict.seconds = time.monotonic() - self._began
        self._judge_deliveries()

    def _start(self, home: Path, verbs: list[tuple[float, str, int, int]], step: str) -> None:
        order = {**self._order("team"), "home": str(home), "verbs": verbs}
        self._at[home] = self._kernels.start({**order, "stop": str(self._folder / ("stop" if step == "work" else "-"))})

    def _wait(self, step: str) -> None:
        for kernel in self._at.values():
            if not kernel.wait(PATIENCE):
                self.verdict.hung.append(step)
                kernel.kill()
        self._at.clear()
        self._judge_lines()

    def _disturb_one(self, home: Path, newest: int) -> None:
        """Start, kill or stop the kernel of a home, or leave it alone."""
        chance, kernel = self._random, self._at.get(home)
        if kernel is None or kernel.wait(0):
            verbs = []
            for verb in chance.choices(list(_VERBS), list(_VERBS.values()), k=chance.randint(2, 10)):
                batch, rows = max(0, newest - chance.choice([0, 0, 0, 1, 2])), chance.randrange(50, 500, 50)
                self._tried[batch] = max(self._tried[batch], rows * (verb == "cell"))
                verbs.append((chance.uniform(0, 2), verb, batch, rows))
            self._start(home, verbs, "work")
        elif home not in self._stopped and self._minutes >= 1:
            event = chance.choices(["", "kill kernel", "stop kernel"], [95, 2, 3])[0]
            seconds = chance.choice([1.0, 5.0, 30.0, 60.0, 130.0, 150.0])
            if not event or (event == "stop kernel" and len(self._stopped) == _STOPPED):
                return
            if event == "kill kernel":
                kernel.kill()
            else:
                kernel.signal(signal.SIGSTOP)
                self._stopped[home] = time.monotonic() + seconds, seconds
            self.verdict.events[event] += 1
            self._note(f"{home.name}: {event}" + f" for {seconds} s" * (event == "stop kernel"))

    def _go_on(self, now: float) -> None:
        """Let kernels go on whose time has come."""
        for home, (until, seconds) in list(self._stopped.items()):
            if until <= now:
                if seconds > _GONE and now < float("inf"):
                    self._move_clock(7_200)
                    self.verdict.events["two hours"] += 1
                self._at[home].signal(signal.SIGCONT)
                del self._stopped[home]

    def _note(self, text: str, at: float | None = None) -> None:
        self.verdict.history.append(f"{(at or time.monotonic()) - self._began:7.1f} {text}")

    def _judge_lines(self) -> None:
        """Judge what kernels have said since."""
        for at, said in self._kernels.told[self._read :]:
            self._read += 1
            verb, batch, rows = said["verb"], said["batch"], said["rows"]
            if "begins" in said:
                self._cancels[batch] += verb == "cancel"
                new = set(range(batch * SIZE, batch * SIZE + rows * (verb == "cell"))) - self._first.keys()
                ended = self._carried_out[batch]  # of fewer than have begun, one may still be carried out
                self._first |= dict.fromkeys(new, ended if ended == self._cancels[batch] else -1)
                continue
            shown = json.loads(Path(said["shows"]).read_text(encoding="utf-8")) if said.get("shows") else {}
            self._note(f"{said['home']} {verb} {batch} {rows}: {said.get('error') or Counter(shown.values())}", at)
            if "error" in said:
                if verb in ("settle", "end") and batch not in self._deleted:  # else homes differ
                    self.verdict.false[f"{verb}: {said['error']}"] += 1
                continue
            self.verdict.events[verb] += 1
            states = {batch * SIZE + int(row): state for row, state in shown.items()}
            if verb == "cell":
                self._known[batch] = max(self._known[batch], rows)
            elif verb == "delete":
                self._deleted.add(batch)
            elif verb == "cancel" and said["finished"]:
                self._carried_out[batch] += 1
                # Of a row that had failed, a retry was cancelled: another one may be wished later.
                never = states.keys() - self._oracle.answers.keys()
                self._ended |= {row: at for row in never if states[row] == "cancelled"}
            elif verb == "look" and batch not in self._deleted:
                self.verdict.lost += self._known[batch] - len(states)
            self._judge_states(states, "at the end: " if verb == "end" else "")

    def _judge_states(self, states: dict[int, str], when: str) -> None:
        """Count states that the deliveries contradict; before the end, only those that cannot change."""
        for row, state in states.items():
            answers = list(self._oracle.answers.get(row, ()))
            deleted = row // SIZE in self._deleted and state != "succeeded" and 200 not in {one[1] for one in answers}
            if (when or state == "succeeded") and not deleted and (problem := problem_of(state, answers)):
                self._blame(f"{when}{problem}", row)
            if when and state == "cancelled" and self._first[row] == self._cancels[row // SIZE] and not deleted:
                self.verdict.lost += 1
            if when and not answers and state != "cancelled" and not deleted:
                self.verdict.lost += 1

    def _blame(self, problem: str, row: int) -> None:
        """Count something false, and note the first time what was answered to the tasks of that row."""
        self.verdict.false[problem] += 1
        if self.verdict.false[problem] == 1:
            self._note(f"{problem}: batch {row // SIZE}, row {row % SIZE}, {self._oracle.answers.get(row)}")

    def _judge_deliveries(self) -> None:
        """Count rows that ran twice, and those that ran past the end of a cancel."""
        verdict, oracle = self.verdict, self._oracle
        verdict.rows, verdict.deliveries = len(oracle.answers), len(oracle.order)
        again = {task for (task, _), times in oracle.attempts.items() if times > 1}
        for row, answers in oracle.answers.items():
            if len({task for task, status in answers if status == 200}) > 1 or again & {task for task, _ in answers}:
                verdict.twice += 1
                self._note(f"twice: batch {row // SIZE}, row {row % SIZE}, {answers}")
            ended = self._ended.get(row, float("inf")) if row // SIZE not in self._deleted else float("inf")
            verdict.past += oracle.answered[row] > ended + _CARRIED_OUT


def report(verdicts: dict[str, Verdict]) -> str:
    """Return the figures of the rounds by the place of their store, as Markdown."""
    columns: list[dict[str, int]] = []
    for verdict in verdicts.values():
        wrong = {"false": verdict.false.total(), "hung": len(verdict.hung), "past a cancel": verdict.past}
        figures = {"seed": verdict.seed, "rows": verdict.rows, "deliveries": verdict.deliveries, **verdict.events}
        columns.append({**figures, "lost": verdict.lost, "twice": verdict.twice, **wrong})
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [f"| {name} | {' | '.join(f'{column.get(name, 0):,}' for column in columns)} |" for name in names]
    return "\n".join([f"| figure | {' | '.join(verdicts)} |", "|---" * (1 + len(verdicts)) + "|", *lines, ""])


def main() -> None:
    """Play a round on a folder and one on a bucket at once, print what they showed, and add it to the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each kind of store, besides the end")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    arguments = parser.parse_args()
    stores = {"folder": "", "bucket": f"s3://team/{arguments.seed}"}
    print(f"seed {arguments.seed}", flush=True)

    def play_one(kind: str) -> Verdict:
        (folder := Path(place) / kind).mkdir()
        make = partial(TeamRound, minutes=arguments.minutes, store=stores[kind])
        with closing(Kernels(folder)) as kernels:
            verdict = play(arguments.seed, kernels, make)
        print(kind, *([] if verdict.good else verdict.history), verdict, sep="\n", flush=True)
        return verdict

    with tempfile.TemporaryDirectory() as place, s3_bucket() as variables, ThreadPoolExecutor(2) as pool:
        os.environ.update(variables)
        verdicts = dict(zip(stores, pool.map(play_one, stores), strict=True))
    text = report(verdicts)
    print(text)
    before = RESULTS.read_text(encoding="utf-8").partition("## A team")[0].rstrip()
    RESULTS.write_text(f"{before}\n\n{_HEAD}\n{text}", encoding="utf-8")
    raise SystemExit(0 if all(verdict.good for verdict in verdicts.values()) else 1)


if __name__ == "__main__":
    main()
