"""The checkout against another commit of the project, in turns: `make bench AGAINST=v0.2.0`."""

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from tests.benchmarks.figures import Bench, case

_ROOT = Path(__file__).parents[2]
_ROWS = 60_000
# Also runs with the package of the other commit, so it uses public names only. CPU is that of the process, without the
# emulator's.
_MEASURE = """
import json, os, sys, time
import numpy as np, pandas as pd, cloudtasks_nb as ct
checkout, folder, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
assert ct.__file__.startswith(checkout), ct.__file__
draw = np.random.default_rng(1)
df = pd.DataFrame({f"c{k}": draw.integers(0, 1000, rows) for k in range(6)})
df["s"], df["f"], df["id"] = draw.choice(["JFK", "LGA", "EWR"], rows), draw.normal(size=rows), range(rows)
queue = ct.local(folder).queue("a", create=True)
queue.pause()
found, start, cpu = {}, time.perf_counter(), time.process_time()
batch = queue.fan_out(df, url="http://127.0.0.1:9/x", progress=False)
found["call"] = time.perf_counter() - start
while batch.progress().unsent:
    time.sleep(0.02)  # polls rarely: a wait in the toolkit would be part of what is measured
found["whole"], found["cpu"] = time.perf_counter() - start, time.process_time() - cpu
for name, read in {"rows": batch.tasks, "listing": lambda: queue.tasks(limit=None)}.items():
    read()
    cpu = time.process_time()
    read()
    found[name] = time.process_time() - cpu
sys.stdout.write("\\n" + json.dumps(found))
sys.stdout.flush()
os._exit(0)  # the emulator of the folder ends by itself
"""


def _pair(bench: Bench) -> None:
    other = bench.folder / "other"
    archive = subprocess.run(
        ["git", "archive", bench.size.against, "cloudtasks_nb"], cwd=_ROOT, stdout=subprocess.PIPE, check=True
    )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(other, filter="data")
    for folder in bench.rounds():
        theirs, ours = (_measured(root, folder / name) for name, root in (("theirs", other), ("ours", _ROOT)))
        for name, value in ours.items():
            bench.report(name, 100 * value / theirs[name])
    bench.note(f"The other commit was {bench.size.against}.")


def _measured(checkout: Path, folder: Path) -> dict[str, float]:
    """Return what a checkout needs, in seconds."""
    folder.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(checkout), "CLOUDTASKS_NB_HOME": str(folder / "home")}
    command = [sys.executable, "-c", _MEASURE, str(checkout), str(folder / "emulator"), str(_ROWS)]
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


PAIR = case(
    "pair",
    "Against another commit",
    _pair,
    f"{_ROWS:,} rows of nine columns are fanned out into a paused queue of an emulator on a folder, then read twice; "
    "the second time counts. Each round runs both commits, one after the other. The medians of an uneven machine tell "
    "nothing: seven rounds or more, with nothing else running.",
    """
    call    | `queue.fan_out()`, of the time | % | ≤ 103 | the other commit
    whole   | until all rows are sent | % | ≤ 103 | the same
    cpu     | its CPU | % | ≤ 103 | the same
    rows    | `batch.tasks()`, CPU | % | ≤ 103 | the same
    listing | `queue.tasks(limit=None)`, CPU | % | ≤ 103 | the same
    """,
    seconds=1800.0,
    alone=True,
)
