"""Find Google credentials: those given, or Application Default Credentials, when the first call needs them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.impersonated_credentials

from cloudtasks_nb._settings import check_text
from cloudtasks_nb.errors import CredentialsError, InvalidInputError

__all__ = ["SCOPE", "Auth"]

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create#authorization-scopes
SCOPE = "https://www.googleapis.com/auth/cloud-platform"

_SERVICE_ACCOUNT = "google.oauth2.service_account.Credentials"


class Auth:
    """The credentials of a connection, resolved once, when they are first needed.

    Parameters
    ----------
    credentials : google.auth.credentials.Credentials, optional
        Application Default Credentials if left out.
    impersonate : str, optional
        E-mail of a service account to impersonate; the caller needs ``roles/iam.serviceAccountTokenCreator`` on it.
    quota_project : str, optional
        Project whose quota the calls use.

    Raises
    ------
    InvalidInputError
        If an argument has another type, such as the path of a key file.
    """

    def __init__(
        self, credentials: Any = None, *, impersonate: str | None = None, quota_project: str | None = None
    ) -> None:
        _check_credentials(credentials)
        check_text(impersonate, "impersonate", 'impersonate="name@project.iam.gserviceaccount.com"')
        check_text(quota_project, "quota_project", 'quota_project="my-project"')
        self._given = credentials
        self._impersonate = impersonate
        self._quota_project = quota_project
        self._lock = threading.Lock()
        self._found: tuple[Any, str | None] | None = None

    def credentials(self) -> Any:
        """Return scoped credentials.

        Raises
        ------
        CredentialsError
            If there are none. The hint has the command that creates some.
        """
        return self._resolve()[0]

    def project(self) -> str | None:
        """Return the project that the default credentials name, if any."""
        return self._resolve()[1]

    def principal(self) -> str | None:
        """Return the e-mail of the account, if the credentials have it."""
        credentials = self.credentials()
        email = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None)
        return str(email) if email and email != "default" else None

    def _resolve(self) -> tuple[Any, str | None]:
        with self._lock:
            if self._found is None:
                self._found = self._find()
            return self._found

    def _find(self) -> tuple[Any, str | None]:
        project = None
        credentials = self._given
        if credentials is None:
            try:
                credentials, project = google.auth.default(scopes=[SCOPE])
            except google.auth.exceptions.DefaultCredentialsError as error:
                raise CredentialsError(
                    "no Google credentials were found",
                    hint="run: gcloud auth application-default login   (or work without an account: ct.local())",
                ) from error
        if self._impersonate is not None:
            credentials = google.auth.impersonated_credentials.Credentials(
                source_credentials=credentials, target_principal=self._impersonate, target_scopes=[SCOPE]
            )
        if self._quota_project is not None and isinstance(
            credentials, google.auth.credentials.CredentialsWithQuotaProject
        ):
            credentials = credentials.with_quota_project(self._quota_project)
        return google.auth.credentials.with_scopes_if_required(credentials, [SCOPE]), project


def _check_credentials(credentials: Any) -> None:
    if credentials is None or isinstance(credentials, google.auth.credentials.Credentials):
        return
    if isinstance(credentials, tuple):
        what, hint = "a tuple", "google.auth.default() returns credentials and a project: use the first of the two"
    elif isinstance(credentials, Mapping):
        what, hint = "a dictionary", f"{_SERVICE_ACCOUNT}.from_service_account_info(...) makes credentials from a key"
    elif isinstance(credentials, (str, os.PathLike)):
        path = str(credentials)
        what = f'"{path}"'
        hint = f'{_SERVICE_ACCOUNT}.from_service_account_file("{path}") reads a key; or leave credentials= out and set '
        hint += f"GOOGLE_APPLICATION_CREDENTIALS={path}"
    else:
        what, hint = f"{type(credentials).__name__}", "leave it out to use Application Default Credentials"
    raise InvalidInputError(f"credentials={what} is not a credentials object", resource="credentials", hint=hint)
