"""A bucket of Cloud Storage is used with the tokens of a connection, of whatever form its credentials are."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import google.auth.credentials
import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.store.store import Store
from tests.unit.store.conftest import google_key
from tests.web import Reply, Request, http_server


class Renewed(google.auth.credentials.Credentials):
    """Credentials of a form that `obstore` does not know; each renewal gives another token."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # google-auth annotates little
        self.renewals = 0

    def refresh(self, _request: Any) -> None:
        """Make a token for an hour."""
        self.renewals += 1
        if self.renewals == 3:
            raise google.auth.exceptions.RefreshError("the login has ended")
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        self.token, self.expiry = f"token-{self.renewals}", now + dt.timedelta(hours=1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """Run a Cloud Storage without objects, and list the tokens that it gets."""
    tokens: list[str | None] = []

    def answer(request: Request) -> Reply:
        tokens.append(request.headers.get("authorization"))
        return Reply(status=404)

    with http_server(answer) as port:
        monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{port}")
        yield tokens


def test_the_tokens_of_a_connection(seen: list[str | None]) -> None:
    """They are renewed when they have expired; a login that has ended is told as it is."""
    credentials = Renewed()
    store = Store("gs://team/x", Auth(credentials).storage_token)
    assert [store.get("a"), store.get("b")] == [None, None]
    assert seen == ["Bearer token-1"] * 2
    credentials.token = None
    assert Store("gs://team/x", Auth(credentials).storage_token).get("c") is None
    assert (credentials.renewals, seen[-1]) == (2, "Bearer token-2")
    credentials.token = None
    for call in (
        lambda: store.get("d"),
        lambda: store.get_many(["d"]),
        lambda: store.put("d", b""),
        lambda: store.delete(["d"]),
    ):
        credentials.renewals = 2
        with pytest.raises(StoreError, match="the login has ended"):
            call()
    assert len(seen) == 3


def test_credentials_for_the_library_come_first(seen: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sets the variables of `obstore` wants them for the bucket."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", google_key("http://127.0.0.1:9"))
    credentials = Renewed()
    assert Store("gs://team/x", Auth(credentials).storage_token).get("a") is None
    assert (credentials.renewals, seen) == (0, [None])


def test_other_buckets_need_no_google_credentials() -> None:
    """A folder, and a bucket of another cloud, ask for no token."""
    credentials = Renewed()
    assert Store("memory://tokens", Auth(credentials).storage_token).get("a") is None
    assert credentials.renewals == 0
