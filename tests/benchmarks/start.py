"""How long `ct.local()` takes until the emulator is ready."""

import subprocess
import sys
import time
from unittest.mock import patch

import cloudtasks_nb as ct
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.machine import cpu_seconds

_FIRST = "import cloudtasks_nb as ct, time; start = time.perf_counter(); ct.local(); print(time.perf_counter() - start)"
_GOOGLES = "import google.cloud.logging_v2.types, google.cloud.tasks_v2.types, google.cloud.tasks_v2beta3.types\n"


def _start(bench: Bench) -> None:
    bench.folder.joinpath("sitecustomize.py").write_text(_GOOGLES)  # every interpreter imports it at its start
    ct.local().close()  # imports the toolkit
    for _ in bench.rounds():
        ours, our_cpu = _ready_after()
        with patch.dict("os.environ", PYTHONPATH=str(bench.folder)):
            theirs, their_cpu = _ready_after()
        bench.report("share", 100 * ours / theirs)
        bench.report("cpu share", 100 * our_cpu / their_cpu)
        bench.report("ours", 1000 * ours)
        bench.report("theirs", 1000 * theirs)
        first = subprocess.run([sys.executable, "-c", _FIRST], stdout=subprocess.PIPE, text=True, check=True)
        bench.report("first", 1000 * float(first.stdout))


def _ready_after() -> tuple[float, float]:
    """Return the seconds until a new temporary emulator is ready, and the CPU seconds that it has taken."""
    start = time.perf_counter()
    with ct.local() as tasks:
        return time.perf_counter() - start, cpu_seconds(vars(tasks)["_lease"].pid)


START = case(
    "start",
    "Start of the embedded emulator",
    _start,
    "`ct.local()` until it returns. The other emulator imports the messages from Google's packages, too.",
    """
    share  | `ct.local()`, of the time | % | ≤ 60 | an emulator with google-cloud-tasks and google-cloud-logging
    cpu share | CPU of the emulator until it is ready, of that | % | ≤ 60 | the same
    ours   | `ct.local()` | ms
    theirs | the same with Google's packages in the emulator | ms
    first  | the first `ct.local()` after `import cloudtasks_nb`, which loads the toolkit meanwhile | ms
    """,
)
