"""Tell whose credentials are used: the forms of Google credentials, and the account behind each."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress
from typing import Any

import google.auth.compute_engine
import google.auth.exceptions
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
    "explained",
    "federated_identity",
    "form_of",
    "iam_member",
    "is_login",
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
_SUBJECT = "SUBJECT"  # stands for a subject that is not known


def is_login(credentials: Any) -> bool:
    """Return whether credentials are a user's own login, which belongs to no project."""
    return type(credentials) is google.oauth2.credentials.Credentials and bool(credentials.refresh_token)


def adc_file() -> str:
    """Return the path of the file that Application Default Credentials are read from; it may not exist.

    https://cloud.google.com/docs/authentication/application-default-credentials
    """
    return str(os.environ.get(ADC_VARIABLE) or _cloud_sdk.get_application_default_credentials_path())


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
    """Return the e-mail address of the account, or the name of a federated identity; None if it is not known."""
    email = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None)
    if email and email != "default":
        return str(email)
    if id_token := getattr(credentials, "id_token", None):  # comes with each access token of a login by gcloud
        return _claim(id_token, "email")
    return federated_identity(credentials)


def _claim(token: str, name: str) -> str | None:
    try:
        value: Any = google.auth.jwt.decode(token, verify=False).get(name)
    except ValueError:  # not a JWT
        return None
    return value if isinstance(value, str) and value.isprintable() else None


def federated_identity(credentials: Any) -> str | None:
    """Return a federated identity as IAM names it; of a workforce too. ``SUBJECT`` stands for one that is not known.

    The subject is read from a token in a file. No server is asked, and no program is run.
    """
    facts = getattr(credentials, "info", None) or {}
    found = _POOL.match(facts.get("audience") or "")
    subject = None
    if found and "file" in (facts.get("credential_source") or {}):
        with suppress(google.auth.exceptions.GoogleAuthError, OSError, ValueError, TypeError):
            subject = _claim(credentials.retrieve_subject_token(None), "sub")
    return found and f"principal:{found['pool']}/subject/{subject or _SUBJECT}"


def explained(commands: str) -> str:
    """Return commands with a note on the subject of the federated identity to which they grant a role, if to one.

    A shell runs nothing of a line with a placeholder: the note behind it is no comment. By default the subject is the
    claim ``sub`` (https://cloud.google.com/iam/docs/workload-identity-federation#mapping).
    """
    if "/subject/" not in commands:
        return commands
    note, unknown = (
        "by default the sub of the token; the attribute mapping of its provider tells",
        "SUBJECT'" in commands,
    )
    if unknown and "workforcePools" in commands:
        note = "gcloud config get-value account ends with it"
    return f"{commands}   ({_SUBJECT}: {note})" if unknown else f"{commands}   # {note}"


def delegates_of(credentials: Any) -> list[str]:
    """Return the accounts between the caller and an impersonated account."""
    return list(getattr(credentials, "_delegates", None) or ())  # no public name in google-auth 2


def iam_member(principal: str | None) -> str | None:
    """Return a principal as IAM policies name it, quoted for a shell.

    https://cloud.google.com/iam/docs/principal-identifiers
    """
    if principal is None or ":" in principal:
        return principal and "'{}'".format(principal.replace("'", "'\"'\"'"))
    kind = "serviceAccount" if principal.endswith(".gserviceaccount.com") else "user"
    return shlex.quote(f"{kind}:{principal}")
