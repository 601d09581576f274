"""Kernels that are killed while they send: a process that imports the toolkit once forks one kernel for each order.

An order is a line of JSON on standard input, and the line that answers it is the exit code of the kernel: that of a
process that was killed, unless something was wrong. A kernel takes one step with the batch of its home. It makes its
requests, of two rows each, one after the other, and the first one when the verb has returned.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb import connect  # loads what each kernel needs
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.fanout.outbox.requests import RequestQueue
from cloudtasks_nb.fanout.sender import sender
from cloudtasks_nb.service.transport import Transport
from tests.integration.fanout.conftest import reached


def cell(queue: ct.Queue, rows: Sequence[int], name: str | None, handler: Any, body: Sequence[str] = ("day",)) -> Any:
    """Run the cell."""
    df = pd.DataFrame({"day": rows, "more": "x"})
    return queue.fan_out(df, url=handler, body=list(body), name=name, progress=False)


def again(batch: ct.Batch, verb: str, rows: Sequence[int]) -> None:
    """Send rows of a batch again, or those that are unsent."""
    if verb == "retry":
        batch.retry_failed(trust=True)
    elif verb == "resume":
        batch.resume(trust=True)
    else:
        found = batch.stale() if verb == "update" else batch.tasks()
        batch.resend(found[found["day"].isin(rows)], trust=True)


def die() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def doom(accepted: int, *, recorded: bool) -> threading.Event:
    """Have this process die when so many requests were accepted; they are made after the event that is returned.

    Parameters
    ----------
    recorded : bool
        It dies when the outbox knows that, else before.
    """
    raw, turn, begin, one = Transport.raw, RequestQueue.turn, threading.Event(), asyncio.Lock()
    answered = stored = 0

    async def doomed(transport: Transport, rpc: str, /, *values: Any, **fields: Any) -> Any:
        nonlocal answered
        if rpc != "BatchCreateTasks":
            return await raw(transport, rpc, *values, **fields)
        async with one:
            await asyncio.to_thread(begin.wait)
            if answered == accepted == 0:
                die()
            if answered == accepted:
                await asyncio.Event().wait()  # the answer is about to be recorded
            answer = await raw(transport, rpc, *values, **fields)
            answered += 1
            if answered == accepted and not recorded:
                die()
            return answer

    def record(queue: RequestQueue, acks: Any, *values: Any, **options: Any) -> Any:
        nonlocal stored
        requests = turn(queue, acks, *values, **options)
        stored += len(acks)
        if acks and stored >= accepted:
            die()
        return requests

    vars(sender).update(MAX_TASKS=2)
    Transport.raw, RequestQueue.turn = doomed, record  # type: ignore[method-assign, assignment]
    return begin


def run(order: dict[str, Any]) -> None:
    """Be one kernel, to its end."""
    os.environ["CLOUDTASKS_NB_HOME"] = order["home"]
    if not order["published"]:
        Sharing.publish = lambda *_: None  # type: ignore[method-assign]
    begin = doom(order["accepted"], recorded=order["recorded"])
    tasks = connect("demo", "us-central1", endpoint=order["endpoint"], store=order["store"])
    if order["verb"] == "cell":
        handler = SimpleNamespace(**order["handler"], uncovered=())
        batch = cell(tasks.queue(order["queue"]), order["rows"], order["name"], handler)
    else:
        batch = tasks.batch(order["name"])
        again(batch, order["verb"], order["rows"])
    begin.set()
    reached(batch, lambda _: not batch._tracker.sending)
    die()


def main() -> None:
    """Fork a kernel for each line, and write how it has ended."""
    answers = os.dup(1)
    os.dup2(2, 1)  # for what the toolkit prints
    for line in sys.stdin:
        kernel = os.fork()
        if not kernel:
            try:
                run(json.loads(line))
            except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(1)
        _, status = os.waitpid(kernel, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
