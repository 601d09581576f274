"""Times as text in UTC, and as HTML that panels show in the zone which the user has chosen."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import overload

__all__ = ["from_micros", "sentence_html", "time_html", "time_text"]

_MOMENT = re.compile(r"\b(\d{4}-\d\d-\d\d) (\d\d:\d\d)(:\d\d)? UTC\b")


def time_text(at: datetime) -> str:
    """Return a time in UTC, to the second: ``2026-03-05 09:08:07``. A time without a zone stays as it is."""
    return f"{at if at.tzinfo is None else at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def time_html(at: datetime | None) -> str:
    """Return a time as an element, which a panel in a browser rewrites; elsewhere it is read in UTC. Empty for none."""
    if at is None:
        return ""
    iso = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'<time datetime="{iso}">{time_text(at)} UTC</time>'


def sentence_html(text: str) -> str:
    """Return a text as HTML; panels show the times in it, which are in UTC, in the zone that the user has chosen.

    Examples
    --------
    >>> sentence_html("not before 2026-03-05 09:08:07 UTC")
    'not before <time data-sentence datetime="2026-03-05T09:08:07Z">2026-03-05 09:08:07 UTC</time>'
    """
    return _MOMENT.sub(
        lambda found: f'<time data-sentence datetime="{found[1]}T{found[2]}{found[3] or ":00"}Z">{found[0]}</time>',
        html.escape(text),
    )


@overload
def from_micros(at: int) -> datetime: ...
@overload
def from_micros(at: int | None) -> datetime | None: ...
def from_micros(at: int | None) -> datetime | None:
    """Return the time that is so many microseconds after 1970; None for None."""
    return None if at is None else datetime.fromtimestamp(at / 1e6, UTC)
