"""The tests that state each line of the README's table of differences, by name; those of the defaults are here."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from pathlib import Path

import pytest
from google.api_core.exceptions import AlreadyExists
from google.cloud import tasks_v2, tasks_v2beta3
from google.iam.v1 import iam_policy_pb2
from google.iam.v1.policy_pb2 import Binding, Policy

from cloudtasks_nb.emulator.model.settings import Settings
from tests.integration.conftest import LOCATION, Answer, Emulator, Enqueue, MakeQueue, StartEmulator, Target

TESTS = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9/"
HOUR, DAY = 3_600, 86_400
HERE = "integration/emulator/test_differences.py"
STRICT = "integration/strict"

#: The first column of the table, and the tests that state what the line says; by default and with its flags.
PROOFS: dict[str, list[str]] = {
    "names of finished tasks": [
        f"{HERE}::test_the_name_of_a_task_is_free_after_an_hour",
        "integration/emulator/test_emulator_flags.py::test_lives_of_tombstones",
    ],
    "names of deleted queues": [
        "integration/emulator/test_queue_rpcs.py::test_a_queues_name_is_free_again_after_three_days",
        "integration/emulator/test_emulator_flags.py::test_lives_of_tombstones",
    ],
    "a new queue": [
        f"{HERE}::test_a_new_queue_is_known_at_once",
        "integration/emulator/test_emulator_flags.py::test_a_new_queue_takes_its_time",
    ],
    "a purge": [
        "integration/emulator/test_queue_rpcs.py::test_purge_removes_what_was_there_before",
        "integration/emulator/test_emulator_flags.py::test_hard_reset_on_purge",
    ],
    "ramp-up, and 429 or 503 from the target": [
        f"{HERE}::test_a_queue_is_not_slowed_down",
        "integration/emulator/test_retry_timing.py::test_the_target_says_when_to_retry",
    ],
    "tokens for `http://` targets": [
        "integration/emulator/test_delivered_tokens.py::test_an_oidc_token_verifies",
        f"{STRICT}/test_strict_roles.py::test_a_token_needs_the_right_to_act_as_its_account",
    ],
    "web pages": [
        "integration/emulator/test_foreign_pages.py::test_pages_of_other_sites_are_refused",
        "integration/emulator/test_foreign_pages.py::test_programs_and_local_pages_are_answered",
        "integration/emulator/test_foreign_pages.py::test_names_that_are_allowed",
    ],
    "credentials, IAM, quotas": [
        f"{HERE}::test_nobody_needs_credentials_roles_or_quota",
        f"{STRICT}/test_strict_roles.py::test_the_emulator_needs_tokens_and_tls",
        f"{STRICT}/test_strict_roles.py::test_a_missing_permission_is_named",
        f"{STRICT}/test_strict_conditions.py::test_quotas",
    ],
    "CMEK": [
        "integration/emulator/test_other_services.py::test_encryption_settings",
        f"{HERE}::test_an_encryption_key_changes_nothing",
    ],
    "a target on this machine that refuses connections": [
        "integration/emulator/test_dispatch_headers.py::test_a_refused_connection",
        "integration/emulator/test_waiting_for_loopback.py::test_no_attempt_is_spent_while_the_target_is_down",
        "integration/toolkit/test_queue.py::test_whom_tasks_wait_for",
    ],
    "operations log": [
        f"{HERE}::test_the_log_is_there_at_once",
        "integration/emulator/test_operations_log.py::test_entries_come_late",
        "integration/fanout/test_outcome_faults.py::test_entries_that_can_be_read_late",
    ],
    "entries of the log": [
        f"{HERE}::test_entries_of_the_log_are_kept_for_30_days",
        f"{HERE}::test_the_newest_entries_of_the_log_are_kept",
        f"{HERE}::test_the_default_limit_of_the_log",
    ],
}


def table() -> dict[str, str]:
    """Read the README's table of differences: what differs, and what the emulator does."""
    text = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("| what | Google | emulator |\n|---|---|---|\n")
    rows = [line.strip("|").split("|") for line in rest.partition("\n\n")[0].strip().splitlines()]
    return {what.strip(): emulator.strip() for what, _, emulator in rows}


