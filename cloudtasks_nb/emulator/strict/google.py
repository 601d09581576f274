"""The other services of Google that a strict emulator has: tokens, service accounts, and the endpoints for tests.

OAuth (``POST /token``), the IAM Credentials API, and ``/admin/google``, which says who exists and may do what.
"""

from __future__ import annotations

import secrets
from typing import Any

from aiohttp import web

from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.frontends.bodies import answer_json, json_response
from cloudtasks_nb.emulator.strict.control import AccessControl
from cloudtasks_nb.emulator.strict.state import CLOUD_PLATFORM, member_of
from cloudtasks_nb.emulator.strict.tokens import InvalidTokenError
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["Google", "key_file"]

_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_GCLOUD = "1//gcloud-"  #: how the refresh tokens of gcloud's logins begin
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type


class Google:
    """Answers the requests to the other services.

    Parameters
    ----------
    access : AccessControl
        The principals and their roles.
    signer : TokenSigner
        Makes OIDC tokens.
    """

    def __init__(self, access: AccessControl, signer: TokenSigner) -> None:
        self._access = access
        self._state = access.state
        self._signer = signer

    def token_routes(self) -> list[web.RouteDef]:
        """Return the routes that make tokens."""
        return [web.post("/token", self._token), web.post("/v1/token", self._exchange)]

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        return [
            *self.token_routes(),
            web.get("/admin/google", answer_json(self._show)),
            web.put("/admin/google", answer_json(self._configure)),
            web.post("/admin/google/grant", answer_json(self._grant)),
            web.post("/admin/google/revoke", answer_json(self._revoke)),
            web.post("/admin/google/services", answer_json(self._serve)),
            web.post("/admin/google/principals", self._create),
            web.delete("/admin/google/principals", answer_json(self._delete)),
        ]

    async def _show(self, _: dict[str, Any]) -> dict[str, Any]:
        return self._state.document()

    async def _configure(self, given: dict[str, Any]) -> dict[str, Any]:
        """Change the conditions of all projects."""
        self._state.configure(given)
        return self._state.document()

    async def _grant(self, given: dict[str, Any]) -> dict[str, Any]:
        self._state.grant(*_texts(given, "member", "role", "resource"))
        return {}

    async def _revoke(self, given: dict[str, Any]) -> dict[str, Any]:
        self._state.revoke(*_texts(given, "member", "role", "resource"))
        return {}

    async def _serve(self, given: dict[str, Any]) -> dict[str, Any]:
        """Let the URL of a Cloud Run service lead to a port of this machine."""
        (url,), port, audiences = _texts(given, "url"), given.get("port"), given.get("audiences", [])
        if not (isinstance(port, int) and isinstance(audiences, list)):
            raise InvalidInputError("port must be a number, audiences must be a list")
        self._state.serve(url, port, audiences, unchecked=given.get("unchecked") is True)
        return {}

    async def _create(self, request: web.Request) -> web.Response:
        """Create a principal, and return a file with its credentials if `credentials` names their kind."""
        token_url = f"{request.url.origin()}/token"

        async def create(given: dict[str, Any]) -> dict[str, Any]:
            (email,) = _texts(given, "email")
            self._state.add(email)
            if given.get("credentials") == "user":
                return _user_file(self._state.log_in(email), token_url)
            if given.get("credentials") == "gcloud":
                return _gcloud_file(self._state.log_in(email, _GCLOUD), given.get("quota_project"))
            if given.get("credentials") == "workload":
                return {"token": self._state.log_in(email)}
            if given.get("credentials") == "key":
                return key_file(email, *self._state.new_key(email), token_url)
            return {}

        return await answer_json(create)(request)

    async def _delete(self, given: dict[str, Any]) -> dict[str, Any]:
        """Delete a principal; with ``log_out`` only its credentials."""
        (self._state.log_out if given.get("log_out") else self._state.delete)(*_texts(given, "email"))
        return {}

    async def _token(self, request: web.Request) -> web.Response:
        """Answer an OAuth request (https://developers.google.com/identity/protocols/oauth2)."""
        form = await request.post()
        grant = str(form.get("grant_type"))
        if grant == "refresh_token":
            return self._refreshed(str(form.get("refresh_token", "")), str(form.get("scope", "")))
        if grant == _JWT_GRANT:
            return self._for_assertion(str(form.get("assertion", "")))
        return _oauth_error("unsupported_grant_type", f"Invalid grant_type: {grant}")

    async def _exchange(self, request: web.Request) -> web.Response:
        """Answer the Security Token Service (https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token)."""
        form = await request.post()
        if (grant := str(form.get("grant_type"))) != _EXCHANGE:
            return _oauth_error("unsupported_grant_type", f"Invalid grant_type: {grant}")
        identity = self._state.user_of(str(form.get("subject_token", "")))
        if identity is None or not str(form.get("audience", "")).startswith("//iam.googleapis.com/"):
            return _oauth_error("invalid_grant", "The subject token or its audience is not valid.")
        answer = self._access_token(identity, str(form.get("scope") or CLOUD_PLATFORM))
        return json_response(200, {**answer, "issued_token_type": _ACCESS_TOKEN})

    def _refreshed(self, login: str, scope: str) -> web.Response:
        email = self._state.user_of(login)
        if email is None:
            return _oauth_error("invalid_grant", "Token has been expired or revoked.")
        id_token = self._signer.id_token(email, "emulator")
        answer = self._access_token(email, scope or CLOUD_PLATFORM, gcloud=login.startswith(_GCLOUD))
        return json_response(200, {**answer, "id_token": id_token})

    def _for_assertion(self, assertion: str) -> web.Response:
        try:
            claims = self._access.tokens.assertion(assertion)
        except InvalidTokenError as error:
            return _oauth_error("invalid_grant", str(error))
        if audience := claims.get("target_audience"):
            return json_response(200, {"id_token": self._signer.id_token(claims["iss"], audience)})
        if not claims.get("scope"):
            return _oauth_error("invalid_scope", "Empty or missing scope not allowed.")
        return json_response(200, self._access_token(claims["iss"], claims["scope"]))

    def _access_token(self, name: str, scope: str, *, gcloud: bool = False) -> dict[str, Any]:
        token, lifetime = self._access.tokens.issue(member_of(name), scope.split(), gcloud=gcloud)
        return {"access_token": token, "expires_in": lifetime, "scope": scope, "token_type": "Bearer"}


