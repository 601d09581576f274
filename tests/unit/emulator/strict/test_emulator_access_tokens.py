"""Access tokens and quotas, with a clock that stands still."""

import base64
import json
from types import SimpleNamespace
from typing import Any

import google.auth.crypt
import google.auth.jwt
import pytest

from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.strict.quotas import Quotas
from cloudtasks_nb.emulator.strict.state import CLOUD_PLATFORM, GoogleState
from cloudtasks_nb.emulator.strict.tokens import AccessTokens, InvalidTokenError
from tests.cases import cases
from tests.unit.emulator.conftest import refused

NOW = 1_800_000_000.0
ACCOUNT = "sender@p.iam.gserviceaccount.com"
SERVICE = "cloudtasks.googleapis.com"


@pytest.fixture
def clock() -> SimpleNamespace:
    """Give a clock whose time a test may change."""
    return SimpleNamespace(now=NOW)


@pytest.fixture
def tokens(state: GoogleState, clock: SimpleNamespace) -> AccessTokens:
    """Give tokens with the clock."""
    return AccessTokens(state, lambda: float(clock.now))


def test_a_token_expires(state: GoogleState, tokens: AccessTokens, clock: SimpleNamespace) -> None:
    """A token is valid for its lifetime, and names its member and scopes."""
    state.add("ann@example.com")
    token, lifetime = tokens.issue("user:ann@example.com", [CLOUD_PLATFORM])
    assert lifetime == 3600
    caller = tokens.caller(token, SERVICE)
    assert (caller.member, set(caller.scopes)) == ("user:ann@example.com", {CLOUD_PLATFORM})
    clock.now += 3600
    with pytest.raises(InvalidTokenError) as refused:
        tokens.caller(token, SERVICE)
    assert refused.value.reason == "ACCESS_TOKEN_EXPIRED"


@pytest.mark.parametrize("change", ["log_out", "delete"])
def test_a_token_is_revoked(state: GoogleState, tokens: AccessTokens, change: str) -> None:
    """A token ends with the login and with its principal."""
    state.add("ann@example.com")
    token, _ = tokens.issue("user:ann@example.com", [CLOUD_PLATFORM])
    getattr(state, change)("ann@example.com")
    with pytest.raises(InvalidTokenError) as refused:
        tokens.caller(token, SERVICE)
    assert refused.value.reason == "ACCESS_TOKEN_EXPIRED"


def self_signed(state: GoogleState, key_of: str = ACCOUNT, **claims: Any) -> str:
    """Return a JWT that a service account has signed."""
    key_id, private = state.new_key(key_of)
    signer = google.auth.crypt.RSASigner.from_string(private, key_id)
    given = {"iss": ACCOUNT, "iat": int(NOW), "exp": int(NOW) + 3600, "aud": f"https://{SERVICE}/", **claims}
    token: bytes = google.auth.jwt.encode(signer, given)
    return token.decode()


@cases(
    ({}, {CLOUD_PLATFORM}),
    ({"aud": "https://127.0.0.1:8123/"}, {CLOUD_PLATFORM}),
    ({"aud": "https://storage.googleapis.com/"}, set()),
    ({"scope": "a b"}, {"a", "b"}),
)
def test_a_self_signed_token(
    state: GoogleState, tokens: AccessTokens, claims: dict[str, Any], scopes: set[str]
) -> None:
    """A service account's own JWT is good for the service that it names, or for its scopes."""
    caller = tokens.caller(self_signed(state, **claims), SERVICE)
    assert (caller.member, set(caller.scopes)) == (f"serviceAccount:{ACCOUNT}", scopes)


def changed(token: str) -> str:
    """Return an access token with another member."""
    body, _, mac = token.removeprefix("ya29.").partition(".")
    claims = {**json.loads(base64.urlsafe_b64decode(body + "==")), "member": "user:boss@example.com"}
    return f"ya29.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.{mac}"


def test_tokens_that_are_not_valid(state: GoogleState, tokens: AccessTokens) -> None:
    """Tokens of nobody, of others, with another content or with odd claims are refused."""
    state.add("ann@example.com")
    access, _ = tokens.issue("user:ann@example.com", [CLOUD_PLATFORM])
    odd = [
        *("", "x", "ya29.x", "ya29.x.é", "a.b.c", changed(access)),
        self_signed(state, "other@p.iam.gserviceaccount.com"),
        self_signed(state, iat=int(NOW) - 7200, exp=int(NOW) - 3600),
        *(self_signed(state, iat=issued) for issued in (int(NOW) + 300, "now")),
        self_signed(state, exp=int(NOW) + 86_400),
        self_signed(state, iss="nobody@p.iam.gserviceaccount.com"),
    ]
    for token in odd:
        with pytest.raises(InvalidTokenError):
            tokens.caller(token, SERVICE)


# The calls that are allowed in a minute, and what is counted.
@cases(
    ("/google.cloud.tasks.v2.CloudTasks/ListTasks", 600, "List requests"),
    ("/google.cloud.tasks.v2.CloudTasks/RunTask", 60, "Run task requests"),
    ("/google.logging.v2.LoggingServiceV2/ListLogEntries", 60, "Read requests"),
)
def test_a_quota_is_that_of_a_minute_a_project_and_a_region(
    clock: SimpleNamespace, path: str, allowed: int, metric: str
) -> None:
    """So many calls a minute are allowed in each region of a project; a refused call does not count."""
    quotas, method = Quotas(lambda: float(clock.now)), METHODS[path]
    here, there = (f"projects/p/locations/{region}/queues/q/tasks/t" for region in ("europe-west1", "us-central1"))
    for resource, unit in ((here, "1/min/{project}/{region}"), ("projects/p", "1/min/{project}")):
        for _ in range(allowed):
            quotas.count(method, "p", resource)
        for _ in range(2):
            text = f"Quota exceeded for quota metric '{metric}' and limit '{metric} per minute"
            with refused("RESOURCE_EXHAUSTED", f"^{text}") as caught:
                quotas.count(method, "p", resource)
        detail = caught.value.details[0]
        assert (detail.reason, detail.metadata["quota_unit"]) == ("RATE_LIMIT_EXCEEDED", unit)
    quotas.count(method, "p", there)
    quotas.count(method, "other", here)
    clock.now += 60
    quotas.count(method, "p", here)
