"""Durations as text."""

from __future__ import annotations

__all__ = ["duration_text"]

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def duration_text(seconds: float) -> str:
    """Return a duration in its leading units: ``350 ms``, ``12.3 s``, ``2 min 05 s``, ``1 h``, ``3 d 04 h``."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    milliseconds = seconds * 1e3
    if milliseconds < 999.5:  # noqa: PLR2004 - above, it is rounded to a second
        return f"{sign}{milliseconds:.{0 if milliseconds >= 9.5 else 1}f}".removesuffix(".0") + " ms"  # noqa: PLR2004 - two figures
    if seconds < _MINUTE - 0.05:
        return f"{sign}{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    units = ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s"))
    large, large_name, small, small_name = next(unit for unit in units if whole >= unit[0])
    rest = whole % large // small
    return f"{sign}{whole // large} {large_name}" + (f" {rest:02} {small_name}" if rest else "")
