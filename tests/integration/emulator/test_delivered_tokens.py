"""Tokens that tasks carry to their targets verify with google-auth against the emulator's certificates."""

import base64
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from google.auth import jwt
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from cloudtasks_nb.emulator.dispatch.tokens import private_pem
from tests.integration.conftest import LOCATION, Emulator, StartEmulator, Target
from tests.processes import run

ACCOUNT = "runner@demo.iam.gserviceaccount.com"
QUEUE = f"{LOCATION}/queues/signed"
OIDC = {"oidc_token": {"service_account_email": ACCOUNT, "audience": "https://audience.example"}}


@pytest.fixture(scope="module")
def web() -> Iterator[Request]:
    """Give google-auth's own HTTP client."""
    request = Request()
    yield request
    request.session.close()


def bearer(target: Target) -> str:
    """Give the token of the first request."""
    scheme, _, token = target.wait()[0].headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return token


def test_an_oidc_token_verifies(emulator: Emulator, queue: str, target: Target, web: Request) -> None:
    """google-auth accepts the token with the emulator's certificates; its claims are Google's."""
    emulator.enqueue(queue, target.url, OIDC)
    certs_url = emulator.ready["http"] + "/oauth2/v1/certs"
    claims = id_token.verify_token(bearer(target), web, audience="https://audience.example", certs_url=certs_url)
    assert claims["iss"] == "https://accounts.google.com"
    assert claims["aud"] == "https://audience.example"
    assert (claims["email"], claims["email_verified"]) == (ACCOUNT, True)
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["sub"] == claims["azp"]
    assert claims["sub"].isdigit()


def test_the_same_account_has_the_same_subject(emulator: Emulator, queue: str, target: Target) -> None:
    """A service account keeps its numeric id; another one has another."""
    for account in (ACCOUNT, ACCOUNT, "other@demo.iam.gserviceaccount.com"):
        emulator.enqueue(queue, target.url, {"oidc_token": {"service_account_email": account}})
    tokens = [request.headers["authorization"].partition(" ")[2] for request in target.wait(3)]
    subjects = {claims["email"]: claims["sub"] for claims in (jwt.decode(token, verify=False) for token in tokens)}
    assert len(subjects) == len(set(subjects.values())) == 2


@pytest.fixture
def signed(start_emulator: StartEmulator, target: Target) -> Callable[..., tuple[Emulator, str]]:
    """Give a function that starts an emulator with one queue, and returns it with the token of a task."""

    def start(*arguments: str) -> tuple[Emulator, str]:
        emulator = start_emulator("--queue", QUEUE, *arguments)
        emulator.client.create_task({"parent": QUEUE, "task": {"http_request": {"url": target.url, **OIDC}}})
        return emulator, bearer(target)

    return start


def test_the_emulator_is_its_issuer(signed: Callable[..., tuple[Emulator, str]], web: Request, free_port: int) -> None:
    """From `iss` alone a client finds the keys that verify a token: by discovery, and at the Go emulators' paths."""
    issuer = f"http://localhost:{free_port}"
    emulator, token = signed("--openid-issuer", issuer)
    assert urlsplit(emulator.ready["http"]).port == urlsplit(issuer).port
    claims = jwt.decode(token, verify=False)
    document = json.loads(web(f"{claims['iss']}/.well-known/openid-configuration").data)
    assert document["issuer"] == claims["iss"] == issuer
    for url in (document["jwks_uri"], f"{issuer}/jwks"):
        (key,) = json.loads(web(url).data)["keys"]
        expected = (jwt.decode_header(token)["kid"], "RSA", "RS256", "sig")
        assert (key["kid"], key["kty"], key["alg"], key["use"]) == expected
        content, _, signature = token.rpartition(".")
        public = RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key()
        public.verify(base64.urlsafe_b64decode(signature + "=="), content.encode(), PKCS1v15(), SHA256())
    for path in ("/certs", "/oauth2/v1/certs"):
        verified = id_token.verify_token(token, web, audience="https://audience.example", certs_url=issuer + path)
        assert verified["email"] == ACCOUNT


def test_keys_may_be_cached(emulator: Emulator, start_emulator: StartEmulator, web: Request, tmp_path: Path) -> None:
    """Keys that last are kept for hours; those of a temporary emulator are asked for again, and are the same or new."""
    lasting = start_emulator("--data-dir", str(tmp_path))
    for one, age in ((emulator, 0), (lasting, 21600)):
        for path in ("/jwks", "/certs", "/.well-known/openid-configuration"):
            answer = web(one.ready["http"] + path)
            assert answer.headers["Cache-Control"] == f"public, max-age={age}, must-revalidate, no-transform"
            again = web(one.ready["http"] + path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status, again.data, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    tag = web(f"{lasting.ready['http']}/jwks").headers["ETag"]
    assert web(f"{emulator.ready['http']}/jwks", headers={"If-None-Match": tag}).data


def test_a_signing_key_of_ones_own(
    signed: Callable[..., tuple[Emulator, str]], start_emulator: StartEmulator, web: Request, tmp_path: Path
) -> None:
    """With `--openid-signing-key` tokens of one emulator verify with the keys of the next one."""
    file = tmp_path / "key.pem"
    file.write_bytes(private_pem(generate_private_key(public_exponent=65537, key_size=2048)))
    first, token = signed("--openid-signing-key", str(file))
    first.stop()
    http = start_emulator("--openid-signing-key", str(file)).ready["http"]
    assert id_token.verify_token(token, web, certs_url=f"{http}/certs")["email"] == ACCOUNT
    assert "max-age=21600" in web(f"{http}/certs").headers["Cache-Control"]


NO_KEYS = [
    (None, "No such file or directory"),
    (b"", "it is not a private key in PEM without a password"),
    (private_pem(Ed25519PrivateKey.generate()), "it is not an RSA key, which tokens with RS256 need"),
]


@pytest.mark.parametrize(("content", "why"), NO_KEYS, ids=["no file", "no key", "another kind of key"])
def test_a_signing_key_that_is_none(tmp_path: Path, content: bytes | None, why: str) -> None:
    """An emulator does not start with a file that is not an RSA key, and says how to make one."""
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    done = run(sys.executable, "-m", "cloudtasks_nb.emulator", "--port", "0", "--openid-signing-key", file)
    assert (done.returncode, done.stdout) == (1, "")
    hint = f"openssl genrsa -out {file} 2048 makes one"
    assert done.stderr == f"cloudtasks-nb emulator: the signing key {file} cannot be used: {why} → {hint}\n"


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")
