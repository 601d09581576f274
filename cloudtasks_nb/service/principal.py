"""Tell whose credentials are used: the forms of Google credentials, and the account behind each."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import google.auth.compute_engine
import google.auth.external_account
import google.auth.external_account_authorized_user
import google.auth.impersonated_credentials
import google.auth.jwt
import google.oauth2.credentials
import google.oauth2.service_account
from google.auth import _cloud_sdk  # has no public name in google-auth 2

__all__ = [
    "ADC_VARIABLE",
    "FEDERATION",
    "KEY",
    "adc_file",
    "delegates_of",
    "form_of",
    "iam_member",
    "is_login",
    "pool_members",
    "principal_of",
    "sources",
]

#: Environment variable with the file of the default credentials.
ADC_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


#: Two of the forms of Google credentials, as `doctor` names them.
KEY, FEDERATION = "key of a service account", "workload identity federation"

_FORMS = {
    google.oauth2.credentials.Credentials: "login of a user",
    google.auth.external_account_authorized_user.Credentials: "login of a user",
    google.oauth2.service_account.Credentials: KEY,
    google.auth.external_account.Credentials: FEDERATION,
    google.auth.impersonated_credentials.Credentials: "impersonation of a service account",
    google.auth.compute_engine.Credentials: "metadata server of this machine",
}
_POOL = re.compile(r"(?P<pool>//iam\.googleapis\.com/.+Pools/[^/]+)")


def is_login(credentials: Any) -> bool:
    """Return whether credentials are a user's own login, which belongs to no project."""
    return type(credentials) is google.oauth2.credentials.Credentials and bool(credentials.refresh_token)


def adc_file() -> str:
    """Return the path of the file that Application Default Credentials are read from; it may not exist.

    https://cloud.google.com/docs/authentication/application-default-credentials
    """
    path: str = os.environ.get(ADC_VARIABLE) or _cloud_sdk.get_application_default_credentials_path()
    return path


def form_of(credentials: Any) -> str:
    """Return the form of credentials, as `doctor` names it."""
    return next((form for kind, form in _FORMS.items() if isinstance(credentials, kind)), "other credentials")


def sources(credentials: Any) -> list[Any]:
    """Return the chain of credentials that impersonate one another, those of the first caller last."""
    chain = [credentials]
    while isinstance(chain[-1], google.auth.impersonated_credentials.Credentials):
        chain.append(chain[-1]._source_credentials)  # noqa: SLF001 - no public name in google-auth 2
    return chain


def principal_of(credentials: Any) -> str | None:
    """Return the e-mail address of the account, or the pool of a federated identity; None if it is not known."""
    email = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None)
    if email and email != "default":
        return str(email)
    if id_token := getattr(credentials, "id_token", None):  # comes with each access token of a login by gcloud
        return _email_in(id_token)
    return pool_members(credentials)


def _email_in(id_token: str) -> str | None:
    try:
        claims: Any = google.auth.jwt.decode(id_token, verify=False)
    except ValueError:  # not a JWT
        return None
    return claims.get("email")


def pool_members(credentials: Any) -> str | None:
    """Return all identities of the pool of a federated identity, as IAM names them; of a workforce too."""
    facts = getattr(credentials, "info", None) or {}
    found = _POOL.match(facts.get("audience") or "")
    return found and f"principalSet:{found['pool']}/*"


def delegates_of(credentials: Any) -> list[str]:
    """Return the accounts between the caller and an impersonated account."""
    return list(getattr(credentials, "_delegates", None) or ())  # no public name in google-auth 2


def iam_member(principal: str | None) -> str | None:
    """Return a principal as IAM policies name it, quoted for a shell: that of a pool ends with ``*``.

    https://cloud.google.com/iam/docs/principal-identifiers
    """
    if principal is not None and ":" not in principal:
        kind = "serviceAccount" if principal.endswith(".gserviceaccount.com") else "user"
        principal = f"{kind}:{principal}"
    return principal and shlex.quote(principal)
