"""Deliveries as the service agent of Cloud Tasks makes them: without a token there is no request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudtasks_nb.emulator.dispatch.deliver import Deliverer, NotListeningError
from cloudtasks_nb.emulator.dispatch.request import Authorize, HttpCall
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.attempts import NO_ANSWER, AttemptResult
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.strict.cloud_run import admitted
from cloudtasks_nb.emulator.strict.control import AccessControl
from cloudtasks_nb.emulator.strict.permissions import service_accounts
from cloudtasks_nb.emulator.strict.state import GoogleState

__all__ = ["StrictDeliverer", "authorize_as"]

_NO_TOKEN = "none"  # noqa: S105 - the mark of a request that has none
_UNAVAILABLE = 503


def authorize_as(state: GoogleState, authorize: Authorize) -> Authorize:
    """Return a function that makes tokens of those service accounts that exist, if the service agent has its role."""

    def made(setting: Any, url: str) -> str | None:
        accounts = service_accounts(setting)
        known = state.conditions.service_agent and all(email in state.principals for email in accounts)
        return authorize(setting, url) if known or not accounts else _NO_TOKEN

    return made


class StrictDeliverer(Deliverer):
    """Sends requests as Google does: none without its token, and those to Cloud Run only if it lets them in.

    Parameters
    ----------
    settings : Settings
        Which certificates to trust.
    access : AccessControl
        Who may invoke services.
    signer : TokenSigner
        Has signed the tokens.
    """

    def __init__(self, settings: Settings, access: AccessControl, signer: TokenSigner) -> None:
        super().__init__(settings)
        self._access = access
        self._signer = signer

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:
        """Send a request and wait for the whole answer."""
        if call.headers.get("Authorization") == _NO_TOKEN:
            return AttemptResult(
                http_status=NO_ANSWER, no_token=True, cause="no token could be made for its service account"
            )
        admission = admitted(call, self._access, self._signer)
        if isinstance(admission, int):
            return AttemptResult(http_status=admission)
        try:
            return await super().send(admission, connected)
        except NotListeningError:
            if admission is call:
                raise
            return AttemptResult(http_status=_UNAVAILABLE)
