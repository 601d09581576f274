"""Explain why no connection to an endpoint comes about: TLS, a proxy, the name of the host, or nobody answers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import EndpointError

__all__ = ["CONNECT_TIMEOUT", "ROOTS_VARIABLE", "no_connection"]

#: Seconds to wait for a connection; below five, so that the user sees an error soon.
CONNECT_TIMEOUT = 4.0

#: Environment variable with the file of the authorities whose certificates gRPC trusts.
ROOTS_VARIABLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"

#: The same for requests, which get tokens and make the calls over REST.
_BUNDLE_VARIABLE = "REQUESTS_CA_BUNDLE"

#: Variables that name a proxy, in the order in which gRPC reads them, and two for REST:
#: https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY")

_DOCTOR = "; tasks.doctor() checks the rest"
_REST = 'ct.connect(…, transport="rest") needs no HTTP/2'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    pattern: str  #: in the text, which has no code
    message: str
    hint: str


#: What gRPC or requests say of a connection, and what it means. `target`, `proxy`, `roots` are filled in.
_FAULTS = (
    _Fault(
        pattern="CERTIFICATE_VERIFY_FAILED|Hostname Verification",
        message="the TLS certificate of {target} is not trusted",
        hint="does a proxy of this network inspect TLS? {roots}",
    ),
    _Fault(
        pattern="selected ALPN",
        message="what answers at {target} does not speak HTTP/2",
        hint=f"a proxy of this network may be in between: {_REST}",
    ),
    _Fault(
        pattern="WRONG_VERSION_NUMBER",
        message="what answers at {target} does not speak TLS",
        hint='an emulator without TLS is called by endpoint="host:port", without https://',
    ),
    _Fault(
        pattern="response code 407|Tunnel connection failed: 407",
        message="{proxy} wants a password",
        hint="set the variable to http://USER:PASSWORD@HOST:PORT",
    ),
    _Fault(
        pattern="HTTP proxy returned|Tunnel connection failed",
        message="{proxy} does not let calls to {target} through",
        hint=f"ask its administrator to allow the host, or leave it out: no_proxy; {_REST}",
    ),
    _Fault(
        pattern="errors resolving|DNS|lookup failed|NameResolution|Name or service not known",
        message="the host of {target} is not found",
        hint="is the name right, and does the network (VPN, DNS) work?" + _DOCTOR,
    ),
)
_REFUSED_BY_PROXY = _Fault(
    pattern="", message="{proxy} does not answer", hint="is the address right? Without a proxy: unset the variable"
)
_SILENCE = _Fault(
    pattern="Deadline Exceeded|timed? ?out|unreachable",
    message="nothing answers at {target}",
    hint=f"check the network: a firewall may drop the packets; a proxy is named by https_proxy; {_REST}{_DOCTOR}",
)
_NOTHING = _Fault(pattern="", message="nothing answers at {target}", hint="check the network" + _DOCTOR)
_NO_EMULATOR = "is the emulator running there? ct.local() starts one; cloudtasks-nb emulator --port 8123 too"
_USE_TLS = 'if it speaks TLS: endpoint="https://{target}"'


def no_connection(endpoint: Endpoint, target: str, details: str) -> EndpointError:
    """Return the error for a connection that does not come about.

    Parameters
    ----------
    target : str
        ``host:port`` that is called.
    details : str
        What gRPC or requests say of it.
    """
    named = f", which {endpoint.named_by} names" if endpoint.named_by else ""
    if endpoint.local:
        tls = "Socket closed" in details  # by a server that waits for TLS
        hint = _USE_TLS.format(target=target) if tls else _NO_EMULATOR
        return EndpointError(f"nothing answers at {target}{named}", resource=target, code="UNAVAILABLE", hint=hint)
    proxy = _proxy()
    if proxy is not None and _is_of_proxy(details, proxy[1]):
        fault = _REFUSED_BY_PROXY
    else:
        fault = next((one for one in (*_FAULTS, _SILENCE) if re.search(one.pattern, details)), _NOTHING)
    facts = {
        "target": f"{target}{named}",
        "proxy": "the proxy" if proxy is None else f"the proxy that {proxy[0]} names, {_without_password(proxy[1])},",
        "roots": _roots_hint(_BUNDLE_VARIABLE if endpoint.rest else ROOTS_VARIABLE),
    }
    message = f"{fault.message.format(**facts)}: {details}"
    return EndpointError(message, resource=target, code="UNAVAILABLE", hint=fault.hint.format(**facts))


def _proxy() -> tuple[str, str] | None:
    """Return the variable that names gRPC's proxy, and the proxy."""
    return next(((name, os.environ[name]) for name in _PROXIES if os.environ.get(name)), None)


def _without_password(url: str) -> str:
    return re.sub(r"//.*@", "//", url)


def _port(url: str) -> str:
    """Return the port of a URL, ``:3128``; what is no port is not that of a refused connection either."""
    return ":" + url.rstrip("/").rpartition(":")[2]


def _is_of_proxy(details: str, proxy: str) -> bool:
    refused = "Connection refused" in details and f"{_port(proxy)}:" in details
    return refused or "Unable to connect to proxy" in details


def _roots_hint(variable: str) -> str:
    path = os.environ.get(variable)
    if path:
        return f"{variable} names {path}, which lacks the certificate of the proxy's authority: add it"
    return f"set {variable} to a PEM file with the certificate of the proxy's authority"
