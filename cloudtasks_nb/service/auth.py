"""Find Google credentials: those given, or Application Default Credentials, when the first call needs them."""

from __future__ import annotations

import datetime as dt
import functools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.impersonated_credentials
import google.auth.transport.requests

from cloudtasks_nb._settings import check_text
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.service.auth_errors import FOREIGN, load_error, refresh_error
from cloudtasks_nb.service.principal import adc_file, form_of, iam_member, is_login, principal_of

__all__ = ["SCOPE", "Auth"]

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create#authorization-scopes
SCOPE = "https://www.googleapis.com/auth/cloud-platform"

_SERVICE_ACCOUNT = "google.oauth2.service_account.Credentials"
_ACCOUNT = re.compile(r"[^@:\s]+@[^@:\s]+\.[^@:\s]+")
_TIMEOUT = 20.0  # seconds for a request of a token; google-auth waits for two minutes by default


class Auth:
    """The credentials of a connection, resolved once, when they are first needed.

    A new login is used without a restart: default credentials are read again when their file has changed or a renewal
    has failed.

    Parameters
    ----------
    credentials : google.auth.credentials.Credentials, optional
        Application Default Credentials if left out.
    impersonate : str, optional
        E-mail of a service account to impersonate; the caller needs ``roles/iam.serviceAccountTokenCreator`` on it. Of
        several, separated by commas, each impersonates the next, as for gcloud.
    quota_project : str, optional
        Project whose quota the calls use. Default: ``GOOGLE_CLOUD_QUOTA_PROJECT``, else that of the credentials' file.
    project : str, optional
        Project whose quota the calls of a user's login use if nothing else names one: without any they are refused
        (https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds). By default gcloud's.

    Raises
    ------
    InvalidInputError
        If an argument has another type, such as the path of a key file.
    """

    def __init__(
        self,
        credentials: Any = None,
        *,
        impersonate: str | None = None,
        quota_project: str | None = None,
        project: str | None = None,
    ) -> None:
        if credentials is not None and not isinstance(credentials, google.auth.credentials.Credentials):
            raise InvalidInputError(
                f"credentials= has a {type(credentials).__name__}, and no credentials",  # its text may be a key
                resource="credentials",
                hint=f'{_SERVICE_ACCOUNT}.from_service_account_file("key.json") reads a key, '
                "from_service_account_info(...) takes its JSON, google.auth.default() has them and a project; or "
                "leave credentials= out to use Application Default Credentials",
            )
        check_text(impersonate, "impersonate", 'impersonate="name@project.iam.gserviceaccount.com"')
        check_text(quota_project, "quota_project", 'quota_project="my-project"')
        self._accounts = [] if impersonate is None else [email.strip() for email in impersonate.split(",")]
        for email in self._accounts:
            if not _ACCOUNT.fullmatch(email):
                raise InvalidInputError(
                    f'"{email}" in impersonate= is not the e-mail address of a service account',
                    resource="impersonate",
                    hint='impersonate="name@project.iam.gserviceaccount.com"; gcloud iam service-accounts list',
                )
        self._given = credentials
        self._quota_project = quota_project
        self._project = project
        self._lock = threading.RLock()
        self._credentials: Any = None

    def credentials(self) -> Any:
        """Return scoped credentials, the same object after every login.

        Raises
        ------
        CredentialsError
            If there are none, or they cannot be read. The hint has the command that creates some.
        """
        with self._lock:
            if self._credentials is None:
                given = self._given is not None
                self._credentials = (
                    self._complete(self._given, self._project) if given else _DefaultCredentials(self._find)
                )
            return self._credentials

    def renew(self) -> None:
        """Get a new token from Google's sign-in.

        Raises
        ------
        CredentialsError
            If it is refused. The hint says what to do.
        EndpointError
            If the sign-in does not answer.
        """
        try:
            self.credentials().refresh(functools.partial(google.auth.transport.requests.Request(), timeout=_TIMEOUT))
        except FOREIGN as error:
            raise refresh_error(error, self._current(), given=self._given is not None) from error

    def token(self) -> str | None:
        """Return the access token of the next call; None if there is none yet."""
        return self._credentials and self._credentials.token

    def storage_token(self) -> tuple[str, dt.datetime | None]:
        """Return an access token that is valid now, and when it expires; several threads may call it.

        Raises
        ------
        CredentialsError, EndpointError
            If there is none.
        """
        credentials = self.credentials()
        with self._lock:
            if not credentials.valid:
                self.renew()
            expiry = credentials.expiry  # google-auth's times are in UTC, without a zone
            return str(credentials.token), expiry and expiry.replace(tzinfo=dt.UTC)

    def drop_token(self, token: str | None) -> bool:
        """Forget a token that the service has refused, so that the next call gets another one.

        Return False if there is no other way to a token: credentials of an argument are used as they are.
        """
        return isinstance(self._credentials, _DefaultCredentials) and self._credentials.drop(token)

    def project(self) -> str | None:
        """Return the project that the default credentials name, if any."""
        credentials = self.credentials()
        return credentials.project() if isinstance(credentials, _DefaultCredentials) else None

    def universe(self) -> str:
        """Return the domain of the services that take the credentials, such as ``googleapis.com``.

        Raises
        ------
        CredentialsError, EndpointError
            If there are no credentials, or a metadata server does not answer.
        """
        credentials = self.credentials()
        try:
            return str(credentials.universe_domain)
        except google.auth.exceptions.TransportError as error:
            raise refresh_error(error, self._current()) from error

    def form(self) -> str:
        """Return the form of the credentials, such as ``key of a service account``."""
        return form_of(self._current())

    def principal(self) -> str | None:
        """Return who the calls are made as; None if the credentials do not say it.

        An e-mail address; for a federated identity without a service account ``principal://…/subject/…``, with
        ``SUBJECT`` where the credentials do not say which. Some credentials know it only after the first call.
        """
        return principal_of(self._current())

    def member(self) -> str | None:
        """Return the principal as a command names it: ``user:…``, ``serviceAccount:…`` or ``'principal://…'``."""
        return iam_member(self.principal())

    def _current(self) -> Any:
        credentials = self.credentials()
        return credentials.current if isinstance(credentials, _DefaultCredentials) else credentials

    def _find(self) -> tuple[Any, str | None]:
        """Return Application Default Credentials and the project that they name."""
        # An impersonated account has a quota of its own: the caller's project is not its quota project.
        quota_project = None if self._accounts else self._quota_project
        try:
            # With scopes, google-auth would get a token of a federated identity only to look for its project.
            found, project = google.auth.default(quota_project_id=quota_project)
        except FOREIGN as error:
            raise load_error(error) from error
        return self._complete(found, self._project or project), project

    def _complete(self, credentials: Any, project: str | None) -> Any:
        """Return credentials with the scope, with what the arguments ask for, and a login with a quota project."""
        own = not self._accounts and is_login(credentials)  # an impersonated account has a project
        if project is not None and own and credentials.quota_project_id is None:
            credentials = credentials.with_quota_project(project)
        if self._accounts:
            *delegates, target = self._accounts
            try:
                credentials = google.auth.impersonated_credentials.Credentials(
                    source_credentials=credentials,
                    target_principal=target,
                    target_scopes=[SCOPE],
                    delegates=delegates,
                ).with_quota_project_from_environment()
            except google.auth.exceptions.TransportError as error:  # the metadata server tells the universe domain
                raise refresh_error(error, credentials) from error
        if self._quota_project is not None and isinstance(
            credentials, google.auth.credentials.CredentialsWithQuotaProject
        ):
            credentials = credentials.with_quota_project(self._quota_project)
        return google.auth.credentials.with_scopes_if_required(credentials, [SCOPE])


