"""Why attempts failed: one text for all error messages that differ only in numbers, ids and quoted values.

How many rows have which cause is counted as it changes; see `database.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cloudtasks_nb._names import CODES, code_name
from cloudtasks_nb.fanout.outbox.counters import as_json, number_of
from cloudtasks_nb.fanout.outbox.database import Repository
from cloudtasks_nb.fanout.outbox.records import Choice, State

__all__ = ["MOST_CAUSES", "NO_STATUS", "Cause", "Causes", "cause_of", "chosen", "exception_line", "kind_of"]

#: The cause of rows of whose attempts neither a message nor a status is known.
NO_STATUS = "no status"

#: The most causes that are counted for a batch; of further messages only the type of the exception counts.
MOST_CAUSES = 1_000

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


_STORED = "coalesce(o.cause, o.last_status, '')"  # the cause of a row's failure, as it is stored
_ERRORS = f"""
    SELECT {_STORED} AS cause, sum(r.state = 5), sum(r.state <> 5), min(o.last_attempt_time), max(o.last_attempt_time),
           min(r.ref)
    FROM parts p CROSS JOIN rows r ON r.ref BETWEEN p.part << 32 AND p.last LEFT JOIN outcomes o ON o.ref = r.ref
    WHERE p.num = ? AND p.status = 1 AND (r.state = 5 OR (r.state IN (2, 3) AND o.last_status > 0)) GROUP BY 1"""  # noqa: S608 - names of our columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of failures, and the rows that have it."""

    cause: str
    failed: int
    retrying: int  #: their last attempt failed, and they are tried again
    first: int | None  #: when the first of their last attempts began, microseconds since 1970
    last: int | None
    ref: int  #: of the first row in input order


class Causes(Repository):
    """Why rows of the batches of an outbox failed."""

    def failed(self, batch: str) -> dict[str, int]:
        """Return how many failed rows have which cause, the most frequent first. Reads counters only."""
        return _named(self._counted(batch, State.FAILED))

    def retrying(self, batch: str) -> dict[str, int]:
        """Return how many rows that are tried again have which cause, the most frequent first. Reads counters only."""
        return _named(self._counted(batch, State.SENT))

    def lost(self, batch: str) -> dict[str | None, int]:
        """Return how many gone rows left their queue how, the most frequent first; None: that is not known."""
        return {cause or None: count for cause, count in self._counted(batch, State.GONE)}

    def errors(self, batch: str) -> list[Cause]:
        """Return the causes of failed rows and of those that are tried again, the most frequent first.

        Reads the outcomes of all rows, in constant memory.
        """
        with self._database.reading() as connection:
            found = connection.execute(_ERRORS, (number_of(connection, batch),)).fetchall()
        rows = [
            Cause(cause=_name(cause), failed=failed, retrying=retrying, first=first, last=last, ref=ref)
            for cause, failed, retrying, first, last, ref in found
        ]
        return sorted(rows, key=lambda row: (-row.failed - row.retrying, row.cause))

    def matching(self, batch: str, choice: Choice) -> int:
        """Return how many failed rows a choice has."""
        condition, values = chosen(choice)
        with self._database.reading() as connection:
            found = connection.execute(
                f"""SELECT count(*) FROM parts p CROSS JOIN rows r ON r.ref BETWEEN p.part << 32 AND p.last
                    LEFT JOIN outcomes o ON o.ref = r.ref
                    WHERE p.num = :num AND p.status = 1 AND r.state = 5 AND ({condition})""",  # noqa: S608 - names of our columns
                {"num": number_of(connection, batch), **values},
            )
            count: int = found.fetchone()[0]
        return count

    def _counted(self, batch: str, state: State) -> list[tuple[Any, int]]:
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT cause, n FROM causes WHERE num = ? AND state = ? AND n > 0 ORDER BY n DESC",
                (number_of(connection, batch), state),
            )
            return found.fetchall()


def chosen(choice: Choice) -> tuple[str, dict[str, str]]:
    """Return the condition in SQL for rows `r` with outcomes `o` that a choice has, and its values."""
    conditions = {
        "causes": f"{_STORED} IN (SELECT value FROM json_each(:causes))",  # noqa: S608 - names of our columns
        "statuses": "o.last_status IN (SELECT value FROM json_each(:statuses))",
        "http": "o.http_status IN (SELECT value FROM json_each(:http))",
        "assumed": "o.http_status IS NULL AND o.last_status IN (SELECT value FROM json_each(:assumed))",
    }
    values = {name: as_json(getattr(choice, name)) for name in conditions}
    return " OR ".join(conditions.values()), values


def _name(cause: int | str) -> str:
    return code_name(cause) if isinstance(cause, int) else cause or NO_STATUS


def _named(counted: list[tuple[Any, int]]) -> dict[str, int]:
    return {name: -less for less, name in sorted((-count, _name(cause)) for cause, count in counted)}


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
