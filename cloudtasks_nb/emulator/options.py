"""Read the emulator's options from the command line, the environment and the configuration file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Final

from cloudtasks_nb._names import OPTION_VARIABLES, PLAIN_VARIABLES, QueueName
from cloudtasks_nb.emulator.frontends.guard import host_of
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["PROGRAM", "Option", "read_options"]

#: How the command is called in its messages.
PROGRAM: Final = "cloudtasks-nb emulator"

_PORTS = 65_536
_CENTURY = 100 * 365 * 86_400
_TRUE, _FALSE = {"true", "t", "1", "yes", "on"}, {"false", "f", "0", "no", "off"}
_ONE_DASH = re.compile(r"-[a-z][a-z-]+(=.*)?", re.DOTALL)
_ADDRESS = re.compile(r"[^:]+:\d+|\[.*\]:\d+")
# Kubernetes gives the address of a service named cloudtasks-emulator to every container: CLOUDTASKS_EMULATOR_PORT has
# the value tcp://10.0.0.1:8123. It is not meant as an option.
_OF_KUBERNETES = "tcp://"


@dataclass(frozen=True, slots=True)
class Option:
    """An option: a flag with one or two dashes, a variable of the environment, a key of the configuration file."""

    name: str  #: without dashes
    help: str
    read: Callable[[str], Any] = str  #: raises `ArgumentTypeError`, with what is allowed
    metavar: str | None = None  #: of the value in the help; None is that of `read`
    _: KW_ONLY
    many: bool = False  #: it may be given more than once; its variable separates values by commas
    aliases: tuple[str, ...] = ()  #: its names in other emulators
    also: tuple[str, ...] = ()  #: further variables

    @property
    def dest(self) -> str:
        """The field of `Settings`: the name, in the plural if the option may be given more than once."""
        return self.name.replace("-", "_") + "s" * self.many

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of the environment, the first one that is set counts."""
        return (OPTION_VARIABLES + self.name.replace("-", "_").upper(), *self.also)

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a parser; without a value it is not in the parser's result."""
        fields: dict[str, Any] = {"type": self.read, "metavar": self.metavar or _METAVARS.get(self.read)}
        if self.read is _boolean:
            fields |= {"nargs": "?", "const": True, "metavar": "true|false"}
        elif self.many:
            fields |= {"action": "extend", "nargs": "+"}
        names = [f"--{name}" for name in (self.name, *self.aliases)]
        text = f"{self.help}{self._default()} [{', '.join(self.variables)}]"
        parser.add_argument(*names, dest=self.dest, default=argparse.SUPPRESS, help=text, **fields)

    def value(self, texts: Iterable[str]) -> Any:
        """Return the value that texts stand for.

        Raises
        ------
        argparse.ArgumentTypeError
            If one of them is not allowed.
        """
        values = [self.read(text) for text in texts]
        return values if self.many else values[-1]

    def from_file(self, value: Any) -> Any:
        """Return the value for one of the configuration file.

        Raises
        ------
        InvalidInputError
            If it is not allowed.
        """
        values = value if self.many and isinstance(value, list) else [value]
        plain = bool if self.read is _boolean else (str, int, float)
        if any(not isinstance(one, plain) or isinstance(one, bool) != (plain is bool) for one in values):
            kind = "a list of texts" if self.many else "true or false" if self.read is _boolean else "text or a number"
            raise InvalidInputError(f"{json.dumps(value, default=str)} is not {kind}")
        try:
            return self.value(map(str, values))
        except argparse.ArgumentTypeError as error:
            raise InvalidInputError(str(error)) from error

    def _default(self) -> str:
        default = _DEFAULTS[self.dest]
        if self.read in {_microseconds, _seconds}:
            default = f"{default / (SECOND if self.read is _microseconds else 1):g}"
        return f" ({default})" if self.read is not _boolean and default not in {None, ()} else ""


