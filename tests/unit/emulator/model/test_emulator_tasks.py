"""New tasks and queues: times, durations, sizes and ids to the last unit, and forms that are remembered."""

import bisect
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.emulator.model import tasks as tasks_module
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import DAY, SECOND
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.tasks import FULL, HTTP_AGENT, accept_task, task_wire
from tests.cases import cases
from tests.unit.emulator.conftest import NOW, QUEUE, URL, http_task, refused


def stored(task: Any) -> Any:
    """Take a task in and return it as a reply shows it in full."""
    new = accept_task(task, QUEUE, NOW)
    return v2.Task.FromString(task_wire(new.head, new.due, None, new.body, FULL))


def app_engine_task(**request: Any) -> Any:
    """Make a v2 `Task` with an App Engine target."""
    return v2.Task(app_engine_http_request=v2.AppEngineHttpRequest(**request))


def http(url: str = URL, **request: Any) -> Any:
    """Make a task with an HTTP request."""
    return v2.Task(http_request=v2.HttpRequest(url=url, **request))


def test_made_up_ids_are_numbers() -> None:
    """A task without a name gets a decimal id of its own: 17 to 20 digits, also a leading zero, also above 64 bits."""
    ids = {accept_task(http_task(), QUEUE, NOW).id for _ in range(1000)}
    assert len(ids) == 1000
    assert all(made_up.isdigit() for made_up in ids)
    assert {len(made_up) for made_up in ids} == {17, 18, 19, 20}
    assert min(ids) < "1"
    assert max(map(int, ids)) >= 2**64


@pytest.mark.parametrize(("asked", "due"), [(0, NOW), (NOW - 1, NOW), (NOW + 5, NOW + 5), (NOW + 30 * DAY,) * 2])
def test_schedule_times(asked: int, due: int) -> None:
    """A time in the past is now; thirty days ahead are the most."""
    task = http_task()
    task.schedule_time.FromMicroseconds(asked)
    assert accept_task(task, QUEUE, NOW).due == due


@pytest.mark.parametrize("asked", [NOW + 30 * DAY + 1, 10**13 * SECOND], ids=["30 days and more", "no calendar"])
def test_times_that_are_too_far_ahead(asked: int) -> None:
    """A microsecond more than thirty days is refused, and so is a time that no calendar has."""
    task = http_task()
    task.schedule_time.seconds, task.schedule_time.nanos = asked // SECOND, asked % SECOND * 1000
    with refused(text="too far in the future"):
        accept_task(task, QUEUE, NOW)


@pytest.mark.parametrize("kind", ["http_request", "app_engine_http_request"])
def test_the_largest_task(kind: str) -> None:
    """The stored task, with everything that was added, has at most 1,048,569 bytes."""

    def make(size: int) -> Any:
        place = {"url": URL} if kind == "http_request" else {}
        return v2.Task(name=f"{QUEUE}/tasks/a", **{kind: {"body": b"x" * size, **place}})

    size = 2**20 - 1000
    free = 2**20 - 7 - (stored(make(size)).ByteSize() - 2)  # the view is not stored
    # The length of the body is inside the header Content-Length too, with the same number of digits.
    assert accept_task(make(size + free), QUEUE, NOW).body == b"x" * (size + free)
    with refused(text="Task size too large"):
        accept_task(make(size + free + 1), QUEUE, NOW)


def test_a_service_counts_once() -> None:
    """The parts of an App Engine routing count in the host that they make, and not again by themselves."""

    def fails(size: int, service: str) -> bool:
        task = app_engine_task(body=b"x" * size, app_engine_routing={"service": service})
        task.name = f"{QUEUE}/tasks/a"
        try:
            accept_task(task, QUEUE, NOW)
        except RefusedError:
            return True
        return False

    first, second = (bisect.bisect(range(2**20), 0, key=partial(fails, service=name)) for name in ("", "worker"))
    assert first - second == len("worker.")


def test_long_requests_are_not_remembered() -> None:
    """Only short requests are kept for the next ones of the same form, and no refused ones."""
    tasks_module._cached.clear()
    for size, kept in ((100_000, 0), (5000, 0), (100, 1)):
        task = http_task(body=b"x" * 100_000)
        task.http_request.headers["A"] = "x" * size
        with refused(text="size of the headers") if size == 100_000 else nullcontext():
            accept_task(task, QUEUE, NOW)
        assert len(tasks_module._cached) == kept


@pytest.mark.parametrize("others", [{}, {"X": "1"}, {"user-agent": "mine", "X": "1"}])
def test_requests_that_differ_in_their_tags(others: dict[str, str]) -> None:
    """Each task keeps its own tag, whatever other headers there are; they are one form, which is checked once."""
    tasks_module._cached.clear()
    kept = {name: value for name, value in others.items() if name == "X"}
    for tag in ({TAG_HEADER: text} for text in ("a" * 32, "b" * 32, "c" * 32, "short")):
        for mine in (tag, {}):  # and there are those without a tag between them
            request = stored(http(headers={**mine, **others}, body=b"{}")).http_request
            assert dict(request.headers) == {**mine, **kept, "User-Agent": HTTP_AGENT}
        assert request.body == b"{}"
    assert others or len(tasks_module._cached) == 3  # the order of more headers is not given


def test_what_looks_like_a_tag_in_a_url() -> None:
    """Two URLs stay two, even if their bytes are those of a header with a tag."""
    odd = tasks_module._TAG.decode()
    for end in ("a" * 32, "b" * 32):
        request = stored(http(url=f"{URL}?{odd}{end}")).http_request
        assert request.url == f"{URL}?{odd}{end}"
        assert accept_task(http(url=f"{URL}?{odd}{end}"), QUEUE, NOW).target == f"POST {URL}?{odd}{end}"


def test_versions_drop_unknown_fields() -> None:
    """The payload of a pull task has no place in v2."""
    pull = beta.Task(name="n", pull_message=beta.PullMessage(payload=b"x"))
    assert v2.Task.FromString(tasks_module.as_v2(pull.SerializeToString())) == v2.Task(name="n")


DURATIONS = [
    ("retry_config", "min_backoff"), ("retry_config", "max_backoff"), ("retry_config", "max_retry_duration"),
    ("", "task_ttl"), ("", "tombstone_ttl"),
]  # fmt: skip


@pytest.mark.parametrize(("seconds", "nanos"), [(10**17, 0), (-(10**17), 0), (1, -5), (-1, 5), (1, 10**9)])
@pytest.mark.parametrize(("group", "field"), DURATIONS)
def test_invalid_durations(group: str, field: str, seconds: int, nanos: int) -> None:
    """A duration that no client could read, or no file could hold, is refused and not stored."""
    given = beta.Queue(name=QUEUE)
    message = getattr(getattr(given, group) if group else given, field)
    message.seconds, message.nanos = seconds, nanos
    with refused(text=r"is not a valid duration\.$"):
        configured(given)


@cases(
    http_task(retry_config={"max_backoff": {"seconds": 10**17}}),
    http_task(dispatch_deadline={"seconds": 20, "nanos": -5}),
    ids=["backoff", "deadline"],
)
def test_invalid_durations_of_a_task(task: Any) -> None:
    """They are refused as those of a queue."""
    with refused(text=r"is not a valid duration\.$"):
        accept_task(task, QUEUE, NOW)
