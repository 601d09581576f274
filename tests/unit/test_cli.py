"""The command line, as far as it needs no service."""

import asyncio
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from cloudtasks_nb import __version__, _loop, cli
from cloudtasks_nb._settings import store_place
from cloudtasks_nb.cli import commands
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.display import notify
from cloudtasks_nb.errors import CredentialsError
from cloudtasks_nb.fanout.batch.catalog import outbox_path
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Reached
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.interrupts import interruptible
from tests.processes import run
from tests.stored import store_result
from tests.unit.fanout.conftest import chunks, put, put_facts, refs, send_all, spool

EMULATOR = ["-m", "cloudtasks_nb.emulator", "--port", "0", "--data-dir", "D"]
Run = Callable[..., str]


@pytest.fixture
def sent(tmp_path: Path) -> list[str]:
    """Put three batches into the outbox: of an emulator's folder, and of two projects at Google."""
    at_google = partial(Place, endpoint="google", project="p")
    elsewhere = at_google(location="m", queue="c")
    with Outbox(outbox_path()) as outbox:
        made = [
            spool(outbox, chunks(range(3)), place=Place(endpoint="e-1", project="local", location="l", queue="a")),
            spool(outbox, chunks(range(4)), place=at_google(location="l", queue="b")),
            spool(outbox, chunks(range(500), rejected={7: "no day"}), place=elsewhere, name="reports", skip=True),
        ]
        put_facts(outbox, made[0].batch, reached=Reached(target="127.0.0.1:1", folder=str(tmp_path)))
    return [spooled.batch for spooled in made]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command, and return what it prints."""
    monkeypatch.setattr(notify, "in_notebook", lambda: False)

    def run_command(*arguments: str, code: int = 0) -> str:
        assert cli.main([*arguments]) == code
        out, message = capsys.readouterr()
        return message if code else out

    return run_command


def listed(out: str) -> list[list[str]]:
    """Take the printed table apart; the columns are two spaces apart at least."""
    header, *lines = out.splitlines()
    assert header.split()[:5] == ["batch", "name", "state", "endpoint", "queue"]
    return [line.split() for line in lines]


def test_batches_lists_what_was_sent_from_here(sent: list[str], printed: Run) -> None:
    """Each batch has its line, the newest first, with its name and its counts by state."""
    lines = listed(printed("batches"))
    assert [line[0] for line in lines] == sent[::-1]
    assert [*lines[0][1:5], *lines[0][-3:]] == ["reports", "stopped", "google", "c", "500", "499", "1"]
    assert [*lines[1][1:4], *lines[1][-3:]] == ["stopped", "google", "b", "4", "4", "0"]


def test_batches_say_where_they_were_sent_to(sent: list[str], tmp_path: Path, printed: Run) -> None:
    """An emulator is its folder, or its address if it had none: nobody knows its id."""
    emulator = Reached(target="127.0.0.1:1")
    places = ((replace(emulator, folder=str(tmp_path)), str(tmp_path)), (emulator, "127.0.0.1:1"), (Reached(), "e-1"))
    with Outbox(outbox_path()) as outbox:
        for reached, words in places:
            put_facts(outbox, sent[0], reached=reached)
            assert listed(printed("batches"))[2][:4] == [sent[0], "stopped", words, "a"]


def test_rows_without_an_outcome_are_pending(sent: list[str], printed: Run) -> None:
    """A count is of rows that are so now, and 0 where there are none: no blank, which reads as not known."""
    with Outbox(outbox_path()) as outbox:
        send_all(outbox, sent[0])
        send_all(outbox, sent[1])
        put(outbox, sent[0], refs(outbox, sent[0]), State.SUCCEEDED)
    out = printed("batches")
    assert out.splitlines()[0].split()[-5:] == ["rows", "unsent", "pending", "succeeded", "rejected"]
    assert [" ".join(line[-5:]) for line in listed(out)] == ["500 499 0 0 1", "4 0 4 0 0", "3 0 0 3 0"]


@cases(
    *((["--project", "p"], ["c", "b"]), (["--project", "p", "--location", "l"], ["b"])),
    *((["--location", "l"], ["b", "a"]), (["--local", "FOLDER"], ["a"]), (["--local", "elsewhere"], [])),
)
def test_batches_of_one_place(sent: Any, tmp_path: Path, printed: Run, arguments: list[str], queues: list[str]) -> None:
    """Project, location and the emulator's folder each leave out the others' batches."""
    out = printed("batches", *(str(tmp_path) if argument == "FOLDER" else argument for argument in arguments))
    assert [queue for queue in "cba" if f" {queue} " in out] == queues
    assert out.startswith("batch " if queues else "no such batches were sent from this machine yet")


@pytest.mark.parametrize("command", [["--project", "p", "batches"], ["batches", "--project", "p"]])
def test_options_stand_on_either_side(sent: list[str], printed: Run, command: list[str]) -> None:
    """The options that name the place stand before the command or behind it; those behind it win."""
    assert [line[0] for line in listed(printed(*command))] == [sent[2], sent[1]]
    assert [line[0] for line in listed(printed("--project", "p", "batches", "--project", "local"))] == [sent[0]]


@pytest.mark.parametrize("options", [["--local", "FOLDER"], ["--project", "local"], ["--location", "m"]])
def test_which_batch_is_watched(
    sent: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Run, options: list[str]
) -> None:
    """The options say which batch is meant; where it was sent to is what its record says."""
    given = [str(tmp_path) if option == "FOLDER" else option for option in options]
    asked: list[tuple[object, ...]] = []

    def refuse(*place: object, **words: object) -> Client:
        asked.append((*place, *words.values()))
        raise CredentialsError("not here")

    monkeypatch.setattr(commands, "local", refuse)
    monkeypatch.setattr(commands, "connect", refuse)
    meant = sent[2] if "m" in options else sent[0]
    printed("watch", meant, *given, code=2)
    printed(*given, "watch", meant, code=2)
    assert asked == [("p", "m") if "m" in options else (str(tmp_path), "local", "l")] * 2
    assert f'there is no batch "{sent[1]}"' in printed("watch", sent[1], *given, code=2)


def test_an_unknown_batch_is_named(sent: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the error on one line with the next step below it; nothing is printed as a result."""
    assert cli.main(["watch", "nothing"]) == 2
    out, message = capsys.readouterr()
    assert (out, message.startswith("cloudtasks-nb: "), "tasks." in message) == ("", True, False)
    assert re.search(r"nothing[\s\S]*→ cloudtasks-nb batches lists those there are", message)


