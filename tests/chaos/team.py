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
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import facts
from tests.buckets import s3_bucket
from tests.chaos.kernels import SIZE
from tests.chaos.rounds import PATIENCE, Kernel, Kernels, Oracle, Round, Verdict, problem_of
from tests.chaos.run import RESULTS

__all__ = ["TeamRound", "play_team"]

HOMES = 5
_STOPPED = 2  # kernels at the same time
_GONE = 125.0  # seconds without a beat after which another home goes on
_CARRIED_OUT = 0.5  # seconds in which what was handed over before is delivered
_NEW = 40.0  # seconds after which another batch is begun
_VERBS = {"cell": 8, "take_over": 3, "cancel": 1, "retry_failed": 2, "resume": 1, "delete": 1, "read": 4, "wait": 2}
_HEAD = """## A team

Five homes share a store. At random they run the same cells, some with more rows, take batches over, cancel, retry,
resume, delete and read them. Kernels are killed, or stopped for up to 150 s, and then two hours pass for the service.
"""


class TeamRound(Round):
    """Homes that share a store change the same batches."""

    kind = "team"

    def __init__(
        self, seed: int, kernels: Kernels, folder: Path, oracle: Oracle, *, minutes: float, store: str = ""
    ) -> None:
        self._minutes, self._store = minutes, store or str(folder / "store")
        super().__init__(seed, kernels, folder, oracle, long=True)

    def _plan(self) -> None:
        self._homes = [self._folder / f"home-{number}" for number in range(HOMES)]
        self._steps, self._rows, self._again, self._rate = ["team"], 0, [], 20.0
        self._more = {"store": self._store}
        self._at = dict[Path, Kernel]()  # the kernel of each home
        self._stopped = dict[Path, tuple[float, float]]()  # when it goes on, and for how long it was stopped
        self._read = len(self._kernels.told)  # lines that are judged
        self._known: dict[int, int] = defaultdict(int)  # rows of each batch that a cell had which did not fail
        self._tried: dict[int, int] = defaultdict(int)  # rows of each batch that a cell had
        self._deleted = set[int]()
        self._ended = dict[int, float]()  # rows that a cancel has ended, and when
        self.history: list[str] = []  #: what happened, a line each

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
                kernel.signal(signal.SIGUSR1)  # writes its stacks
                kernel.wait(2)
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
            event = chance.choices(["nothing", "kill kernel", "stop kernel"], [95, 2, 3])[0]
            if event == "kill kernel":
                kernel.kill()
                self._note(f"{home.name} is killed")
            elif event == "stop kernel" and len(self._stopped) < _STOPPED:
                seconds = chance.choice([1.0, 5.0, 30.0, 60.0, 130.0, 150.0])
                kernel.signal(signal.SIGSTOP)
                self._stopped[home] = time.monotonic() + seconds, seconds
                self._note(f"{home.name} is stopped for {seconds} s")
            else:
                return
            self.verdict.events[event] += 1

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
        self.history.append(f"{(at or time.monotonic()) - self._began:7.1f} {text}")

    def _judge_lines(self) -> None:
        """Judge what kernels have said since."""
        for at, said in self._kernels.told[self._read :]:
            self._read += 1
            verb, batch, rows = said["verb"], said["batch"], said["rows"]
            shown = json.loads(Path(said["shows"]).read_text(encoding="utf-8")) if said.get("shows") else {}
            what = said.get("error") or dict(Counter(shown.values()))
            self._note(f"{said['home']} {verb} team-{batch} {rows}: {what}", at)
            if "error" in said:
                gone = batch in self._deleted and said["error"].startswith("BatchNotFoundError")
                if verb in ("settle", "end") and not gone:
                    self.verdict.false[f"{verb}: {said['error']}"] += 1
                continue
            self.verdict.events[verb] += 1
            states = {batch * SIZE + int(row): state for row, state in shown.items()}
            if verb == "cell":
                self._known[batch] = max(self._known[batch], rows)
            elif verb == "delete":
                self._deleted.add(batch)
            elif verb == "cancel" and said["finished"]:
                # Of a row that had failed, a retry was cancelled: another one may be wished later.
                never = {row for row, state in states.items() if state == "cancelled"} - self._oracle.answers.keys()
                self._ended |= dict.fromkeys(never, at)
            elif verb == "look" and batch not in self._deleted:
                self.verdict.lost += self._known[batch] - len(states)
            self._judge_states(states, "at the end: " if verb == "end" else "")

    def _judge_states(self, states: dict[int, str], when: str) -> None:
        """Count states that the deliveries contradict; before the end, only those that cannot change."""
        for row, state in states.items():
            answers = list(self._oracle.answers.get(row, ()))
            deleted = row // SIZE in self._deleted and state == "gone" and 200 not in {one[1] for one in answers}
            if (when or state == "succeeded") and not deleted and (problem := problem_of(state, answers)):
                self.verdict.false[f"{when}{problem}, batch {row // SIZE}"] += 1
            if when and not answers and state != "cancelled" and not deleted:
                self.verdict.lost += 1

    def _judge_deliveries(self) -> None:
        """Count rows that ran twice, and those that ran past the end of a cancel."""
        verdict, oracle = self.verdict, self._oracle
        verdict.rows, verdict.deliveries = len(oracle.answers), len(oracle.order)
        again = {task for (task, _), times in oracle.attempts.items() if times > 1}
        for row, answers in oracle.answers.items():
            good = {task for task, status in answers if status == 200}
            verdict.twice += len(good) > 1 or bool(again & {task for task, _ in answers})
            ended = self._ended.get(row, float("inf")) if row // SIZE not in self._deleted else float("inf")
            verdict.past += oracle.answered[row] > ended + _CARRIED_OUT


