"""IAM policies, locations and encryption settings, through Google's own client."""

import base64

import pytest
from google.api_core.exceptions import BadRequest, Conflict
from google.cloud import tasks_v2
from google.cloud.location.locations_pb2 import GetLocationRequest, ListLocationsRequest
from google.iam.v1 import iam_policy_pb2
from google.iam.v1.policy_pb2 import Binding, Policy

from tests.cases import cases
from tests.integration.conftest import LOCATION, Emulator

BOTH_TRANSPORTS = True
ENQUEUER = Policy(bindings=[Binding(role="roles/cloudtasks.enqueuer", members=["user:a@example.com"])])


def test_a_policy_is_kept(emulator: Emulator, queue: str) -> None:
    """SetIamPolicy replaces the policy, empty at first, that GetIamPolicy returns, unless its etag is out of date."""
    none = emulator.client.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=queue))
    assert none == Policy(etag=base64.b64decode("ACAB"))
    emulator.client.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=queue, policy=none))
    saved = emulator.client.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=queue, policy=ENQUEUER))
    assert saved.bindings == ENQUEUER.bindings
    assert emulator.client.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=queue)) == saved
    saved.etag = b"old"
    with pytest.raises(Conflict):
        emulator.client.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=queue, policy=saved))


@cases(
    ("roles/cloudtasks.zzz", "user:a@example.com", "Role roles/cloudtasks.zzz is not supported for this resource."),
    ("enqueuer", "user:a@example.com", "Role enqueuer is not supported for this resource."),
    ("projects/demo/roles/own", "bob", "The member bob is of an unknown type."),
)
def test_policies_that_say_nothing(emulator: Emulator, queue: str, role: str, member: str, text: str) -> None:
    """A role that does not exist, and a member without its kind, are refused as Google refuses them."""
    policy = Policy(bindings=[Binding(role=role, members=[member])])
    with pytest.raises(BadRequest, match=text):
        emulator.client.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=queue, policy=policy))


@pytest.mark.parametrize("missing", [False, True])
def test_permissions(emulator: Emulator, queue: str, *, missing: bool) -> None:
    """TestIamPermissions grants all requested permissions, and none for a missing queue."""
    asked = ["cloudtasks.tasks.create", "cloudtasks.queues.get"]
    name = f"{LOCATION}/queues/missing" if missing else queue
    request = iam_policy_pb2.TestIamPermissionsRequest(resource=name, permissions=asked)
    assert list(emulator.client.test_iam_permissions(request).permissions) == ([] if missing else asked)


def test_locations(emulator: Emulator) -> None:
    """ListLocations and GetLocation know Google's regions."""
    names: list[str] = []
    request = ListLocationsRequest(name="projects/demo", page_size=10)
    while request.page_token or not names:
        page = emulator.client.list_locations(request)
        names += [location.name for location in page.locations]
        request.page_token = page.next_page_token
    assert LOCATION in names
    assert len(names) == len(set(names)) == 23
    one = emulator.client.get_location(GetLocationRequest(name=LOCATION))
    assert (one.name, one.location_id) == (LOCATION, "us-central1")
    assert one.labels == {"cloud.googleapis.com/region": "us-central1"}


@pytest.mark.grpc_only("the path of a REST request names a project")
def test_the_public_list_of_locations(emulator: Emulator) -> None:
    """Without a project ListLocations shows the locations too."""
    public = emulator.client.list_locations(ListLocationsRequest()).locations
    assert "locations/us-central1" in {location.name for location in public}


def test_encryption_settings(emulator: Emulator) -> None:
    """GetCmekConfig shows no key until UpdateCmekConfig sets one."""
    name = f"{LOCATION}/cmekConfig"
    assert emulator.client.get_cmek_config(name=name).kms_key == ""
    key = "projects/demo/locations/us-central1/keyRings/r/cryptoKeys/k"
    for path, given, kept in (("kms_key", key, key), ("name", "other", key), ("*", "other", "other"), ("", "", "")):
        mask = {"paths": [path] if path else []}
        request = {"cmek_config": {"name": name, "kms_key": given}, "update_mask": mask}
        assert emulator.client.update_cmek_config(request).kms_key == kept
        assert emulator.client.get_cmek_config(name=name) == tasks_v2.CmekConfig(name=name, kms_key=kept)
