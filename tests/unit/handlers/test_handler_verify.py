"""Which tokens are accepted, and when certificates are fetched."""

import base64
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from cloudtasks_nb.handlers.verify import GOOGLE_CERTS, Certificates, Verifier, fetch_certificates
from tests.cases import cases
from tests.threads import at_once
from tests.unit.handlers.conftest import ACCOUNT, AUDIENCE, Issuer


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that does not advance."""
    return Clock()


def verifier_of(url: Callable[[], str | None], certificates: Certificates | None = None) -> Verifier:
    """Return a verifier that accepts the tokens of our account."""
    return Verifier(service_account=ACCOUNT, audience=[AUDIENCE], certs_url=url, certificates=certificates)


@pytest.fixture
def verifier(issuer: Issuer, clock: Clock) -> Verifier:
    """Return a verifier of the issuer's tokens."""
    return verifier_of(lambda: issuer.url, Certificates(clock=clock))


ACCEPTED = (200, "")


def checked(verifier: Verifier, authorization: str | None) -> tuple[int, str]:
    """Return status and reason of a refusal, or ACCEPTED."""
    refusal = verifier.check(authorization)
    return ACCEPTED if refusal is None else (refusal.status, str(refusal.message))


def encoded(part: dict[str, Any]) -> str:
    """Return one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_a_good_token_passes(verifier: Verifier, issuer: Issuer) -> None:
    """The account's own token for the audience is accepted, whatever the scheme's case."""
    bearer = issuer.bearer()
    assert checked(verifier, bearer) == ACCEPTED
    assert checked(verifier, bearer.replace("Bearer", "bearer ")) == ACCEPTED


@cases(
    *(({"aud": audience}, 401, "wrong audience") for audience in ("https://elsewhere.example", None)),
    ({"email": "thief@demo.iam.gserviceaccount.com"}, 403, "the token is of thief@demo"),
    ({"email": None}, 403, "only runner@demo.iam.gserviceaccount.com may call"),
    *(({"email_verified": verified}, 403, "is not verified") for verified in (False, None, "true")),
    ({"iat": 1_000_000, "exp": 1_003_600}, 401, "expired"),
    ({"iat": 9_000_000_000, "exp": 9_000_003_600}, 401, "too early"),
    ({"exp": None}, 401, "malformed"),
    ({"iat": "yesterday"}, 401, "malformed"),
)
def test_wrong_claims(verifier: Verifier, issuer: Issuer, claims: dict[str, Any], status: int, words: str) -> None:
    """Audience, account and times are checked, and the refusal names the wrong one."""
    code, message = checked(verifier, issuer.bearer(**claims))
    assert (code, words in message) == (status, True)


NO_TOKENS = [
    *(None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer nonsense", "Bearer a.b.c", "Bearer .."),
    "Bearer \udcff.\udcff.\udcff",
    "Bearer " + encoded({"alg": "RS256", "kid": ["first"]}) + ".e30.AA",
    "Bearer " + base64.urlsafe_b64encode(b"[" * 50_000).decode() + ".e30.AA",
]


@pytest.mark.parametrize(
    "authorization", NO_TOKENS, ids=lambda value: str(value)[:20].encode("ascii", "replace").decode()
)
def test_a_header_without_a_token_is_refused(verifier: Verifier, authorization: str | None) -> None:
    """Whatever the header contains, the answer is a 401 that does not repeat it."""
    code, message = checked(verifier, authorization)
    assert (code, "nonsense" in message) == (401, False)


def test_an_unsigned_token_is_refused(verifier: Verifier, issuer: Issuer) -> None:
    """The algorithm "none", and a signature that was cut off, are no signatures."""
    claims = encoded(issuer.claims())
    unsigned = checked(verifier, f"Bearer {encoded({'alg': 'none', 'kid': 'first'})}.{claims}.")
    assert unsigned == (401, "the token is not valid: Unsupported signature algorithm none")
    cut = issuer.bearer().rsplit(".", 1)[0] + "."
    assert checked(verifier, cut) == (401, "the token is malformed or not signed by the issuer (MalformedError)")


def test_a_signature_of_another_key_is_refused(verifier: Verifier, issuer: Issuer) -> None:
    """A token that another key signed is refused, also under the id of a published key."""
    issuer.other.name, own = "first", issuer.other.name
    forged = issuer.other.sign(issuer.claims())
    issuer.other.name = own
    for token in (forged, issuer.other.sign(issuer.claims())):
        assert checked(verifier, f"Bearer {token}")[0] == 401


def test_certificates_are_fetched_once_an_hour(verifier: Verifier, issuer: Issuer, clock: Clock) -> None:
    """A token does not cost a fetch each; after an hour the next one does."""
    bearer = issuer.bearer()
    for now, fetches in ((1000, 1), (4599, 1), (4600, 2), (4601, 2)):
        clock.now = now
        assert checked(verifier, bearer) == ACCEPTED
        assert issuer.fetches == fetches


def test_certificates_are_fetched_again_for_a_new_key(verifier: Verifier, issuer: Issuer, clock: Clock) -> None:
    """When the issuer rotates its key, a token of the new one has the certificates fetched again, at most every 5 s."""
    assert checked(verifier, issuer.bearer()) == ACCEPTED
    issuer.key, issuer.published = issuer.other, [issuer.other]
    assert checked(verifier, issuer.bearer())[0] == 401, "a second ago they were fetched"
    clock.now += 6
    assert checked(verifier, issuer.bearer()) == ACCEPTED
    assert issuer.fetches == 2


def test_unknown_keys_do_not_cause_a_fetch_each(verifier: Verifier, issuer: Issuer, clock: Clock) -> None:
    """Invented key ids cause one fetch in five seconds at most."""
    unknown = f"Bearer {issuer.other.sign(issuer.claims())}"
    for seconds, times, fetches in ((0, 20, 1), (6, 1, 2)):
        clock.now += seconds
        assert [checked(verifier, unknown)[0] for _ in range(times)] == [401] * times
        assert issuer.fetches == fetches


def test_many_threads_fetch_once(issuer: Issuer) -> None:
    """Eight tokens at once wait for one fetch."""
    verifier = verifier_of(lambda: issuer.url)
    bearer = issuer.bearer()
    assert at_once(lambda: verifier.check(bearer), 8) == [None] * 8
    assert issuer.fetches == 1


def test_certificates_that_cannot_be_fetched(verifier: Verifier, issuer: Issuer, clock: Clock) -> None:
    """The answer is 500; the issuer is asked again only after a pause, and then it works again."""
    issuer.status = 503
    for _ in range(3):
        code, message = checked(verifier, issuer.bearer())
        assert (code, f"{issuer.url} answered 503" in message) == (500, True)
    assert issuer.fetches == 1
    issuer.status = 200
    clock.now += 6
    assert checked(verifier, issuer.bearer()) == ACCEPTED


def test_loopback_has_no_proxy(verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates on loopback are fetched directly: a proxy of the environment cannot reach these ports."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert checked(verifier, issuer.bearer()) == ACCEPTED


@pytest.mark.parametrize("content", [b"no json", b"[[]]", b"3"])
def test_an_answer_without_certificates_accepts_no_token(verifier: Verifier, issuer: Issuer, content: bytes) -> None:
    """A broken answer of the certificate endpoint is a refusal, and is not asked for again at once."""
    issuer.content = content
    for _ in range(2):
        assert checked(verifier, issuer.bearer())[0] == 401
    assert issuer.fetches == 1


@pytest.mark.parametrize(("issued_by", "status"), [("https://accounts.google.com", 200), ("https://evil.example", 401)])
def test_the_issuer_of_googles_tokens_is_checked(issuer: Issuer, issued_by: str, status: int, clock: Clock) -> None:
    """Without an emulator the certificates are Google's, and then the token must name Google as issuer."""
    fetch = Mock(side_effect=lambda _: fetch_certificates(issuer.url))
    verifier = verifier_of(lambda: None, Certificates(fetch, clock))
    assert checked(verifier, issuer.bearer(iss=issued_by))[0] == status
    fetch.assert_called_once_with(GOOGLE_CERTS)


def test_the_url_of_the_certificates_is_asked_for_each_time(issuer: Issuer) -> None:
    """An emulator that was started again publishes elsewhere; the verifier follows."""
    urls = ["http://127.0.0.1:9/gone", issuer.url]
    verifier = verifier_of(lambda: urls.pop(0))
    code, message = checked(verifier, issuer.bearer())
    assert (code, "cannot be fetched" in message) == (500, True)
    assert checked(verifier, issuer.bearer()) == ACCEPTED
