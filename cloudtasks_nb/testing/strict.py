"""An emulator that behaves like Google Cloud, with users, service accounts and their credentials."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloudtasks_nb.service.auth import SCOPE
from cloudtasks_nb.testing.emulator import Emulator

__all__ = ["StrictEmulator", "strict_emulator"]


class StrictEmulator(Emulator):
    """An emulator that behaves like Google Cloud: TLS, tokens, roles; `strict_emulator` starts it.

    It is Google for a whole process if `environment` is set before the first connection: gRPC reads the trusted roots
    once. All strict emulators of a process have the same certificate authority.

    Attributes
    ----------
    endpoint : str
        ``https://host:port`` of the gRPC API, for ``ct.connect(endpoint=…)``.
    environment : dict
        The variables that lead Google's libraries and this package to it: the trusted roots, endpoint and project.
    google_environment : dict
        In place of `environment`: variables with which Google's own addresses, such as ``cloudtasks.googleapis.com``,
        lead to it through a proxy, and no endpoint is named.
    certificate, key : Path
        A TLS certificate for ``localhost``, for targets of tasks with tokens, which must be ``https://``.

    Examples
    --------
    >>> google.endpoint
    'https://127.0.0.1:...'
    >>> sorted(google.environment)
    ['CLOUD_TASKS_EMULATOR_HOST', 'GOOGLE_CLOUD_PROJECT', 'GRPC_DEFAULT_SSL_ROOTS_FILE_PATH', 'REQUESTS_CA_BUNDLE']
    """

    def __init__(self, folder: Path, project: str, location: str, arguments: Iterable[str] = ()) -> None:
        for name, content in _authority.items():
            _write_secret(folder / name, content)
        super().__init__(
            ["--strict", "--metadata-port", "0", "--proxy-port", "0", "--data-dir", str(folder), *arguments]
        )
        _authority.update({name: (folder / name).read_bytes() for name in ("ca.pem", "ca-key.pem")})
        self.project, self.location = project, location
        self.endpoint = f"https://{self.grpc}"
        self.certificate, self.key = folder / "server.pem", folder / "server-key.pem"
        self.environment = {
            "CLOUD_TASKS_EMULATOR_HOST": self.endpoint,
            "GOOGLE_CLOUD_PROJECT": project,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": self._facts["ca"],
            "REQUESTS_CA_BUNDLE": self._facts["ca"],
        }
        self.google_environment = {
            **{name: value for name, value in self.environment.items() if name != "CLOUD_TASKS_EMULATOR_HOST"},
            "SSL_CERT_FILE": self._facts["ca"],
            "https_proxy": self._facts["proxy"],
            "no_proxy": "localhost,127.0.0.1,::1",
        }
        self._folder = folder

    def user(
        self,
        email: str,
        roles: str | Iterable[str] = (),
        *,
        gcloud: bool = False,
        quota_project: str | None = None,
    ) -> Path:
        """Create a user, or log in again, and return the path of Application Default Credentials.

        Parameters
        ----------
        email : str
            ``ann@example.com``.
        roles : str or iterable of str
            Roles on the project, such as ``roles/cloudtasks.viewer``; the name of a permission is a custom role.
        gcloud : bool
            Return the file that gcloud writes, which works with `google_environment` only: google-auth gets its
            tokens at Google's own address. Without it, it is the file of a workforce identity.
        quota_project : str, optional
            Project that gcloud writes into its file, if one is set in gcloud at the login. Calls that name no quota
            project are refused (https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds), and who
            names one needs ``serviceusage.services.use`` there.

        Raises
        ------
        EmulatorError
            For an unknown role.

        Examples
        --------
        >>> file = google.user("ann@example.com", roles=["roles/cloudtasks.viewer", "roles/logging.viewer"])
        >>> monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        """
        return self._credentials(email, roles, "gcloud" if gcloud else "user", quota_project)

    def service_account(self, email: str, roles: str | Iterable[str] = (), *, key: bool = True) -> Path:
        """Create a service account, and return the path of a new key file.

        Parameters
        ----------
        email : str
            ``sender@demo.iam.gserviceaccount.com``, or its first part.
        roles : str or iterable of str
            As for `user`.
        key : bool
            Make a key; without one the file that is named does not exist.

        Examples
        --------
        >>> file = google.service_account("sender", roles="roles/cloudtasks.enqueuer")
        >>> file.name
        'sender@demo.iam.gserviceaccount.com.json'
        """
        return self._credentials(self.email(email), roles, "key" if key else "")

    def workload(self, subject: str, roles: str | Iterable[str] = (), *, service_account: str | None = None) -> Path:
        """Create an identity of a workload pool, and return the path of its credential configuration.

        Parameters
        ----------
        subject : str
            Its name in the pool ``runners`` of the project.
        roles : str or iterable of str
            As for `user`; of the service account if there is one.
        service_account : str, optional
            A service account that the workload impersonates; it is created, and the workload may make its tokens.

        Examples
        --------
        >>> file = google.workload("build-7", roles="roles/cloudtasks.enqueuer")
        >>> file = google.workload("build-8", roles="roles/cloudtasks.enqueuer", service_account="sender")
        """
        pool = f"iam.googleapis.com/projects/{self.project}/locations/global/workloadIdentityPools/runners"
        member = f"principal://{pool}/subject/{subject}"
        content = self._call("POST", "google/principals", {"email": member, "credentials": "workload"})
        token = self._folder / f"{subject}.token"
        _write_secret(token, content["token"].encode())
        configuration = {
            "type": "external_account",
            "audience": f"//{pool}/providers/tokens",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.http}/v1/token",
            "credential_source": {"file": str(token)},
        }
        if service_account:
            email = self.email(service_account)
            self._credentials(email, roles, "")
            self.grant(member, "roles/iam.workloadIdentityUser", email)
            url = f"{self.http}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"
            configuration["service_account_impersonation_url"] = url
        else:
            self._grant_all(member, roles)
        file = self._folder / f"{subject}.json"
        file.write_text(json.dumps(configuration), encoding="utf-8")
        return file

    def machine(
        self, email: str, roles: str | Iterable[str] = (), *, scopes: Iterable[str] = (SCOPE,)
    ) -> dict[str, str]:
        """Be the metadata server of a machine, such as a Workbench notebook, and return its environment.

        google-auth reads these variables once, when it is imported.

        Parameters
        ----------
        email : str
            The machine's service account, which is created.
        roles : str or iterable of str
            As for `user`.
        scopes : iterable of str
            What the machine's tokens can be used for.

        Examples
        --------
        >>> sorted(google.machine("workbench", roles="roles/cloudtasks.viewer"))
        ['GCE_METADATA_HOST', 'GCE_METADATA_IP']
        """
        self._credentials(self.email(email), roles, "")
        self.set(machine=self.email(email), machine_scopes=list(scopes))
        return {"GCE_METADATA_HOST": self._facts["metadata"], "GCE_METADATA_IP": self._facts["metadata"]}

    def cloud_run(
        self,
        url: str,
        port: int,
        *,
        invokers: str | Iterable[str] = (),
        audiences: Iterable[str] = (),
        unchecked: bool = False,
    ) -> None:
        """Let a server on this machine be a service of Cloud Run.

        Tasks reach it at its URL, and with `google_environment` so does everybody. A request needs an OIDC token for
        this URL, of an account that may invoke the service; others are refused with 401 or 403. The server is called by
        plain HTTP, as a container is, and gets the token without its signature.

        Parameters
        ----------
        url : str
            ``https://HOST``, any host.
        port : int
            Where the server listens on 127.0.0.1.
        invokers : str or iterable of str
            Service accounts that get ``roles/run.invoker``; ``allUsers`` for a public service.
        audiences : iterable of str
            Custom audiences, which tokens may have in place of the URL.
        unchecked : bool
            Switch off the check of callers, as ``--no-invoker-iam-check`` does.

        Examples
        --------
        >>> google.cloud_run("https://report-abc.a.run.app", 8080, invokers="caller")
        """
        service = {"url": url, "port": port, "audiences": list(audiences), "unchecked": unchecked}
        self._call("POST", "google/services", service)
        for member in [invokers] if isinstance(invokers, str) else invokers:
            self.grant(member if member == "allUsers" else self.email(member), "roles/run.invoker", url)

    def email(self, name: str) -> str:
        """Return the address of a service account of the project.

        Examples
        --------
        >>> google.email("sender")
        'sender@demo.iam.gserviceaccount.com'
        """
        return name if "@" in name else f"{name}@{self.project}.iam.gserviceaccount.com"

    def grant(self, member: str, role: str, resource: str | None = None) -> None:
        """Give a role to a member.

        Parameters
        ----------
        member : str
            An e-mail address, or as in policies: ``user:…``, ``serviceAccount:…``, ``principal://…``, ``allUsers``.
        role : str
            As for `user`.
        resource : str, optional
            ``projects/P``, the name of a queue, or the e-mail address of a service account; by default the project.

        Examples
        --------
        >>> google.grant("ann@example.com", "roles/iam.serviceAccountUser", google.email("caller"))
        """
        self._call("POST", "google/grant", self._binding(member, role, resource))

    def revoke(self, member: str, role: str, resource: str | None = None) -> None:
        """Take a role from a member.

        Raises
        ------
        EmulatorError
            If the member does not have it on this resource.

        Examples
        --------
        >>> google.grant("ann@example.com", "roles/cloudtasks.viewer")
        >>> google.revoke("ann@example.com", "roles/cloudtasks.viewer")
        """
        self._call("POST", "google/revoke", self._binding(member, role, resource))

    def set(self, **conditions: Any) -> None:
        """Change what is wrong with the project; each setting stays until it is set again or `reset` is called.

        Parameters
        ----------
        **conditions
            ``api_disabled`` (True, or a list such as ``["logging.googleapis.com"]``), ``billing=False``,
            ``quota_project_denied``, ``vpc_sc``, ``quotas`` (600 lists, 60 reads of the log and 60 RunTask a minute),
            ``latency_s``, ``service_agent=False`` (Cloud Tasks cannot make tokens for tasks), ``token_lifetime_s``,
            ``clock_offset_s`` (Google's clock is ahead of this machine's), ``projects`` (those that exist; none: all),
            ``log_excluded`` (the entries of the log are routed elsewhere), ``grants_after_s`` (a new role works so much
            later: https://cloud.google.com/iam/docs/access-change-propagation), and ``signatures_kept`` (Cloud Run
            does not remove the signatures of the tokens that it has checked).

        Raises
        ------
        EmulatorError
            For an unknown setting or a wrong type.

        Examples
        --------
        >>> google.set(api_disabled=True)
        >>> google.set(api_disabled=False, latency_s=0.05)
        """
        self._call("PUT", "google", conditions)

    def fault(self, method: str, **settings: Any) -> None:
        """Let the next calls of a method fail.

        Parameters
        ----------
        method : str
            ``CreateTask``, or ``*`` for all.
        **settings
            ``code``, ``message``, ``count=1`` (None: until a reset), ``after`` (execute the call first), ``delay_s``.

        Examples
        --------
        >>> google.fault("CreateTask", code="UNAVAILABLE")
        """
        self._call("POST", "faults", {"method": method, **settings})

    def log_out(self, email: str) -> None:
        """Revoke all credentials of a principal, which keeps its roles; `user` logs in again.

        Examples
        --------
        >>> google.log_out("ann@example.com")
        """
        self._call("DELETE", "google/principals", {"email": email, "log_out": True})

    def delete(self, email: str) -> None:
        """Delete a principal; its roles stay, as Google's do.

        Examples
        --------
        >>> google.delete(google.email("sender"))
        """
        self._call("DELETE", "google/principals", {"email": email})

    def _binding(self, member: str, role: str, resource: str | None) -> dict[str, str]:
        return {"member": member, "role": role, "resource": resource or f"projects/{self.project}"}

    def _grant_all(self, member: str, roles: str | Iterable[str]) -> None:
        for role in [roles] if isinstance(roles, str) else roles:
            self.grant(member, role)

    def _credentials(self, email: str, roles: str | Iterable[str], kind: str, quota_project: str | None = None) -> Path:
        asked = {"email": email, "credentials": kind, "quota_project": quota_project}
        content = self._call("POST", "google/principals", asked)
        self._grant_all(email, roles)
        file = self._folder / f"{email}.json"
        if kind:
            _write_secret(file, json.dumps(content).encode())
        return file


def _write_secret(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    file.touch(mode=0o600)
    file.write_bytes(content)


#: The files of the certificate authority of all strict emulators of this process.
_authority: dict[str, bytes] = {}


@contextmanager
def strict_emulator(*arguments: str, project: str = "demo", location: str = "us-central1") -> Iterator[StrictEmulator]:
    """Run an emulator that behaves like Google Cloud, with a temporary folder.

    Parameters
    ----------
    *arguments : str
        Further options of ``cloudtasks-nb emulator``.
    project, location : str
        Where short names of queues are, and where roles are granted.

    Examples
    --------
    >>> from cloudtasks_nb.testing import strict_emulator
    >>> with strict_emulator() as google:
    ...     file = google.user("ann@example.com", roles="roles/cloudtasks.admin")
    """
    with tempfile.TemporaryDirectory(prefix="cloudtasks-strict-") as folder:
        emulator = StrictEmulator(Path(folder), project, location, arguments)
        try:
            yield emulator
        finally:
            emulator.close()
