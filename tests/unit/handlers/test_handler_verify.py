from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from google.auth import exceptions

from cloudtasks_nb.handlers import verify
from cloudtasks_nb.handlers.verify import GOOGLE_CERTS, Certificates, Verifier

__all__: list[str] = []

ACCOUNT = "runner@demo.iam.gserviceaccount.com"
AUDIENCE = "https://reports.example/run"


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def verifier(issuer: Any, clock: Clock) -> Verifier:
    """Return what lets the issuer's tokens of our account pass."""
    return Verifier(
        service_account=ACCOUNT,
        audience=AUDIENCE,
        certs_url=lambda: issuer.url,
        certificates=Certificates(clock=clock),
    )


def refused(verifier: Verifier, authorization: str | None) -> tuple[int, str] | None:
    """Return status and reason of a refusal."""
    refusal = verifier.check(authorization)
    return None if refusal is None else (refusal.status, refusal.reason)


def encoded(part: dict[str, Any]) -> str:
    """Return one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_a_good_token_passes(verifier: Verifier, issuer: Any) -> None:
    """The account's own token for the audience is let through, whatever the scheme's case."""
    bearer = issuer.bearer()
    assert refused(verifier, bearer) is None
    assert refused(verifier, bearer.replace("Bearer", "bearer ")) is None


@pytest.mark.parametrize(
    ("claims", "status", "words"),
    [
        ({"aud": "https://elsewhere.example"}, 401, "wrong audience"),
        ({"aud": None}, 401, "wrong audience"),
        ({"email": "thief@demo.iam.gserviceaccount.com"}, 403, "the token is of thief@demo"),
        ({"email": None}, 403, "only runner@demo.iam.gserviceaccount.com may call"),
        ({"email_verified": False}, 403, "is not verified"),
        ({"email_verified": None}, 403, "is not verified"),
        ({"email_verified": "true"}, 403, "is not verified"),
        ({"iat": 1_000_000, "exp": 1_003_600}, 401, "expired"),
        ({"iat": 9_000_000_000, "exp": 9_000_003_600}, 401, "too early"),
        ({"exp": None}, 401, "malformed"),
        ({"iat": "yesterday"}, 401, "malformed"),
    ],
)
def test_a_token_with_wrong_claims_is_refused(
    verifier: Verifier, issuer: Any, claims: dict[str, Any], status: int, words: str
) -> None:
    """Audience, account and times are checked, and the refusal says which it was."""
    refusal = refused(verifier, issuer.bearer(**claims))
    assert refusal is not None
    assert refusal[0] == status
    assert words in refusal[1]


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer \udcff.\udcff.\udcff",
        "Bearer " + encoded({"alg": "RS256", "kid": ["first"]}) + ".e30.AA",
        "Bearer " + base64.urlsafe_b64encode(b"[" * 50_000).decode() + ".e30.AA",
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
def test_what_is_no_token_is_refused(verifier: Verifier, authorization: str | None) -> None:
    """Whatever stands in the header, the answer is a 401 that does not repeat it."""
    refusal = refused(verifier, authorization)
    assert refusal is not None
    assert refusal[0] == 401
    assert "nonsense" not in refusal[1]


def test_an_unsigned_token_is_refused(verifier: Verifier, issuer: Any) -> None:
    """The algorithm "none", and a signature that was cut off, are no signatures."""
    claims = encoded(issuer.claims())
    unsigned = refused(verifier, f"Bearer {encoded({'alg': 'none', 'kid': 'first'})}.{claims}.")
    assert unsigned == (401, "the token is not valid: Unsupported signature algorithm none")
    cut = issuer.bearer().rsplit(".", 1)[0] + "."
    assert refused(verifier, cut) == (401, "the token is malformed or not signed by the issuer (MalformedError)")


def test_a_strangers_signature_is_refused(verifier: Verifier, issuer: Any) -> None:
    """A token that somebody else signed is refused, also under the name of a published key."""
    issuer.stranger.name, own = "first", issuer.stranger.name
    forged = issuer.stranger.sign(issuer.claims())
    issuer.stranger.name = own
    for token in (forged, issuer.stranger.sign(issuer.claims())):
        refusal = refused(verifier, f"Bearer {token}")
        assert refusal is not None
        assert refusal[0] == 401


def test_certificates_are_fetched_once_while_they_are_fresh(verifier: Verifier, issuer: Any, clock: Clock) -> None:
    """Tokens do not cost a fetch each; when the answer's max-age is over, the next one does."""
    issuer.headers = {"Cache-Control": "public, max-age=100, must-revalidate", "Age": "40"}
    bearer = issuer.bearer()
    for now, fetches in ((1000, 1), (1059, 1), (1061, 2), (1062, 2)):
        clock.now = now
        assert refused(verifier, bearer) is None
        assert issuer.fetches == fetches


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Cache-Control": "max-age=60"}, 60),
        ({"cache-control": "Public, Max-Age=60"}, 60),
        ({"Cache-Control": "max-age=60", "Age": "70"}, 0),
        ({"Cache-Control": "max-age=60", "Age": "old"}, 60),
        ({"Cache-Control": "no-store"}, 0),
        ({"Cache-Control": "no-cache, max-age=60"}, 0),
        ({}, 300),
    ],
)
def test_how_long_certificates_are_kept(headers: dict[str, str], seconds: float, clock: Clock) -> None:
    """The issuer's headers say how long; five minutes if they say nothing."""
    fetched: list[str] = []

    def fetch(url: str) -> Any:
        fetched.append(url)
        return SimpleNamespace(headers=headers, data=b"{}", status=200)

    certificates = Certificates(fetch, clock)
    for moment, count in ((0, 1), (seconds - 1, 1), (seconds, 2)):
        if moment >= 0:
            clock.now = 1000.0 + moment
            certificates.get("https://issuer.example")
            assert len(fetched) == count


