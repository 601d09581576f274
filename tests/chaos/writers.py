"""Handler processes are killed while they store results: ``python -m tests.chaos.writers --kills 40``.

An oracle gives attempts of tasks to one process after the other, as Cloud Tasks would, and knows which were answered:
one that was not is made again, and sometimes an earlier attempt ends after a later one. In the end it looks for what
was answered in the store.
"""

# ruff: noqa: T201 - a command line program

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cloudtasks_nb.store.results import ResultWriter, StoredResult
from cloudtasks_nb.store.store import Store
from tests.buckets import s3_bucket
from tests.stored import best_results, stored_results

ROOT = Path(__file__).parents[2]
MOMENTS = ("before", "while", "after")  # a write
_BATCH = "a91f03c2"
_THREADS = 8
_SENT = 60  # attempts that a process gets
_OK, _FAILED = 200, 500

T = TypeVar("T")
#: A row, the number of the attempt, the status with which its function ends.
Attempt = tuple[int, int, int]


@dataclass(slots=True)
class Outcome:
    """What the killed processes have left."""

    kills: int = 0
    answered: int = 0  #: attempts
    unanswered: int = 0  #: attempts that ended with their process
    lost: int = 0  #: attempts that were answered, and have no result
    older: int = (
        0  #: rows whose result is not that of the latest attempt that was answered as a success, or a later one
    )

    @property
    def good(self) -> bool:
        """Whether nothing was lost, and the right attempt counts."""
        return not (self.lost or self.older)


def kill_handlers(place: str, kills: int, seed: int) -> Outcome:
    """Give attempts to processes until so many have been killed, then until all rows have succeeded; look for them."""
    chance, outcome = random.Random(seed), Outcome()
    answered: set[Attempt] = set()
    last: dict[int, int] = defaultdict(int)  # number of the latest attempt by row
    open_rows: set[int] = set()
    while outcome.kills < kills or open_rows:
        if outcome.kills < kills:
            open_rows |= set(range(len(last), len(last) + _SENT // 2))
        attempts: list[Attempt] = []
        for row in sorted(open_rows)[:_SENT]:
            last[row] += 1
            attempts.append((row, last[row], chance.choice([_OK, _OK, _OK, _FAILED])))
            if last[row] > 1 and chance.random() < 0.3:  # an earlier one that passed its deadline ends after all
                attempts.append((row, last[row] - 1, _OK))
        chance.shuffle(attempts)
        moment, number = chance.choice(MOMENTS), chance.randint(1, 12) if outcome.kills < kills else 0
        done = _handle(place, attempts, moment, number)
        outcome.kills += len(done) < len(attempts)
        outcome.unanswered += len(attempts) - len(done)
        answered |= done
        open_rows -= {row for row, _, status in done if status == _OK}
    outcome.answered = len(answered)
    written = {(_row(result), result.attempt, result.status) for result in stored_results(place, _BATCH)}
    outcome.lost = len(answered - written)
    best = {_row(result): result for result in best_results(place, _BATCH).values()}
    for row in last:
        latest = max(attempt for one, attempt, status in answered if (one, status) == (row, _OK))
        found = best.get(row)
        outcome.older += found is None or (found.attempt or 0) < latest or found.result != [row, found.attempt]
    return outcome


def _row(result: StoredResult) -> int:
    return int(result.task[:20], 16)


def _handle(place: str, attempts: list[Attempt], moment: str, number: int) -> set[Attempt]:
    """Have a process handle attempts that is killed at a write, 0: at none; return those that it has answered."""
    command = [sys.executable, "-m", "tests.chaos.writers", "--place", place, "--moment", moment, "--at", str(number)]
    done = subprocess.run(command, input=json.dumps(attempts), stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    if done.returncode not in {0, -signal.SIGKILL}:
        raise AssertionError(f"a handler has ended with {done.returncode}")
    return {(row, attempt, status) for row, attempt, status in map(json.loads, done.stdout.splitlines())}


class _Deadly(Store):
    """A store that kills the process before, while or after one of its writes."""

    def __init__(self, place: str, moment: str, number: int) -> None:
        super().__init__(place)
        self._moment, self._number = moment, number
        self._writes = itertools.count(1)

    def create(self, path: str, data: bytes) -> None:
        """Write, or die."""
        self._write(super().create, path, data)

    def append(self, path: str, data: bytes) -> bool:
        """Write, or die."""
        return self._write(super().append, path, data)

    def _write(self, write: Callable[[str, bytes], T], path: str, data: bytes) -> T:
        if next(self._writes) != self._number:
            return write(path, data)
        if self._moment == "while" and self.appends:
            data = data[: random.randrange(len(data))]  # the last line is torn
        elif self._moment == "while":
            threading.Timer(random.uniform(0, 0.01), _die).start()
        if self._moment != "before":
            write(path, data)
        return _die()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives")


def _answer_all(store: Store) -> None:
    """Store the results of the attempts of the input in some threads, and write each to the output when it may be."""
    writer = ResultWriter(store)

    def answer(attempt: Attempt) -> None:
        row, number, status = attempt
        error = None if status == _OK else "ValueError: a bad row"
        fields: dict[str, Any] = {"task": f"{row:020x}-{_BATCH}-1", "attempt": number, "status": status}
        fields |= {"started": datetime.now(UTC), "duration": 0.1}
        writer.put(StoredResult(**fields, result=[row, number], error=error))
        os.write(1, json.dumps(attempt).encode() + b"\n")

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(answer, json.load(sys.stdin)))


def main() -> None:
    """Be a handler if there is a place; else kill some, and print what they have left in a folder and in a bucket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="for each kind of store")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", help="of the store of a handler")
    parser.add_argument("--moment", choices=MOMENTS, help="at which a handler is killed")
    parser.add_argument("--at", type=int, help="write at which it is killed")
    arguments = parser.parse_args()
    if arguments.place:
        _answer_all(_Deadly(arguments.place, arguments.moment, arguments.at))
        return
    with tempfile.TemporaryDirectory() as folder, s3_bucket() as variables:
        os.environ.update(variables)
        outcomes = [kill_handlers(place, arguments.kills, arguments.seed) for place in (folder, "s3://team/chaos")]
    print(*outcomes, sep="\n")
    raise SystemExit(0 if all(outcome.good for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
