"""What the messages of many failures have in common: one text, with "…" in place of the words that vary."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import NamedTuple, Self

import orjson

from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.fanout.causes import one_line, shortened

__all__ = ["Wording", "reads_as"]

_LONGEST = 2_000  # characters of a message
_VARIES = "…"
# What stands between words is kept, also if the words around it vary.
_BETWEEN = re.compile(r"([\s,;=()\[\]{}]+|[:.](?=\s|$))")


class Wording(NamedTuple):
    """The words that some messages have in common; the same whatever their order, and however often each one comes.

    If all have the same number of words, each place is compared; else how they begin and how they end.
    """

    words: (
        list[str] | None
    )  #: of each place, "…" where they differ; None: the messages differ in their numbers of words
    first: list[str]  #: words with which all begin
    last: list[str]  #: words with which all end
    least: int  #: how many words the shortest one has

    @classmethod
    def of(cls, message: str) -> Self:
        """Take the words of a message."""
        words = _BETWEEN.split(one_line(message)[:_LONGEST])
        return cls(words, words, words, len(words))

    @classmethod
    def read(cls, stored: str) -> Self:
        """Read what `stored` has written."""
        return cls(*parse_json(stored))

    def stored(self) -> str:
        """Return it as JSON."""
        return orjson.dumps(list(self)).decode()

    def joined(self, other: Wording) -> Wording:
        """Return what both have in common."""
        words = None
        if self.words is not None and other.words is not None and len(self.words) == len(other.words):
            words = [a if a == b else _VARIES for a, b in zip(self.words, other.words, strict=True)]
        first = _common(self.first, other.first)
        last = _common(self.last[::-1], other.last[::-1])[::-1]
        return Wording(words, first, last, min(self.least, other.least))

    def text(self) -> str:
        """Return the text.

        Examples
        --------
        >>> a, b, c = map(Wording.of, ["ValueError: bad shop oslo 7", "ValueError: bad shop wien 3", "ValueError: no"])
        >>> a.text(), a.joined(b).text(), a.joined(b).joined(c).text()
        ('ValueError: bad shop oslo 7', 'ValueError: bad shop …', 'ValueError: …')
        """
        words = self.words
        if words is None:
            left = self.least - len(self.first)  # a word of the shortest one is told once
            words = [*self.first, _VARIES, *self.last[max(0, len(self.last) - left) :]]
        return shortened("".join(words))


def reads_as(text: str, earlier: str) -> bool:
    """Return whether a text is also what an earlier one has become since more words vary.

    Examples
    --------
    >>> reads_as("KeyError: …", "KeyError: 'a'"), reads_as("KeyError: 'a'", "KeyError: …")
    (True, False)
    """
    return fnmatchcase(earlier, "*".join(map(glob.escape, text.split(_VARIES))))


def _common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Return the words with which both begin."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return [word for word, _ in same]
