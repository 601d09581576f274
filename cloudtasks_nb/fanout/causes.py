"""Why attempts failed: one text for all error messages that differ only in numbers, ids and quoted values."""

from __future__ import annotations

import re
from functools import lru_cache

from cloudtasks_nb._names import CODES

__all__ = ["NO_STATUS", "cause_of", "exception_line", "kind_of"]

#: The cause of rows of whose attempts neither a message nor a status is known.
NO_STATUS = "no status"

_LONGEST = 200  # characters of a cause
_FIRST_LINE = 2_000  # characters of an exception's own line that are looked at

# What Cloud Tasks itself says, such as "INTERNAL(13): HTTP status code 502": no more than the status.
_OF_THE_SERVICE = re.compile(r"[A-Z][A-Z_]+\(\d+\)(?::|$)")
_HEADER = "Traceback (most recent call last):"
_GROUP = re.compile(r"^ *\| (?=[\w.]*\w: )", re.MULTILINE)  # the line of an exception group, drawn with a margin
_MODULE = re.compile(r"(?:[^\W\d]\w*\.)+(?=[^\W\d]\w*(?::|$))")
# Words with digits that are no ids, and HTTP statuses where the text says so.
_KEPT = (
    r"(?i:\b(?:u?int|float|complex|utf|latin|iso|sha|md|base|ipv|datetime|timedelta|s)-?\d{1,4}\b(?![-\w.]))"
    r"|(?i:\b(?:http(?:/\d(?:\.\d)?)?|status|status[_ ]code|http error)[ =:]{1,2}[1-5]\d\d\b(?![-\w.]))"
    r"|\b[45]\d\d (?:Client|Server) Error\b"
)
_VALUE = (
    r"[bru]?'(?:[^'\\]|\\.)*'(?!\w)|[bru]?\"(?:[^\"\\]|\\.)*\"|`[^`]*`|[“„«][^”“»]*[”“»]"  # quoted
    r"|[A-Za-z][A-Za-z0-9+.-]*://\S+"  # a URL
    r"|(?:[A-Za-z]:)?(?:[/\\][\w.@~-]+){2,}[/\\]?"  # a path
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # an address
    r"|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?!\w)"  # a UUID
    r"|[-+]?\w*\d\w*%?"  # a number, or a word with digits
)
_PARTS = re.compile(rf"(?P<kept>{_KEPT})|(?<!\w)(?:{_VALUE})")
#: A KeyError shows its argument as Python does, in quotes, also where that is a sentence and no value.
_QUOTED_SENTENCE = re.compile(r"^((?:\w+\.)*KeyError: )(['\"])(.*\S .*)\2$")
_SEVERAL = re.compile(r"…(?:(?:[\s,;]*|[:./+\\-]+)…)+")


def cause_of(message: str) -> str | None:
    """Return the cause that an error message tells; None if it tells no more than the status of the attempt.

    Parameters
    ----------
    message : str
        ``Type: text``, a traceback, or what Cloud Tasks says of an attempt.

    Examples
    --------
    >>> cause_of("KeyError: 'a17'"), cause_of("json.decoder.JSONDecodeError: Expecting value: line 1 column 7")
    ('KeyError: …', 'JSONDecodeError: Expecting value: line … column …')
    >>> cause_of("INTERNAL(13): HTTP status code 502") is None
    True
    """
    return _cause_of_line(exception_line(message))


def kind_of(cause: str) -> str | None:
    """Return the cause with the type of the exception only; None if it names no type."""
    head, colon, _ = cause.partition(":")
    return f"{head}: …" if colon and head.isidentifier() else None


def exception_line(text: str) -> str:
    """Return the line of a traceback with the type and the text of the exception; the text itself if it is none."""
    before, header, last = text.rpartition(_HEADER)
    if not header:
        return text.strip()[:_FIRST_LINE]
    if before.endswith("Exception Group "):
        found = _GROUP.search(last)
        last = last[found.end() :] if found else last
    lines = [line.strip() for line in last.splitlines() if line.strip() and not line.startswith(" ")]
    return lines[0][:_FIRST_LINE] if lines else ""


@lru_cache(maxsize=1_024)
def _cause_of_line(text: str) -> str | None:
    if _OF_THE_SERVICE.match(text):
        return None
    text = _QUOTED_SENTENCE.sub(r"\1\3", text)
    # Once more, because what was put in place of a value may complete another one. Each pass leaves less of the text.
    while (shorter := _normalise(text)) != text:
        text = shorter
    return text if text.strip("… ") and text not in (*CODES, NO_STATUS) else None


def _normalise(text: str) -> str:
    text = " ".join(text.split())
    text = _MODULE.sub("", text, count=1) if _MODULE.match(text) else text
    text = _PARTS.sub(lambda match: match[0] if match["kept"] else "…", text)
    text = _SEVERAL.sub("…", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip("… ") + "…"