def read_options(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> Settings:
    """Return the settings; the command line counts before the environment, which counts before the configuration file.

    A value that is not allowed ends the program with exit code 2, and a message that names the flag, the variable, or
    the place in the file.
    """
    parser = _parser()
    line = vars(parser.parse_args([_two_dashes(word) for word in (sys.argv[1:] if arguments is None else arguments)]))
    try:
        given = {**_from_environment(environment), **line}
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if (path := given.get("config")) is not None:
        try:
            given["config"] = config = ConfigFile.read(path, _READERS)
        except InvalidInputError as error:
            parser.error(f"{error.message}{f' → {error.hint}' if error.hint else ''}")
        given = {_BY_NAME[name].dest: value for name, value in config.options.items()} | given
    if not given.get("strict") and {"metadata_port", "proxy_port"} & given.keys():
        parser.error("--metadata-port and --proxy-port need --strict")
    if given.get("single_port") and "http_port" in given:
        parser.error("--http-port has no effect with --single-port: leave one of them out")
    if given.get("strict") and given.get("console_writes"):
        parser.error("--console-writes cannot be used with --strict, which has no console")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    settings = Settings(**values)
    own = settings.own_issuer
    if own and own.port == settings.port and settings.http_port is None and not settings.single_port:
        parser.error(
            f"--openid-issuer {settings.openid_issuer} has the port of gRPC: name another one or --single-port"
        )
    return settings


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    options = {}
    for option in _OPTIONS:
        name = next((name for name in option.variables if environment.get(name)), None)
        text = environment[name] if name else ""
        if name is None or text.startswith(_OF_KUBERNETES):
            continue
        try:
            options[option.dest] = option.value(_listed(text) if option.many else [text])
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"variable {name}: {error}") from error
    return options


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _two_dashes(word: str) -> str:
    """Return a flag with two dashes if it has one, as those of programs in Go."""
    return f"-{word}" if _ONE_DASH.fullmatch(word) else word


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [OPTION ...]",
        description="A complete local emulator of Cloud Tasks with gRPC and REST.",
        epilog="A flag may have one dash or two. In brackets: the environment variable that sets the same. "
        "The command line counts before the environment, and the environment before the file of --config.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}", help="print the version")
    for option in _OPTIONS:
        option.add_to(parser)
    return parser


def _version() -> str:
    return str(sys.modules[__name__.partition(".")[0]].__version__)


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() in _TRUE


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d*", text.strip(), re.ASCII):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def _share(text: str) -> tuple[float, int]:
    share, colon, seconds = text.partition(":")
    if not colon or not 0 <= _number(share) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not SHARE:SECONDS with a share from 0 to 1, such as 0.05:45")
    return float(share), _microseconds(seconds)


def _port(text: str) -> int:
    if not re.fullmatch(r"\d+", text.strip(), re.ASCII) or int(text) >= _PORTS:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to {_PORTS - 1}")
    return int(text)


def _address(text: str) -> str:
    if _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text} is an address with a port: set the port by itself")
    if not text:
        raise argparse.ArgumentTypeError("the address is empty: 0.0.0.0 stands for all addresses of this machine")
    return text.removeprefix("[").removesuffix("]")


