"""Why attempts failed: what failures have to have in common to be one cause.

Failures of which a traceback is known are one cause if they have the type of the exception, the line of the user's code
and the status of the service that was called in common: see `Fault`. Of the others a message is known, or the status
only. They are one cause if their messages differ in nothing but numbers, ids and quoted values: see `cause_of`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple, Self

from cloudtasks_nb._names import CODES

__all__ = ["NO_STATUS", "Fault", "cause_of", "exception_line", "kind_of", "message_of", "one_line", "shortened", "told"]

#: The cause of rows of whose attempts neither a message nor a status is known.
NO_STATUS = "no status"

_LONGEST = 200  # characters of a cause
_FIRST_LINE = 2_000  # characters of an exception's own line that are looked at

# What Cloud Tasks itself says, such as "INTERNAL(13): HTTP status code 502": no more than the status.
_OF_THE_SERVICE = re.compile(r"[A-Z][A-Z_]+\(\d+\)(?::|$)")
# The lines of an exception group have a margin, and those of its members a deeper one.
_HEADER = re.compile(
    r"^(?:Traceback|  \+ (?P<group>Exception Group) Traceback) \(most recent call last\):$", re.MULTILINE
)
_MARGIN = "  | "
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)')
# Installed packages, the standard library, and code that a library has generated; not what is typed into a shell.
_LIBRARY = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\](?:python|pypy)\d|\\Lib\\|[/\\]cloudtasks_nb[/\\]"
    r"|^<(?!stdin|i?python-input)"
)
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


class Fault(NamedTuple):
    """What failures have in common that are one cause, as far as their tracebacks tell."""

    kind: str  #: type of the exception
    place: str  #: the line of the user's code: ``report, cell [1] line 12`` or ``report, etl.py line 12``
    status: str = ""  #: HTTP status with which a service made the function fail; empty: no service did

    @classmethod
    def of(cls, traceback: str, status: int | None = None) -> Self | None:
        """Read it from a traceback; None if it has no line of a file.

        The line is the last one that is not in a library, so that an exception which `requests` has raised belongs to
        the line that called it. If all lines are in libraries, it is the first one, which is in the function itself.

        Examples
        --------
        >>> Fault.of('''Traceback (most recent call last):
        ...   File "cell [1]", line 12, in report
        ...   File "/usr/lib/python3/dist-packages/requests/models.py", line 1021, in raise_for_status
        ... requests.exceptions.HTTPError: 404 Client Error''', 404)
        Fault(kind='HTTPError', place='report, cell [1] line 12', status='404')
        """
        found = [match for line in _raised_last(traceback) if (match := _FRAME.fullmatch(line))]
        if not found:
            return None
        frame = next((one for one in reversed(found) if not _LIBRARY.search(one["file"])), found[0])
        name = re.split(r"[/\\]", frame["file"])[-1]
        kind = one_line(exception_line(traceback)).partition(":")[0].rpartition(".")[2]
        place = f"{frame['function']}, {name} line {frame['line']}"
        return cls(kind[:_LONGEST], place[:_LONGEST], "" if status is None else str(status))

    @classmethod
    def parse(cls, cause: object) -> Self | None:
        """Return what `str` has written; None for a cause of another kind."""
        return cls(*cause.split("\n")) if isinstance(cause, str) and "\n" in cause else None

    def __str__(self) -> str:
        """Return it as it is stored: no text of another cause has several lines."""
        return "\n".join(self)


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


def told(message: str) -> str | None:
    """Return a message of an attempt; None if Cloud Tasks has written it, which tells no more than the status."""
    return None if _OF_THE_SERVICE.match(message) else message


def message_of(error: str | None, gave_up: str | None) -> str | None:
    """Return what a stored result tells of a failure in one line: why a function gave up, else its exception.

    Examples
    --------
    >>> message_of("Traceback …", "no such place"), message_of("Traceback …", "404"), message_of("ValueError: no", None)
    ('no such place', 'GiveUp: 404', 'ValueError: no')
    """
    if gave_up is not None:
        return gave_up if cause_of(gave_up) else f"GiveUp: {gave_up}"  # a value alone tells no cause
    return None if error is None else exception_line(error)


def kind_of(cause: str) -> str | None:
    """Return the cause with the type of the exception only; None if it names no type."""
    head, colon, _ = cause.partition("\n" if "\n" in cause else ":")
    return f"{head}: …" if colon and head.isidentifier() else None


def exception_line(text: str) -> str:
    """Return the line of a traceback with the type and the text of the exception; the text itself if it is none."""
    if not _HEADER.search(text):
        return text.strip()[:_FIRST_LINE]
    lines = (line for line in _raised_last(text) if line.strip() and not line.startswith(" "))
    return next(lines, "").strip()[:_FIRST_LINE]


def one_line(message: str) -> str:
    """Return a message in one line, without the module of its exception, and without quotes around a sentence."""
    text = " ".join(message.split())
    return _QUOTED_SENTENCE.sub(r"\1\3", _MODULE.sub("", text, count=1) if _MODULE.match(text) else text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return a text so that it stays a line: cut to a number of characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip("… ") + "…"


def _raised_last(text: str) -> list[str]:
    """Return the lines of a text behind the last header of a traceback in it, of a group without its margin."""
    headers = list(_HEADER.finditer(text))
    if not headers:
        return []
    lines, group = text[headers[-1].end() :].splitlines(), headers[-1]["group"]
    return [line[len(_MARGIN) :] for line in lines if line.startswith(_MARGIN)] if group else lines


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
    return shortened(_SEVERAL.sub("…", _PARTS.sub(lambda match: match[0] if match["kept"] else "…", text)))
