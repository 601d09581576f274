"""The command line: options become settings, errors one line."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb import __version__
from cloudtasks_nb._names import OPTION_VARIABLES
from cloudtasks_nb.emulator import __main__ as command
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import EmulatorError, PortInUseError
from tests.processes import run

ROOT = Path(__file__).parents[3]
FIRST, ANOTHER = "projects/dev/locations/here/queues/firstq", "projects/dev/locations/here/queues/anotherq"
EVERYTHING = """--host 0.0.0.0 --port 1 --http-port 2 --data-dir d --queue a --queue b --quiet --strict
--single-port false --console-writes false --metadata-port 3 --proxy-port 4 --grace 2.5 --lease
--wait-for-loopback --openid-issuer i --openid-signing-key k --app-engine-host http://h --functions-host f:5001
--https-ca c --https-insecure --no-batch --create-queues-on-demand --hard-reset-on-purge-queue
--task-tombstone 1.5 --queue-tombstone 2 --new-queue-delay 3 --log-delay 4
--log-index-delay 0.05:45 0.01:600 --log-index-delay 0.5:1 --log-limit 7
--allow-host Hub.example --allow-host fd00::1"""


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str, error: Exception | None = None) -> tuple[int, Settings]:
    """Run the command with an emulator that ends at once; return exit code and settings."""
    given: list[Settings] = []

    async def run_until_ready(
        settings: Settings,
        ready: Callable[[dict[str, Any]], None],
        stop: asyncio.Event,
        _abort: asyncio.Event,
        _reload: asyncio.Event,
    ) -> None:
        given.append(settings)
        if error:
            raise error
        ready({"grpc": "127.0.0.1:1"})
        stop.set()

    monkeypatch.setattr(command, "run", run_until_ready)
    monkeypatch.setattr(command, "_allow_many_files", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
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
        openid_signing_key=Path("k"),
        app_engine_host="http://h",
        functions_host="f:5001",
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
        ("--host", "127.0.0.1:8123"),
        ("--quiet", "maybe"),
        ("--port", "99999"),
        ("--port", "-1"),
        ("--port", "x"),
        ("--http-port", "65536"),
        ("--allow-host", "https://hub.example/"),
        ("--functions-host", "http://f:5001"),
        ("--app-engine-host", "localhost:8080"),
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
    """The error of an invalid value names its option or variable, with the same text, and nothing starts."""
    variable = OPTION_VARIABLES + option.strip("-").replace("-", "_").upper()
    with pytest.raises(SystemExit) as by_option:
        started(monkeypatch, f"{option}={value}")
    option_error = capsys.readouterr().err
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as by_variable:
        started(monkeypatch)
    variable_error = capsys.readouterr().err
    assert (by_option.value.code, by_variable.value.code) == (2, 2)
    found = re.search(f"error: argument ({option}[^:]*): (?P<text>\\S+ is .+)", option_error)
    assert found, option_error
    assert f"error: variable {variable}: {found['text']}\n" in variable_error


#: Command lines that the documents of other emulators show, and the settings that they ask for.
PUBLISHED = [
    ("-host localhost -port 8000", {"host": "localhost", "port": 8000}),
    (
        f"-host localhost -port 8000 -queue {FIRST} -queue {ANOTHER}",
        {"host": "localhost", "port": 8000, "queues": (FIRST, ANOTHER)},
    ),
    (f"-host 0.0.0.0 -port 8123 -initial-queue {ANOTHER}", {"host": "0.0.0.0", "queues": (ANOTHER,)}),  # noqa: S104
    (f"-host=0.0.0.0 -port=8123 -queue={FIRST}", {"host": "0.0.0.0", "queues": (FIRST,)}),  # noqa: S104
    ("-openid-issuer http://localhost:8980", {"openid_issuer": "http://localhost:8980"}),
    ("--hard-reset-on-purge-queue", {"hard_reset_on_purge": True}),
    ("-hard-reset-on-purge-queue -port 1", {"hard_reset_on_purge": True, "port": 1}),
    ("-hard-reset-on-purge-queue=true", {"hard_reset_on_purge": True}),
    ("-hard-reset-on-purge-queue=false", {}),
    ("-hard-reset-on-purge-queue=T -insecure-skip-tls-verify=f", {"hard_reset_on_purge": True}),
    ("-host [::1] -port 8000", {"host": "::1", "port": 8000}),
    ("-app-engine-emulator-host http://localhost:8080", {"app_engine_host": "http://localhost:8080"}),
    ("-app-engine-host http://localhost:8080", {"app_engine_host": "http://localhost:8080"}),
    ("-insecure-skip-tls-verify", {"https_insecure": True}),
]


@pytest.mark.parametrize(("line", "expected"), PUBLISHED, ids=[line for line, _ in PUBLISHED])
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_command_lines_of_other_emulators(
    monkeypatch: pytest.MonkeyPatch, line: str, expected: dict[str, Any], dashes: str
) -> None:
    """A command line of a Go emulator means the same here, with one dash or two."""
    _, settings = started(monkeypatch, *re.sub(r"(?:^|(?<= ))-+", dashes, line).split())
    assert settings == Settings(**expected)


def test_every_option_has_a_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a flag sets, the variable that --help shows for it sets too."""
    _, by_flags = started(monkeypatch, *EVERYTHING.split())
    with pytest.raises(SystemExit):
        started(monkeypatch, "--help")
    shown = set(re.findall(rf"{OPTION_VARIABLES}\w+", capsys.readouterr().out))
    values: dict[str, list[str]] = {}
    for flag, rest in re.findall(r"--([a-z-]+)((?: [^-\s]\S*)*)", " ".join(EVERYTHING.split())):
        values.setdefault(OPTION_VARIABLES + flag.replace("-", "_").upper(), []).extend(rest.split() or ["true"])
    for name, given in values.items():
        monkeypatch.setenv(name, ",".join(given))
    assert values.keys() == shown - {f"{OPTION_VARIABLES}CONFIG"}
    assert started(monkeypatch)[1] == by_flags


