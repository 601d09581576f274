"""Kernels that can be killed: a process that imports the toolkit once and forks one kernel for each order.

An order is a line of JSON on standard input. A kernel runs the same cell as every other kernel of its round, then does
what the order says, waits for the end, and writes what it sees to a file. Lines on standard output say what happened:
``{"kernel": pid}`` when one starts, ``{"asked": pid}`` before it asks for another try of rows, ``{"closed": pid}`` when
so many rows have failed that the others are to be held back, or the batch was cancelled, ``{"error": text}``,
``{"false": text}`` for what the batch says and is not so, and ``{"verb": name, …}`` for what a home of a team did.
"""

import asyncio
import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb.errors import (
    BatchNotFoundError,
    CloudTasksError,
    OutboxError,
    PermissionDeniedError,
    PreconditionError,
)
from cloudtasks_nb.service.transport import Transport

#: Words of a batch whose rows are not all final; None: it was not read yet.
_OPEN = {"stopped", "cancelling", "held", "paused", "failing", "running", None}
SIZE = 10_000  #: numbers of the rows of one batch of a team
_KNOWN = 4.0  # seconds after which every kernel of the home shows that the batch is being cancelled
_COLUMNS = ("state", "task")
_CHANGING = {"BatchCreateTasks", "CreateTask", "BatchDeleteTasks", "DeleteTask", "PauseQueue", "ResumeQueue"}

_followed: list[ct.Batch] = []
_round = os.dup(1)
os.dup2(2, 1)  # what the toolkit prints is no line for the round


def write(**line: object) -> None:
    """Write one line that the round reads, in one piece."""
    os.write(_round, (json.dumps(line) + "\n").encode())


def follow(order: dict[str, Any], tasks: ct.Client) -> ct.Batch:
    """Run the cell, and then what the order asks for."""
    queue = tasks.queue(order["queue"])
    words: dict[str, Any] = {"url": order["url"], "progress": False}
    frame = pd.DataFrame({"number": range(order["rows"])})
    if "too_large" in order:
        with suppress(OutboxError):
            queue.fan_out(ballast(-frame - 1, order["too_large"]), name="too large", **words)
    frame = ballast(frame, order.get("ballast", 0))
    words |= order.get("brake", {}) | order.get("words", {})

    def cell() -> ct.Batch:
        batch: ct.Batch = queue.fan_out(frame, name="chaos", send_rate=order["send_rate"], **words)
        _followed[:] = [batch]
        threading.Thread(target=check_words, args=(batch, order), daemon=True).start()
        return batch

    batch = cell()
    if "brake" in order and order["verb"] == "send":
        wait_for_brake(batch)
        return batch
    if order["verb"] == "again":
        with suppress(BatchNotFoundError):
            batch.wait()
        while not Path(order["deleted"]).exists():
            time.sleep(0.05)  # the other kernel writes the file when it has deleted the batch
        batch = cell()
    ask(batch, order)
    wait(batch, Path(f"{order['home']}.disk"))
    return batch


def ask(batch: ct.Batch, order: dict[str, Any]) -> None:
    """Do with the batch what the order asks for, or have it done."""
    if order["verb"] == "resume":
        batch.resume()
    elif order["verb"] in ("cancel", "delete"):
        time.sleep(order.get("after", 0))
        if "wish" in order:
            Path(order["wish"]).touch()
        batch.cancel()
        write(closed=os.getpid())
        if "ends" in order:
            end(order["ends"])
    elif order["verb"] in ("retry", "resend"):
        batch.wait()
        write(asked=os.getpid())
        if order["verb"] == "retry":
            batch.retry_failed()
        else:
            rows = batch.tasks()
            batch.resend(rows[rows.index.isin(order["again"])])


def wait(batch: ct.Batch, disk: Path) -> None:
    """Wait for the end. When a full disk has room again, the batch goes on, and no old error is raised.

    Parameters
    ----------
    disk : Path
        A file that says ``full``, or something new when the disk has room again; it may not be there.
    """
    resumed = ""
    while True:
        said = disk.read_text() if disk.exists() else ""
        try:
            batch.wait()
        except OutboxError as error:
            if not said:
                raise
            write(error=f"{type(error).__name__}: {error}")
            stopped = batch.progress().state == "stopped"
            if said != "full" and said == disk.read_text() and (not stopped or said == resumed):
                write(false=f"an error of a disk that has room: {error}")
            while (resumed := disk.read_text()) == "full":
                time.sleep(0.05)
            if stopped:
                batch.resume()
        except BatchNotFoundError as error:
            write(false=f"a batch that was made anew is not found: {error}")
            raise
        else:
            return


