"""Credentials of an argument; `test_default_credentials.py` has those that are found."""

import google.auth.credentials
import google.oauth2.credentials
import pytest
from google.oauth2.service_account import Credentials

from cloudtasks_nb.service.auth import SCOPE, Auth
from tests.google_sign_in import ACCOUNT
from tests.unit.service.conftest import KEY


def test_given_credentials_are_used_as_they_are() -> None:
    """Who brings credentials is not asked for others, also if they know no quota project; they name no project."""
    given, anonymous = google.oauth2.credentials.Credentials("token"), google.auth.credentials.AnonymousCredentials()
    assert (Auth(given).credentials(), Auth(given).project()) == (given, None)
    assert Auth(anonymous, quota_project="paying").credentials() is anonymous


def test_a_login_counts_for_the_project_of_the_connection() -> None:
    """A user's login without a quota project gets the connection's; one that has it, and other forms, keep theirs."""
    given = google.oauth2.credentials.Credentials("token", refresh_token="r")  # noqa: S106 - of nobody
    assert Auth(given, project="demo").credentials().quota_project_id == "demo"
    assert Auth(given, project="demo", quota_project="paying").credentials().quota_project_id == "paying"
    own, token = given.with_quota_project("own"), google.oauth2.credentials.Credentials("token")
    for other in (own, token, google.auth.credentials.AnonymousCredentials()):
        assert Auth(other, project="demo").credentials() is other
    impersonated = Auth(given, project="demo", impersonate="sa@p.iam.gserviceaccount.com").credentials()
    assert (impersonated.quota_project_id, given.quota_project_id) == (None, None)


def test_scopes_are_added_where_they_are_missing() -> None:
    """A service account's key works without the caller naming a scope."""
    auth = Auth(Credentials.from_service_account_info(KEY))
    assert (auth.credentials().scopes, auth.principal()) == ([SCOPE], ACCOUNT)


@pytest.mark.parametrize("account", ["", "default", None])
def test_an_account_that_is_not_known(account: str | None) -> None:
    """The metadata server's `default` is no name."""
    given = google.oauth2.credentials.Credentials("token", account=account or "")
    assert Auth(given).principal() is None
