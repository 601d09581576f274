"""The JavaScript and style sheets of the widgets: anywidget loads one of each, so shared code is put in front of it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["source"]


def source(*names: str) -> str:
    """Return files of this folder, one behind the other."""
    return "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names)