def test_the_command_line_counts_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag replaces what its variable says; an empty variable and an address of Kubernetes say nothing."""
    for name, value in {"PORT": "1", "QUEUE": "a, b,", "STRICT": "on", "HTTP_PORT": "", "GRACE": "3"}.items():
        monkeypatch.setenv(OPTION_VARIABLES + name, value)
    _, settings = started(monkeypatch, "--queue", "c", "--strict=false", "--port", "2")
    assert settings == Settings(port=2, queues=("c",), grace=3.0)
    monkeypatch.setenv(f"{OPTION_VARIABLES}PORT", "tcp://10.96.0.7:8123")
    assert started(monkeypatch, "--strict=0")[1] == Settings(queues=("a", "b"), grace=3.0)


def test_the_environment_counts_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file sets what neither the command line nor the environment sets; the variable for it works as the flag."""
    file = tmp_path / "c.yaml"
    file.write_text(
        f"port: 1\ngrace: 2\nstrict: true\nquiet: yes\nallow-host: [a, b]\nlog-index-delay: 0.5:1\ndata-dir:\n"
        f"queues:\n- name: {FIRST}\n"
    )
    monkeypatch.setenv(f"{OPTION_VARIABLES}CONFIG", str(file))
    monkeypatch.setenv(f"{OPTION_VARIABLES}GRACE", "3")
    _, settings = started(monkeypatch, "-port", "4", "-quiet=false")
    assert replace(settings, config=None) == Settings(
        port=4, grace=3.0, strict=True, allow_hosts=("a", "b"), log_index_delay=((0.5, SECOND),)
    )
    assert settings.config is not None
    assert [queue.name for queue in settings.config.queues] == [FIRST]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("port: 70000", "port: 70000 is not a port: 0 to 65535"),
        ("port: true", "port: true is not text or a number"),
        ("strict: maybe", 'strict: "maybe" is not true or false'),
        ("allow-host: [[a]]", 'allow-host: [["a"]] is not a list of texts'),
        ("allow-host: a b", "allow-host: a b is not the name of a host"),
        ("queue: [a]", "queue: there is no key queue here → did you mean queues?"),
        ("config: x", "config: there is no key config here → allowed are queues, host, "),
    ],
)
def test_options_in_a_file_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, error: str
) -> None:
    """A value in the file has the errors that it has as a flag, and the place in the file."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, "--config", str(tmp_path / "c.yaml"))
    assert ended.value.code == 2
    assert f"error: {tmp_path / 'c.yaml'}:1: {error}" in capsys.readouterr().err


def test_the_issuer_is_not_at_the_port_of_grpc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An issuer whose keys could not be read is an error; with another port, or that of HTTP, it is not."""
    with pytest.raises(SystemExit):
        started(monkeypatch, "--openid-issuer", "http://localhost:8123")
    assert "--openid-issuer http://localhost:8123 has the port of gRPC" in capsys.readouterr().err
    assert started(monkeypatch, "--openid-issuer", "http://localhost:8123", "--single-port")[0] == 0
    for issuer in ("http://localhost:8980", "https://localhost:8123", "http://localhost:8123/realm", "http://h:x", "i"):
        assert started(monkeypatch, "--openid-issuer", issuer)[0] == 0


def test_the_variable_of_app_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """APP_ENGINE_EMULATOR_HOST, which the Go emulators read, counts if the option has no value of its own."""
    monkeypatch.setenv("APP_ENGINE_EMULATOR_HOST", "http://app:8080")
    assert started(monkeypatch)[1] == Settings(app_engine_host="http://app:8080")
    monkeypatch.setenv(f"{OPTION_VARIABLES}APP_ENGINE_HOST", "http://mine")
    assert started(monkeypatch)[1] == Settings(app_engine_host="http://mine")


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version of the package."""
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, "-version")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"cloudtasks-nb emulator {__version__}\n")


def test_the_emulator_needs_no_notebook() -> None:
    """The emulator's process imports neither the toolkit's frames nor its widgets."""
    done = run(sys.executable, "-X", "importtime", "-m", "cloudtasks_nb.emulator", "--version", cwd=ROOT)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "aiohttp" in imported
    assert not imported & {"pandas", "numpy", "ipywidgets", "IPython", "anywidget", "obstore", "tqdm"}


@pytest.mark.parametrize("option", ["--metadata-port", "--proxy-port"])
def test_only_a_strict_emulator_is_google(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """A metadata server and a proxy without --strict are an error."""
    with pytest.raises(SystemExit):
        started(monkeypatch, option, "1")
    assert "--metadata-port and --proxy-port need --strict" in capsys.readouterr().err


def test_one_port_or_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--single-port` arrives, and with a second port it is an error."""
    assert started(monkeypatch, "--single-port", "--port", "1")[1] == Settings(port=1, single_port=True)
    with pytest.raises(SystemExit):
        started(monkeypatch, "--single-port", "--http-port", "2")
    assert "--http-port has no effect with --single-port" in capsys.readouterr().err


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
