"""What the toolkit knows of each RPC, held against Google's own descriptors."""

from typing import Any

import pytest
from google.cloud.logging_v2.types import LogEntry
from google.cloud.logging_v2.types.logging import ListLogEntriesRequest, ListLogEntriesResponse

from cloudtasks_nb.service.rpcs import METHODS, STATS_MASK, Method

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


#: Mixins are called under the service that has them, but have messages of their own.
MIXINS = {"TestIamPermissions": "google.iam.v1"}


@each_method
def test_request_and_response_belong_to_the_call(method: Method) -> None:
    """The request is the one of the RPC's name, in the version of the RPC's service, and the route is a field of it."""
    _, service, name = method.path.split("/")
    package = MIXINS.get(name, service.rpartition(".")[0])
    assert method.request.DESCRIPTOR.full_name == f"{package}.{name}Request"
    assert method.response.DESCRIPTOR.full_name.startswith((f"{package}.", "google.protobuf.", "google.longrunning."))
    fields = method.request.DESCRIPTOR
    for part in method.route.split(".") if method.route else ():
        found = fields.fields_by_name[part]
        fields = found.message_type
    assert fields is None or not method.route


@each_method
def test_what_a_lost_answer_means(method: Method) -> None:
    """Each RPC that changes something says what is not known when its answer is lost; each has permission and role."""
    reads = method.path.rpartition("/")[2].startswith(("Get", "List", "Test"))
    assert reads == (method.lost is None)
    assert method.lost is None or not method.lost.read or METHODS[method.lost.read].response is method.response
    assert method.permission.startswith(("cloudtasks.", "logging."))
    assert method.role.startswith("roles/")


LOG = METHODS["ListLogEntries"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LOG.request, ListLogEntriesRequest),
        (LOG.response, ListLogEntriesResponse),
        (type(LOG.response().entries.add()), LogEntry),
    ],
)
def test_the_messages_of_the_log_are_those_of_google(ours: Any, theirs: Any) -> None:
    """Each field of them has the name, number and type that it has in Google's own messages."""
    google = theirs.pb().DESCRIPTOR.fields_by_name
    for field in ours.DESCRIPTOR.fields:
        facts = ("number", "type", "is_repeated", "json_name")
        assert [getattr(field, fact) for fact in facts] == [getattr(google[field.name], fact) for fact in facts]
        if field.message_type is not None:
            assert field.message_type.full_name == google[field.name].message_type.full_name


def test_the_mask_names_fields() -> None:
    """Statistics are asked for with fields that a v2beta3 queue has."""
    fields = METHODS["GetQueueStats"].response.DESCRIPTOR.fields_by_name
    assert [name for name in STATS_MASK if name not in fields] == []
    assert "stats" in STATS_MASK
