"""The options of an emulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from cloudtasks_nb.emulator.model.clock import DAY, HOUR
from cloudtasks_nb.emulator.model.config_file import ConfigFile

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of an emulator, with their defaults."""

    host: str = "127.0.0.1"
    port: int = 8123  #: 0 is a free one
    http_port: int | None = None  #: None is the port after `port`, or a free one if `port` is 0
    single_port: bool = False  #: gRPC and HTTP share `port`; `http_port` is not used
    allow_hosts: tuple[str, ...] = ()  #: names of this machine that HTTP clients may use besides those of the loopback
    data_dir: Path | None = None  #: None is a temporary folder
    queues: tuple[str, ...] = ()  #: names of queues to create at start
    config: ConfigFile | None = None  #: queues to create or change at start
    strict: bool = False  #: TLS, tokens, and roles as Google has them
    metadata_port: int | None = None  #: of a strict emulator's metadata server; None: it has none
    proxy_port: int | None = None  #: of a strict emulator's proxy, which leads Google's hosts to it; None: it has none
    console_writes: bool = False  #: the console, the page at ``/``, may change queues and tasks
    quiet: bool = False  #: write no line to the standard error for a failed attempt
    grace: float = 10.0  #: seconds for which attempts in flight may go on when the emulator is stopped
    lease: bool = False  #: stop after the last request `GET /lease` was closed
    wait_for_loopback: bool = False  #: a refused connection to this machine does not count as an attempt
    openid_issuer: str = "https://accounts.google.com"
    openid_signing_key: Path | None = None  #: PEM file of the RSA key that signs OIDC tokens; None: the data folder's
    app_engine_host: str | None = None  #: base URL of the App Engine application
    functions_host: str | None = None  #: host and port of Firebase's functions emulator
    https_ca: Path | None = None  #: further certificates to trust
    https_insecure: bool = False  #: do not check certificates
    no_batch: bool = False  #: batch calls are UNIMPLEMENTED
    create_queues_on_demand: bool = False  #: CreateTask creates a missing queue
    hard_reset_on_purge_queue: bool = False  #: PurgeQueue also frees the names of tasks
    task_tombstone: int = HOUR  #: microseconds until the name of a finished task can be used again
    queue_tombstone: int = 3 * DAY  #: microseconds until the name of a deleted queue can be used again
    new_queue_delay: int = 0  #: microseconds for which a new queue is not found
    log_limit: int = 5_000_000  #: entries of the log that are kept; those of one batch call count as one
    log_delay: int = 0  #: microseconds between an operation and its log entry
    #: pairs of a share of the log entries and the microseconds for which that share cannot be read after its receipt
    log_index_delays: tuple[tuple[float, int], ...] = ()

    @property
    def own_issuer(self) -> SplitResult | None:
        """The issuer of OIDC tokens, if it is ``http://HOST:PORT``, which is an address of the emulator itself."""
        url, scheme = urlsplit(self.openid_issuer), "https" if self.strict else "http"
        try:
            return url if url.scheme == scheme and url.hostname and url.port and url.path in {"", "/"} else None
        except ValueError:  # not a port
            return None