def test_a_new_key_is_learned_soon(verifier: Verifier, issuer: Any, clock: Clock) -> None:
    """When the issuer changes its key, the first token of the new one has the certificates fetched again."""
    assert refused(verifier, issuer.bearer()) is None
    issuer.key, issuer.published = issuer.stranger, [issuer.stranger]
    assert refused(verifier, issuer.bearer()) is not None, "a second ago they were fetched"
    clock.now += 6
    assert refused(verifier, issuer.bearer()) is None
    assert issuer.fetches == 2


def test_unknown_keys_do_not_cause_a_fetch_each(verifier: Verifier, issuer: Any, clock: Clock) -> None:
    """Somebody who invents keys cannot make us ask the issuer all the time."""
    for _ in range(20):
        assert refused(verifier, f"Bearer {issuer.stranger.sign(issuer.claims())}") is not None
    assert issuer.fetches == 1
    clock.now += 6
    assert refused(verifier, f"Bearer {issuer.stranger.sign(issuer.claims())}") is not None
    assert issuer.fetches == 2


def test_many_threads_fetch_once(issuer: Any) -> None:
    """Eight tokens at once wait for one fetch."""
    verifier = Verifier(service_account=ACCOUNT, audience=AUDIENCE, certs_url=lambda: issuer.url)
    bearer = issuer.bearer()
    barrier = threading.Barrier(8)

    def check() -> Any:
        barrier.wait(20)
        return verifier.check(bearer)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(check) for _ in range(8)]
        assert [future.result(20) for future in futures] == [None] * 8
    assert issuer.fetches == 1


def test_certificates_that_cannot_be_fetched_are_not_the_tokens_fault(
    verifier: Verifier, issuer: Any, clock: Clock
) -> None:
    """The answer is 500, the issuer is left alone for a while, and then it works again."""
    issuer.status = 503
    for _ in range(3):
        refusal = refused(verifier, issuer.bearer())
        assert refusal is not None
        assert refusal[0] == 500
        assert f"{issuer.url} answered 503" in refusal[1]
    assert issuer.fetches == 1, "the second and third were not let through to the issuer"
    issuer.status = 200
    clock.now += 6
    assert refused(verifier, issuer.bearer()) is None


def test_nobody_listens_where_the_certificates_should_be() -> None:
    """An emulator that has ended is a 500 that says so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/certs"
        verifier = Verifier(service_account=ACCOUNT, audience=AUDIENCE, certs_url=lambda: url)
        refusal = refused(verifier, f"Bearer {encoded({'kid': 'a'})}.e30.AA")
    assert refusal is not None
    assert refusal[0] == 500
    assert "cannot be fetched" in refusal[1]


def test_loopback_certificates_do_not_go_through_a_proxy(
    verifier: Verifier, issuer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment knows nothing of this machine's ports."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert refused(verifier, issuer.bearer()) is None


@pytest.mark.parametrize("data", [b"no json", b"[[]]", b"3"])
def test_certificates_that_are_none_let_nothing_pass(issuer: Any, data: bytes) -> None:
    """A broken answer of the certificate endpoint is a refusal, not a pass."""
    broken = SimpleNamespace(headers={}, data=data, status=200)
    verifier = Verifier(
        service_account=ACCOUNT,
        audience=AUDIENCE,
        certs_url=lambda: "https://issuer.example",
        certificates=Certificates(lambda _url: broken),
    )
    refusal = refused(verifier, issuer.bearer())
    assert refusal is not None
    assert refusal[0] == 401


@pytest.mark.parametrize(("issued_by", "status"), [(None, None), ("https://evil.example", 401)])
def test_googles_tokens_are_googles(issuer: Any, issued_by: str | None, status: int | None, clock: Clock) -> None:
    """Without an emulator the certificates are Google's, and then the token must name Google as issuer."""
    asked: list[str] = []

    def fetch(url: str) -> Any:
        asked.append(url)
        return verify._get(issuer.url)

    verifier = Verifier(
        service_account=ACCOUNT,
        audience=AUDIENCE,
        certs_url=lambda: None,
        certificates=Certificates(fetch, clock),
    )
    refusal = refused(verifier, issuer.bearer(**({} if issued_by is None else {"iss": issued_by})))
    assert (refusal and refusal[0]) == status
    assert asked == [GOOGLE_CERTS]


def test_the_certificates_place_is_asked_for_each_time(issuer: Any) -> None:
    """An emulator that was started again publishes elsewhere; the verifier follows."""
    places: list[str] = ["http://127.0.0.1:9/gone", issuer.url]

    def place() -> str:
        return places.pop(0)

    taken: Callable[[], str] = place
    verifier = Verifier(service_account=ACCOUNT, audience=AUDIENCE, certs_url=taken)
    assert refused(verifier, issuer.bearer()) is not None
    assert refused(verifier, issuer.bearer()) is None


def test_a_failure_is_told_again_until_it_may_be_tried_again(clock: Clock) -> None:
    """Callers do not wait for one timeout each."""
    tried: list[str] = []

    def fetch(url: str) -> Any:
        tried.append(url)
        raise exceptions.TransportError("timed out")

    certificates = Certificates(fetch, clock)
    for later, count in ((0, 1), (4, 1), (2, 2)):
        clock.now += later
        with pytest.raises(exceptions.TransportError, match="timed out"):
            certificates.get("https://issuer.example")
        assert len(tried) == count
