"""Tokens whose signature Cloud Run has removed after its own check: when they are accepted, and what a refusal says."""

from typing import Any

import pytest

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers import app
from cloudtasks_nb.handlers.verify import Verifier
from tests.cases import cases
from tests.unit.handlers.conftest import ACCOUNT, AUDIENCE
from tests.unit.handlers.test_handler_wsgi import request

GOOGLE = "https://accounts.google.com"
ALLOWED = "CLOUDTASKS_NB_PRIVATE"


def removed(bearer: str) -> str:
    """Return a header as Cloud Run hands it over."""
    return f"{bearer.rpartition('.')[0]}.SIGNATURE_REMOVED_BY_GOOGLE"


@pytest.fixture(autouse=True)
def on_cloud_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a service of Cloud Run."""
    monkeypatch.setenv("K_SERVICE", "report")


def checked(token: str, *, private: bool = True, serverless: str | None = None) -> tuple[int, str]:
    """Return status and reason of a refusal; 200 if the token is accepted. No certificate is fetched."""
    verifier = Verifier(
        service_account=ACCOUNT, audience=["https://other", AUDIENCE], certs_url=lambda: None, private=private
    )
    refusal = verifier.check(token, serverless)
    return (200, "") if refusal is None else (refusal.status, str(refusal.message))


@cases(
    ({}, 200, ""),
    ({"iss": "accounts.google.com"}, 200, ""),
    ({"aud": "https://elsewhere.example"}, 401, "wrong audience https://elsewhere.example"),
    ({"aud": None}, 401, "wrong audience"),
    ({"aud": [AUDIENCE]}, 401, "wrong audience"),
    ({"iss": "https://evil.example"}, 401, "issued by https://evil.example, not by Google"),
    ({"iss": None}, 401, "not by Google"),
    ({"email": "thief@demo.iam.gserviceaccount.com"}, 403, "the token is of thief@demo"),
    ({"iat": 1_000_000, "exp": 1_003_600}, 401, "it is for 1000000 to 1003600"),
    ({"iat": 9_000_000_000, "exp": 9_000_003_600}, 401, "it is for 9000000000 to 9000003600"),
    ({"exp": None}, 401, "malformed"),
    ({"exp": float("nan")}, 401, "it is for"),
)
def test_the_claims_are_checked(issuer: Any, claims: dict[str, Any], status: int, words: str) -> None:
    """Audience, issuer, account and times hold as for a token with a signature."""
    code, message = checked(removed(issuer.bearer(**{"iss": GOOGLE, **claims})))
    assert (code, words in message) == (status, True)


@cases((-9, 200), (-11, 401), (3609, 200), (3611, 401), ids=["early", "too early", "late", "expired"])
def test_the_tolerance_of_clocks(issuer: Any, monkeypatch: pytest.MonkeyPatch, late: int, status: int) -> None:
    """A token is accepted ten seconds before and after the time it is for."""
    monkeypatch.setattr("cloudtasks_nb.handlers.verify.time.time", lambda: 1_000_000.0 + late)
    bearer = removed(issuer.bearer(iss=GOOGLE, iat=1_000_000, exp=1_003_600))
    assert checked(bearer)[0] == status


def test_where_cloud_run_has_checked_nothing(issuer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a token is refused if it was not said that the service is private, or another token was checked."""
    token = removed(issuer.bearer(iss=GOOGLE))
    assert "private=True" in checked(token, private=False)[1]
    assert "X-Serverless-Authorization" in checked(token, serverless="")[1]
    monkeypatch.delenv("K_SERVICE")
    code, message = checked(token)
    assert (code, "K_SERVICE is not set" in message) == (401, True)


@pytest.mark.parametrize("token", ["Bearer .SIGNATURE_REMOVED_BY_GOOGLE", "Bearer a.b.c.SIGNATURE_REMOVED_BY_GOOGLE"])
def test_what_is_no_token(token: str) -> None:
    """Nonsense with that ending is a refusal, and no error."""
    assert checked(token)[0] == 401


def test_a_wrong_signature_is_refused_as_ever(issuer: Any) -> None:
    """Only the mark of Cloud Run stands for a check; another signature is verified."""
    bearer = issuer.bearer(iss=GOOGLE)
    verifier = Verifier(service_account=ACCOUNT, audience=[AUDIENCE], certs_url=lambda: issuer.url, private=True)
    assert verifier.check(bearer) is None
    for wrong in (bearer[:-4] + "AAAA", f"{bearer.rpartition('.')[0]}.", removed(bearer) + "A"):
        refusal: Any = verifier.check(wrong)
        assert refusal.status == 401


@cases(("no", ""), (None, ""), (1, ""), (False, "true"), (True, "no"))
def test_what_says_neither_yes_nor_no(monkeypatch: pytest.MonkeyPatch, argument: Any, variable: str) -> None:
    """It is refused: "no" must not let anybody in, and "true" must not keep everybody out."""
    monkeypatch.setenv(ALLOWED, variable)
    with pytest.raises(HandlerError, match=r"private|CLOUDTASKS_NB_PRIVATE"):
        app(dict, audience=AUDIENCE, service_account=ACCOUNT, private=argument)


@cases((True, None, 200), (False, "1", 200), (False, "0", 401), (False, None, 401))
def test_how_an_application_is_told(
    issuer: Any, monkeypatch: pytest.MonkeyPatch, *, argument: bool, variable: str | None, status: int
) -> None:
    """An argument or a variable of the service says that it is private; a request for the doctor is checked as well."""
    if variable is not None:
        monkeypatch.setenv(ALLOWED, variable)
    application = app(dict, audience=AUDIENCE, service_account=ACCOUNT, private=argument)
    token = removed(issuer.bearer(iss=GOOGLE))
    assert request(application, b"{}", HTTP_AUTHORIZATION=token)[0] == status
    assert request(application, REQUEST_METHOD="GET", HTTP_AUTHORIZATION=token)[0] == (405 if status == 200 else 401)
    for method in ("GET", "POST"):
        given = {"REQUEST_METHOD": method, "HTTP_X_SERVERLESS_AUTHORIZATION": "Bearer x"}
        assert request(application, b"{}", HTTP_AUTHORIZATION=token, **given)[0] == 401
