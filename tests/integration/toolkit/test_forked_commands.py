"""Commands that a notebook starts while channels are open."""

from __future__ import annotations

import os
import sys

import pytest

from tests.integration.conftest import Emulator
from tests.processes import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

SCRIPT = """
import os
{imports}
import cloudtasks_nb as ct
with ct.connect() as tasks:
    for _ in range(10):
        tasks.queues()
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
"""


@pytest.mark.parametrize("imports", ["", "from cloudtasks_nb import *", "import cloudtasks_nb.fanout.plan.plan"])
def test_a_command_prints_no_warning_of_grpc(emulator: Emulator, imports: str) -> None:
    """`!command` in a cell forks the kernel, as this does; nothing is printed, whatever was imported first."""
    environment = {**os.environ, "CLOUD_TASKS_EMULATOR_HOST": emulator.ready["grpc"]}
    done = run(sys.executable, "-W", "ignore", "-c", SCRIPT.format(imports=imports), environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