@cases(
    (["--help"], 0, "doctor"),
    (["--version"], 0, f"cloudtasks-nb {importlib.metadata.version('cloudtasks-nb')}"),
    (["--local", "D", "emulator"], 2, "options of the emulator come after its name: cloudtasks-nb emulator --help"),
    (["--local", "D", "emulator", "--port", "0"], 2, "options of the emulator come after its name"),
    (["watch", "--help"], 0, "1 if some failed"),
    ([], 2, "required: COMMAND"),
    (["watch"], 2, "required: batch"),
    (["wach", "x"], 2, "invalid choice: 'wach'"),
    (["doctor", "--folder", "x"], 2, "unrecognized arguments"),
)
def test_help_and_slips(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str) -> None:
    """The usual answers of a command line: help is no error, a slip is one and is named."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == code
    assert text in " ".join("".join(capsys.readouterr()).split())


def test_the_module_is_the_command() -> None:
    """`python -m cloudtasks_nb.cli` does what the command does, where that is not on the path."""
    done = run(sys.executable, "-m", "cloudtasks_nb.cli", "batches")
    assert (done.returncode, done.stdout) == (0, "no batches were sent from this machine yet\n")


def test_a_batch_is_deleted(sent: list[str], printed: Run) -> None:
    """By its name or id, with its results; what was deleted is said, and by a dry run what would be."""
    with Outbox(outbox_path()) as outbox:
        store_result(outbox, Store(store_place(None)), f"{0:020x}-{sent[2]}-1")
    delete = ("batches", "--delete", "reports")
    assert printed(*delete, "--dry-run") == f"would delete batch {sent[2]}: 500 rows, and their results\n"
    assert printed(*delete) == f"deleted batch {sent[2]}: 500 rows, 1 result\n"
    assert [line[0] for line in listed(printed("batches"))] == [sent[1], sent[0]]
    assert list(Store(store_place(None)).pages(f"results/{sent[2]}/")) == []


def test_old_batches_are_deleted(sent: list[str], monkeypatch: pytest.MonkeyPatch, printed: Run) -> None:
    """Those of the chosen place that did not change for a time; what has tasks in the queue is left, and said."""
    with Outbox(outbox_path()) as outbox:
        send_all(outbox, sent[1])
    week = time.time() + 8 * 86_400
    monkeypatch.setattr("time.time", lambda: week)
    old = ("batches", "--older-than", "7d")
    left = f"1 batch left: {sent[1]}: 4 tasks may be in the queue\n"
    would = printed(*old, "--delete", "--dry-run", "--project", "p")
    assert would == f"would delete 1 batch: 500 rows, and their results\n{left}"
    assert printed(*old, "--delete", "--project", "p") == f"deleted 1 batch: 500 rows, 0 results\n{left}"
    assert printed(*old, "--delete", "--older-than", "9d") == "deleted 0 batches: 0 rows, 0 results\n"
    assert [line[0] for line in listed(printed(*old))] == [sent[1], sent[0]]


@pytest.mark.parametrize("arguments", [["--delete"], ["--delete", "x", "--older-than", "7d"]])
def test_what_to_delete_is_named_once(sent: list[str], printed: Run, arguments: list[str]) -> None:
    """Neither everything nor a guess is deleted."""
    assert "--delete needs either a batch or --older-than" in printed("batches", *arguments, code=2)


def test_a_reader_that_ends_early_is_no_error(sent: list[str]) -> None:
    """`cloudtasks-nb batches | head` ends quietly, with the exit code of a closed pipe."""
    command = [sys.executable, "-m", "cloudtasks_nb.cli", "batches"]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_interrupt_that_python_drops_is_sent_again(sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ignores what a callback of a weak reference raises, and imports have such callbacks; the command ends."""

    class Freed:
        pass

    def batch(_: Client, name: str) -> None:
        freed = Freed()
        _callback = weakref.ref(freed, lambda _: signal.raise_signal(signal.SIGINT))
        del freed
        _loop.run(asyncio.sleep(60))
        pytest.fail("the interrupt was lost")

    monkeypatch.setattr(Client, "batch", batch)
    with interruptible():
        assert cli.main(["watch", sent[1]]) == 130


def test_emulator_starts_without_pandas() -> None:
    """`cloudtasks-nb emulator` has the emulator's options, and does not wait for libraries that it does not need."""
    code = "from cloudtasks_nb.cli import main; main(['emulator', '--version'])"
    done = run(sys.executable, "-X", "importtime", "-c", code)
    assert done.stdout == f"cloudtasks-nb emulator {__version__}\n"
    assert " cloudtasks_nb.cli\n" in done.stderr
    assert " pandas" not in done.stderr


def test_emulator_where_a_process_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the emulator is a child, and its exit code is handed on."""
    call = Mock(return_value=3)
    monkeypatch.setattr(cli, "sys", SimpleNamespace(platform="win32", executable="python.exe"))
    monkeypatch.setattr("subprocess.call", call)
    assert cli.main(["emulator", *EMULATOR[2:]]) == 3
    call.assert_called_once_with(["python.exe", *EMULATOR])