def source(proof: str) -> tuple[str, str]:
    """Return the text of a test's file, and that of the test with its marks; "" if there is no such test."""
    path, _, name = proof.partition("::")
    text = (TESTS / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
            return text, "\n".join(lines[first - 1 : node.end_lineno])
    return text, ""


def test_every_line_has_its_tests() -> None:
    """A line that is new in the table needs a test, and a test's line is in the table."""
    assert list(PROOFS) == list(table())


@pytest.mark.parametrize("line", PROOFS)
def test_the_tests_exist_and_run(line: str) -> None:
    """The tests of a line are there and are not skipped; their files set the flags that the line names."""
    found = [source(proof) for proof in PROOFS[line]]
    assert [proof for proof, (_, test) in zip(PROOFS[line], found, strict=True) if not test] == []
    assert not any(re.search(r"\b(skip|skipif|xfail)\b", test) for _, test in found)
    files = "".join(text for text, _ in found).replace("StrictEmulator", "--strict")
    assert [flag for flag in re.findall(r"`(--[a-z-]+)", table()[line]) if flag not in files] == []


def test_the_name_of_a_task_is_free_after_an_hour(emulator: Emulator, queue: str, enqueue: Enqueue) -> None:
    """Without `--task-tombstone` the name of a task that is gone is reserved for an hour."""
    emulator.client.pause_queue(name=queue)
    name = enqueue(queue, NOWHERE, name=f"{queue}/tasks/a").name
    emulator.client.delete_task(name=name)
    emulator.advance(HOUR - 120)
    with pytest.raises(AlreadyExists, match="existed too recently"):
        enqueue(queue, NOWHERE, name=name)
    emulator.advance(121)
    assert enqueue(queue, NOWHERE, name=name).name == name


def test_a_new_queue_is_known_at_once(emulator: Emulator, make_queue: MakeQueue, enqueue: Enqueue) -> None:
    """Without `--new-queue-delay` a queue can be read, listed and filled as soon as it is created."""
    name = make_queue()
    assert emulator.client.get_queue(name=name).name == name
    assert name in [queue.name for queue in emulator.client.list_queues(parent=LOCATION)]
    assert enqueue(name, NOWHERE).name.startswith(f"{name}/tasks/")


@pytest.mark.parametrize("status", [429, 503])
def test_a_queue_is_not_slowed_down(
    emulator: Emulator, make_queue: MakeQueue, enqueue: Enqueue, target: Target, status: int
) -> None:
    """A backlog is sent without a ramp, whatever the target answers; `Retry-After` delays the one task."""
    queue = make_queue(retry_config={"min_backoff": {"seconds": HOUR}, "max_backoff": {"seconds": HOUR}})
    emulator.client.pause_queue(name=queue)
    tasks = [{"parent": queue, "task": {"http_request": {"url": target.url}}}] * 80
    emulator.client.batch_create_tasks({"parent": queue, "requests": tasks})
    later = Answer(status=status, headers={"Retry-After": str(2 * HOUR)})
    target.script(later, *[status] * 40)
    emulator.client.resume_queue(name=queue)
    target.wait(80)

    def answered() -> list[tasks_v2.Task] | None:
        tasks = list(emulator.client.list_tasks(parent=queue))
        return tasks if len(tasks) == 41 and all(task.response_count for task in tasks) else None

    left = emulator.until(answered)
    delays = sorted(task.schedule_time - task.last_attempt.response_time for task in left)
    assert [round(delay / timedelta(hours=1), 2) for delay in delays] == [1] * 40 + [2]
    client = emulator.connect(tasks_v2beta3.CloudTasksClient)
    assert client.get_queue({"name": queue, "read_mask": "stats"}).stats.effective_execution_rate == 500


def test_nobody_needs_credentials_roles_or_quota(
    emulator: Emulator, client: tasks_v2.CloudTasksClient, queue: str, enqueue: Enqueue, target: Target
) -> None:
    """Without `--strict` any token will do, a policy keeps nobody out, and 61 RunTask in a minute are executed."""
    assert emulator.request("GET", f"/v2/{queue}")["name"] == queue
    assert emulator.request("GET", f"/v2/{queue}", headers={"Authorization": "Bearer nonsense"})["name"] == queue
    others = Policy(bindings=[Binding(role="roles/cloudtasks.admin", members=["user:somebody@example.com"])])
    client.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=queue, policy=others))
    asked = ["cloudtasks.tasks.create", "cloudtasks.queues.delete"]
    question = iam_policy_pb2.TestIamPermissionsRequest(resource=queue, permissions=asked)
    assert list(client.test_iam_permissions(question).permissions) == asked
    client.pause_queue(name=queue)
    for _ in range(61):  # the service allows 60 a minute
        client.run_task(name=enqueue(queue, target.url).name)
    target.wait(61)


