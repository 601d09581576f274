"""Explain why no connection to an endpoint comes about: TLS, a proxy, the name of the host, or nobody answers."""

from __future__ import annotations

import os
import re

from cloudtasks_nb.errors import EndpointError
from cloudtasks_nb.service.endpoint import Endpoint

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


#: What gRPC or requests say of a connection, as a pattern of their text, which has no code -> what it means, and the
#: next step. `target`, `proxy` and `roots` are filled in. The first that fits counts.
_FAULTS = {
    "CERTIFICATE_VERIFY_FAILED|Hostname Verification": (
        "the TLS certificate of {target} is not trusted",
        "does a proxy of this network inspect TLS? {roots}",
    ),
    "selected ALPN": (
        "what answers at {target} does not speak HTTP/2",
        f"a proxy of this network may be in between: {_REST}",
    ),
    "WRONG_VERSION_NUMBER": (
        "what answers at {target} does not speak TLS",
        'an emulator without TLS is called by endpoint="host:port", without https://',
    ),
    "response code 407|Tunnel connection failed: 407": (
        "{proxy} wants a password",
        "set the variable to http://USER:PASSWORD@HOST:PORT",
    ),
    "HTTP proxy returned|Tunnel connection failed": (
        "{proxy} does not let calls to {target} through",
        f"ask its administrator to allow the host, or leave it out: no_proxy; {_REST}",
    ),
    "errors resolving|DNS|lookup failed|NameResolution|Name or service not known": (
        "the host of {target} is not found",
        f"is the name right, and does the network (VPN, DNS) work?{_DOCTOR}",
    ),
    "Deadline Exceeded|timed? ?out|unreachable": (
        "nothing answers at {target}",
        f"check the network: a firewall may drop the packets; a proxy is named by https_proxy; {_REST}{_DOCTOR}",
    ),
    "": ("nothing answers at {target}", f"check the network{_DOCTOR}"),
}
_PROXY_IS_DEAD = "{proxy} does not answer", "is the address right? Without a proxy: unset the variable"
_NO_EMULATOR = "is the emulator running there? ct.local() starts one; cloudtasks-nb emulator --port 8123 too"


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
        # A server that waits for TLS closes the connection.
        hint = f'if it speaks TLS: endpoint="https://{target}"' if "Socket closed" in details else _NO_EMULATOR
        if endpoint.folder is not None:  # another emulator does not have its tasks
            hint = f"ct.local({endpoint.folder!r}) starts the emulator again"
        return EndpointError(f"nothing answers at {target}{named}", resource=target, code="UNAVAILABLE", hint=hint)
    variable = next((name for name in _PROXIES if os.environ.get(name)), "")
    proxy = os.environ.get(variable, "")
    port = f":{proxy.rstrip('/').rpartition(':')[2]}:"
    if proxy and ("Unable to connect to proxy" in details or ("Connection refused" in details and port in details)):
        message, hint = _PROXY_IS_DEAD
    else:
        message, hint = next(found for pattern, found in _FAULTS.items() if re.search(pattern, details))
    bundle = _BUNDLE_VARIABLE if endpoint.rest else ROOTS_VARIABLE
    authority = "the certificate of the proxy's authority"
    trusted = os.environ.get(bundle)
    facts = {
        "target": f"{target}{named}",
        "proxy": f"the proxy that {variable} names, {re.sub(r'//.*@', '//', proxy)}," if proxy else "the proxy",
        "roots": f"{bundle} names {trusted}, which lacks {authority}: add it"
        if trusted
        else f"set {bundle} to a PEM file with {authority}",
    }
    return EndpointError(
        f"{message.format(**facts)}: {details}", resource=target, code="UNAVAILABLE", hint=hint.format(**facts)
    )