def _texts(given: dict[str, Any], *names: str) -> list[str]:
    if not all(isinstance(given.get(name), str) for name in names):
        raise InvalidInputError(f"the body must have texts for {', '.join(names)}")
    return [given[name] for name in names]


def _oauth_error(code: str, description: str) -> web.Response:
    return json_response(400, {"error": code, "error_description": description})


def _user_file(login: str, token_url: str) -> dict[str, Any]:
    """Return the file of Application Default Credentials of a user.

    google-auth takes another token URL from this kind of file only, which is that of workforce identities; the calls
    that it makes are the same.
    """
    return {
        "type": "external_account_authorized_user",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/emulator/providers/emulator",
        "client_id": "emulator",
        "client_secret": secrets.token_hex(8),
        "refresh_token": login,
        "token_url": token_url,
    }


def _gcloud_file(login: str, quota_project: str | None) -> dict[str, Any]:
    """Return the file that ``gcloud auth application-default login`` writes; it leads to ``oauth2.googleapis.com``."""
    return {
        **({"quota_project_id": quota_project} if quota_project else {}),
        "type": "authorized_user",
        "client_id": "emulator",
        "client_secret": secrets.token_hex(8),
        "refresh_token": login,
    }


def key_file(email: str, key_id: str, private_key: str, token_url: str) -> dict[str, Any]:
    """Return the file of a service account's key."""
    return {
        "type": "service_account",
        "project_id": email.partition("@")[2].partition(".")[0],
        "private_key_id": key_id,
        "private_key": private_key,
        "client_email": email,
        "client_id": "1",
        "token_uri": token_url,
    }
