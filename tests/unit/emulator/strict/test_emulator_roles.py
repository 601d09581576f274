"""Roles and bindings: who may do what on which resource."""

import re
from pathlib import Path

import pytest

from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.strict.permissions import needed, parents, resources_of
from cloudtasks_nb.emulator.strict.roles import permissions_of
from cloudtasks_nb.emulator.strict.state import GoogleState
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.service import rpcs
from tests.cases import cases

PROJECT = "projects/p"
QUEUE = f"{PROJECT}/locations/us-central1/queues/q"
ANN = "user:ann@example.com"


#: A role, some permissions that it has, and some that it lacks.
ROLES = """
enqueuer: tasks.create tasks.fullView operations.get | queues.get tasks.get tasks.list
viewer: queues.list tasks.list tasks.fullView locations.list operations.get | tasks.create queues.pause
taskRunner: tasks.run tasks.fullView | tasks.get tasks.create
taskDeleter: tasks.delete | operations.get tasks.fullView
queueAdmin: queues.create queues.setIamPolicy locations.get | tasks.list operations.get
editor: tasks.create queues.update | queues.getIamPolicy queues.setIamPolicy cmekConfig.update
admin: queues.setIamPolicy cmekConfig.update tasks.run | anything.else
""".strip().splitlines()


@pytest.mark.parametrize("role", ROLES)
def test_roles_of_cloud_tasks(role: str) -> None:
    """Each role has the permissions that https://cloud.google.com/tasks/docs/reference-access-control lists."""
    name, has, lacks = re.split(r"[:|]", role)
    found = permissions_of(f"roles/cloudtasks.{name}")
    assert found >= {f"cloudtasks.{name}" for name in has.split()}
    assert not found & {f"cloudtasks.{name}" for name in lacks.split()}


@pytest.mark.parametrize("rpc", rpcs.METHODS)
def test_the_role_that_errors_name_has_the_permission(rpc: str) -> None:
    """Whoever is told to ask for a role can make the call with it."""
    method = rpcs.METHODS[rpc]
    assert method.permission in permissions_of(method.role)


@pytest.mark.parametrize("rpc", ["GetIamPolicy", "SetIamPolicy"])
def test_the_policy_of_a_queue_has_permissions_of_its_own(rpc: str) -> None:
    """Who may read a queue may not read its policy by that."""
    method = METHODS[f"/google.cloud.tasks.v2.CloudTasks/{rpc}"]
    request = method.request(resource=QUEUE)
    assert list(needed(method, request)) == [f"cloudtasks.queues.{rpc[0].lower()}{rpc[1:]}"]
    assert resources_of(method, request) == [QUEUE]


@pytest.mark.parametrize("resource", [QUEUE, PROJECT])
def test_roles_are_inherited(state: GoogleState, resource: str) -> None:
    """A role on a queue or its project counts for a task, and for nobody else."""
    state.grant("ann@example.com", "roles/cloudtasks.viewer", resource)
    assert state.allows(ANN, "cloudtasks.tasks.get", parents(f"{QUEUE}/tasks/t"))
    assert not state.allows(ANN, "cloudtasks.tasks.create", parents(QUEUE))
    assert not state.allows("user:bob@example.com", "cloudtasks.tasks.get", parents(QUEUE))


def test_what_everybody_may_do(state: GoogleState) -> None:
    """A public resource is open to unknown callers; one for all authenticated callers is not."""
    state.grant("allUsers", "roles/run.invoker", "https://public.run.app")
    state.grant("allAuthenticatedUsers", "roles/run.invoker", "https://ours.run.app")
    assert state.allows("", "run.routes.invoke", ["https://public.run.app"])
    assert not state.allows("", "run.routes.invoke", ["https://ours.run.app"])
    assert state.allows(ANN, "run.routes.invoke", ["https://ours.run.app"])


def test_what_cannot_be_revoked(state: GoogleState) -> None:
    """To revoke a role that a member does not have is an error."""
    with pytest.raises(InvalidInputError, match=r"user:ann@example\.com does not have roles/viewer on projects/p"):
        state.revoke("ann@example.com", "roles/viewer", PROJECT)


def test_the_state_is_kept(state: GoogleState, tmp_path: Path) -> None:
    """A new process finds principals, roles, services and conditions, and does not show the secrets."""
    login = state.log_in("ann@example.com")
    state.grant("ann@example.com", "roles/viewer", PROJECT)
    state.serve("https://a.run.app", 80, ["https://custom"])
    state.configure({"billing": False, "api_disabled": ["logging.googleapis.com"]})
    again = GoogleState(tmp_path / "google.json")
    assert again.document() == state.document()
    assert again.user_of(login) == "ann@example.com"
    assert login not in str(again.document())


@cases({"billing": "no"}, {"latency_s": True}, {"api_disabled": "all"}, {"quotas": 1}, {"nothing": True})
def test_wrong_conditions(state: GoogleState, given: dict[str, object]) -> None:
    """A condition with a wrong name or type is refused, and nothing changes."""
    before = state.document()
    with pytest.raises(InvalidInputError):
        state.configure(given)
    assert state.document() == before
