"""The IAM APIs of a strict emulator: tokens of service accounts, what a caller may do with them, and policies.

https://cloud.google.com/iam/docs/reference/credentials/rest, `testIamPermissions` of service accounts and projects, and
who has roles on a project (https://cloud.google.com/resource-manager/reference/rest/v1/projects/getIamPolicy), may use
a bucket (https://cloud.google.com/storage/docs/json_api/v1/buckets/getIamPolicy) or call a service
(https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.services).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.frontends.bodies import error_document, json_body, json_response
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument
from cloudtasks_nb.emulator.strict.control import AccessControl, account_resources
from cloudtasks_nb.emulator.strict.permissions import IAM, IAM_CREDENTIALS
from cloudtasks_nb.emulator.strict.refusals import iam_permission_denied
from cloudtasks_nb.emulator.strict.state import member_of
from cloudtasks_nb.emulator.strict.tokens import Caller

__all__ = ["IamApi"]

_ACCOUNT = "/v1/projects/{project}/serviceAccounts/{email}"
_SERVICE = "/v2/projects/{project}/locations/{location}/services/{name:[^/:]+}"
_BUCKET = "/storage/v1/b/{name}/iam"
_MAX_LIFE = 3600  # seconds
_Answer = Callable[[Caller, str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class IamApi:
    """Answers the requests to the IAM APIs."""

    access: AccessControl  #: the principals and their roles
    signer: TokenSigner  #: makes OIDC tokens

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        credentials, accounts = (
            f"{IAM_CREDENTIALS} google.iam.credentials.v1.IAMCredentials",
            f"{IAM} google.iam.admin.v1.IAM",
        )
        projects = "cloudresourcemanager.googleapis.com google.cloud.resourcemanager.v1.Projects"
        return [
            web.post(
                f"{_ACCOUNT}:generateAccessToken", self._answer(credentials, "GenerateAccessToken", self._access_token)
            ),
            web.post(f"{_ACCOUNT}:generateIdToken", self._answer(credentials, "GenerateIdToken", self._id_token)),
            web.post(f"{_ACCOUNT}:testIamPermissions", self._answer(accounts, "TestIamPermissions", self._on_account)),
            web.post(
                "/v1/projects/{project}:testIamPermissions",
                self._answer(projects, "TestIamPermissions", self._on_project),
            ),
            web.post(
                "/v1/projects/{project}:getIamPolicy",
                self._policy("resourcemanager.projects.getIamPolicy", self._project_policy),
            ),
            web.get(f"{_SERVICE}:getIamPolicy", self._policy("run.services.getIamPolicy", self._service_policy)),
            web.get(_SERVICE, self._policy("run.services.get", self._service)),
            web.get(_BUCKET, self._policy("storage.buckets.getIamPolicy", self._bucket_policy)),
            web.get(f"{_BUCKET}/testPermissions", self._policy("", self._on_bucket)),
        ]

    def _policy(
        self, permission: str, answer: Callable[[Caller, web.Request], tuple[str, dict[str, Any]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return what answers a question about a resource that its caller may ask with a permission there."""
        api = permission.partition(".")[0] or "storage"
        service = f"{'cloudresourcemanager' if api == 'resourcemanager' else api}.googleapis.com"

        async def respond(request: web.Request) -> web.Response:
            try:
                headers = {key.lower(): value for key, value in request.headers.items()}
                caller = self.access.authenticate(service, f"{service}.{permission}", headers)
                resource, content = answer(caller, request)
                project = request.match_info.get("project", "-")
                if permission and not self.access.allows(caller, permission, [resource, f"projects/{project}"]):
                    raise iam_permission_denied(permission)
                return json_response(200, content)
            except RefusedError as error:
                return json_response(*error_document(error))

        return respond

    def _service(self, _: Caller, request: web.Request) -> tuple[str, dict[str, Any]]:
        name = request.match_info["name"]
        for url, service in self.access.state.services.items():
            if url.startswith((f"https://{name}-", f"https://{name}.")):
                return url, {"uri": url, "invokerIamDisabled": service["unchecked"]}
        raise RefusedError("NOT_FOUND", f"Resource '{name}' of kind 'SERVICE' does not exist.")

    def _service_policy(self, caller: Caller, request: web.Request) -> tuple[str, dict[str, Any]]:
        url, _ = self._service(caller, request)
        return url, {"bindings": self.access.state.policy(url)}

    def _project_policy(self, _: Caller, request: web.Request) -> tuple[str, dict[str, Any]]:
        project = f"projects/{request.match_info['project']}"
        return project, {"bindings": self.access.state.policy(project)}

    def _bucket_policy(self, _: Caller, request: web.Request) -> tuple[str, dict[str, Any]]:
        bucket = f"gs://{request.match_info['name']}"
        return bucket, {"bindings": self.access.state.policy(bucket)}

    def _on_bucket(self, caller: Caller, request: web.Request) -> tuple[str, dict[str, Any]]:
        bucket = f"gs://{request.match_info['name']}"
        return bucket, self._allowed(caller, [bucket], {"permissions": request.query.getall("permissions", [])})

    def _answer(self, api: str, method: str, answer: _Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        service, _, interface = api.partition(" ")

        async def respond(request: web.Request) -> web.Response:
            try:
                headers = {key.lower(): value for key, value in request.headers.items()}
                caller = self.access.authenticate(service, f"{interface}.{method}", headers)
                email, project = request.match_info.get("email", ""), request.match_info["project"]
                resources = account_resources(email) if email else [f"projects/{project}"]
                self.access.check_project(service, resources[-1].removeprefix("projects/"), caller, headers)
                return json_response(200, answer(caller, email or project, await json_body(request) or {}))
            except RefusedError as error:
                return json_response(*error_document(error))

        return respond

    def _access_token(self, caller: Caller, email: str, given: dict[str, Any]) -> dict[str, Any]:
        self._check(caller, "iam.serviceAccounts.getAccessToken", email, given)
        scopes = given.get("scope")
        if not scopes:
            raise invalid_argument("Request contains an invalid argument.")
        life = int(float(str(given.get("lifetime", "3600s")).removesuffix("s")))
        if not 0 < life <= _MAX_LIFE:
            raise invalid_argument("The token lifetime must be at most 3600s.")
        token, life = self.access.tokens.issue(member_of(email), scopes, life)
        expires = datetime.fromtimestamp(int(self.access.tokens.now()) + life, UTC)
        return {"accessToken": token, "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _id_token(self, caller: Caller, email: str, given: dict[str, Any]) -> dict[str, Any]:
        self._check(caller, "iam.serviceAccounts.getOpenIdToken", email, given)
        return {"token": self.signer.id_token(email, str(given.get("audience", "")))}

    def _on_account(self, caller: Caller, email: str, given: dict[str, Any]) -> dict[str, Any]:
        if email not in self.access.state.principals:
            raise RefusedError("NOT_FOUND", f"Unknown service account: {email}")
        return self._allowed(caller, account_resources(email), given)

    def _on_project(self, caller: Caller, project: str, given: dict[str, Any]) -> dict[str, Any]:
        return self._allowed(caller, [f"projects/{project}"], given)

    def _allowed(self, caller: Caller, resources: list[str], given: dict[str, Any]) -> dict[str, Any]:
        allowed = [one for one in given.get("permissions", []) if self.access.allows(caller, one, resources)]
        return {"permissions": allowed} if allowed else {}

    def _check(self, caller: Caller, permission: str, email: str, given: dict[str, Any]) -> None:
        """Check that the caller may make tokens of an account, through the `delegates` of the request if it has some.

        https://cloud.google.com/iam/docs/create-short-lived-credentials-delegated
        """
        for delegate in given.get("delegates") or []:  # google-auth sends null if there are none
            account = str(delegate).rpartition("/")[2]
            self._check(caller, "iam.serviceAccounts.implicitDelegation", account, {})
            caller = replace(caller, member=member_of(account))
        if not self.access.allows(caller, permission, account_resources(email)):
            raise iam_permission_denied(permission)
        if email not in self.access.state.principals:
            raise RefusedError("NOT_FOUND", f"Not found; Gaia id not found for email {email}")
