"""The command line: options become settings, errors one line."""

import asyncio
import gc
import json
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb import __version__
from cloudtasks_nb._names import OPTION_VARIABLES
from cloudtasks_nb.emulator import __main__ as command
from cloudtasks_nb.emulator import server
from cloudtasks_nb.emulator.model.settings import OPTIONS, Option, Settings, read_boolean
from cloudtasks_nb.emulator.options import read_options
from cloudtasks_nb.errors import EmulatorError, PortInUseError
from tests.cases import cases
from tests.processes import run

ROOT = Path(__file__).parents[3]
FIRST, ANOTHER = "projects/dev/locations/here/queues/firstq", "projects/dev/locations/here/queues/anotherq"


TABLES = tomllib.loads(Path(__file__).with_name("options.toml").read_text(encoding="utf-8"))


def many(settings: dict[str, Any]) -> dict[str, Any]:
    """Give settings with their queues as a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give a function that returns the error of a command line and an environment that are not allowed."""

    def error(*words: str, **variables: str) -> str:
        with pytest.raises(SystemExit) as ended:
            read_options(words, variables)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return error


@cases(
    (None, ""),
    (PortInUseError("port 1 is in use", hint="another"), "cloudtasks-nb emulator: port 1 is in use → another\n"),
    (EmulatorError("cannot"), "cloudtasks-nb emulator: cannot\n"),
)
def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Exception | None, error: str
) -> None:
    """Without options the settings are the defaults, and the ready line is one line of JSON, as is an error of text."""

    async def run_until_ready(
        settings: Settings, ready: Callable[[dict[str, Any]], None], stop: asyncio.Event, *_: asyncio.Event
    ) -> None:
        assert settings == Settings()
        if wrong:
            raise wrong
        ready({"grpc": "127.0.0.1:1"})
        stop.set()

    monkeypatch.setattr(server, "run", run_until_ready)
    monkeypatch.setattr(command, "_allow_many_files", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    assert command.main(()) == bool(wrong)
    assert capsys.readouterr() == ("" if wrong else '{"grpc":"127.0.0.1:1"}\n', error)


def test_every_option_has_a_value_here() -> None:
    """The table has all options but that of the configuration file, which has tests of its own."""
    assert {*TABLES["values"], "config"} == {option.name for option in OPTIONS}


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.name in TABLES["values"]], ids=lambda one: one.name)
def test_every_option(tmp_path: Path, option: Option) -> None:
    """A flag with any of its names, its variables, and a key of the file all set the same, and nothing else."""
    text, value = TABLES["values"][option.name]
    words, strict = text.split(), ["--strict"] if option.name == "metadata-port" else []
    expected = read_options([*strict, f"--{option.name}", *words], {})
    found = getattr(expected, option.dest)
    assert json.loads(json.dumps(found, default=str)) == value
    assert expected == Settings(**{"strict": bool(strict), option.dest: found})
    for name in option.aliases:
        assert read_options([*strict, f"--{name}", *words], {}) == expected
    if option.many:
        assert read_options([part for word in words for part in (f"--{option.name}", word)], {}) == expected
    assert read_options(strict, {option.variable: ",".join(words)}) == expected
    if option.name != "queue":
        given = True if option.read is read_boolean else words if option.many else text
        (tmp_path / "c.yaml").write_text(json.dumps({option.name: given}))
        in_file = read_options([*strict, "--config", str(tmp_path / "c.yaml")], {})
        assert replace(in_file, config=None) == expected


