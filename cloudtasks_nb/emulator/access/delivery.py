"""Deliveries as the service agent of Cloud Tasks makes them: without a token there is no request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudtasks_nb.emulator.access.permissions import service_accounts
from cloudtasks_nb.emulator.access.state import GoogleState
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer
from cloudtasks_nb.emulator.dispatch.request import Authorize, HttpCall
from cloudtasks_nb.emulator.model.attempts import NO_ANSWER, AttemptResult

__all__ = ["StrictDeliverer", "authorize_as"]

_NO_TOKEN = "none"  # noqa: S105 - the mark of a request that has none


def authorize_as(state: GoogleState, authorize: Authorize) -> Authorize:
    """Return a function that makes tokens of those service accounts that exist, if the service agent has its role."""

    def made(setting: Any, url: str) -> str | None:
        accounts = service_accounts(setting)
        known = state.conditions.service_agent and all(email in state.principals for email in accounts)
        return authorize(setting, url) if known or not accounts else _NO_TOKEN

    return made


class StrictDeliverer(Deliverer):
    """Does not send a request whose token could not be made: the attempt fails with ``PERMISSION_DENIED``."""

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:
        """Send a request and wait for the whole answer."""
        if call.headers.get("Authorization") == _NO_TOKEN:
            return AttemptResult(http_status=NO_ANSWER, no_token=True)
        return await super().send(call, connected)
