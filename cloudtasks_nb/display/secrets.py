"""Replace secrets by dots in what is shown: in URLs, headers, bodies and texts. What is sent stays untouched.

A name is secret if one of its words is, in any case and spelling: ``access_token``, ``X-Goog-Signature``, ``apiKey``.
Tokens of well-known services, and private keys, are known by their form, whatever they are called.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.errors import CloudTasksError

__all__ = [
    "MASK",
    "escape_controls",
    "find_secrets",
    "is_secret",
    "is_secret_header",
    "mask_headers",
    "mask_text",
    "mask_url",
    "mask_value",
    "may_hold_secret",
    "words_of",
]

#: What is shown in place of a secret.
MASK = "•••"

#: A word of a name of a secret; also one that is put together: PGPASSWORD.
_SECRET = re.compile(
    r"auth|authorization|bearer|cookie|jwt|passcode|pwd|sig|signature"
    r"|.*(?:(?:access|api|private|secret)key|credentials?|passphrase|passwd|passwords?|secrets?|token)"
)
_KEYS = frozenset(("access", "api", "auth", "client", "encryption", "private", "secret", "shared", "signing"))
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# A text without any of these, in lower case, has no secret that is known by its name.
_HINTS = ("auth", "bearer", "cookie", "credential", "jwt", "key", "pass", "pwd", "secret", "sig", "token")
# One without any of these, and without a long word, has none that is known by its form.
_BEGINNINGS = ("basic ", "bearer ", "eyj", "private key", "xox")
_LONG, _SHORTEST = 20, 14
_RUN = b"x" * _LONG
_CHARACTERS = re.sub(rb"[^x]", b" ", re.sub(rb"[\w-]", b"x", bytes(range(256))))  # of words: x; others: a space

_NAME = r"[A-Za-z][\w.%\[\]-]*"
_HEAD = re.compile(
    rf"""(?P<quote>["']) (?P<field>{_NAME}) (?P=quote) \s*:\s*  # a field of JSON, or of a dictionary
    | (?<![\w.%-]) (?: (?P<reference>--[a-z-]*secrets=[^\s"']*)  # of gcloud: names of secrets, which are none
        | (?:--)? (?P<parameter>{_NAME}) = )  # of a URL, a form, a call or a command
    | (?<![\w-]) (?P<header>(?i:(?:proxy-)?authorization|(?:set-)?cookie|[\w-]+-(?:key|token|signature))) :[ \t]*""",
    re.VERBOSE,
)
_VALUE = re.compile(
    r"""["](?P<double>(?:[^"\\]|\\.)*) | ['](?P<single>(?:[^'\\]|\\.)*) | (?P<nested>\{[^{}]*\}? | \[[^\[\]]*\]?)
    | (?P<bare>(?:(?i:apikey|basic|bearer|digest|token)[ ]+)? [^\s&;,"'<>(){}\[\]]+)""",
    re.VERBOSE,
)
_PASSWORD = re.compile(r"://[^\s/:@]*:(?P<value>[^\s/@]+)(?=@)")
#: Also what stands for one in a line to type: ``…``, ``YOUR_TOKEN``.
_NO_SECRET = re.compile(
    r"(?:•{3}|…|\.{3}|[*]+|<[^<>]*>)?|null|None|true|false|True|False|(?:[A-Z]+_)*(?:KEY|PASSWORD|SECRET|TOKEN)"
)

#: Private keys, and tokens by what their services begin them with; a group is the part that is secret.
_FORMS = r"""(?<![\w-])(?=[\w.:/=-]{16}|[Bb]|-----)(?:
    -----BEGIN[\x20A-Z]{0,30}\x20PRIVATE\x20KEY(?:\x20BLOCK)?-----[\s\S]*?(?:-----END[\x20A-Z]{0,40}-----|$)
    |[Bb]earer\x20+((?=\S{0,200}\d)[\w.~+/-]{12,}=*)|1//0[\w-]{20,}|AIza[\w-]{35}|ya29\.[\w.-]{20,}|GOCSPX-[\w-]{20,}
    |Basic\x20+((?=\S{0,200}(?:\d|[a-z][A-Z]))(?:[A-Za-z\d+/]{4}){2,}(?:[\w+/]{2}==|[\w+/]{3}=)?(?![\w+/=]))
    |A(?:KI|SI)A[\dA-Z]{16}\b|(?:AccountKey|SharedAccessKey)=([\w+/]{20,}=*)|dapi[\da-f]{32}|do[opr]_v1_[\da-f]{40,}
    |eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?|sk\.eyJ[\w-]{20,}\.[\w-]{10,}|(?:bot)?\d{8,10}:(AA[\w-]{33})
    |gh[oprsu]_[A-Za-z\d]{36,}|github_pat_\w{22,}|gl(?:pat|ptt|dt|rt|cbt|ft|soat|agent)-[\w-]{20,}|glsa_\w{32,}
    |xox[a-z](?:\.xox[a-z])?-[\w-]{10,}|xapp-\d-[\w-]{20,}|hooks\.slack\.com/(?:services|workflows)/([\w/]{20,})
    |discord(?:app)?\.com/api/webhooks/(\d+/[\w-]{30,})|webhook\.office\.com/webhookb2/([\w@/-]{30,})
    |[rs]k[-_](?:live|test)[-_](?=[A-Za-z]{0,80}\d)(?=\d{0,80}[A-Za-z])[A-Za-z\d]{10,}|whsec_[A-Za-z\d+/]{20,}
    |sk-ant-[\w-]{10,}|sk-(?:proj|svcacct|admin)-(?=[\w-]{0,80}[A-Z])[\w-]{20,}|sk-or-v\d-[\da-f]{20,}
    |sk-(?=[A-Za-z]{0,80}\d)[A-Za-z\d]{20,}|(?:xai|pplx|pul)-[A-Za-z\d]{40,}|(?:figd|dckr_pat|sntrys)_[\w-]{25,}
    |(?:hf|gsk|npm|lin_api|ntn|sbp|r8|secret)_[A-Za-z\d]{30,}|(?:hvs|hvb|dp\.pt)\.[\w-]{24,}|pypi-AgE[\w-]{20,}
    |lsv2_(?:pt|sk)_\w{30,}|PMAK-[\da-f]{24}-[\da-f]{34}|NRAK-[A-Z\d]{27}|AGE-SECRET-KEY-1\w{50,}|rubygems_[\da-f]{40,}
    |SG\.[\w-]{16,}\.(?=[\w-]{0,80}\d)(?=[\w-]{0,80}[A-Z])[\w-]{30,}|shp(?:at|ca|pa|ss)_[\da-fA-F]{32}
    |pat[A-Za-z\d]{14}\.[\da-f]{64}
)"""
#: C0 but tabs and ends of lines, C1, and what turns the direction of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ESCAPE = re.compile(r"\\[nrt]|%[\da-fA-F]{2}")


def words_of(name: str) -> list[str]:
    """Return the words of a name, in lower case."""
    return [word.lower() for word in _WORD.findall(name)]


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Return whether the value under this name is not shown.

    Examples
    --------
    >>> [is_secret(name) for name in ("access_token", "X-Goog-Signature", "apiKey", "tokens", "sort_key")]
    [True, True, True, False, False]
    """
    words = words_of(name)
    keys = (first in _KEYS and second in ("key", "keys") for first, second in pairwise(words))
    return any(map(_SECRET.fullmatch, words)) or any(keys)


def may_hold_secret(text: str | bytes) -> bool:
    """Return whether a text or a body has to be searched for secrets; quick, and True more often than needed."""
    return any(_may_hold(text if isinstance(text, str) else text.decode("latin-1")))


def _may_hold(text: str) -> tuple[bool, bool]:
    """Return whether a text may have secrets with names, and whether it may have some that are known by their form."""
    lower = text.lower()
    formed = _has_long_word(text) or any([beginning in lower for beginning in _BEGINNINGS])  # noqa: C419 - as below
    return any([hint in lower for hint in _HINTS]), formed or ("://" in text and "@" in text)  # noqa: C419 - quicker


def _has_long_word(text: str) -> bool:
    """Return whether a text has a word as long as a token; quicker than a regular expression."""
    return len(text) >= _LONG and _RUN in text.encode("ascii", "replace").translate(_CHARACTERS)


def find_secrets(text: str) -> list[tuple[int, int, str]]:
    """Return begin, end and name of the secrets in a text, in order; what is known by its form has a name with a space.

    They are found in URLs, JSON, assignments and headers, and, by their form, everywhere.
    """
    named, formed = _may_hold(text)
    found = list(_named(text)) if named else []
    if formed:
        urls = (match for match in _PASSWORD.finditer(text) if not _NO_SECRET.fullmatch(match["value"]))
        found += [(*match.span("value"), "password") for match in urls]
        plain = _ESCAPE.sub(lambda escape: " " * len(escape[0]), text) if "\\" in text or "%" in text else text
        for match in _form().finditer(plain):
            name = "private key" if match[0].startswith("-----") else "access token"
            found.append((match.start(match.lastindex or 0), match.end(), name))
    apart: list[tuple[int, int, str]] = []
    for begin, end, name in sorted(found):
        if not apart or begin >= apart[-1][1]:
            apart.append((begin, end, name))
        elif end > apart[-1][1]:
            apart[-1] = (apart[-1][0], end, apart[-1][2])
    return apart


@cache
def _form() -> re.Pattern[str]:
    return re.compile(_FORMS, re.VERBOSE | re.ASCII)  # at the first use: it takes as long as all other imports here


def _named(text: str) -> Iterator[tuple[int, int, str]]:
    head = _HEAD.search(text)
    while head is not None:
        value = None if head["reference"] else _secret_at(text, head)
        if value is not None:
            yield value
        # Searching on behind a secret keeps this linear in the length of the text.
        head = _HEAD.search(text, head.end() if value is None else value[1])


def _secret_at(text: str, head: re.Match[str]) -> tuple[int, int, str] | None:
    name = urllib.parse.unquote(head["field"] or head["parameter"] or head["header"])
    # Google's APIs take API keys in the parameter `key` of a URL.
    key = head["parameter"] == "key" and text[max(head.start() - 1, 0)] in "?&"
    value = _VALUE.match(text, head.end()) if key or head["header"] or is_secret(name) else None
    if value is None or (value["nested"] and not head["field"]):  # the braces of a template
        return None
    kind = str(value.lastgroup)
    return None if _NO_SECRET.fullmatch(value[kind]) else (*value.span(kind), name)


def mask_text(text: str) -> str:
    """Return a text with dots in place of its secrets.

    Examples
    --------
    >>> mask_text('POST https://svc.example/run?day=1&sig=ab12 {"user": "ada", "password": "x"}')
    'POST https://svc.example/run?day=1&sig=••• {"user": "ada", "password": "•••"}'
    """
    if "=" not in text and ":" not in text and len(text) < _SHORTEST:
        return text
    parts, last = [], 0
    for begin, end, _ in find_secrets(text):
        parts += [text[last:begin], MASK]
        last = end
    return "".join([*parts, text[last:]]) if parts else text


_mask_often = lru_cache(maxsize=1024)(mask_text)  # of tasks that have the same headers


def mask_url(url: str) -> str:
    """Return a URL as `mask_text` does; quick for URLs without parameters."""
    return mask_text(url) if "=" in url or "@" in url or _has_long_word(url) else url


def escape_controls(text: str) -> str:
    r"""Return a text for a terminal: without characters that would steer it, or turn the direction of a line.

    Examples
    --------
    >>> escape_controls("done\x1b[2J")
    'done\\x1b[2J'
    """
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def is_secret_header(name: str) -> bool:
    """Return whether the value of a header is not shown; one whose name ends in "-Key" is secret too."""
    return is_secret(name) or name.lower().endswith("-key")


def mask_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with dots in place of secrets."""
    # Each task of a row has a tag, which is as long as a token: to look at it would take half of the time of a listing.
    return {
        name: MASK if is_secret_header(name) else value if name == TAG_HEADER else _mask_often(value)
        for name, value in headers.items()
    }


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


def _safe(text: str) -> str:
    return escape_controls(mask_text(text))


# An error may repeat what a service answered, or what was given to a call.
CloudTasksError._shown = staticmethod(_safe)  # noqa: SLF001 - errors is shared with the emulator, and imports nothing
