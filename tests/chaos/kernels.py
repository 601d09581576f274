"""Kernels that can be killed: a process that imports the toolkit once and forks one kernel for each order.

An order is a line of JSON on standard input. A kernel runs the same cell as every other kernel of its round, then does
what the order says, waits for the end, and writes what it sees to a file. Lines on standard output say what happened:
``{"kernel": pid}`` when one starts, ``{"asked": pid}`` before it asks for another try of rows, ``{"error": text}``.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb.errors import CloudTasksError

_followed: list[ct.Batch] = []
_round = os.dup(1)
os.dup2(2, 1)  # what the toolkit prints is no line for the round


def write(**line: object) -> None:
    """Write one line that the round reads, in one piece."""
    os.write(_round, (json.dumps(line) + "\n").encode())


def follow(order: dict[str, Any], tasks: ct.Client) -> ct.Batch:
    """Run the cell, and then what the order asks for."""
    frame = pd.DataFrame({"number": range(order["rows"])})
    batch = tasks.queue(order["queue"]).fan_out(
        frame, url=order["url"], name="chaos", send_rate=order["send_rate"], progress=False
    )
    _followed[:] = [batch]
    if order["verb"] == "cancel":
        batch.cancel()
    elif order["verb"] in ("retry", "resend"):
        batch.wait()
        write(asked=os.getpid())
        if order["verb"] == "retry":
            batch.retry_failed()
        else:
            rows = batch.tasks()
            batch.resend(rows[rows.index.isin(order["again"])])
    batch.wait()
    return batch


def describe(*_: object) -> None:
    """Write to standard error what a kernel that hangs is doing, and what its batch and the queue show."""
    faulthandler.dump_traceback()
    for batch in _followed:
        sys.stderr.write(f"{batch!r}\n{batch._tracker.queue}\n{batch._tracker._outcomes.snapshot}\n")
    sys.stderr.flush()


def run(order: dict[str, Any]) -> None:
    """Be one kernel: try again for as long as something stands in the way, as the person at the keyboard would."""
    signal.signal(signal.SIGUSR1, describe)
    os.environ["CLOUDTASKS_NB_HOME"] = order["home"]
    while True:
        try:
            with ct.connect("demo", "us-central1", endpoint=order["endpoint"]) as tasks:
                batch = follow(order, tasks)
                rows = batch.tasks()
                found = {"states": dict(zip(rows.index.tolist(), rows["state"].tolist(), strict=True))}
                text = json.dumps({**found, "repr": repr(batch)})
            part = Path(f"{order['result']}.part")
            part.write_text(text, encoding="utf-8")
        except (CloudTasksError, OSError) as error:  # the disk may be full for the result, too
            write(error=f"{type(error).__name__}: {error}")
            time.sleep(0.5)  # an endpoint that is down is not asked without a pause
        else:
            part.rename(order["result"])
            return


def main() -> None:
    """Fork a kernel for each line; the end of standard input ends this process, not its kernels."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a kernel here: the round watches it
    write(ready=os.getpid())
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            write(kernel=pid)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = 1
        try:
            run(json.loads(line))
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    main()
