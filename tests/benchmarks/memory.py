"""The memory of a fan-out from an iterator: the same for a hundred thousand rows and for millions."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tests.benchmarks import flights
from tests.benchmarks.fan_out import until_sent
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.machine import peak_mb
from tests.benchmarks.servers import Emulator, client

_CHUNK = 10_000  # rows of a DataFrame that the iterator gives
_MILLION = 1_000_000


def _measure(bench: Bench) -> None:
    sample = bench.folder / "sample.csv"
    flights.frame(_CHUNK).to_csv(sample, index=False)
    small, *large = bench.size.streamed
    for number, folder in enumerate(bench.rounds()):
        few = _peak(folder / f"home-{small}", sample, small)
        bench.report("few", few)
        for rows in large:
            # Ten millions only once: that takes minutes.
            if rows <= _MILLION or number == 0:
                peak = _peak(folder / f"home-{rows}", sample, rows)
                bench.report(f"{rows:,}" if rows > _MILLION else "many", peak)
                bench.report(f"{rows:,} more" if rows > _MILLION else "more", peak - few)
    bench.note(f"Few are {small:,} rows, many {large[0]:,}.")


def _peak(folder: Path, sample: Path, rows: int) -> float:
    """Fan out in a process of its own and return its peak of memory in MB."""
    with Emulator() as emulator:
        command = [sys.executable, "-m", "tests.benchmarks.memory", emulator.grpc, str(sample), str(rows)]
        environment = {**os.environ, "CLOUDTASKS_NB_HOME": str(folder)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Fan out from an iterator until all rows are acknowledged, and print the peak of memory in MB."""
    target, sample, rows = sys.argv[1:]
    chunk = pd.read_csv(sample)
    with client(target) as tasks:
        queue = tasks.queue("stream", create=True).pause()
        until_sent(queue.fan_out(_frames(chunk, int(rows)), url=flights.URL, progress=False))
        sys.stdout.write(json.dumps(peak_mb()) + "\n")


def _frames(chunk: pd.DataFrame, rows: int) -> Iterator[pd.DataFrame]:
    for first in range(0, rows, len(chunk)):
        part = chunk.head(rows - first)
        yield part.assign(n=range(first, first + len(part)))


MEMORY = case(
    "memory",
    "Memory of a fan-out from an iterator",
    _measure,
    f"`queue.fan_out(frames, url=…)` with an iterator of DataFrames of {_CHUNK:,} rows, in a process of its own, "
    "until the last acknowledgement of a temporary emulator; the peak of resident memory (`VmHWM`).",
    """
    more            | peak with many rows less that with few                 | MB | ≤ 50
    few             | peak with few rows, interpreter and libraries included | MB
    many            | peak with many rows                                    | MB
    10,000,000 more | same with 10,000,000 rows                              | MB | ≤ 50 |  | --full
    10,000,000      | peak with 10,000,000 rows                              | MB |      |  | --full
    """,
    seconds=300,
    full_seconds=2400,
)


if __name__ == "__main__":
    main()
