"""Google's sign-in on loopback, to which google-auth's own code speaks unpatched.

A proxy that environment variables name answers in place of Google's hosts: the OAuth token endpoint, the security token
service, the IAM Credentials API and the metadata server. Its certificate is one that `REQUESTS_CA_BUNDLE` trusts.
"""

from __future__ import annotations

import datetime as dt
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import google.auth.crypt
import google.auth.jwt
import trustme

from tests.certificates import Authority

OAUTH, STS, IAM = "oauth2.googleapis.com", "sts.googleapis.com", "iamcredentials.googleapis.com"
METADATA = "metadata.google.internal"
#: Universe domain of a sovereign cloud.
UNIVERSE = "sovereign.example"
#: Who logs in, the account of a key, the one that is impersonated, and that of a machine.
USER, ACCOUNT = "ada@example.com", "key@p.iam.gserviceaccount.com"
TARGET, VM_ACCOUNT = "worker@p.iam.gserviceaccount.com", "vm@p.iam.gserviceaccount.com"

#: Private key of a service account.
KEY_PEM = trustme.CA(key_type=trustme.KeyType.RSA).private_key_pem.bytes().decode()

#: What a host answers: a status, and JSON or text; or a function of the request.
Answer = tuple[int, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as the sign-in saw it."""

    host: str
    path: str
    headers: Mapping[str, str]  #: keys in lower case
    body: dict[str, Any]  #: of JSON, or of a form

    @property
    def bearer(self) -> str:
        """The access token that the request was made with."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class GoogleSignIn:
    """Answer in place of Google's hosts. The tokens name who they are for: ``token-1 of ada@example.com``."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[Asked] = []
        #: Host -> its answer in place of a token.
        self.answers: dict[str, Answer | Callable[[Asked], Answer]] = {}
        self._lock = threading.Lock()
        authority = Authority(folder / "google", "*.googleapis.com", f"*.{UNIVERSE}")
        self._server = _Proxy(self, authority.context())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.environment = {
            **dict.fromkeys(("http_proxy", "https_proxy"), f"http://127.0.0.1:{self._server.server_port}"),
            "no_proxy": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(authority.ca),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> Answer:
        """Record a request and return its answer."""
        with self._lock:
            self.asked.append(asked)
            scripted = self.answers.get(asked.host)
            if scripted is not None:
                return scripted(asked) if callable(scripted) else scripted
            return self._good(asked, len(self.asked))

    def _good(self, asked: Asked, number: int) -> Answer:
        if asked.host.startswith("iamcredentials."):
            email = asked.path.rpartition("/")[2].partition(":")[0]
            end = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
            return 200, {"accessToken": f"token-{number} of {email}", "expireTime": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        if asked.host == METADATA:
            return self._metadata(asked, number)
        login = asked.body.get("refresh_token", "").partition(" ")[2]
        if asked.host == STS:
            return 200, _token(f"token-{number} of {login or asked.body['subject_token']}")
        if asked.host == OAUTH and login:
            signer = google.auth.crypt.RSASigner.from_string(KEY_PEM)
            id_token = google.auth.jwt.encode(signer, {"email": login}).decode()
            return 200, _token(f"token-{number} of {login}", id_token=id_token)
        if asked.host == OAUTH:
            claims: Any = google.auth.jwt.decode(asked.body["assertion"], verify=False)
            return 200, _token(f"token-{number} of {claims['iss']}")
        return 404, f"{asked.host} is not here"

    def _metadata(self, asked: Asked, number: int) -> Answer:
        assert asked.headers["metadata-flavor"] == "Google"
        path = asked.path.partition("?")[0].removeprefix("/computeMetadata/v1/")
        answers: dict[str, Any] = {
            "/": "",
            "project/project-id": "vm-project",
            "universe/universe-domain": "googleapis.com",
            "instance/service-accounts/default/": {"email": VM_ACCOUNT, "scopes": []},
            "instance/service-accounts/default/token": _token(f"token-{number} of {VM_ACCOUNT}"),
        }
        return (200, answers[path]) if path in answers else (404, "Not Found")


def _token(token: str, **more: str) -> dict[str, Any]:
    return {"access_token": token, "expires_in": 3600, "token_type": "Bearer", **more}


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, sign_in: GoogleSignIn, tls: ssl.SSLContext) -> None:
        self.sign_in, self.tls = sign_in, tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client that does not trust the certificate ends the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy
    host = ""

    def do_CONNECT(self) -> None:
        """Answer over TLS for the host that the client wants to reach."""
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
        self.close_connection = False

    def _reply(self) -> None:
        url = urlsplit(self.path)
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        form = {key: values[0] for key, values in parse_qs(text).items()}
        host = self.host or url.hostname or ""
        asked = Asked(
            host=METADATA if host == "169.254.169.254" else host,
            path=f"{url.path}?{url.query}" if url.query else url.path or "/",
            headers={key.lower(): value for key, value in self.headers.items()},
            body=json.loads(text) if text.startswith("{") else form,
        )
        status, content = self.server.sign_in.answer(asked)
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Metadata-Flavor", "Google")
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_POST = _reply  # noqa: N815 - http.server's names

    def finish(self) -> None:
        """Close the connection over TLS, which http.server does not know."""
        super().finish()
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""
