"""Replace secrets by dots in what is shown: in URLs, headers, bodies and texts. What is sent stays untouched.

A name is secret if one of its words is, in any case and spelling: ``access_token``, ``X-Goog-Signature``, ``apiKey``.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

__all__ = [
    "MASK",
    "find_secrets",
    "is_secret",
    "is_secret_header",
    "mask_headers",
    "mask_text",
    "mask_url",
    "mask_value",
    "may_hold_secret",
]

#: What is shown in place of a secret.
MASK = "•••"

_WORDS = frozenset(
    (  # noqa: SIM905 - a list of them takes thirty lines
        "accesskey accesstoken apikey apitoken auth authorization authtoken bearer clientsecret cookie credential "
        "credentials idtoken jwt passcode passphrase passwd password privatekey pwd refreshtoken secret secretkey sig "
        "signature token"
    ).split()
)
_KEYS = frozenset(("access", "api", "auth", "client", "encryption", "private", "secret", "shared", "signing"))
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# A text without any of these, in lower case, holds no secret.
_HINTS = ("auth", "bearer", "cookie", "credential", "jwt", "key", "pass", "pwd", "secret", "sig", "token")

_NAME = r"[A-Za-z][\w.%\[\]-]*"
_HEAD = re.compile(
    rf"""(?P<quote>["']) (?P<field>{_NAME}) (?P=quote) \s*:\s*  # a field of JSON, or of a dictionary
    | (?<![\w.%-]) (?P<parameter>{_NAME}) =  # of a URL, a form or a call
    | (?<![\w-]) (?P<header>(?i:(?:proxy-)?authorization|(?:set-)?cookie|[\w-]+-(?:key|token|signature))) :[ \t]*""",
    re.VERBOSE,
)
_VALUE = re.compile(
    r"""["](?P<double>(?:[^"\\]|\\.)*) | ['](?P<single>(?:[^'\\]|\\.)*) | (?P<nested>\{[^{}]*\}? | \[[^\[\]]*\]?)
    | (?P<bare>(?:(?i:basic|bearer|digest)[ ]+)? [^\s&;,"'<>(){}\[\]]+)""",
    re.VERBOSE,
)
_PASSWORD = re.compile(r"://[^\s/:@]*:(?P<value>[^\s/@]+)(?=@)")
_NO_SECRET = ("", "null", "None", "true", "false", "True", "False", MASK)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Return whether the value under this name is not shown.

    Examples
    --------
    >>> [is_secret(name) for name in ("access_token", "X-Goog-Signature", "apiKey", "tokens", "sort_key")]
    [True, True, True, False, False]
    """
    words = [word.lower() for word in _WORD.findall(name)]
    return not _WORDS.isdisjoint(words) or any(first in _KEYS and second == "key" for first, second in pairwise(words))


def may_hold_secret(text: str | bytes) -> bool:
    """Return whether a text or a body has to be searched for secrets; quick, and True more often than needed."""
    lower = text.lower() if isinstance(text, str) else text.lower().decode(errors="replace")
    return any(hint in lower for hint in _HINTS)


def find_secrets(text: str) -> list[tuple[int, int, str]]:
    """Return begin, end and name of the secrets in a text: in its URLs, JSON, assignments and headers."""
    found = [(*match.span("value"), "password") for match in _PASSWORD.finditer(text)] if "@" in text else []
    head = _HEAD.search(text) if may_hold_secret(text) else None
    while head is not None:
        value = _secret_at(text, head)
        if value is not None:
            found.append(value)
        # Searching on behind a secret keeps this linear in the length of the text.
        head = _HEAD.search(text, head.end() if value is None else value[1])
    return sorted(found)


def _secret_at(text: str, head: re.Match[str]) -> tuple[int, int, str] | None:
    name = urllib.parse.unquote(head["field"] or head["parameter"] or head["header"])
    # Google's APIs take API keys in the parameter `key` of a URL.
    key = head["parameter"] == "key" and text[max(head.start() - 1, 0)] in "?&"
    value = _VALUE.match(text, head.end()) if key or head["header"] or is_secret(name) else None
    if value is None or (value["nested"] and not head["field"]):  # the braces of a template
        return None
    kind = str(value.lastgroup)
    return None if value[kind] in _NO_SECRET else (*value.span(kind), name)


def mask_text(text: str) -> str:
    """Return a text with dots in place of its secrets.

    Examples
    --------
    >>> mask_text('POST https://svc.example/run?day=1&sig=ab12 {"user": "ada", "password": "x"}')
    'POST https://svc.example/run?day=1&sig=••• {"user": "ada", "password": "•••"}'
    """
    if "=" not in text and ":" not in text:
        return text
    parts, last = [], 0
    for begin, end, _ in find_secrets(text):
        if begin >= last:
            parts += [text[last:begin], MASK]
            last = end
    return "".join([*parts, text[last:]]) if parts else text


def mask_url(url: str) -> str:
    """Return a URL as `mask_text` does; quick for URLs without parameters."""
    return mask_text(url) if "=" in url or "@" in url else url


def is_secret_header(name: str) -> bool:
    """Return whether the value of a header is not shown; one whose name ends in "-Key" is secret too."""
    return is_secret(name) or name.lower().endswith("-key")


def mask_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with dots in place of secrets."""
    return {name: MASK if is_secret_header(name) else mask_text(value) for name, value in headers.items()}


def mask_value(value: Any) -> Any:
    """Return a decoded body, or a part of one, with dots in place of secrets."""
    if isinstance(value, Mapping):
        return {
            name: MASK if is_secret(str(name)) and part not in (None, "") else mask_value(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_value(part) for part in value]
    return mask_text(value) if isinstance(value, str) else value