def _queue(text: str) -> str:
    try:
        return str(QueueName.parse(text))
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _host(text: str) -> str:
    host = host_of(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
    if host is None:
        raise argparse.ArgumentTypeError(f"{text} is not the name of a host")
    return host


def _functions_host(text: str) -> str:
    if host_of(text) is None:
        raise argparse.ArgumentTypeError(f"{text} is not HOST:PORT")
    return text


def _url(text: str) -> str:
    if not re.match(r"https?://[^/]", text):
        raise argparse.ArgumentTypeError(f"{text} is not a URL, such as http://localhost:8080")
    return text


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 <= seconds <= _CENTURY:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to a hundred years")
    return seconds


def _microseconds(text: str) -> int:
    return round(_seconds(text) * SECOND)


def _number(text: str) -> float:
    """Return a number; NaN, which is in no range, for another text."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
_METAVARS: dict[Callable[[str], Any], str] = {
    Path: "FILE",
    _functions_host: "HOST:PORT",
    _host: "NAME",
    _microseconds: "SECONDS",
    _port: "PORT",
    _positive: "ENTRIES",
    _queue: "NAME",
    _seconds: "SECONDS",
    _share: "SHARE:SECONDS",
    _url: "URL",
}
_OPTIONS = (
    Option("host", "address to listen on", _address, also=PLAIN_VARIABLES[:1]),
    Option("port", "gRPC port, 0 for a free one", _port, also=PLAIN_VARIABLES[1:2]),
    Option(
        "http-port",
        "port for REST and /admin (that of --openid-issuer, or the one after --port; with --port 0 a free one)",
        _port,
    ),
    Option("single-port", "answer gRPC and HTTP on --port; a gRPC call costs up to a fifth more CPU", _boolean),
    Option(
        "allow-host",
        "answer HTTP requests to this name too, and those of web pages from there; may be repeated",
        _host,
        many=True,
    ),
    Option("data-dir", "the data folder (by default a temporary one)", Path, "FOLDER"),
    Option(
        "queue",
        "create a queue; may be repeated",
        _queue,
        many=True,
        aliases=("initial-queue",),
        also=PLAIN_VARIABLES[2:],
    ),
    Option(
        "config",
        "YAML or JSON file: queues with their settings, and options; its queues are read again after SIGHUP",
        Path,
    ),
    Option("strict", "like Google: TLS, bearer tokens and the permissions of IAM roles", _boolean),
    Option("metadata-port", "with --strict, port of a metadata server", _port),
    Option("proxy-port", "with --strict, port of an HTTPS proxy to *.googleapis.com", _port),
    Option("console-writes", "let the console, the web page at /, change queues and tasks", _boolean),
    Option("quiet", "write no line to the standard error for a failed attempt", _boolean),
    Option(
        "grace", "how long attempts in flight may go on after a signal to stop; a second signal ends them", _seconds
    ),
    Option("lease", "stop 2 s after the last request GET /lease was closed", _boolean),
    Option(
        "wait-for-loopback",
        "a connection that this machine refuses is no attempt: wait until the target listens",
        _boolean,
    ),
    # These change the behaviour of the service.
    Option(
        "openid-issuer",
        "issuer of OIDC tokens; http://HOST:PORT is the emulator, which listens for HTTP on that port, unless "
        "--http-port names another one",
        metavar="URL",
    ),
    Option(
        "openid-signing-key", "PEM file of the RSA key that signs OIDC tokens (by default one in the data folder)", Path
    ),
    Option(
        "app-engine-host",
        "URL of the App Engine application",
        _url,
        aliases=("app-engine-emulator-host",),
        also=("APP_ENGINE_EMULATOR_HOST",),
    ),
    Option(
        "functions-host",
        "where Firebase's functions emulator listens: the functions of tasks without a URL",
        _functions_host,
    ),
    Option("https-ca", "certificates of targets that are trusted besides the system's", Path),
    Option("https-insecure", "do not check certificates of targets", _boolean, aliases=("insecure-skip-tls-verify",)),
    Option("no-batch", "answer batch calls with UNIMPLEMENTED", _boolean),
    Option("create-queues-on-demand", "CreateTask creates a missing queue", _boolean),
    Option("hard-reset-on-purge-queue", "PurgeQueue also frees the names of tasks", _boolean),
    Option(
        "task-tombstone",
        "how long names of tasks stay taken, and operations of batch calls are kept (those 120 to 3600)",
        _microseconds,
    ),
    Option("queue-tombstone", "how long names of queues stay taken", _microseconds),
    Option("new-queue-delay", "how long calls answer NOT_FOUND for a new queue", _microseconds),
    Option("log-delay", "delay of log entries", _microseconds),
    Option("log-limit", "log entries that are kept, the newest; those of one batch call count as one", _positive),
    Option(
        "log-index-delay",
        "this share of log entries is received at once and can be read only after the delay; may be repeated",
        _share,
        many=True,
    ),
)
_BY_NAME = {option.name: option for option in _OPTIONS}
#: Options that the configuration file can set: its own list of queues says more than names.
_READERS = {name: option.from_file for name, option in _BY_NAME.items() if name not in {"config", "queue"}}
