"""Tokens, verified by Google's own library as a handler would."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from google.auth import exceptions, jwt

from cloudtasks_nb.emulator.dispatch import tokens as tokens_module
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.apis import v2
from cloudtasks_nb.emulator.model.clock import DAY, HOUR, LAST_NOW, SECOND
from tests.unit.emulator.conftest import NOW, URL

ACCOUNT = "sa@p.iam.gserviceaccount.com"


def request_for(account: str = ACCOUNT, audience: str = "") -> Any:
    """Make an HTTP request that asks for an OIDC token."""
    return v2.HttpRequest(oidc_token=v2.OidcToken(service_account_email=account, audience=audience))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a key once: it takes longer than all that is done with it."""
    folder = tmp_path_factory.mktemp("key")
    TokenSigner(folder, "issuer").keys()
    return (folder / "signing-key.pem").read_bytes()


@pytest.fixture
def times() -> list[float]:
    """Give the times that a clock shows: the last one counts. At first it is right, as the library compares with it."""
    return [time.time()]


@pytest.fixture
def tokens(tmp_path: Path, key: bytes, times: list[float]) -> TokenSigner:
    """Give a maker of tokens, whose clock a test may set."""
    (tmp_path / "signing-key.pem").write_bytes(key)
    return TokenSigner(tmp_path, "https://accounts.google.com", lambda: times[-1])


def bearer(tokens: TokenSigner, request: Any, url: str = URL) -> str:
    """Take the token out of the header."""
    header = tokens.authorize(request, url)
    assert header is not None
    return header.removeprefix("Bearer ")


def test_tokens_expire_by_the_clock(tokens: TokenSigner, times: list[float]) -> None:
    """A token is valid for an hour of the machine's clock; it is used again for a minute."""
    times.append(NOW // SECOND)
    first = bearer(tokens, request_for())
    assert jwt.decode(first, verify=False)["exp"] == times[-1] + HOUR // SECOND
    with pytest.raises(exceptions.InvalidValue, match="expired"):
        jwt.decode(first, certs=tokens.certificates())
    for seconds, same in ((59, True), (60, False)):
        times.append(NOW // SECOND + seconds)
        assert (bearer(tokens, request_for()) == first) is same


def test_tokens_after_the_clock_is_set_back(tokens: TokenSigner, times: list[float]) -> None:
    """A clock that is set back gets new tokens, and the certificate is good before and after."""
    times.append(time.time() + 40 * DAY // SECOND)
    ahead = bearer(tokens, request_for())
    certificate = x509.load_pem_x509_certificate(next(iter(tokens.certificates().values())).encode())
    times.append(time.time())
    token = bearer(tokens, request_for())
    issued = [jwt.decode(made, verify=False)["iat"] for made in (ahead, token)]
    assert issued[0] > issued[1]
    assert jwt.decode(token, certs=tokens.certificates())
    for made in (0, *issued, LAST_NOW // SECOND):
        moment = datetime.fromtimestamp(made, UTC)
        assert certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def test_many_audiences(tokens: TokenSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an audience it is the task's URL, query included, also for more URLs than are remembered."""
    monkeypatch.setattr(tokens_module, "_MAX_CACHED", 2)
    urls = [f"http://h/?a={number}&b=2" for number in range(5)]
    made = [bearer(tokens, request_for(), url) for url in urls]
    assert [jwt.decode(token, verify=False)["aud"] for token in made] == urls


def test_the_key_is_kept(tmp_path: Path) -> None:
    """After a restart the same key signs; only its owner can read it."""
    first = TokenSigner(tmp_path, "issuer")
    keys = first.keys()
    assert TokenSigner(tmp_path, "issuer").keys() == keys
    assert (tmp_path / "signing-key.pem").stat().st_mode & 0o777 == 0o600


def test_other_authorizations(tokens: TokenSigner) -> None:
    """OAuth tokens are opaque and the same for the same account and scope; without a setting there is no token."""
    request = v2.HttpRequest(oauth_token=v2.OAuthToken(service_account_email=ACCOUNT, scope="s"))
    assert bearer(tokens, request).startswith("ya29.")
    assert bearer(tokens, request) == bearer(tokens, request, "http://elsewhere")
    assert tokens.authorize(v2.HttpRequest(), URL) is None
