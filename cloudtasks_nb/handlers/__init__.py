"""Functions as targets of tasks: `serve` serves one on this machine, `app` makes a WSGI application of functions.

Both call a function through `call` and check tokens through `verify`. `serving` finds or makes the `Handler` of a
function, which has an `address`, a `server`, `workers` and the `history` of its calls; `wsgi` needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtasks_nb.handlers.lazy import lazy_names

if TYPE_CHECKING:
    from cloudtasks_nb.handlers.handler import Handler
    from cloudtasks_nb.handlers.serving import serve, served_at
    from cloudtasks_nb.handlers.wsgi import app

__all__ = ["Handler", "app", "serve", "served_at"]

# The module of each name; loaded at its first use, so that a deployed `app` does not load what `serve` needs.
_MODULES = {"Handler": "handler", "app": "wsgi", "serve": "serving", "served_at": "serving"}

__getattr__ = lazy_names(__name__, _MODULES)
