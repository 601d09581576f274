"""Functions as targets of tasks: `serve` serves one on this machine, `app` makes a WSGI application of one.

Both call the function through `call` and check tokens through `verify`. `serving` finds or makes the `Handler` of a
function, which has an `address`, a `server`, `workers` and the `history` of its calls; `wsgi` needs none of them.
"""

from __future__ import annotations

from cloudtasks_nb.handlers.handler import Handler
from cloudtasks_nb.handlers.serving import serve, served_at
from cloudtasks_nb.handlers.wsgi import app

__all__ = ["Handler", "app", "serve", "served_at"]
