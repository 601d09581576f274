"""Functions as targets of tasks: on this machine with `serve`, on Cloud Run with `app`.

`_call` says what a body and an exception mean, `_verify` who may call, `_address` where a function lives; `_handler`
puts them behind the loopback server of `_server`, `_wsgi` behind any WSGI server.
"""

from __future__ import annotations

from cloudtasks_nb.handlers.handler import Handler
from cloudtasks_nb.handlers.registry import serve, served_at
from cloudtasks_nb.handlers.wsgi import app

__all__ = ["Handler", "app", "serve", "served_at"]