def test_an_encryption_key_changes_nothing(
    emulator: Emulator, make_queue: MakeQueue, enqueue: Enqueue, target: Target
) -> None:
    """A location's key is stored; a queue with a route, which Google refuses beside a key, is filled and sends."""
    name = "projects/demo/locations/us-central1/cmekConfig"
    key = "projects/demo/locations/us-central1/keyRings/r/cryptoKeys/destroyed"
    emulator.client.update_cmek_config({"cmek_config": {"name": name, "kms_key": key}})
    route = {"uri_override": {"scheme": "HTTP", "host": "127.0.0.1", "port": target.port}}
    task = enqueue(make_queue(http_target=route), "https://nowhere.invalid/", {"body": b"plain"})
    assert target.wait()[0].body == b"plain"
    emulator.gone(task.name)
    assert emulator.client.get_cmek_config(name=name).kms_key == key


def read_log(emulator: Emulator, queue: str) -> list[str]:
    """Return the ids of the tasks that the log's entries of a queue are about, oldest entry first."""
    condition = f'resource.labels.queue_id="{queue.rpartition("/")[2]}"'
    query = {"resourceNames": ["projects/demo"], "filter": condition, "orderBy": "timestamp asc"}
    entries = emulator.request("POST", "/v2/entries:list", query).get("entries", [])
    return [entry["jsonPayload"]["task"].rpartition("/")[2] for entry in entries]


def fill_log(emulator: Emulator, *ids: str) -> str:
    """Create a paused queue with a log, and in it tasks with these ids."""
    queue = f"{LOCATION}/queues/logged"
    emulator.client.create_queue(
        {"parent": LOCATION, "queue": {"name": queue, "stackdriver_logging_config": {"sampling_ratio": 1.0}}}
    )
    emulator.client.pause_queue(name=queue)
    for one in ids:
        task = {"name": f"{queue}/tasks/{one}", "http_request": {"url": NOWHERE}}
        emulator.client.create_task({"parent": queue, "task": task})
    return queue


def test_the_log_is_there_at_once(start_emulator: StartEmulator) -> None:
    """Without `--log-delay` and `--log-index-delay` an entry can be read as soon as its operation has ended."""
    emulator = start_emulator()
    assert read_log(emulator, fill_log(emulator, "a", "b")) == ["a", "b"]


def test_entries_of_the_log_are_kept_for_30_days(start_emulator: StartEmulator) -> None:
    """An entry can be read for thirty days."""
    emulator = start_emulator()
    queue = fill_log(emulator, "a")
    emulator.advance(30 * DAY - 120)
    assert read_log(emulator, queue) == ["a"]
    emulator.advance(121)
    emulator.until(lambda: read_log(emulator, queue) == [])


def test_the_newest_entries_of_the_log_are_kept(start_emulator: StartEmulator) -> None:
    """With `--log-limit` the oldest entries above the limit are deleted."""
    emulator = start_emulator("--log-limit", "3")
    queue = fill_log(emulator, "a", "b", "c", "d", "e")
    emulator.advance(60)
    emulator.until(lambda: read_log(emulator, queue) == ["c", "d", "e"])


def test_the_default_limit_of_the_log() -> None:
    """The limit that the table names is the emulator's own."""
    (limit,) = re.findall(r"newest ([0-9,]+)", table()["entries of the log"])
    assert Settings().log_limit == int(limit.replace(",", ""))