def check_words(batch: ct.Batch, order: dict[str, Any]) -> None:
    """Say if the state of a batch is not one of the words that it may be, while this kernel follows it."""
    while _followed and _followed[0] is batch:
        wished = False
        try:
            progress = batch.progress()
            with suppress(KeyError, FileNotFoundError):
                wished = time.time() - Path(order["wish"]).stat().st_mtime > _KNOWN
            wished = wished and batch._outbox.batches.facts(batch.id).cancel is not None
        except CloudTasksError:  # such as that of a batch that was deleted
            return
        if progress.finished:
            ends = {"failed": progress.failed, "unknown": progress.gone, "cancelled": progress.cancelled}
            words: set[str | None] = {next((word for word, rows in ends.items() if rows), "succeeded")}
        else:
            words = {"cancelling"} if wished else _OPEN
        if progress.state not in words:
            write(false=f"the word {progress.state}: {progress.reason}, of {progress!r}")
            return
        time.sleep(0.05)


def end(how: str) -> None:
    """End this kernel at once: killed, or as the end of Python does it."""
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    vars(threading)["_shutdown"]()
    os._exit(0)


def hinder(order: dict[str, Any]) -> None:
    """Refuse the calls that change something, or slow those down that delete tasks."""

    def hindered(call: Any) -> Any:
        async def hinder_call(transport: Transport, rpc: str, /, *values: Any, **fields: Any) -> Any:
            if rpc in _CHANGING and order.get("refused"):
                raise PermissionDeniedError(f"{rpc} is not permitted", code="PERMISSION_DENIED")
            if rpc == "BatchDeleteTasks":
                await asyncio.sleep(order.get("slow", 0))
            return await call(transport, rpc, *values, **fields)

        return hinder_call

    Transport.call, Transport.raw = hindered(Transport.call), hindered(Transport.raw)  # type: ignore[method-assign]


