"""Counts as text: thousands separators, and the noun in the singular or the plural."""

from __future__ import annotations

__all__ = ["count_text", "counted", "singular"]


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
