"""`pause_at` holds after SIGKILL: the same cell sends nothing more, and `resume` sends each other row once."""

import json
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import PreconditionError
from tests.integration.conftest import Answer, Emulator, Received, Target
from tests.integration.fanout.conftest import PATIENCE, reached

ROWS = pd.DataFrame({"number": range(1_000)})  # at 20 a second, enough for a minute

#: A kernel that is killed as soon as it knows of so many failures that the sending pauses.
KERNEL = """
    import os, signal, sys, time
    import pandas as pd
    import cloudtasks_nb as ct

    endpoint, queue, url = sys.argv[1:]
    rows = pd.DataFrame({"number": range(1_000)})
    batch = ct.connect("demo", "us-central1", endpoint=endpoint).queue(queue).fan_out(
        rows, url=url, pause_at="5%", send_rate=20, progress=False)
    while batch.progress().failed < 20:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Broken(Target):
    """A target that fails until it is mended."""

    mended = False

    def take(self, request: Received) -> Answer:
        """Record a request."""
        super().take(request)
        return Answer(status=200 if self.mended else 500)

    def delivered(self) -> Counter[int]:
        """Return how often each row was delivered."""
        return Counter(json.loads(request.body)["number"] for request in self.received)


def test_a_kernel_that_is_killed_while_it_sends(once: ct.Queue, emulator: Emulator) -> None:
    """Rows that it had read ahead are not sent before `resume`."""
    with Broken() as target:
        command = [sys.executable, "-c", textwrap.dedent(KERNEL), emulator.ready["grpc"], once.id, target.url]
        assert subprocess.run(command, check=False, timeout=PATIENCE).returncode == -signal.SIGKILL
        emulator.drained(once.name)
        before = target.delivered()
        batch = once.fan_out(ROWS, url=target.url, pause_at="5%")  # as fast as possible, but held back all the same
        with pytest.raises(PreconditionError, match=r"^paused: \d+ of \d+ rows failed"):
            batch.wait(PATIENCE)
        paused = reached(batch, lambda progress: progress.done + progress.unsent == 1_000)
        assert len(target.delivered()) == len(before)
        assert (paused.failed, paused.unsent) == (len(before), 1_000 - len(before))
        target.mended = True
        assert batch.resume().wait(PATIENCE).succeeded == paused.unsent
        assert target.delivered() == Counter(range(1_000))
