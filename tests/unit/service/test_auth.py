"""Credentials: found when the first call needs them, never before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.impersonated_credentials
import google.oauth2.credentials
import pytest

from cloudtasks_nb.errors import CredentialsError, InvalidInputError
from cloudtasks_nb.service.auth import SCOPE, Auth


class ServiceAccount(google.auth.credentials.Credentials, google.auth.credentials.Scoped):
    """Credentials that must be given their scope."""

    service_account_email = "sa@p.iam.gserviceaccount.com"
    requires_scopes = True

    def __init__(self, scopes: tuple[str, ...] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # google-auth annotates little
        self.given = scopes

    def refresh(self, request: Any) -> None:
        """Do nothing: no test calls Google."""

    def with_scopes(self, scopes: Any, default_scopes: Any = None) -> ServiceAccount:  # noqa: ARG002 - the base's signature
        """Return the same account with scopes."""
        return ServiceAccount(tuple(scopes))


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answer `google.auth.default`, and keep how it was called."""
    calls: list[dict[str, Any]] = []

    def found(**asked: Any) -> tuple[Any, str]:
        calls.append(asked)
        return google.oauth2.credentials.Credentials("token"), "adc-project"

    monkeypatch.setattr(google.auth, "default", found)
    return calls


def test_default_credentials_are_looked_up_once(default: list[dict[str, Any]]) -> None:
    """Nothing is asked before the first need, and the answer is kept."""
    auth = Auth()
    assert default == []
    assert auth.credentials() is auth.credentials()
    assert auth.project() == "adc-project"
    assert default == [{"scopes": [SCOPE]}]


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that makes some, and the way to work without an account."""

    def missing(**_: Any) -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", missing)
    with pytest.raises(CredentialsError, match="no Google credentials were found") as caught:
        Auth().credentials()
    assert "gcloud auth application-default login" in (caught.value.hint or "")
    assert "ct.local()" in (caught.value.hint or "")
    assert isinstance(caught.value.__cause__, google.auth.exceptions.DefaultCredentialsError)


def test_given_credentials_are_used_as_they_are(default: list[dict[str, Any]]) -> None:
    """Who brings credentials is not asked for others; they name no project."""
    given = google.oauth2.credentials.Credentials("token")
    auth = Auth(given)
    assert auth.credentials() is given
    assert auth.project() is None
    assert default == []


def test_scopes_are_added_where_they_are_missing() -> None:
    """A service account's key works without the caller naming a scope."""
    auth = Auth(ServiceAccount())
    assert auth.credentials().given == (SCOPE,)
    assert auth.principal() == "sa@p.iam.gserviceaccount.com"


def test_impersonation(default: list[dict[str, Any]]) -> None:
    """`impersonate=` acts as the service account, with the default credentials behind it."""
    auth = Auth(impersonate="other@p.iam.gserviceaccount.com")
    assert isinstance(auth.credentials(), google.auth.impersonated_credentials.Credentials)
    assert auth.principal() == "other@p.iam.gserviceaccount.com"


def test_a_quota_project(default: list[dict[str, Any]]) -> None:
    """`quota_project=` is charged for the calls."""
    assert Auth(quota_project="paying").credentials().quota_project_id == "paying"


def test_a_quota_project_that_the_credentials_cannot_have() -> None:
    """Credentials that know no quota project are used without."""
    given = google.auth.credentials.AnonymousCredentials()
    assert Auth(given, quota_project="paying").credentials() is given


@pytest.mark.parametrize("account", ["", "default", None])
def test_an_account_that_is_not_known(account: str | None) -> None:
    """The metadata server's `default` is no name."""
    given = google.oauth2.credentials.Credentials("token", account=account or "")
    assert Auth(given).principal() is None


@pytest.mark.parametrize(
    ("given", "what", "hint"),
    [
        ("/key.json", '"/key.json"', 'from_service_account_file("/key.json") reads a key'),
        (Path("/key.json"), '"/key.json"', "GOOGLE_APPLICATION_CREDENTIALS=/key.json"),
        ({"type": "service_account"}, "a dictionary", "from_service_account_info"),
        ((None, "p"), "a tuple", "the first of the two"),
        (5, "int", "Application Default Credentials"),
    ],
)
def test_what_are_no_credentials(given: Any, what: str, hint: str) -> None:
    """A key, or where it lies, is refused at once, with the call that makes credentials of it; no key is shown."""
    with pytest.raises(InvalidInputError) as caught:
        Auth(given)
    assert caught.value.message == f"credentials={what} is not a credentials object"
    assert hint in (caught.value.hint or "")
