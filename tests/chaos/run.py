"""Play many rounds of chaos and write what they showed: ``python -m tests.chaos.run --rounds 50``."""

# ruff: noqa: T201 - a command line program

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.machine import facts
from tests.chaos.kinds import KINDS, DiskRound
from tests.chaos.rounds import EVENTS, Kernels, Round, Verdict, play

_FURTHER = ("two homes", "new home", "disk fills", "room is made")
RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Chaos

Written by `make chaos`. Processes are killed and stopped at random while batches are sent, watched, retried, cancelled
and sent again. In some rounds kernels are killed while `pause_at` holds rows back, or the home is on a small disk. In
others, another kernel of the home cancels the batch: it may delete it then, end at once, or lack the permission. An
oracle counts what is delivered of each row, and compares the states that the toolkit shows. Wrong clocks, a canary, and
a log that is late or incomplete are faults of the model of a batch.
"""


def report(verdicts: list[Verdict]) -> str:
    """Return the figures of the rounds as Markdown."""
    events: Counter[str] = sum((verdict.events for verdict in verdicts), Counter())
    states: Counter[str] = sum((verdict.states for verdict in verdicts), Counter())
    figures = {
        "rounds": len(verdicts),
        "rows": sum(verdict.rows for verdict in verdicts),
        "deliveries": sum(verdict.deliveries for verdict in verdicts),
        **{f"events: {name}": events[name] for name in (*EVENTS, *_FURTHER)},
        **{f"rows that ended as {state}": count for state, count in states.most_common()},
        "rows lost": sum(verdict.lost for verdict in verdicts),
        "rows delivered again without being asked": sum(verdict.twice for verdict in verdicts),
        "rows sent past a brake": sum(verdict.past for verdict in verdicts),
        "rows with a false state": sum(verdict.false.total() for verdict in verdicts),
        "steps that hung": sum(len(verdict.hung) for verdict in verdicts),
        "answers lost with a killed emulator or after a deadline, so that the task ran again": sum(
            v.redelivered for v in verdicts
        ),
        "rows cancelled while an attempt ran, which succeeded": sum(verdict.overtaken for verdict in verdicts),
        "minutes of all rounds": round(sum(verdict.seconds for verdict in verdicts) / 60),
    }
    lines = [f"| {name} | {value:,} |" for name, value in figures.items()]
    return "\n".join(["| figure | value |", "|---|---|", *lines, "", *_by_kind(verdicts), ""])


def _by_kind(verdicts: list[Verdict]) -> list[str]:
    """Return the lines of a table of what went wrong in each kind of rounds."""
    lines = ["| rounds | count | lost | twice | past a brake | false | hung |", "|---|---|---|---|---|---|---|"]
    for kind in dict.fromkeys(kind.kind for kind in KINDS):
        some = [verdict for verdict in verdicts if verdict.kind == kind]
        wrong = [(v.lost, v.twice, v.past, v.false.total(), len(v.hung)) for v in some]
        sums = [sum(column) for column in zip(*wrong, strict=True)] or [0] * 5
        lines.append(f"| {kind} | {' | '.join(f'{value:,}' for value in (len(some), *sums))} |")
    return lines


def _play_all(seeds: range, kinds: Sequence[type[Round]]) -> list[Verdict]:
    with tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(Path(folder))
        try:
            kinds = [kind for kind in kinds if kernels.disks or kind is not DiskRound]
            return [_play(seed, kernels, kinds[seed % len(kinds)]) for seed in seeds]
        finally:
            kernels.close()


def _play(seed: int, kernels: Kernels, kind: type[Round]) -> Verdict:
    verdict = play(seed, kernels, kind, long=True)
    if verdict.good:
        print(".", end="", flush=True)
    else:
        print(f"\n{verdict}\n{kernels.errors.read_text(encoding='utf-8')[-4000:]}", flush=True)
    return verdict


def main() -> None:
    """Play the rounds, a few at once, and print each that is not good."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first round")
    parser.add_argument("--at-once", type=int, default=2, help="rounds that are played at the same time")
    parser.add_argument("--write", type=Path, default=RESULTS, help="file for the figures")
    parser.add_argument("--only", choices=sorted({kind.kind for kind in KINDS}), help="play rounds of this kind alone")
    arguments = parser.parse_args()
    kinds = [kind for kind in KINDS if arguments.only in (None, kind.kind)]
    seeds = range(arguments.seed, arguments.seed + arguments.rounds)
    with ThreadPoolExecutor(arguments.at_once) as pool:
        shares = [seeds[first :: arguments.at_once] for first in range(arguments.at_once)]
        parts = pool.map(_play_all, shares, [kinds] * arguments.at_once)
        verdicts = [verdict for part in parts for verdict in part]
    text = report(verdicts)
    print(f"\n{text}")
    about = facts(arguments.write.parent)
    machine = ", ".join(about[name] for name in ("CPU", "memory", "Python", "measured"))
    arguments.write.write_text(f"{_HEAD}\nMachine: {machine}\n\n{text}", encoding="utf-8")
    raise SystemExit(0 if all(verdict.good for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
