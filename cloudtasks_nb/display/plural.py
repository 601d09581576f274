"""Counts and shares as text: thousands separators, the noun in the singular or the plural, per cent."""

from __future__ import annotations

__all__ = ["count_text", "counted", "percent_text", "singular"]


def count_text(value: float) -> str:
    """Return a number with thousands separators and at most two decimals; below 0.1 three significant digits."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.2f}".rstrip("0").rstrip(".") if abs(value) >= 0.1 else f"{value:.3g}"  # noqa: PLR2004 - a tenth


def counted(number: float, plural: str) -> str:
    """Return a number with its noun: ``1 task``, ``2,000 tasks``, ``1 batch``."""
    return f"{count_text(number)} {singular(plural) if number == 1 else plural}"


def singular(plural: str) -> str:
    """Return the singular of a noun: ``task`` for tasks, ``batch`` for batches."""
    return plural.removesuffix("es") if plural.endswith(("ches", "shes", "xes")) else plural.removesuffix("s")


def percent_text(share: float) -> str:
    """Return a share of one: ``25 %``; ``<1 %`` and ``99 %`` for what is neither nothing nor all."""
    return "<1 %" if 0 < share < 0.01 else f"{100 * share if share >= 1 else min(100 * share, 99):.0f} %"  # noqa: PLR2004 - per cent
