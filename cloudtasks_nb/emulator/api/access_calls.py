"""The RPCs for policies, encryption settings, operations and locations."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.emulator.api.engine import Service, parse_name
from cloudtasks_nb.emulator.api.operations import load_operation
from cloudtasks_nb.emulator.api.pages import page_reply, read_token
from cloudtasks_nb.emulator.model.apis import iam, locations
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument, malformed_name, not_found
from cloudtasks_nb.emulator.model.regions import REGIONS

__all__ = ["AccessCalls"]

_CMEK = re.compile(r"projects/[^/]+/locations/[^/]+/cmekConfig")
_KEY_CHANGES = {"*", "kms_key", "kmsKey"}  # masks that name the key, the only setting
# Of a queue without a policy: Google's services answer it, and take it back.
_NO_POLICY = iam.Policy(etag=b"\x00 \x01").SerializeToString()
_MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(deleted:)?(user|serviceAccount|group|domain|principal(Set)?|project\w+):.+"
)
# Predefined and custom roles; those of Cloud Tasks are all known.
_ROLE = re.compile(
    r"(organizations|projects)/[^/]+/roles/[\w.]+|roles/(?!cloudtasks\.)[\w.]+|roles/cloudtasks\."
    r"(admin|editor|viewer|enqueuer|taskRunner|taskDeleter|queueAdmin|serviceAgent)"
)
_PROJECT = re.compile(r"projects/[^/]+")
_LOCATION = re.compile(r"projects/([^/]+)/locations/([^/]+)")


class AccessCalls(Service):
    """Executes the RPCs for policies, encryption settings, operations and locations."""

    async def get_iam_policy(self, request: Any) -> bytes:
        """Return the policy of a queue, one without bindings if none was set."""
        self._queue(request.resource)
        return self._store.setting(f"iam/{request.resource}") or _NO_POLICY

    async def set_iam_policy(self, request: Any) -> bytes:
        """Replace the policy of a queue; only a strict emulator goes by it."""
        self._queue(request.resource)
        policy = request.policy
        _check_bindings(policy.bindings)
        known = iam.Policy.FromString(self._store.setting(f"iam/{request.resource}") or b"")
        if policy.etag and known.etag and policy.etag != known.etag:
            raise RefusedError(
                "ABORTED", "There were concurrent policy changes. Please retry the whole read-modify-write."
            )
        policy.etag = b""
        policy.etag = hashlib.sha256(policy.SerializeToString()).digest()[:8]
        self._store.set_setting(f"iam/{request.resource}", policy.SerializeToString())
        await self._engine.committer.commit()
        return bytes(policy.SerializeToString())

    async def test_iam_permissions(self, request: Any) -> bytes:
        """Return all permissions of the request, because an emulator allows everything; none for an unknown queue."""
        response = iam.TestIamPermissionsResponse()
        if request.resource in self._store.contents.queues:
            response.permissions.extend(request.permissions)
        else:
            parse_name(QueueName, request.resource)
        return bytes(response.SerializeToString())

    async def get_cmek_config(self, request: Any) -> bytes:
        """Return the encryption settings of a location."""
        name = request.name
        _check(_CMEK, name)
        return self._store.setting(f"cmek/{name}") or self._pb.CmekConfig(name=name).SerializeToString()

    async def update_cmek_config(self, request: Any) -> bytes:
        """Change the encryption settings of a location; nothing is encrypted with the key."""
        config, paths = request.cmek_config, set(request.update_mask.paths)
        _check(_CMEK, config.name)
        if not paths <= {"name", *_KEY_CHANGES}:
            raise invalid_argument("Invalid update mask.")
        if paths and not paths & _KEY_CHANGES:
            config.kms_key = self._pb.CmekConfig.FromString(self._store.setting(f"cmek/{config.name}")).kms_key
        self._store.set_setting(f"cmek/{config.name}", config.SerializeToString())
        await self._engine.committer.commit()
        return bytes(config.SerializeToString())

    async def get_operation(self, request: Any) -> bytes:
        """Return an operation; it is kept for an hour by default."""
        return self._engine.faults.unfinished.get(request.name) or load_operation(self._store, request.name)

    async def get_location(self, request: Any) -> bytes:
        """Return a location."""
        project, location = _check(_LOCATION, request.name).groups()
        if location not in REGIONS:
            raise not_found()
        return bytes(_location(f"projects/{project}", location).SerializeToString())

    async def list_locations(self, request: Any) -> bytes:
        """List the locations of Cloud Tasks."""
        if request.name:  # without a project the list is public
            _check(_PROJECT, request.name)
        now, size = self._engine.clock.now(), request.page_size if request.page_size > 0 else len(REGIONS)
        after = read_token(request.page_token, 0, request.name, now=now)
        items = (
            (number, _location(request.name, region).SerializeToString())
            for number, region in enumerate(REGIONS, 1)
            if number > after
        )
        return page_reply(items, size, request.name, now=now)


def _check_bindings(bindings: Iterable[Any]) -> None:
    for binding in bindings:
        if _ROLE.fullmatch(binding.role) is None:
            raise invalid_argument(f"Role {binding.role} is not supported for this resource.")
        for member in binding.members:
            if _MEMBER.fullmatch(member) is None:
                raise invalid_argument(
                    f"The member {member} is of an unknown type. Please set a valid type prefix for the member."
                )


def _check(pattern: re.Pattern[str], name: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise malformed_name()
    return match


def _location(parent: str, region: str) -> Any:
    return locations.Location(
        name=f"{parent}/locations/{region}".lstrip("/"),
        location_id=region,
        labels={"cloud.googleapis.com/region": region},
    )
