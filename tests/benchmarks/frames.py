"""The cost of listing into a DataFrame, and of the import."""

import gc
import subprocess
import sys
from collections.abc import Callable

import pandas as pd
from google.cloud import tasks_v2

from tests.benchmarks import callers
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import Cost, filled

_TIMED = "import {}, time; start = time.perf_counter(); {}; print(1000 * (time.perf_counter() - start))"


def _listing(bench: Bench) -> None:
    count = bench.size.listed
    with filled("listed", count) as (emulator, _, queue), callers.google_client(emulator.grpc) as client:

        def theirs() -> pd.DataFrame:
            pages = client.list_tasks(request={"parent": queue.name, "page_size": 1000})
            return pd.DataFrame([tasks_v2.Task.to_dict(task) for task in pages])

        for _ in bench.rounds():
            their_cpu, their_wall = _cost(theirs, count)
            our_cpu, our_wall = _cost(lambda: queue.tasks(limit=None), count)
            bench.report("x", their_cpu / our_cpu)
            bench.report("ours", our_cpu)
            bench.report("theirs", their_cpu)
            bench.report("our wall", our_wall)
            bench.report("their wall", their_wall)


def _cost(listing: Callable[[], pd.DataFrame], expected: int) -> tuple[float, float]:
    """Return the CPU seconds (of all threads) and the seconds by the clock of a listing."""
    gc.collect()
    cost = Cost()
    found = listing()
    cpu, wall = cost.cpu, cost.wall
    if len(found) != expected:
        raise AssertionError(f"{len(found):,} tasks were listed and not {expected:,}")
    return cpu, wall


LISTING = case(
    "listing",
    "Listing 100,000 tasks into a DataFrame",
    _listing,
    "`queue.tasks(limit=None)`, pages of 1,000 in BASIC view; CPU of the listing process, all its threads.",
    """
    x          | CPU, how many times less    | x | ≥ 10 | `Task.to_dict` over `client.list_tasks`
    ours       | CPU of `queue.tasks`        | s
    theirs     | CPU of `Task.to_dict`       | s
    our wall   | `queue.tasks` by the clock  | s
    their wall | `Task.to_dict` by the clock | s
    """,
)


def _import(bench: Bench) -> None:
    for _ in bench.rounds():
        bench.report("ours", _milliseconds("import cloudtasks_nb"))
        bench.report("google", _milliseconds("import google.cloud.tasks_v2"))
        bench.report("first", _milliseconds("import cloudtasks_nb; cloudtasks_nb.connect"))
        bench.report("handler", _milliseconds("from cloudtasks_nb.handlers import app", loaded="sys"))


def _milliseconds(statement: str, loaded: str = "pandas") -> float:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(loaded, statement)], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


IMPORT = case(
    "import",
    "Import",
    _import,
    "Each in a fresh interpreter that has imported pandas; that of the deployed handler has not.",
    """
    ours | `import cloudtasks_nb` | ms | ≤ 150 | `import google.cloud.tasks_v2`
    first | the same and the first `cloudtasks_nb.connect`, which loads the rest | ms
    google | `import google.cloud.tasks_v2` | ms
    handler | `from cloudtasks_nb.handlers import app`, as in a deployed handler | ms | ≤ 300
    """,
)