def play_team(seed: int, kernels: Kernels, minutes: float, store: str = "") -> tuple[Verdict, list[str]]:
    """Play the round of a seed in a bucket or, without one, in a folder; return what it showed, and what happened."""
    with (
        tempfile.TemporaryDirectory(prefix="team-") as folder,
        Oracle() as oracle,
        closing(TeamRound(seed, kernels, Path(folder), oracle, minutes=minutes, store=store)) as one,
    ):
        one.play()
        return one.verdict, one.history


def report(verdicts: dict[str, Verdict]) -> str:
    """Return the figures of the rounds by the place of their store, as Markdown."""
    names = {name: None for verdict in verdicts.values() for name in sorted(verdict.events)}
    wrong = ("lost", "twice", "past", "false", "hung")
    rows: dict[str, list[Any]] = {name: [v.events[name] for v in verdicts.values()] for name in names}
    rows |= {name: [getattr(v, name) for v in verdicts.values()] for name in ("seed", "rows", "deliveries", *wrong)}
    for name in ("false", "hung"):
        rows[name] = [sum(v.false.values()) if name == "false" else len(v.hung) for v in verdicts.values()]
    rows["minutes"] = [round(v.seconds / 60, 1) for v in verdicts.values()]
    lines = [f"| {name} | {' | '.join(f'{value:,}' for value in values)} |" for name, values in rows.items()]
    return "\n".join([f"| figure | {' | '.join(verdicts)} |", "|---" * (1 + len(verdicts)) + "|", *lines, ""])


def main() -> None:
    """Play a round on a folder and one on a bucket, print what they showed, and add it to the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each kind of store, besides the end")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--only", choices=["folder", "bucket"])
    parser.add_argument("--write", type=Path, default=RESULTS, help="file for the figures")
    arguments = parser.parse_args()
    verdicts = dict[str, Verdict]()
    with tempfile.TemporaryDirectory() as folder, s3_bucket() as variables:
        os.environ.update(variables)
        for kind, store in {"folder": "", "bucket": f"s3://team/{arguments.seed}"}.items():
            if arguments.only in (None, kind):
                print(f"{kind}, seed {arguments.seed}", flush=True)
                with closing(Kernels(Path(folder))) as kernels:
                    verdicts[kind], history = play_team(arguments.seed, kernels, arguments.minutes, store)
                    print(*([] if verdicts[kind].good else history), verdicts[kind], sep="\n", flush=True)
    text = report(verdicts)
    print(text)
    if arguments.only is None:
        before = arguments.write.read_text(encoding="utf-8").partition("## A team")[0].rstrip()
        when = facts(arguments.write.parent)["measured"]
        arguments.write.write_text(f"{before}\n\n{_HEAD}\nMeasured {when}.\n\n{text}", encoding="utf-8")
    raise SystemExit(0 if all(verdict.good for verdict in verdicts.values()) else 1)


if __name__ == "__main__":
    main()
