"""Find the service that a connection calls, its project and location: from arguments, environment and gcloud."""

from __future__ import annotations

import configparser
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from cloudtasks_nb._names import TOKEN_METADATA
from cloudtasks_nb._settings import check_text, emulators, wrong_argument
from cloudtasks_nb.errors import ConfigurationError, CredentialsError, InvalidInputError

__all__ = ["EMULATOR_VARIABLE", "LOCAL_LOCATION", "LOCAL_PROJECT", "Endpoint", "resolve"]

#: Domain of Google's services; a sovereign cloud has another one.
_DEFAULT_UNIVERSE = "googleapis.com"

#: Environment variable with the domain of the services of a sovereign cloud, as Google's clients read it.
_UNIVERSE_VARIABLE = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"

#: Environment variable with the address of a Cloud Tasks emulator.
EMULATOR_VARIABLE = "CLOUD_TASKS_EMULATOR_HOST"

#: Project and location of an emulator's queues when none are given. An emulator accepts any names.
LOCAL_PROJECT, LOCAL_LOCATION = "local", "us-central1"

#: Values that other products of Google take as a location. The queues of Cloud Tasks are in regions
#: (https://cloud.google.com/tasks/docs/locations).
_NO_REGIONS = frozenset({"global", "us", "eu"})

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_PROJECT = re.compile(r"[A-Za-z0-9.:_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The service that a connection calls, and the project and location of its queues."""

    project: str | None  #: None: not known; the first method that needs it raises
    location: str | None
    target: str  #: ``host:port`` for gRPC
    local: bool  #: whether it is called without TLS and credentials, as an emulator is
    universe: str | None = None  #: domain of Google's services; None: another server, which serves the log too
    named_by: str | None = None  #: environment variable that named the target; None: an argument or the default
    http: str | None = None  #: ``http://127.0.0.1:PORT`` of the embedded emulator
    folder: str | None = None  #: folder of the embedded emulator; has its address, which changes with a restart
    rest: bool = False  #: whether it is called over REST; the target serves that
    ignored: str | None = None  #: setting of the environment that is not a location of queues
    token: str | None = field(default=None, repr=False)  #: of an emulator that answers only calls with it

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call must come with, as metadata of gRPC or headers of REST."""
        return () if self.token is None else ((TOKEN_METADATA, self.token),)

    @property
    def log_target(self) -> str:
        """``host:port`` of Cloud Logging: Google's, or the same server."""
        return self.target if self.universe is None else f"logging.{self.universe}"

    @property
    def temporary(self) -> bool:
        """Whether it is an embedded emulator without a folder, which ends with this kernel."""
        return self.http is not None and self.folder is None

    def in_universe(self, domain: str) -> Endpoint:
        """Return the endpoint for credentials of a universe domain: the default endpoint is in each domain.

        Raises
        ------
        CredentialsError
            If the endpoint is in another universe domain.
        """
        if _is_in(self.target, domain):
            return replace(self, universe=domain)
        if self.universe is None:
            return self
        if self.target == _cloud_tasks_in(_DEFAULT_UNIVERSE):
            return replace(self, target=_cloud_tasks_in(domain), universe=domain)
        raise CredentialsError(
            f"the credentials are of the universe domain {domain}, and {self.target} is not in it",
            resource=self.target,
            hint=f"set {_UNIVERSE_VARIABLE}={domain} and leave endpoint= out, or use other credentials",
        )

    def parent(self) -> str:
        """Return ``projects/P/locations/L``.

        Raises
        ------
        ConfigurationError
            If project or location are not known.
        """
        if self.project is None:
            raise ConfigurationError(
                "the project is not known",
                hint='ct.connect("my-project", "us-central1"), or set GOOGLE_CLOUD_PROJECT, '
                "or run: gcloud config set project MY-PROJECT",
            )
        if self.location is None:
            reason = f": {self.ignored} is not a region, and queues are in regions" if self.ignored else ""
            raise ConfigurationError(
                f"the location of the queues in project {self.project} is not known{reason}",
                resource=self.project,
                hint=f'ct.connect("{self.project}", "us-central1"), or set CLOUDTASKS_NB_LOCATION; '
                "gcloud tasks locations list shows them",
            )
        return f"projects/{self.project}/locations/{self.location}"


def resolve(project: str | None, location: str | None, endpoint: str | None, transport: str | None = None) -> Endpoint:
    """Resolve the endpoint from the arguments, the environment and gcloud's configuration, in this order.

    Raises
    ------
    InvalidInputError
        If an argument is not a string, the project is not an id, the endpoint is not an address, or there is no such
        transport.
    """
    if transport not in {None, "grpc", "rest"}:
        raise wrong_argument("transport", transport, "is not a transport", 'use "grpc" or "rest"')
    _check_project(project)
    check_text(location, "location", 'location="us-central1"')
    check_text(endpoint, "endpoint", 'endpoint="host:port"')
    emulator = os.environ.get(EMULATOR_VARIABLE) if endpoint is None else None
    if endpoint is not None:
        target, tls = _host_port(endpoint)
    elif emulator:
        target, tls = _emulator(emulator)
    else:
        target, tls = _cloud_tasks_in(os.environ.get(_UNIVERSE_VARIABLE) or _DEFAULT_UNIVERSE), True
    universe = _universe(target)
    local = not tls and universe is None
    if location in _NO_REGIONS and not local:
        raise InvalidInputError(
            f'location="{location}" is not a region, and queues are in regions',
            resource="location",
            hint='use a region: ct.connect("my-project", "us-central1"); gcloud tasks locations list shows them',
        )
    gcloud = _gcloud()
    variables = {name: os.environ.get(name) for name in ("CLOUDTASKS_NB_LOCATION", "GOOGLE_CLOUD_LOCATION")}
    ignored = [f"{name}={value}" for name, value in variables.items() if value in _NO_REGIONS]
    regions = [value for value in (*variables.values(), gcloud.get("location")) if value and value not in _NO_REGIONS]
    return Endpoint(
        project=project
        or os.environ.get("GOOGLE_CLOUD_PROJECT")
        or os.environ.get("GCLOUD_PROJECT")
        or gcloud.get("project")
        or (LOCAL_PROJECT if local else None),
        location=location or next(iter(regions), LOCAL_LOCATION if local else None),
        target=target,
        local=local,
        universe=universe,
        named_by=EMULATOR_VARIABLE if emulator else None,
        rest=transport == "rest",
        ignored=", ".join(ignored) or None,
        token=_emulator_token(target) if local else None,
    )


def _emulator_token(target: str) -> str | None:
    """Return the token of the emulator that this user runs at an address of this machine; None: it has none."""
    host, _, port = target.rpartition(":")
    if host not in _LOOPBACK:
        return None
    try:
        token = json.loads((emulators() / f"{port}.json").read_text(encoding="utf-8"))["token"]
    except (OSError, ValueError, LookupError, TypeError):  # none was started from here
        return None
    return token if isinstance(token, str) else None


def _check_project(project: str | None) -> None:
    check_text(project, "project", 'project="my-project"')
    if project and not _PROJECT.fullmatch(project):
        raise InvalidInputError(
            f'project="{project}" is not the id of a project: it may be its display name',
            resource="project",
            hint="use the id, of letters, digits and hyphens; gcloud projects list shows names and ids",
        )


def _cloud_tasks_in(domain: str) -> str:
    """Return the host of Cloud Tasks in a universe domain."""
    return f"cloudtasks.{domain}"


def _universe(target: str) -> str | None:
    """Return the domain of Google's services that a ``host:port`` is in; None: it is not Google's."""
    domains = (os.environ.get(_UNIVERSE_VARIABLE), _DEFAULT_UNIVERSE)
    return next((domain for domain in domains if domain and _is_in(target, domain)), None)


def _is_in(target: str, domain: str) -> bool:
    # With the dot before it, a host like evilgoogleapis.com is not Google's: it must not get credentials.
    return target.partition(":")[0].lower().endswith(f".{domain}")


def _emulator(named: str) -> tuple[str, bool]:
    """Return the address in the environment variable, which must include a port, and whether it is called with TLS."""
    try:
        target, tls = _host_port(named)
    except InvalidInputError:
        target, tls = "", False
    if not target.rpartition(":")[1]:
        raise InvalidInputError(
            f'{EMULATOR_VARIABLE}="{named}" is not the address of an emulator',
            resource=EMULATOR_VARIABLE,
            hint="set it to host:port, such as 127.0.0.1:8123, or unset it",
        )
    return target, tls


def _host_port(endpoint: str) -> tuple[str, bool]:
    """Return ``host:port`` of an endpoint, and whether it begins with ``https://``."""
    bare = re.sub(r"^https?://", "", endpoint).rstrip("/")
    host, colon, port = bare.rpartition(":")
    if re.search(r"[/\\?#@\s]", bare) or not bare or (colon and not (host and port.isdigit() and int(port) < 65536)):  # noqa: PLR2004 - ports have 16 bits
        raise InvalidInputError(f'"{endpoint}" is not an endpoint', resource=endpoint, hint='use "host:port"')
    return bare, endpoint.startswith("https://")


def _gcloud() -> dict[str, str]:
    """Read project and location from gcloud's active configuration file, if it exists; does not run gcloud."""
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path("~/.config/gcloud").expanduser())
    name = os.environ.get("CLOUDSDK_ACTIVE_CONFIG_NAME")
    active = folder / "active_config"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        name = name or (active.read_text().strip() if active.exists() else "default")
        parser.read_string((folder / "configurations" / f"config_{name}").read_text())
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    found = {
        "project": parser.get("core", "project", fallback=""),
        "location": parser.get("tasks", "location", fallback="") or parser.get("run", "region", fallback=""),
    }
    return {key: value for key, value in found.items() if value}