class _DefaultCredentials(google.auth.credentials.Credentials):
    """Application Default Credentials that are looked up again after a new login.

    Channels, Google's own client and HTTP sessions keep this object, so that a new login reaches all of them.
    """

    def __init__(self, find: Callable[[], tuple[Any, str | None]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # google-auth annotates little
        self._find = find
        self._lock = threading.RLock()
        self._state: Any = None
        self._project: str | None = None
        #: What was found last.
        self.current: Any = None
        self._load()

    @property
    def valid(self) -> bool:
        """Whether there is a token that has not expired and is of the present login."""
        return bool(super().valid) and self._state == _file_state()

    @property
    def quota_project_id(self) -> Any:
        """Project whose quota the calls use."""
        return self.current.quota_project_id

    @property
    def universe_domain(self) -> Any:
        """Domain of the services that take these credentials."""
        return self.current.universe_domain

    def project(self) -> str | None:
        """Return the project that the credentials name; that of a federated identity is asked for."""
        if self._project is None and hasattr(self.current, "get_project_id"):
            request = functools.partial(google.auth.transport.requests.Request(), timeout=_TIMEOUT)
            try:
                self._project = self.current.get_project_id(request)
            except FOREIGN as error:
                raise refresh_error(error, self.current) from error
        return self._project

    def before_request(self, request: Any, method: Any, url: Any, headers: Any) -> None:
        """Add the headers of a call. Calls that find an expired token at the same time renew it once."""
        with self._lock:
            super().before_request(request, method, url, headers)  # type: ignore[no-untyped-call]  # not annotated

    def drop(self, token: str | None) -> bool:
        """Forget the token if it is still this one."""
        with self._lock:
            if self.token == token:
                self.token = None
        return True

    def refresh(self, request: Any) -> None:
        """Get a new token, with the credentials that there are now."""
        with self._lock:
            if self._state != _file_state():
                self._load()
                if self.valid:
                    return
            state = self._state
            try:
                self.current.refresh(request)
            except Exception:
                self._state = None  # the next call looks for other credentials
                if state == _file_state():
                    raise
                self.refresh(request)  # somebody has logged in meanwhile
            else:
                self.token, self.expiry = self.current.token, self.current.expiry

    def _load(self) -> None:
        state = _file_state()  # before the file is read: a later change is not missed
        self.current, self._project = self._find()
        self.token, self.expiry = self.current.token, self.current.expiry
        self._state = state


def _file_state() -> tuple[object, ...]:
    """Return what changes when the file of the default credentials is written anew or another one is named."""
    path = adc_file()
    try:
        facts = Path(path).stat()
    except OSError:
        return (path,)
    return path, facts.st_mtime_ns, facts.st_size, facts.st_ino
