"""Masks of partial responses: what they select, and which are refused."""

from typing import Any

from google.longrunning import operations_pb2

from cloudtasks_nb.emulator.frontends.fields import parse_fields, select_fields
from cloudtasks_nb.emulator.model.apis import v2
from tests.cases import cases
from tests.unit.emulator.conftest import refused

HTTP = {"url": "https://a/", "httpMethod": "POST", "headers": {"X-A": "1", "X-B": "2"}}
TASKS = {"tasks": [{"name": "a", "httpRequest": HTTP}, {"name": "b"}], "nextPageToken": "t"}


NAMES = {"tasks": [{"name": "a"}, {"name": "b"}]}
SOME = {**TASKS, "tasks": [{"name": "a", "httpRequest": {"url": "https://a/", "httpMethod": "POST"}}, {"name": "b"}]}


@cases(
    ("*", TASKS),
    ("*,tasks/name", TASKS),
    ("next_page_token", {"nextPageToken": "t"}),
    ("tasks.name", NAMES),
    ("*/name", NAMES | {"nextPageToken": "t"}),
    ("tasks/*", {"tasks": TASKS["tasks"]}),
    ("tasks,tasks/name", {"tasks": TASKS["tasks"]}),
    ("tasks/name,tasks", {"tasks": TASKS["tasks"]}),
    ("tasks/httpRequest/headers", {"tasks": [{"httpRequest": {"headers": HTTP["headers"]}}, {}]}),
    ("tasks/httpRequest/headers/X_A", {"tasks": [{"httpRequest": {"headers": {}}}, {}]}),
    ("tasks(name, http_request(url)),nextPageToken,tasks/httpRequest/httpMethod", SOME),
)
def test_selected_fields(mask: str, selected: dict[str, Any]) -> None:
    """A mask selects fields in camel case or snake case, in each item of a list."""
    assert select_fields(TASKS, parse_fields(mask, v2.ListTasksResponse.DESCRIPTOR)) == selected


def test_fields_below_any() -> None:
    """What an operation holds has fields that its message does not declare."""
    operation = {"done": True, "response": {"@type": "t", "tasks": [{"name": "a", "view": "BASIC"}]}}
    fields = parse_fields("response/tasks/name", operations_pb2.Operation.DESCRIPTOR)
    assert select_fields(operation, fields) == {"response": {"tasks": [{"name": "a"}]}}


@cases(
    ("colour", "Cannot find matching fields for path 'colour'."),
    ("tasks(name,httpRequest/colour)", "Cannot find matching fields for path 'tasks.httpRequest.colour'."),
    ("nextPageToken/a", "Cannot find matching fields for path 'nextPageToken.a'."),
    ("tasks(name", "A parenthesis is not closed."),
    ("tasks)", "')' is not expected here."),
    ("tasks,", "'' stands where a path is expected."),
    ("tasks()", "')' stands where a path is expected."),
    ("tasks name", "'name' is not expected here."),
    ("tasks;name", "The parameter has characters that no path has."),
    ("*(" * 60, "A path is too long."),
)
def test_masks_that_are_refused(mask: str, reason: str) -> None:
    """The details of the refusal name what is wrong, as Google's do."""
    with refused(text=r"Request contains an invalid argument\.") as caught:
        parse_fields(mask, v2.ListTasksResponse.DESCRIPTOR)
    (violation,) = caught.value.details[0].field_violations
    assert (violation.field, violation.description) == (mask, f"Error expanding 'fields' parameter. {reason}")
