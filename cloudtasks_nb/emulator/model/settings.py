"""The options of an emulator: their values and defaults, their help, and what their texts mean.

A field of `Settings` is an option. Its flag, its variable of the environment and its key in the configuration file
follow from the name of the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from cloudtasks_nb._names import OPTION_VARIABLES, QueueName
from cloudtasks_nb.emulator.model.clock import DAY, HOUR, SECOND
from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["OPTIONS", "Option", "Settings", "host_of", "read_boolean", "read_microseconds"]

_LAST_PORT = 65_535
_CENTURY = 100 * 365 * 86_400
_TRUE, _FALSE = {"true", "t", "1", "yes", "on"}, {"false", "f", "0", "no", "off"}
_ADDRESS = re.compile(r"[^:]+:\d+|\[.*\]:\d+")
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:/@\[\]\s]+))(?::\d*)?")


def host_of(address: str) -> str | None:
    """Return the host of ``host``, ``host:port`` or ``[IPv6]:port`` in lower case; None if it is none of these."""
    match = _HOST.fullmatch(address)
    return (match[1] or match[2]).lower() if match else None


def read_boolean(text: str) -> bool:
    """Return what a text says that is true or false."""
    if text.lower() not in _TRUE | _FALSE:
        raise InvalidInputError(f"{text} is neither true nor false")
    return text.lower() in _TRUE


def read_microseconds(text: str) -> int:
    """Return a number of seconds in microseconds."""
    return round(_seconds(text) * SECOND)


def _number(text: str) -> float:
    """Return a number; NaN, which is in no range, for another text."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _reader(convert: Callable[[str], Any], wanted: str) -> Callable[[str], Any]:
    """Return what reads a value; `convert` returns None for a text that is not what is wanted."""

    def read(text: str) -> Any:
        if (value := convert(text)) is None:
            raise InvalidInputError(f"{text} is not {wanted}")
        return value

    return read


def _share(text: str) -> tuple[float, int]:
    share, colon, seconds = text.partition(":")
    if not colon or not 0 <= _number(share) <= 1:
        raise InvalidInputError(f"{text} is not SHARE:SECONDS with a share from 0 to 1, such as 0.05:45")
    return float(share), read_microseconds(seconds)


def _address(text: str) -> str:
    if _ADDRESS.fullmatch(text):
        raise InvalidInputError(f"{text} is an address with a port: set the port by itself")
    if not text:
        raise InvalidInputError("the address is empty: 0.0.0.0 stands for all addresses of this machine")
    return text.removeprefix("[").removesuffix("]")


def _queue(text: str) -> str:
    return str(QueueName.parse(text))


def _whole(text: str, least: int, most: float = math.inf) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text.strip(), re.ASCII) and least <= int(text) <= most else None


_positive = _reader(lambda text: _whole(text, 1), "a whole number of 1 or more")
_port = _reader(lambda text: _whole(text, 0, _LAST_PORT), f"a port: 0 to {_LAST_PORT}")
_seconds = _reader(
    lambda text: seconds if 0 <= (seconds := _number(text)) <= _CENTURY else None,
    "a number of seconds from 0 to a hundred years",
)
_url = _reader(lambda text: text if re.match(r"https?://[^/]", text) else None, "a URL, such as http://localhost:8080")
_functions_host = _reader(lambda text: text if host_of(text) else None, "HOST:PORT")
_host = _reader(
    lambda text: host_of(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text),
    "the name of a host",
)


@dataclass(frozen=True, slots=True)
class Option:
    """An option: a flag with one or two dashes, a variable of the environment, a key of the configuration file."""

    help: str
    read: Callable[[str], Any] = str  #: raises `InvalidInputError`, with what is allowed
    metavar: str | None = None  #: of the value in the help; None is the name in capital letters
    _: KW_ONLY
    aliases: tuple[str, ...] = ()  #: its names in other emulators
    in_image: str | None = None  #: its variable in images of emulators, which counts only in the container
    dest: str = ""  #: the field of `Settings`
    default: Any = None

    @property
    def many(self) -> bool:
        """Whether it may be given more than once; its variable separates values by commas."""
        return isinstance(self.default, tuple)

    @property
    def name(self) -> str:
        """The field of `Settings` with dashes, in the singular."""
        return (self.dest[:-1] if self.many else self.dest).replace("_", "-")

    @property
    def variable(self) -> str:
        """The variable of the environment."""
        return OPTION_VARIABLES + self.name.replace("-", "_").upper()

    def value(self, texts: list[str]) -> Any:
        """Return the value that texts stand for.

        Raises
        ------
        InvalidInputError
            If one of them is not allowed.
        """
        values = tuple(map(self.read, texts))
        return values if self.many else values[-1]