def ballast(frame: pd.DataFrame, size: int) -> pd.DataFrame:
    """Return a frame with a text of this size in each row, half of which is random, but always the same."""
    if not size:
        return frame
    texts = [random.Random(number).randbytes(size // 2).hex() for number in frame["number"].tolist()]
    return frame.assign(text=texts)


def wait_for_brake(batch: ct.Batch) -> None:
    """Wait until all rows are done, or it is known of all that are not that they are held back."""
    threading.Thread(target=tell_when_closed, args=(batch,), daemon=True).start()
    try:
        batch.wait()
    except PreconditionError as error:
        if not error.message.startswith(("paused", "canary")):
            raise
        while (progress := batch.progress()).done + progress.unsent < progress.total:
            time.sleep(0.05)


def tell_when_closed(batch: ct.Batch) -> None:
    """Say when so many rows have failed that `pause_at` holds the others back: 5 % of at least 20."""
    while (progress := batch.progress()).failed <= 0.05 * (progress.failed + progress.succeeded) or (
        progress.failed + progress.succeeded < 20
    ):
        time.sleep(0.01)
    write(closed=os.getpid())


def describe(*_: object) -> None:
    """Write to standard error what a kernel that hangs is doing, and what its batch and the queue show."""
    faulthandler.dump_traceback()
    for batch in _followed:
        sys.stderr.write(f"{batch!r}\n{batch._own_tracker.queue}\n{batch._own_tracker.outcomes.snapshot}\n")
    sys.stderr.flush()


def run(order: dict[str, Any]) -> None:
    """Be one kernel: try again for as long as something stands in the way, as the person at the keyboard would."""
    signal.signal(signal.SIGUSR1, describe)
    os.environ["CLOUDTASKS_NB_HOME"] = order["home"]
    hinder(order)
    while True:
        try:
            with ct.connect("demo", "us-central1", endpoint=order["endpoint"]) as tasks:
                batch = follow(order, tasks)
                rows = batch.tasks()
                about = {name: dict(zip(rows.index.tolist(), rows[name].tolist(), strict=True)) for name in _COLUMNS}
                text = json.dumps(about)
                if order["verb"] == "delete":
                    Path(order["wish"]).unlink()
                    batch.delete()
                _followed.clear()  # what is known after the end may be old
            part = Path(f"{order['result']}.part")
            part.write_text(text, encoding="utf-8")
        except (CloudTasksError, OSError) as error:  # the disk may be full for the result, too
            write(error=f"{type(error).__name__}: {error}")
            time.sleep(0.5)  # an endpoint that is down is not asked without a pause
        else:
            part.rename(order["result"])
            return


def be_colleague(order: dict[str, Any]) -> None:
    """Do what an order lists with the batches of a team, and say what became of it."""
    signal.signal(signal.SIGUSR1, describe)
    os.environ["CLOUDTASKS_NB_HOME"] = order["home"]
    with ct.connect("demo", "us-central1", endpoint=order["endpoint"], store=order["store"]) as tasks:
        for number, (pause, verb, batch, rows) in enumerate(order["verbs"]):
            time.sleep(pause)
            if Path(order["stop"]).exists():
                return
            about = {"home": Path(order["home"]).name, "verb": verb, "batch": batch, "rows": rows}
            write(**about, begins=True)
            try:
                shown, finished = change(order, tasks, verb, batch, rows)
            except CloudTasksError as error:
                write(**about, error=f"{type(error).__name__}: {error}")
                continue
            file = Path(f"{order['result']}.{number}")
            file.write_text(json.dumps(shown), encoding="utf-8")
            write(**about, shows=str(file), finished=finished)


def change(order: dict[str, Any], tasks: ct.Client, verb: str, number: int, rows: int) -> tuple[dict[int, str], bool]:
    """Do one thing with a batch of a team; return the states of rows that were read then, and whether all are final."""
    name, first = f"team-{number}", number * SIZE
    if verb == "cell":
        frame = pd.DataFrame({"number": range(first, first + rows)})
        words: dict[str, Any] = {"url": order["url"], "send_rate": order["send_rate"], "progress": False}
        tasks.queue(order["queue"]).fan_out(frame, name=name, **words)
        return {}, False
    _followed[:] = [batch := tasks.batch(name)]
    if verb in ("wait", "end"):
        batch.wait("5s" if verb == "wait" else "200s")
    elif verb == "cancel":
        batch.cancel().wait("200s")
    elif verb == "delete":
        batch.delete(others=True)
        return {}, True
    elif verb == "settle":
        batch.take_over()
        settle(batch)
    elif verb not in ("read", "look"):
        getattr(batch, verb)()
    states = batch.tasks()["state"]
    return dict(zip(states.index.tolist(), states.tolist(), strict=True)), batch.progress().finished


def settle(batch: ct.Batch) -> None:
    """Bring a batch of a team to its end."""
    while not batch.progress().finished or batch.progress().failed:
        try:
            if batch.progress().failed:
                batch.retry_failed()
            batch.wait("200s")
        except PreconditionError:
            with suppress(PreconditionError):
                batch.resume()
            time.sleep(1)


def set_disk(folder: str, size: str) -> None:
    """Mount a disk in a folder, or change its size; only this process and its kernels see it."""
    disk = Path(f"{folder}.disk")
    if size == "full":
        disk.write_text(size)
    if size == "none":
        command = ["umount", "--lazy", folder]
    elif os.path.ismount(folder):
        found = os.statvfs(folder)
        used = max(found.f_blocks - found.f_bfree, 1) * found.f_frsize  # of 0, a disk would have no end
        command = ["mount", "-o", f"remount,size={used if size == 'full' else size}", folder]
    else:
        Path(folder).mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
    subprocess.run(command, check=False)  # it cannot be made smaller than what was written meanwhile
    if size not in ("full", "none"):
        disk.write_text(f"{size} at {time.monotonic()}")


def main() -> None:
    """Fork a kernel for each line, or change a disk; the end of standard input ends this process, not its kernels."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a kernel here: the round watches it
    write(ready=os.getpid())
    for line in sys.stdin:
        order = json.loads(line)
        if "disk" in order:
            set_disk(order["disk"], order["size"])
            continue
        pid = os.fork()
        if pid:
            write(kernel=pid)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = 1
        try:
            (be_colleague if "verbs" in order else run)(order)
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    main()