def test_the_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads `--help` learns the variables of all options."""
    with pytest.raises(SystemExit):
        read_options(["--help"], {})
    shown = set(re.findall(r"[A-Z_]{4,}(?=[],])", capsys.readouterr().out))
    assert shown == {option.variable for option in OPTIONS}


@pytest.mark.parametrize(("option", "value"), TABLES["invalid"])
def test_invalid_values(error: Callable[..., str], option: str, value: str) -> None:
    """The error of an invalid value names its option or variable, with the same text, and nothing starts."""
    variable = OPTION_VARIABLES + option.strip("-").replace("-", "_").upper()
    found = re.search(f"error: argument ({option}[^:]*): (?P<text>\\S+ is .+)", error(f"{option}={value}"))
    assert found
    assert f"error: variable {variable}: {found['text']}\n" in error(**{variable: value})


@pytest.mark.parametrize(("line", "expected"), TABLES["published"])
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_command_lines_of_other_emulators(line: str, expected: dict[str, Any], dashes: str) -> None:
    """A command line of a Go emulator means the same here, with one dash or two."""
    assert read_options(re.sub(r"(?:^|(?<= ))-+", dashes, line).split(), {}) == Settings(**many(expected))


def test_the_command_line_counts_before_the_environment() -> None:
    """A flag replaces its variable, even an invalid one; empty ones and addresses for others say nothing."""
    given = {"PORT": "1", "QUEUE": f"{FIRST}, {ANOTHER},", "STRICT": "on", "HTTP_PORT": "", "GRACE": "3"}
    variables = {OPTION_VARIABLES + name: text for name, text in given.items()}
    found = read_options(["--queue", FIRST, "--strict=false", "--port", "2"], variables)
    assert found == Settings(port=2, queues=(FIRST,), grace=3.0)
    variables[f"{OPTION_VARIABLES}PORT"] = "tcp://10.96.0.7:8123"
    assert read_options(["--strict=0"], variables) == Settings(queues=(FIRST, ANOTHER), grace=3.0)
    assert read_options(["--port", "2"], {f"{OPTION_VARIABLES}PORT": "none"}) == Settings(port=2)
    for address in ("localhost:8123", "[::1]:8123", ":8123"):
        assert read_options([], {f"{OPTION_VARIABLES}HOST": address}) == Settings()
    assert read_options([], {f"{OPTION_VARIABLES}HOST": "::1"}) == Settings(host="::1")


def test_the_environment_counts_before_the_file(tmp_path: Path) -> None:
    """A file sets what neither the command line nor the environment sets; the variable for it works as the flag."""
    file = tmp_path / "c.yaml"
    file.write_text(f"port: 1\ngrace: 2\nstrict: true\nquiet: yes\ndata-dir:\nqueues:\n- name: {FIRST}\n")
    variables = {f"{OPTION_VARIABLES}CONFIG": str(file), f"{OPTION_VARIABLES}GRACE": "3"}
    settings = read_options(["-port", "4", "-quiet=false"], variables)
    assert replace(settings, config=None) == Settings(port=4, grace=3.0, strict=True)
    assert settings.config is not None
    assert [queue.name for queue in settings.config.queues] == [FIRST]


def test_variables_of_other_programs_count_only_in_the_image() -> None:
    """Variables without the emulator's name are options in the container, where its own counts before them."""
    plain = {"HOST": "::1", "PORT": "1", "INITIAL_QUEUE": FIRST, "APP_ENGINE_EMULATOR_HOST": "http://app"}
    assert read_options([], {**plain, "PORT": "none", "CLOUDTASKS_EMULATOR_HOST": "localhost:8123"}) == Settings()
    plain[f"{OPTION_VARIABLES}IMAGE"] = "true"
    expected = Settings(host="::1", port=1, queues=(FIRST,), app_engine_host="http://app")
    assert read_options([], plain) == expected
    own = {OPTION_VARIABLES + name: text for name, text in (("HOST", "::"), ("PORT", "2"), ("QUEUE", ANOTHER))}
    found = read_options(["--port", "3"], {**plain, **own})
    assert found == replace(expected, host="::", port=3, queues=(ANOTHER,))
    assert "port" not in found.named_by


@pytest.mark.parametrize(("text", "text_of_error"), TABLES["in_a_file"])
def test_options_in_a_file_are_checked(
    error: Callable[..., str], tmp_path: Path, text: str, text_of_error: str
) -> None:
    """A value in the file has the errors that it has as a flag, and the place in the file."""
    (tmp_path / "c.yaml").write_text(text)
    assert f"error: {tmp_path / 'c.yaml'}:1: {text_of_error}" in error("--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(("line", "text"), TABLES["alone"])
def test_options_that_do_not_go_together(error: Callable[..., str], line: str, text: str) -> None:
    """Options that have no effect beside each other, and an issuer whose keys could not be read, are errors."""
    assert text in error(*line.split())


@cases("http://localhost:8980", "https://localhost:8123", "http://localhost:8123/a", "http://h:x", "i")
def test_issuers_beside_the_port_of_grpc(line: str) -> None:
    """An issuer elsewhere is no error, and one at the port of gRPC is none if that is the port of HTTP, too."""
    assert read_options(["--openid-issuer", line], {}) == Settings(openid_issuer=line)
    assert read_options(["--openid-issuer", "http://localhost:8123", "--single-port"], {}).single_port


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version of the package."""
    with pytest.raises(SystemExit) as ended:
        read_options(["-version"], {})
    assert (ended.value.code, capsys.readouterr().out) == (0, f"cloudtasks-nb emulator {__version__}\n")


def test_the_emulator_needs_no_notebook() -> None:
    """The emulator's process imports neither the toolkit's frames nor its widgets."""
    done = run(sys.executable, "-X", "importtime", "-c", "import cloudtasks_nb.emulator.server", cwd=ROOT)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "aiohttp" in imported
    assert not imported & {"pandas", "numpy", "ipywidgets", "IPython", "anywidget", "obstore", "tqdm"}
