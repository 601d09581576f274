"""The errors with which Google refuses access, with the texts and the `google.rpc.ErrorInfo` of the real services.

The reasons are those of https://cloud.google.com/apis/design/errors and of the enumeration `google.api.ErrorReason`.
"""

from __future__ import annotations

from cloudtasks_nb.emulator.model.apis import google_rpc
from cloudtasks_nb.emulator.model.refusal import RefusedError, access_refused, error_info, help_link

__all__ = [
    "api_disabled",
    "billing_disabled",
    "iam_permission_denied",
    "invalid_credentials",
    "missing_credentials",
    "permission_denied",
    "policy_violated",
    "quota_project_denied",
    "quota_project_missing",
    "rate_limited",
    "scope_insufficient",
]

#: The titles of the services in texts.
_TITLES = {
    "cloudtasks.googleapis.com": "Cloud Tasks API",
    "logging.googleapis.com": "Cloud Logging API",
    "iamcredentials.googleapis.com": "IAM Service Account Credentials API",
    "iam.googleapis.com": "Identity and Access Management (IAM) API",
}
_GCLOUD_PROJECT = 764086051850  #: for which the calls of gcloud's logins count
_CONSOLE = "https://console.developers.google.com"
_EXPECTED = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_WAIT = "wait a few minutes for the action to propagate to our systems and retry."


def missing_credentials(service: str, method: str) -> RefusedError:
    """Return the error for a call without a token."""
    text = f"Request is missing required authentication credential. {_EXPECTED}"
    metadata = {"service": service, "method": method}
    return RefusedError("UNAUTHENTICATED", text, (error_info("CREDENTIALS_MISSING", metadata),))


def invalid_credentials(service: str, method: str, reason: str) -> RefusedError:
    """Return the error for a token that is not valid.

    Parameters
    ----------
    service, method : str
        What was called.
    reason : str
        ``ACCESS_TOKEN_EXPIRED`` or ``ACCESS_TOKEN_TYPE_UNSUPPORTED``.
    """
    text = f"Request had invalid authentication credentials. {_EXPECTED}"
    return RefusedError("UNAUTHENTICATED", text, (error_info(reason, {"service": service, "method": method}),))


def scope_insufficient(service: str, method: str) -> RefusedError:
    """Return the error for a token whose scopes do not include the service."""
    text = "Request had insufficient authentication scopes."
    info = error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", {"service": service, "method": method})
    return RefusedError("PERMISSION_DENIED", text, (info,))


def quota_project_denied(service: str, project: str) -> RefusedError:
    """Return the error for a caller who may not use the quota of a project."""
    url = f"{_CONSOLE}/iam-admin/iam/project?project={project}"
    text = (
        f"Caller does not have required permission to use project {project}. Grant the caller the "
        "roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use permission, "
        f"by visiting {url} and then retry. Propagation of the new permission may take a few minutes."
    )
    metadata = {"service": service, "consumer": f"projects/{project}", "containerInfo": project, "consoleUrl": url}
    link = help_link("Google developer console IAM admin", url)
    return access_refused(text, "USER_PROJECT_DENIED", metadata, link)


def api_disabled(service: str, project: str) -> RefusedError:
    """Return the error for a service that is not enabled in a project."""
    title, url = _TITLES.get(service, service), f"{_CONSOLE}/apis/api/{service}/overview?project={project}"
    text = (
        f"{title} has not been used in project {project} before or it is disabled. Enable it by visiting {url} "
        f"then retry. If you enabled this API recently, {_WAIT}"
    )
    metadata = {
        "service": service,
        "serviceTitle": title,
        "consumer": f"projects/{project}",
        "containerInfo": project,
        "activationUrl": url,
    }
    link = help_link("Google developers console API activation", url)
    return access_refused(text, "SERVICE_DISABLED", metadata, link)


def quota_project_missing(service: str) -> RefusedError:
    """Return the error for a call with a login of gcloud that names no quota project: it counts for gcloud's own."""
    text = (
        "Your application is authenticating by using local Application Default Credentials. The "
        f"{service} API requires a quota project, which is not set by default. To learn how to set your quota project, "
        "see https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds ."
    )
    metadata = {"service": service, "consumer": f"projects/{_GCLOUD_PROJECT}"}
    return access_refused(text, "SERVICE_DISABLED", metadata)


def billing_disabled(service: str, project: str) -> RefusedError:
    """Return the error for a project without an active billing account."""
    url = f"{_CONSOLE}/billing/enable?project={project}"
    text = (
        f"This API method requires billing to be enabled. Please enable billing on project #{project} by visiting "
        f"{url} then retry. If you enabled billing for this project recently, {_WAIT}"
    )
    metadata = {"service": service, "consumer": f"projects/{project}", "containerInfo": project}
    link = help_link("Google developers console billing", url)
    return access_refused(text, "BILLING_DISABLED", metadata, link)


def policy_violated(service: str, project: str, uid: str) -> RefusedError:
    """Return the error for a request that VPC Service Controls do not let in."""
    text = f"Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: {uid}"
    violation = google_rpc.PreconditionFailure.Violation(type="VPC_SERVICE_CONTROLS", description=uid)
    metadata = {"service": service, "consumer": f"projects/{project}", "uid": uid}
    return RefusedError(
        "PERMISSION_DENIED",
        text,
        (
            google_rpc.PreconditionFailure(violations=[violation]),
            error_info("SECURITY_POLICY_VIOLATED", metadata),
        ),
    )


def rate_limited(service: str, project: str, *, metric: str, limit: str, value: int, region: str) -> RefusedError:
    """Return the error for a call above a quota.

    Parameters
    ----------
    service, project : str
        Whose quota it is.
    metric, limit : str
        The display names of the quota, such as ``Read requests`` and ``Read requests per minute``.
    value : int
        Calls that are allowed in a minute.
    region : str
        Where the quota counts; ``global`` if it has no region.
    """
    text = (
        f"Quota exceeded for quota metric '{metric}' and limit '{limit}' of service '{service}' "
        f"for consumer 'projects/{project}'."
    )
    metadata = {
        "service": service,
        "consumer": f"projects/{project}",
        "quota_metric": f"{service}/{metric.lower().replace(' ', '_')}",
        "quota_limit": limit.title().replace(" ", ""),
        "quota_limit_value": str(value),
        "quota_location": region,
        "quota_unit": "1/min/{project}" if region == "global" else "1/min/{project}/{region}",
    }
    link = help_link("Request a higher quota limit.", "https://cloud.google.com/docs/quotas/help/request_increase")
    return RefusedError("RESOURCE_EXHAUSTED", text, (error_info("RATE_LIMIT_EXCEEDED", metadata), link))


def permission_denied(permission: str, resource: str) -> RefusedError:
    """Return the error of Cloud Tasks for a missing permission."""
    text = (
        f'The principal (user or service account) lacks IAM permission "{permission}" for the resource "{resource}" '
        "(or the resource may not exist)."
    )
    metadata = {"permission": permission, "resource": resource}
    info = error_info("IAM_PERMISSION_DENIED", metadata, "cloudtasks.googleapis.com")
    return RefusedError("PERMISSION_DENIED", text, (info,))


def iam_permission_denied(permission: str) -> RefusedError:
    """Return the error of the other services for a missing permission."""
    text = f"Permission '{permission}' denied on resource (or it may not exist)."
    info = error_info("IAM_PERMISSION_DENIED", {"permission": permission}, "iam.googleapis.com")
    return RefusedError("PERMISSION_DENIED", text, (info,))
