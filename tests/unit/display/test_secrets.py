"""What is shown has dots in place of secrets."""

from pathlib import Path

import pytest

from cloudtasks_nb.display import secrets
from cloudtasks_nb.display.secrets import (
    escape_controls,
    find_secrets,
    is_secret,
    is_secret_header,
    mask_headers,
    mask_text,
    mask_url,
    mask_value,
    may_hold_secret,
)

#: Each word that makes a name secret, alone; each word that does so before "key"; and other spellings.
NAMES = """accesskey accesstoken apikey apitoken auth authorization authtoken bearer clientsecret cookie credential
credentials idtoken jwt passcode passphrase passwd password privatekey pwd refreshtoken secret secretkey sig signature
token access_key api_key auth_key client_key encryption_key private_key secret_key shared_key signing_key
Password apiKey API-KEY X-Api-Key access_token accessToken X-Goog-Signature client_secret Proxy-Authorization Set-Cookie
X-Amz-Credential PASSWORD2 PGPASSWORD passwords client_secrets api_keys"""
PLAIN = "tokens key sort_key keyboard signal author passenger secretary day url"
#: Texts and how they are shown: by the toolkit, and by the emulator's console, which has the same rules.
TEXTS = [
    ("https://svc/run?day=1&token=abc&x=2", "https://svc/run?day=1&token=•••&x=2"),
    ("https://svc/run?access%5Ftoken=a%20b", "https://svc/run?access%5Ftoken=•••"),
    ("https://svc/maps?key=AIza&sort_key=day", "https://svc/maps?key=•••&sort_key=day"),
    ("https://ada:pw@svc/run", "https://ada:•••@svc/run"),
    ("https://svc/{origin}?token={token}", "https://svc/{origin}?token={token}"),
    ('{"user": "ada", "password": "x\\"y", "pin": 1}', '{"user": "ada", "password": "•••", "pin": 1}'),
    ('{"api_key":null,"secret":["a"],"token":{"a":1},"n":1}', '{"api_key":null,"secret":•••,"token":•••,"n":1}'),
    ("{'token': 'abc', 'secret': 12}", "{'token': '•••', 'secret': •••}"),
    ("user=ada&password=x", "user=ada&password=•••"),
    ('f(url="https://x?sig=a&b=1", token="t")', 'f(url="https://x?sig=•••&b=1", token="•••")'),
    ("Authorization: Bearer abc.def\nX: 1", "Authorization: •••\nX: 1"),
    ('"password": "cut of', '"password": "•••'),
    ("KeyError: 'key'; invalid token: expired", "KeyError: 'key'; invalid token: expired"),
    ("max_tokens=5 signal=2", "max_tokens=5 signal=2"),
    ("Authorization: Token abc; x", "Authorization: •••; x"),
    ("tool --api-token=abc --day=mon", "tool --api-token=••• --day=mon"),
    ("--set-secrets=API_KEY=my-secret:latest,TOKEN=t:1 x", "--set-secrets=API_KEY=my-secret:latest,TOKEN=t:1 x"),
    (
        "https://USER:PASSWORD@HOST:PORT, token=…, api_key=YOUR_API_KEY",
        "https://USER:PASSWORD@HOST:PORT, token=…, api_key=YOUR_API_KEY",
    ),
    ("--update-env-vars=A=1,API_KEY=x,B=2", "--update-env-vars=A=1,API_KEY=•••,B=2"),
]
A, HEX = "aB3dE5gH7j", "0123456789abcdef"
#: Secrets that are known by their form, under any name; what is shown of them, if it is more than dots.
TOKENS = {
    "AKIAIOSFODNN7EXAMPLE": "•••",
    f"AIza{A * 3}abcde": "•••",
    f"ya29.{A * 3}": "•••",
    f"GOCSPX-{A * 3}": "•••",
    f"1//0{A * 4}": "•••",
    f"ghp_{A * 4}": "•••",
    f"gho_{A * 4}": "•••",
    f"ghs_{A * 4}": "•••",
    f"github_pat_{A * 3}": "•••",
    f"glpat-{A * 2}": "•••",
    "xoxb-123456789012": "•••",
    f"https://hooks.slack.com/services/T0000/B0000/{A * 2}": "https://hooks.slack.com/services/•••",
    f"https://discord.com/api/webhooks/1234/{A * 6}": "https://discord.com/api/webhooks/•••",
    f"https://a.webhook.office.com/webhookb2/{HEX * 2}@{HEX}/x": "https://a.webhook.office.com/webhookb2/•••",
    f"https://api.telegram.org/bot123456789:AA{A * 3}abc/send": "https://api.telegram.org/bot123456789:•••/send",
    "sk_live_51H8xYzAbCdEf": "•••",
    "sk-live-4f9d8a7b6c5e": "•••",
    f"rk_live_{A * 2}": "•••",
    f"whsec_{A * 3}": "•••",
    f"sk-proj-{A * 4}": "•••",
    f"sk-{A * 2}": "•••",
    f"sk-ant-api03-{A * 4}": "•••",
    f"hf_{A * 3}": "•••",
    f"npm_{A * 4}": "•••",
    f"gsk_{A * 5}": "•••",
    f"hvs.{A * 3}": "•••",
    f"pypi-AgE{A * 4}": "•••",
    f"SG.{A * 2}.{A * 4}": "•••",
    f"dapi{HEX * 2}": "•••",
    f"dop_v1_{HEX * 4}": "•••",
    f"shpat_{HEX * 2}": "•••",
    "eyJhbGciOiJI.eyJzdWIiOiIx.sig": "•••",
    "Bearer abcdefgh1jkl": "Bearer •••",
    "Basic dXNlcjpwYXNz": "Basic •••",
    f"AccountName=a;AccountKey={A * 8}==;Suffix=b": "AccountName=a;AccountKey=•••;Suffix=b",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1x\n-----END RSA PRIVATE KEY-----": "•••",
    "mysql+pymysql://ann:swordfish@db": "mysql+pymysql://ann:•••@db",
}
#: Long texts that are no secrets.
IDS = [
    *("0b9f5a3e-1d6c-4a57-9c1e-7f2f3c1a9d10", HEX * 4, "8af0ed83a1b2c3d4e5f60718293a4b5c6d7e8f90"),
    *("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0C", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1x ann@example.com"),
    *(f"iVBORw0KGgo{A * 9}/{A * 3}+{A}==", f"data:image/png;base64,iVBORw0KGgo{A * 9}", f"1Bxi{A * 4}"),
    *("https://report-abc123-uc.a.run.app/run/2024-01-01?day=mon", "https://user@host/path", "a://b/c:d@e"),
    *(
        "sk_test_accuracy",
        "ghs_population_grid_2020",
        "hf_internal_testing_tiny_random",
        "risk-2024-eu-west-abcdefgh12",
    ),
    *(f"pk_live_{A * 3}", f"price_{A * 2}", "Basic analytics", "Bearer", "projects/p/locations/l/queues/q", "sky-1"),
]
HEADERS = {"x-token": "a", "Idempotency-Key": "b", "Accept": "c", "Referer": "https://x?sig=d"}
HEADERS_SHOWN = {**HEADERS, "x-token": "•••", "Idempotency-Key": "•••", "Referer": "https://x?sig=•••"}


def test_names() -> None:
    """A name is secret if one of its words is, in any case and spelling; words that only contain one are shown."""
    assert [name for name in NAMES.split() if not is_secret(name)] == []
    assert [name for name in PLAIN.split() if is_secret(name)] == []


def test_headers() -> None:
    """Credentials, what ends in -Key, and secrets in the URL of a header are dots."""
    assert mask_headers(HEADERS) == HEADERS_SHOWN
    assert not is_secret_header("Key")


def test_what_is_known_by_its_form() -> None:
    """Tokens and private keys are dots wherever they stand, also behind an escape; identifiers and hashes are shown."""
    for token, shown in TOKENS.items():
        for text in ("{}", "it failed for {} today", 'x = "{}"', "repr: 'a\\n{}'", "%3D{}", "({})"):
            assert mask_text(text.format(token)) == text.format(shown)
        assert may_hold_secret(token.encode())
    assert mask_url(f"https://svc/run/ghp_{A * 4}") == "https://svc/run/•••"
    assert [text for text in IDS if mask_text(text) != text] == []


def test_secrets_of_two_rules_are_one() -> None:
    """One that is known by its name and by its form is found once."""
    text = f"token=ghp_{A * 4} and postgres://ann:ghp_{A * 4}@db"
    assert [text[begin:end] for begin, end, _ in find_secrets(text)] == [f"ghp_{A * 4}"] * 2


def test_the_console_has_the_same_forms() -> None:
    """Python and the emulator's console read one regular expression."""
    script = Path(secrets.__file__).parents[1] / "emulator/frontends/secrets.js"
    assert f"String.raw`{secrets._FORMS}`" in script.read_text(encoding="utf-8")


def test_control_characters() -> None:
    """C0, C1 and what turns the direction are escapes, an end of a line and a tab stay; twice changes nothing more."""
    shown = escape_controls("a\x1b]0;X\x07\x1b[2J\r\x9b\u202eb\u2066\u200f\u061c\n\t\u05e9\u05dc é")
    assert shown == r"a\x1b]0;X\x07\x1b[2J\r\x9b\u202eb\u2066\u200f\u061c" + "\n\t\u05e9\u05dc é"
    assert escape_controls(shown) == shown


@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_texts(text: str, shown: str) -> None:
    """URLs, JSON, forms, calls and headers keep all but the secrets; masking twice changes nothing more."""
    assert mask_text(text) == shown
    assert mask_text(shown) == shown


def test_values() -> None:
    """A body is masked at any depth, and the given one stays as it is."""
    given = {"a": [{"token": "x", "n": 1}], "secret": {"b": 2}, "password": None, "url": "https://x?sig=1", "b": b"t"}
    shown = {"a": [{"token": "•••", "n": 1}], "secret": "•••", "password": None, "url": "https://x?sig=•••", "b": b"t"}
    assert mask_value(given) == shown
    assert given["secret"] == {"b": 2}


@pytest.mark.parametrize(
    "text", ["token=", '"token":{', "a-", '"a', "://", "token=[", "--", "eyJ-", "sk-", "Bearer ", "SG.", "-----BEGIN "]
)
def test_long_texts_take_linear_time(text: str) -> None:
    """A megabyte of half a secret is masked: this would not end if the time grew with the square of the length."""
    assert mask_text(text * (1_000_000 // len(text)) + " token=abc").endswith("•••")
