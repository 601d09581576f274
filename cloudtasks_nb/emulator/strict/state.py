"""Who exists, who may do what, and what is switched off: the part of Google Cloud that decides about a call."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cloudtasks_nb.emulator.dispatch.tokens import private_pem
from cloudtasks_nb.emulator.strict.roles import check_role, permissions_of
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["CLOUD_PLATFORM", "Conditions", "GoogleState", "Principal", "is_in", "member_of", "name_of"]

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"

_ACCOUNT = re.compile(r"(?:(?://iam\.googleapis\.com/)?projects/[^/]+/serviceAccounts/)?([^/@]+@[^/@]+)")
_ORIGIN = re.compile(r"https://[^/?#]+")
_SERVICE_ACCOUNT = ".gserviceaccount.com"
#: The pool whose workforce identities are the users, as `_user_file` of `google` says.
_USER = "principal://iam.googleapis.com/locations/global/workforcePools/emulator/subject/"


@dataclass(slots=True, kw_only=True)
class Conditions:
    """What can be wrong with a project, besides missing roles; ``PUT /admin/google`` sets it."""

    api_disabled: bool | list[str] = False  #: all services, or those in the list (``cloudtasks.googleapis.com``)
    billing: bool = True  #: the project has an active billing account
    quota_project_denied: bool = False  #: nobody may use a quota project, whatever the roles
    vpc_sc: bool = False  #: a perimeter of VPC Service Controls refuses all calls
    projects: list[str] = field(default_factory=list)  #: those that exist; empty: all
    quotas: bool = False  #: the quotas of Google are enforced: 600 lists, 60 reads of the log, 60 RunTask a minute
    latency_s: float = 0.0  #: seconds that each call takes longer
    service_agent: bool = True  #: the service agent of Cloud Tasks can make tokens of service accounts
    grants_after_s: float = 0.0  #: seconds until a new role works
    signatures_kept: bool = False  #: Cloud Run gives a container the tokens that it has checked with their signatures
    log_excluded: bool = False  #: entries of the log are routed elsewhere, or excluded: nobody can read them
    token_lifetime_s: int = 3600  #: of access tokens that are made from now on
    clock_offset_s: float = 0.0  #: how far Google's clock is ahead of this machine's
    machine: str = ""  #: service account of the machine, for the metadata server; "" if it has none
    machine_scopes: list[str] = field(default_factory=lambda: [CLOUD_PLATFORM])

    @classmethod
    def checked(cls, given: dict[str, Any]) -> Conditions:
        """Return conditions from JSON.

        Raises
        ------
        InvalidInputError
            If a key is unknown or a value has the wrong type.
        """
        kinds: dict[str, set[type]] = {name: {type(value)} for name, value in asdict(cls()).items()}
        kinds["api_disabled"] |= {list}
        for name, value in given.items():
            if name not in kinds:
                raise InvalidInputError(f'"{name}" is unknown: the settings are {", ".join(kinds)}')
            wanted = kinds[name] | ({int} if float in kinds[name] else set())
            if type(value) not in wanted:
                raise InvalidInputError(f"{name} must be of the type {' or '.join(kind.__name__ for kind in wanted)}")
        return cls(**given)


@dataclass(slots=True, kw_only=True)
class Principal:
    """A user, a service account, or an identity of a workload pool (``principal://…``)."""

    logins: list[str] = field(default_factory=list)  #: valid refresh tokens of a user, subject tokens of a workload
    keys: dict[str, str] = field(default_factory=dict)  #: public keys of a service account in PEM, by key id
    generation: int = 0  #: access tokens of earlier generations were revoked


class GoogleState:
    """The principals, the roles and the conditions of all projects, stored in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._load(orjson.loads(file.read_bytes()) if file.exists() else {})

    def _load(self, stored: dict[str, Any]) -> None:
        #: signs access tokens, so that they are valid after a restart
        self.secret: str = stored.get("secret") or secrets.token_hex(32)
        self.principals = {name: Principal(**one) for name, one in stored.get("principals", {}).items()}
        #: resource -> role -> members
        self.bindings: dict[str, dict[str, list[str]]] = stored.get("bindings", {})
        #: when a role that somebody was given begins to work, by resource, role and member
        self._works: dict[tuple[str, str, str], float] = {}
        #: URL of a Cloud Run service -> ``port`` of the server on this machine, custom ``audiences``, and whether its
        #: callers are not checked (``unchecked``)
        self.services: dict[str, dict[str, Any]] = stored.get("services", {})
        self.conditions = Conditions(**stored.get("conditions", {}))

    def document(self) -> dict[str, Any]:
        """Return what may be shown: principals without their secrets, bindings and conditions."""
        return {
            "principals": sorted(self.principals),
            "bindings": self.bindings,
            "services": self.services,
            "conditions": asdict(self.conditions),
        }

    def reset(self) -> None:
        """Delete all principals, roles and services, revoke all tokens, and set the conditions back."""
        self._load({})
        self._save()

    def serve(self, url: str, port: int, audiences: list[str], *, unchecked: bool = False) -> None:
        """Let the URL of a Cloud Run service lead to a port of this machine, for tokens of more audiences.

        Raises
        ------
        InvalidInputError
            If the URL is not ``https://HOST``.
        """
        if _ORIGIN.fullmatch(url) is None:
            raise InvalidInputError(f'"{url}" is not https://HOST')
        self.services[url] = {"port": port, "audiences": audiences, "unchecked": unchecked}
        self._save()

    def configure(self, given: dict[str, Any]) -> None:
        """Change some conditions."""
        self.conditions = Conditions.checked({**asdict(self.conditions), **given})
        self._save()

    def grant(self, member: str, role: str, resource: str) -> None:
        """Give a member a role on a resource: a project, a queue, a service account, or anything else with a name."""
        check_role(role)
        members = self.bindings.setdefault(_resource(resource), {}).setdefault(role, [])
        if member_of(member) not in members:
            members.append(member_of(member))
            if delay := self.conditions.grants_after_s:
                self._works[_resource(resource), role, member_of(member)] = time.monotonic() + delay
        self._save()

    def revoke(self, member: str, role: str, resource: str) -> None:
        """Take a role from a member.

        Raises
        ------
        InvalidInputError
            If the member does not have it there.
        """
        members = self.bindings.get(_resource(resource), {}).get(role, [])
        if member_of(member) not in members:
            raise InvalidInputError(f"{member_of(member)} does not have {role} on {resource}")
        members.remove(member_of(member))
        self._works.pop((_resource(resource), role, member_of(member)), None)
        self._save()

    def policy(self, resource: str) -> list[dict[str, Any]]:
        """Return the bindings of a resource."""
        roles = self.bindings.get(_resource(resource), {})
        return [{"role": role, "members": members} for role, members in roles.items() if members]

    def allows(self, member: str, permission: str, resources: Iterable[str]) -> bool:
        """Return whether a member has a permission on one of the resources: the resource itself, or its parents."""
        now = time.monotonic()
        return any(
            permission in permissions_of(role)
            and is_in(member, [one for one in members if self._works.get((name, role, one), 0.0) <= now])
            for name in map(_resource, resources)
            for role, members in self.bindings.get(name, {}).items()
        )

    def log_in(self, email: str, prefix: str = "1//") -> str:
        """Create a user or a workload if there is none, and return a new refresh token or subject token."""
        token = f"{prefix}{secrets.token_urlsafe(48)}"
        self._principal(email).logins.append(token)
        self._save()
        return token

    def log_out(self, email: str) -> None:
        """Revoke the refresh tokens, keys and access tokens of a principal."""
        principal = self._principal(email)
        principal.logins, principal.keys, principal.generation = [], {}, principal.generation + 1
        self._save()

    def add(self, email: str) -> None:
        """Create a principal if there is none."""
        self._principal(email)
        self._save()

    def delete(self, email: str) -> None:
        """Delete a principal; its roles stay, as Google's do."""
        self.principals.pop(email, None)
        self._save()

    def new_key(self, email: str) -> tuple[str, str]:
        """Make a key of a service account; return its id and the private key in PEM."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        key_id = hashlib.sha256(public).hexdigest()[:40]
        self._principal(email).keys[key_id] = public.decode()
        self._save()
        return key_id, private_pem(key).decode()

    def user_of(self, login: str) -> str | None:
        """Return whose refresh token or subject token this is; None if it is not valid."""
        return next((email for email, one in self.principals.items() if login in one.logins), None)

    def _principal(self, email: str) -> Principal:
        if "@" not in email and not email.startswith("principal://"):
            raise InvalidInputError(f'"{email}" is not an e-mail address, and not principal://…')
        return self.principals.setdefault(email, Principal())

    def _save(self) -> None:
        content = {
            "secret": self.secret,
            "principals": {name: asdict(one) for name, one in self.principals.items()},
            "bindings": self.bindings,
            "services": self.services,
            "conditions": asdict(self.conditions),
        }
        draft = self._file.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_bytes(orjson.dumps(content))
        draft.replace(self._file)


def member_of(name: str) -> str:
    """Return the one name of a member: ``user:ann@example.com``, also for an e-mail address or a workforce identity."""
    name = name.removeprefix(_USER)
    if ":" in name or "@" not in name:
        return name
    return f"{'serviceAccount' if name.endswith(_SERVICE_ACCOUNT) else 'user'}:{name}"


def name_of(member: str) -> str:
    """Return the e-mail address of a member, or the name of a workload's identity."""
    return member.removeprefix("user:").removeprefix("serviceAccount:")


def is_in(member: str, members: Collection[str]) -> bool:
    """Return whether a member is in the list of a binding; "" is somebody unknown."""
    return "allUsers" in members or bool(member and not {member, "allAuthenticatedUsers"}.isdisjoint(members))


def _resource(name: str) -> str:
    """Return the name under which bindings of a resource are stored: of a service account its e-mail address."""
    match = _ACCOUNT.fullmatch(name)
    return match[1] if match else name
