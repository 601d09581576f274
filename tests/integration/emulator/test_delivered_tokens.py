"""Tokens that tasks carry to their targets verify with google-auth against the emulator's certificates."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import load_pem_x509_certificate
from google.auth import jwt
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from tests.integration.conftest import Emulator, Enqueue, Target

ACCOUNT = "runner@demo.iam.gserviceaccount.com"
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


def test_an_oidc_token_verifies(emulator: Emulator, queue: str, enqueue: Enqueue, target: Target, web: Request) -> None:
    """google-auth accepts the token with the emulator's certificates; its claims are Google's."""
    enqueue(queue, target.url, OIDC)
    certs_url = emulator.ready["http"] + "/oauth2/v1/certs"
    claims = id_token.verify_token(bearer(target), web, audience="https://audience.example", certs_url=certs_url)
    assert claims["iss"] == "https://accounts.google.com"
    assert claims["aud"] == "https://audience.example"
    assert (claims["email"], claims["email_verified"]) == (ACCOUNT, True)
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["sub"] == claims["azp"]
    assert claims["sub"].isdigit()


def test_the_default_audience_is_the_url(queue: str, enqueue: Enqueue, target: Target) -> None:
    """Without an audience it is the task's URL, query included."""
    url = f"{target.url}?a=1&b=2"
    enqueue(queue, url, {"oidc_token": {"service_account_email": ACCOUNT}})
    assert jwt.decode(bearer(target), verify=False)["aud"] == url


def test_the_same_account_has_the_same_subject(queue: str, enqueue: Enqueue, target: Target) -> None:
    """A service account keeps its numeric id; another one has another."""
    for account in (ACCOUNT, ACCOUNT, "other@demo.iam.gserviceaccount.com"):
        enqueue(queue, target.url, {"oidc_token": {"service_account_email": account}})
    tokens = [request.headers["authorization"].partition(" ")[2] for request in target.wait(3)]
    subjects = {claims["email"]: claims["sub"] for claims in (jwt.decode(token, verify=False) for token in tokens)}
    assert len(subjects) == len(set(subjects.values())) == 2


def test_the_discovery_document(emulator: Emulator) -> None:
    """The discovery document leads to the keys."""
    document: dict[str, Any] = emulator.request("GET", "/.well-known/openid-configuration")
    assert document["issuer"] == "https://accounts.google.com"
    assert document["jwks_uri"] == emulator.ready["http"] + "/oauth2/v3/certs"
    assert document["id_token_signing_alg_values_supported"] == ["RS256"]


def test_both_forms_of_the_keys_agree(emulator: Emulator) -> None:
    """The JSON web keys are those of the certificates."""
    certificates = emulator.request("GET", "/oauth2/v1/certs")
    keys = emulator.request("GET", "/oauth2/v3/certs")["keys"]
    assert {key["kid"] for key in keys} == set(certificates)
    for key in keys:
        public = load_pem_x509_certificate(certificates[key["kid"]].encode()).public_key()
        assert isinstance(public, RSAPublicKey)
        numbers = public.public_numbers()
        assert (_number(key["n"]), _number(key["e"])) == (numbers.n, numbers.e)
        assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")
