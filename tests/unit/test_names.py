"""Resource names and status codes."""

import grpc
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._names import CODES, QueueName, TaskName, account_project, code_name, log_name
from tests.cases import cases

QUEUE = "projects/example.com:p-1/locations/us-central1/queues/Reports-2"

projects = st.from_regex(r"[A-Za-z0-9:.-]+", fullmatch=True)
locations = st.from_regex(r"[A-Za-z0-9-]+", fullmatch=True)
queues = st.from_regex(r"[A-Za-z0-9-]{1,100}", fullmatch=True)
tasks = st.from_regex(r"[A-Za-z0-9_-]{1,500}", fullmatch=True)


def test_the_parts_of_a_queue_name() -> None:
    """Project, location and short id are attributes, and the parent that Google's calls want."""
    name = QueueName.parse(QUEUE)
    assert (name.project, name.location, name.queue) == ("example.com:p-1", "us-central1", "Reports-2")
    assert name.parent == "projects/example.com:p-1/locations/us-central1"


@given(projects, locations, queues, tasks)
def test_names_survive_a_round_trip(project: str, location: str, queue: str, task: str) -> None:
    """Every valid name is parsed into the parts that it was made of."""
    whole = TaskName(queue=QueueName(project=project, location=location, queue=queue), task=task)
    assert TaskName.parse(str(whole)) == whole


@cases(
    ("caller@demo.iam.gserviceaccount.com", "demo"),
    ("caller@p.example.com.iam.gserviceaccount.com", "example.com:p"),
    ("123-compute@developer.gserviceaccount.com", None),
    ("demo@appspot.gserviceaccount.com", None),
    ("ann@example.com", None),
)
def test_the_project_of_a_service_account(email: str, project: str | None) -> None:
    """It is in the address of an account that a project has made, and not in those of Google's own."""
    assert account_project(email) == project


def test_codes_have_the_numbers_of_grpc() -> None:
    """The table agrees with gRPC's, and undefined numbers are UNKNOWN."""
    assert [*CODES] == [code.name for code in sorted(grpc.StatusCode, key=lambda code: code.value[0])]
    assert [code_name(number) for number in (0, 5, -1, 17)] == ["OK", "NOT_FOUND", "UNKNOWN", "UNKNOWN"]


def test_the_log_name_escapes_its_slash() -> None:
    """The id of the log is one path segment."""
    assert log_name("p") == "projects/p/logs/cloudtasks.googleapis.com%2Ftask_operations_log"
