"""The command line: options become settings, errors one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.emulator import __main__ as command
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import EmulatorError, PortInUseError

EVERYTHING = """--host 0.0.0.0 --port 1 --http-port 2 --data-dir d --queue a --queue b --quiet --strict
--metadata-port 3 --proxy-port 4 --grace 2.5 --lease
--wait-for-loopback --openid-issuer i --app-engine-host h --https-ca c --https-insecure --no-batch
--create-queues-on-demand --hard-reset-on-purge-queue
--task-tombstone 1.5 --queue-tombstone 2 --new-queue-delay 3 --log-delay 4
--log-index-delay 0.05:45 0.01:600 --log-index-delay 0.5:1 --log-limit 7
--allow-host Hub.example --allow-host fd00::1"""


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str, error: Exception | None = None) -> tuple[int, Settings]:
    """Run the command with an emulator that ends at once; return exit code and settings."""
    given: list[Settings] = []

    async def run(
        settings: Settings, ready: Callable[[dict[str, Any]], None], stop: asyncio.Event, _abort: asyncio.Event
    ) -> None:
        given.append(settings)
        if error:
            raise error
        ready({"grpc": "127.0.0.1:1"})
        stop.set()

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "_allow_many_files", lambda: None)
    return command.main(arguments), given[0]


def test_without_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without options the settings are the defaults, and the ready line is one line of JSON."""
    code, settings = started(monkeypatch)
    assert (code, settings) == (0, Settings())
    assert json.loads(capsys.readouterr().out) == {"grpc": "127.0.0.1:1"}


def test_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option arrives."""
    _, settings = started(monkeypatch, *EVERYTHING.split())
    assert settings == Settings(
        host="0.0.0.0",  # noqa: S104 - only compared
        port=1,
        http_port=2,
        allow_hosts=("hub.example", "fd00::1"),
        data_dir=Path("d"),
        queues=("a", "b"),
        quiet=True,
        strict=True,
        metadata_port=3,
        proxy_port=4,
        grace=2.5,
        lease=True,
        wait_for_loopback=True,
        openid_issuer="i",
        app_engine_host="h",
        https_ca=Path("c"),
        https_insecure=True,
        no_batch=True,
        queues_on_demand=True,
        hard_reset_on_purge=True,
        task_tombstone=SECOND * 3 // 2,
        queue_tombstone=2 * SECOND,
        new_queue_delay=3 * SECOND,
        log_delay=4 * SECOND,
        log_limit=7,
        log_index_delay=((0.05, 45 * SECOND), (0.01, 600 * SECOND), (0.5, SECOND)),
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "99999"),
        ("--port", "-1"),
        ("--port", "x"),
        ("--http-port", "65536"),
        ("--allow-host", "https://hub.example/"),
        ("--task-tombstone", "nan"),
        ("--task-tombstone", "-5"),
        ("--queue-tombstone", "inf"),
        ("--new-queue-delay", "1e300"),
        ("--log-delay", "soon"),
        ("--log-limit", "0"),
        ("--grace", "-1"),
        ("--log-index-delay", "45"),
        ("--log-index-delay", "5:45"),
        ("--log-index-delay", "0.05:soon"),
    ],
)
def test_invalid_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    """The error of an invalid port or time names its option, and nothing starts."""
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, f"{option}={value}")
    assert ended.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--metadata-port", "--proxy-port"])
def test_only_a_strict_emulator_is_google(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """A metadata server and a proxy without --strict are an error."""
    with pytest.raises(SystemExit):
        started(monkeypatch, option, "1")
    assert "--metadata-port and --proxy-port need --strict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PortInUseError("port 1 is in use", hint="another"), "cloudtasks-nb emulator: port 1 is in use → another\n"),
        (EmulatorError("cannot"), "cloudtasks-nb emulator: cannot\n"),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    """An error is one line, with the next step, and the exit code is 1."""
    code, _ = started(monkeypatch, error=error)
    assert (code, capsys.readouterr().err) == (1, line)