def _option(default: Any, text: str, read: Any = None, metavar: str | None = None, **names: Any) -> Any:
    """Return a field of `Settings`; the parameters are those of `Option`. Without `read` it is a boolean or text."""
    read = read or (read_boolean if isinstance(default, bool) else str)
    return field(default=default, metadata={"option": Option(text, read, metavar, **names)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of an emulator, with their defaults."""

    host: str = _option("127.0.0.1", "address to listen on", _address, in_image="HOST")
    port: int = _option(8123, "gRPC port, 0 for a free one", _port, in_image="PORT")
    http_port: int | None = _option(
        None,
        "port for REST and /admin (that of --openid-issuer, or the one after --port; with --port 0 a free one)",
        _port,
        "PORT",
    )
    single_port: bool = _option(False, "answer gRPC and HTTP on --port; a gRPC call costs up to a fifth more CPU")
    allow_hosts: tuple[str, ...] = _option(
        (), "answer HTTP requests to this name too, and those of web pages from there; may be repeated", _host, "NAME"
    )
    data_dir: Path | None = _option(None, "the data folder (by default a temporary one)", Path, "FOLDER")
    queues: tuple[str, ...] = _option(
        (), "create a queue; may be repeated", _queue, "NAME", aliases=("initial-queue",), in_image="INITIAL_QUEUE"
    )
    config: ConfigFile | None = _option(
        None,
        "YAML or JSON file: queues with their settings, and options; its queues are read again after SIGHUP",
        Path,
        "FILE",
    )
    strict: bool = _option(False, "like Google: TLS, bearer tokens and the permissions of IAM roles")
    metadata_port: int | None = _option(None, "with --strict, port of a metadata server", _port, "PORT")
    proxy_port: int | None = _option(
        None, "port of an HTTPS proxy to *.googleapis.com, which is the emulator with TLS", _port, "PORT"
    )
    token: bool = _option(
        False, "answer only calls with a random token, which endpoint.json of the data folder and the first line have"
    )
    console_writes: bool = _option(False, "let the console, the web page at /, change queues and tasks")
    quiet: bool = _option(False, "write no line to the standard error for a failed attempt")
    grace: float = _option(
        10.0,
        "how long attempts in flight may go on after a signal to stop; a second signal ends them",
        _seconds,
        "SECONDS",
    )
    lease: bool = _option(False, "stop 2 s after the last request GET /lease was closed")
    wait_for_loopback: bool = _option(
        False, "a connection that this machine refuses is no attempt: wait until the target listens"
    )
    # These change the behaviour of the service.
    openid_issuer: str = _option(
        "https://accounts.google.com",
        "issuer of OIDC tokens; http://HOST:PORT is the emulator, which listens for HTTP on that port, unless "
        "--http-port names another one",
        metavar="URL",
    )
    openid_signing_key: Path | None = _option(
        None, "PEM file of the RSA key that signs OIDC tokens (by default one in the data folder)", Path, "FILE"
    )
    app_engine_host: str | None = _option(
        None,
        "URL of the App Engine application",
        _url,
        "URL",
        aliases=("app-engine-emulator-host",),
        in_image="APP_ENGINE_EMULATOR_HOST",
    )
    functions_host: str | None = _option(
        None,
        "where Firebase's functions emulator listens: the functions of tasks without a URL",
        _functions_host,
        "HOST:PORT",
    )
    https_ca: Path | None = _option(None, "certificates of targets that are trusted besides the system's", Path, "FILE")
    https_insecure: bool = _option(False, "do not check certificates of targets", aliases=("insecure-skip-tls-verify",))
    no_batch: bool = _option(False, "answer batch calls with UNIMPLEMENTED")
    create_queues_on_demand: bool = _option(False, "CreateTask creates a missing queue")
    hard_reset_on_purge_queue: bool = _option(False, "PurgeQueue also frees the names of tasks")
    # Durations are microseconds from here on, and a share of the log's entries has one.
    task_tombstone: int = _option(
        HOUR,
        "how long names of tasks stay taken, and operations of batch calls are kept (those 120 to 3600)",
        read_microseconds,
        "SECONDS",
    )
    queue_tombstone: int = _option(3 * DAY, "how long names of queues stay taken", read_microseconds, "SECONDS")
    new_queue_delay: int = _option(0, "how long calls answer NOT_FOUND for a new queue", read_microseconds, "SECONDS")
    log_delay: int = _option(0, "delay of log entries", read_microseconds, "SECONDS")
    log_limit: int = _option(
        5_000_000, "log entries that are kept, the newest; those of one batch call count as one", _positive, "ENTRIES"
    )
    log_index_delays: tuple[tuple[float, int], ...] = _option(
        (),
        "this share of log entries is received at once and can be read only after the delay; may be repeated",
        _share,
        "SHARE:SECONDS",
    )

    #: The variables of the environment that have set options, by the names of the fields; errors name them.
    named_by: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def tls(self) -> bool:
        """Whether it has the names of Google's hosts, and so speaks TLS."""
        return self.strict or self.proxy_port is not None

    @property
    def own_issuer(self) -> SplitResult | None:
        """The issuer of OIDC tokens, if it is ``http://HOST:PORT``, which is an address of the emulator itself."""
        url, scheme = urlsplit(self.openid_issuer), "https" if self.tls else "http"
        try:
            return url if url.scheme == scheme and url.hostname and url.port and url.path in {"", "/"} else None
        except ValueError:  # not a port
            return None


#: All options, in the order of the help.
OPTIONS: Final[tuple[Option, ...]] = tuple(
    replace(field.metadata["option"], dest=field.name, default=field.default)
    for field in fields(Settings)
    if field.metadata
)
