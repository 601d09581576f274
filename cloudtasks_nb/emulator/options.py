"""Read the emulator's options from the command line, the environment and the configuration file."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from cloudtasks_nb._names import OPTION_VARIABLES
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.emulator.model.settings import OPTIONS, Option, Settings, read_boolean, read_microseconds
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["PROGRAM", "read_options"]

#: How the command is called in its messages.
PROGRAM: Final = "cloudtasks-nb emulator"

_ONE_DASH = re.compile(r"-[a-z][a-z-]+(=.*)?", re.DOTALL)
# Kubernetes gives the address of a service named cloud-tasks-emulator to every container: CLOUD_TASKS_EMULATOR_PORT has
# the value tcp://10.0.0.1:8123. It is not meant as an option.
_OF_KUBERNETES = "tcp://"
# The Dockerfile sets it. Elsewhere HOST and PORT belong to other programs.
_IN_IMAGE = f"{OPTION_VARIABLES}IMAGE"
# Clients read it too, as the address of the emulator; then it has a port, and is no option.
_OF_CLIENTS = f"{OPTION_VARIABLES}HOST"
_WITH_PORT = re.compile(r"(\[.*\]|[^:]*):\d+")


def read_options(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> Settings:
    """Return the settings; the command line counts before the environment, which counts before the configuration file.

    A value that is not allowed ends the program with exit code 2, and a message that names the flag, the variable, or
    the place in the file.
    """
    parser = _parser()
    line = parser.parse_args([_two_dashes(word) for word in (sys.argv[1:] if arguments is None else arguments)])
    values: dict[str, Any] = {}
    given = {option: (place, texts) for option, place, texts in (*_of_environment(environment), *_of_line(line))}
    for option, (place, texts) in given.items():
        try:
            values[option.dest] = option.value(texts)
        except InvalidInputError as error:
            parser.error(f"{place}: {error.message}")
    if (path := values.get("config")) is not None:
        try:
            values["config"] = config = ConfigFile.read(path, _READERS)
        except InvalidInputError as error:
            parser.error(f"{error.message}{f' → {error.hint}' if error.hint else ''}")
        values = {_BY_NAME[name].dest: value for name, value in config.options.items()} | values
    if not values.get("strict") and "metadata_port" in values:
        parser.error("--metadata-port needs --strict")
    if values.get("single_port") and "http_port" in values:
        parser.error("--http-port has no effect with --single-port: leave one of them out")
    if values.get("strict") and values.get("token"):
        parser.error("--token cannot be used with --strict, whose callers need tokens of principals")
    if values.get("strict") and values.get("console_writes"):
        parser.error("--console-writes cannot be used with --strict, which has no console")
    named_by = {option.dest: place for option, (place, _) in given.items() if place.startswith("variable ")}
    settings = Settings(**values, named_by=named_by)
    own = settings.own_issuer
    if own and own.port == settings.port and settings.http_port is None and not settings.single_port:
        parser.error(
            f"--openid-issuer {settings.openid_issuer} has the port of gRPC: name another one or --single-port"
        )
    return settings


def _parser() -> argparse.ArgumentParser:
    """Return a parser for the texts of options; those without one are not in its result."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [OPTION ...]\n       %(prog)s run [OPTION ...] -- COMMAND [ARGUMENT ...]",
        description="A complete local emulator of Cloud Tasks with gRPC and REST. With run, a program with Google's "
        "client in its code uses it, and it ends with the program.",
        epilog="A flag may have one dash or two. In brackets: the environment variable that sets the same. "
        "The command line counts before the environment, and the environment before the file of --config.",
        argument_default=argparse.SUPPRESS,
    )
    version = f"{PROGRAM} {sys.modules[__name__.partition('.')[0]].__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version")
    for option in OPTIONS:
        kind: dict[str, Any] = {"metavar": option.metavar}
        if option.read is read_boolean:
            kind = {"nargs": "?", "const": "true", "metavar": "true|false"}
        elif option.many:
            kind |= {"action": "extend", "nargs": "+"}
        text = f"{option.help}{_default(option)} [{option.variable}]"
        parser.add_argument(*_flags(option), dest=option.dest, help=text, **kind)
    return parser


def _two_dashes(word: str) -> str:
    """Return a flag with two dashes if it has one, as those of programs in Go."""
    return f"-{word}" if _ONE_DASH.fullmatch(word) else word


def _flags(option: Option) -> list[str]:
    return [f"--{name}" for name in (option.name, *option.aliases)]


def _default(option: Option) -> str:
    default = option.default
    if isinstance(default, bool) or default in {None, ()}:
        return ""
    shown = default / SECOND if option.read is read_microseconds else default
    return f" ({shown:g})" if isinstance(shown, float) else f" ({shown})"


def _of_environment(environment: Mapping[str, str]) -> Iterator[tuple[Option, str, list[str]]]:
    """Yield the options that variables set, where they are set, and their texts."""
    for option in OPTIONS:
        names = [option.variable, *filter(None, [option.in_image if environment.get(_IN_IMAGE) else None])]
        name = next((name for name in names if environment.get(name)), None)
        if name is not None and not (text := environment[name]).startswith(_OF_KUBERNETES):
            if name == _OF_CLIENTS and _WITH_PORT.fullmatch(text):
                continue
            parts = [part.strip() for part in text.split(",") if part.strip()]
            yield option, f"variable {name}", parts if option.many else [text]


def _of_line(line: argparse.Namespace) -> Iterator[tuple[Option, str, list[str]]]:
    """Yield the same of the command line."""
    for option in OPTIONS:
        if (given := getattr(line, option.dest, None)) is not None:
            yield option, f"argument {'/'.join(_flags(option))}", given if option.many else [given]


def _of_file(option: Option, value: Any) -> Any:
    """Return the value of an option for one of the configuration file.

    Raises
    ------
    InvalidInputError
        If it is not allowed.
    """
    values = value if option.many and isinstance(value, list) else [value]
    is_boolean = option.read is read_boolean
    plain = bool if is_boolean else (str, int, float)
    if any(not isinstance(one, plain) or isinstance(one, bool) != is_boolean for one in values):
        kind = "a list of texts" if option.many else "true or false" if is_boolean else "text or a number"
        raise InvalidInputError(f"{json.dumps(value, default=str)} is not {kind}")
    return option.value([*map(str, values)])


_BY_NAME = {option.name: option for option in OPTIONS}
#: Options that the configuration file can set: its own list of queues says more than names.
_READERS = {name: partial(_of_file, option) for name, option in _BY_NAME.items() if name not in {"config", "queue"}}
