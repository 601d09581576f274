"""What a form lacks before it means anything."""

from __future__ import annotations

from cloudtasks_nb.errors import InvalidInputError

__all__ = ["IncompleteError"]


class IncompleteError(InvalidInputError):
    """Something is not filled in yet: said quietly while the form is, an error when it is used."""
