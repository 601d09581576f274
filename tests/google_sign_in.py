"""Google's sign-in on loopback, to which google-auth's own code speaks unpatched.

A proxy that environment variables name answers in place of Google's hosts: the OAuth token endpoint, the security token
service, the IAM Credentials API and the metadata server. Its certificate is one that `REQUESTS_CA_BUNDLE` trusts.
"""

import datetime as dt
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

import google.auth.crypt
import google.auth.jwt
import trustme

from tests.certificates import Authority
from tests.web import Handler, Reply, Request, http_server

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
        self._stack = ExitStack()
        self._authority = Authority(folder / "google", "*.googleapis.com", f"*.{UNIVERSE}")

    def __enter__(self) -> Self:
        port = self._stack.enter_context(http_server(self.reply, handler=_tunnel(self._authority.context())))
        self.environment = {
            **dict.fromkeys(("http_proxy", "https_proxy"), f"http://127.0.0.1:{port}"),
            "no_proxy": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(self._authority.ca),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reply(self, request: Request) -> Reply:
        """Answer a request."""
        text, url = request.body.decode(), request.url
        form = {key: values[0] for key, values in parse_qs(text).items()}
        asked = Asked(
            host=METADATA if url.hostname == "169.254.169.254" else url.hostname or "",
            path=f"{url.path}?{url.query}" if url.query else url.path or "/",
            headers=request.headers,
            body=json.loads(text) if text.startswith("{") else form,
        )
        status, content = self.answer(asked)
        kind = "text/plain" if isinstance(content, str) else "application/json"
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        return Reply(body=data, status=status, headers={"Content-Type": kind, "Metadata-Flavor": "Google"})

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


def _tunnel(tls: ssl.SSLContext) -> type[Handler]:
    class Tunnel(Handler):
        """Answers over TLS for the host that the client wants to reach."""

        host = ""

        def do_CONNECT(self) -> None:  # noqa: N802 - http.server's name
            self.host = self.path.partition(":")[0]
            self.send_response(200)
            self.end_headers()
            self.connection = tls.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

        def url(self) -> str:
            """Name the host too, which a client names to a proxy only without TLS."""
            return f"https://{self.host}{self.path}" if self.host else self.path

        def finish(self) -> None:
            """Close the connection over TLS, which http.server does not know."""
            super().finish()
            self.connection.close()

    return Tunnel
