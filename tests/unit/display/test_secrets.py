"""What is shown has dots in place of secrets."""

import pytest

from cloudtasks_nb.display.secrets import is_secret, is_secret_header, mask_headers, mask_text, mask_value

#: Each word that makes a name secret, alone; each word that does so before "key"; and other spellings.
NAMES = """accesskey accesstoken apikey apitoken auth authorization authtoken bearer clientsecret cookie credential
credentials idtoken jwt passcode passphrase passwd password privatekey pwd refreshtoken secret secretkey sig signature
token access_key api_key auth_key client_key encryption_key private_key secret_key shared_key signing_key
Password apiKey API-KEY X-Api-Key access_token accessToken X-Goog-Signature client_secret Proxy-Authorization Set-Cookie
X-Amz-Credential PASSWORD2"""
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


@pytest.mark.parametrize("text", ["token=", '"token":{', "a-", '"a', "://", "token=["])
def test_long_texts_take_linear_time(text: str) -> None:
    """A megabyte of half a secret is masked: this would not end if the time grew with the square of the length."""
    assert mask_text(text * (1_000_000 // len(text)) + " token=abc").endswith("•••")
