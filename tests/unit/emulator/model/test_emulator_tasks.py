"""New tasks: refusals, defaults and size limits; stored tasks as both versions show them."""

import bisect
import re
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from google.protobuf import json_format

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.emulator.model import tasks as tasks_module
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import DAY, SECOND
from cloudtasks_nb.emulator.model.queues import configured, updated
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.tasks import APP_ENGINE_AGENT, FULL, HTTP_AGENT, accept_task, task_wire
from tests.unit.emulator.conftest import NOW, QUEUE, URL, http_task, refused

POST, GET, DELETE, PATCH = 1, 2, 5, 6


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


BAD_ID = (
    'Task ID "{}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_). '
    "Task ID must between 1 and 500 characters."
)
NO_BODY, LONG = "HttpRequest.body is not allowed with HTTP method", {"seconds": 10**17}
DEADLINE, LONG_DEADLINE = (f"Task.dispatchDeadline must be between [15s, {most}]." for most in ("30m", "24h15s"))
LONG_URL = "HttpRequest.url must be at most 2083 characters."
BAD_PATH = "AppEngineHttpRequest.relativeUri must begin with '/', hold no spaces and have at most 2083 characters."


REFUSED = [
    (http("ftp://x/y"), "HttpTarget.url must start with 'http://' or 'https://'."),
    *((http(f"http://x/{path}"), LONG_URL) for path in ("y" * 2075, " " * 692, "\N{EURO SIGN}" * 231)),
    (v2.Task(name=f"{QUEUE}/tasks/", http_request={"url": URL}), BAD_ID.format("")),
    (http_task("a\n"), BAD_ID.format("a\n")),
    (http(http_method=GET, body=b"x"), f"{NO_BODY} GET."),
    (app_engine_task(http_method=PATCH, body=b"x"), f"AppEngine{NO_BODY} PATCH."),
    (app_engine_task(relative_uri="x"), BAD_PATH),
    (http(http_method=8), "8 is not a valid HttpMethod."),
    (app_engine_task(http_method=-1), "-1 is not a valid HttpMethod."),
    (http_task(retry_config={"max_attempts": -2}), "RetryConfig.maxAttempts must be greater or equal to -1."),
    (http_task(retry_config={"max_backoff": LONG}), "RetryConfig.maxBackoff is not a valid duration."),
    (http_task(dispatch_deadline={"seconds": 20, "nanos": -5}), "Task.dispatchDeadline is not a valid duration."),
    *((http_task(dispatch_deadline={"seconds": 14, "nanos": nanos}), DEADLINE) for nanos in (0, 999_000_000)),
    (http_task(dispatch_deadline={"seconds": 1801}), DEADLINE),
    *((v2.Task(app_engine_http_request={}, dispatch_deadline={"seconds": n}), LONG_DEADLINE) for n in (14, 86_416)),
    (http_task(body=b"x" * 2**20), "Task size too large"),
    (http(oidc_token={"audience": "a"}), "HttpRequest.oidcToken needs a serviceAccountEmail."),
    (http(oauth_token={}), "HttpRequest.oauthToken needs a serviceAccountEmail."),
    (http(headers={"a": "x" * 81_920}), "The size of the headers must be less than 80KB."),
]


@pytest.mark.parametrize(("task", "text"), REFUSED)
def test_refused_tasks(task: Any, text: str) -> None:
    """An invalid task is refused with the service's text."""
    with refused(text=f"^{re.escape(text)}$"):
        accept_task(task, QUEUE, NOW)


URLS = [
    "https://x", "http://example.com/%zz", "http://127.0.0.1:1/a b", "http://x/" + "y" * 2074,
    "http://x/?" + "&a=%20" * 345, "http://x/" + " " * 691, "http://x/" + "\N{EURO SIGN}" * 230,
]  # fmt: skip


@pytest.mark.parametrize("url", URLS, ids=lambda url: url[:20])
def test_urls_that_are_taken(url: str) -> None:
    """Only the beginning and the length of a URL are checked when a task is created."""
    assert stored(http(url)).http_request.url == url


def test_a_given_agent_is_replaced() -> None:
    """However it is spelt, a user agent of an HTTP task gives way to the service's."""
    task = stored(http(http_method=DELETE, headers={"user-agent": "mine", "USER-AGENT": "mine too"}))
    assert dict(task.http_request.headers) == {"User-Agent": "Google-Cloud-Tasks"}
    assert task.http_request.http_method == DELETE


def test_made_up_ids_are_numbers() -> None:
    """A task without a name gets a decimal id of its own: 17 to 20 digits, also a leading zero, also above 64 bits."""
    ids = {accept_task(http_task(), QUEUE, NOW).id for _ in range(1000)}
    assert len(ids) == 1000
    assert all(made_up.isdigit() for made_up in ids)
    assert {len(made_up) for made_up in ids} == {17, 18, 19, 20}
    assert min(ids) < "1"
    assert max(map(int, ids)) >= 2**64


def test_output_only_fields_are_ignored() -> None:
    """Counts, attempts and times that a client sends do not become the task's."""
    given = http_task("a", dispatch_count=7, response_count=7, view=FULL)
    given.create_time.seconds = 1
    given.first_attempt.dispatch_time.seconds = 1
    task = stored(given)
    assert (task.dispatch_count, task.response_count) == (0, 0)
    assert not task.HasField("first_attempt")
    assert task.create_time.seconds == NOW // SECOND


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


def test_deadlines_are_kept_in_milliseconds() -> None:
    """A deadline is cut to milliseconds."""
    task = http_task(dispatch_deadline={"seconds": 20, "nanos": 123_456_789})
    assert stored(task).dispatch_deadline.nanos == 123_000_000


def test_no_deadline_of_an_app_engine_task() -> None:
    """A deadline of zero is the application's own for App Engine, and none that an HTTP task may have."""
    none = v2.Task(app_engine_http_request={}, dispatch_deadline={"seconds": 0})
    assert none.HasField("dispatch_deadline")
    assert not stored(none).HasField("dispatch_deadline")
    with refused(text="must be between"):
        accept_task(http_task(dispatch_deadline={"seconds": 0}), QUEUE, NOW)


def test_an_app_engine_task_keeps_its_own_headers() -> None:
    """A type of any spelling is kept, an agent gets the service's appended, and routing becomes the host."""
    headers = {"content-type": "application/json", "user-agent": "mine"}
    routing = {"service": "worker", "version": "v1"}
    request = stored(app_engine_task(headers=headers, body=b"{}", app_engine_routing=routing)).app_engine_http_request
    given = {"content-type": "application/json", "User-Agent": f"mine {APP_ENGINE_AGENT}"}
    assert dict(request.headers) == {**given, "Content-Length": "2"}
    assert request.app_engine_routing.host == "v1.worker.p.uc.r.appspot.com"


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
    for tag in ("a" * 32, "b" * 32, "c" * 32, "short"):
        request = stored(http(headers={TAG_HEADER: tag, **others}, body=b"{}")).http_request
        kept = {name: value for name, value in others.items() if name == "X"}
        assert dict(request.headers) == {TAG_HEADER: tag, **kept, "User-Agent": HTTP_AGENT}
        assert request.body == b"{}"
    assert len(tasks_module._cached) <= 4  # the order of headers is not given


@pytest.mark.parametrize("others", [{}, {"X": "1"}])
def test_a_request_without_a_tag_is_another(others: dict[str, str]) -> None:
    """Tasks with and without a tag are stored as they came, in any order."""
    tasks_module._cached.clear()
    tag = {TAG_HEADER: "a" * 32}
    for mine in (tag, {}, tag, {}):
        request = stored(http(headers={**others, **mine})).http_request
        assert dict(request.headers) == {**others, **mine, "User-Agent": HTTP_AGENT}


def test_what_looks_like_a_tag_in_a_url() -> None:
    """Two URLs stay two, even if their bytes are those of a header with a tag."""
    odd = tasks_module._TAG.decode()
    for end in ("a" * 32, "b" * 32):
        request = stored(http(url=f"{URL}?{odd}{end}")).http_request
        assert request.url == f"{URL}?{odd}{end}"
        assert accept_task(http(url=f"{URL}?{odd}{end}"), QUEUE, NOW).target == f"POST {URL}?{odd}{end}"


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X-A\r\nX-B", "Ü", "X(A)"])
def test_header_names_that_http_does_not_allow(name: str) -> None:
    """A task and a queue with a header of such a name are refused, whichever their target is."""
    target = {"header_overrides": [{"header": {"key": name, "value": "1"}}]}
    task, app_task, old = (
        http(headers={name: "1"}),
        app_engine_task(headers={name: "1"}),
        configured(beta.Queue(name=QUEUE)),
    )
    for create, place in (
        (lambda: accept_task(task, QUEUE, NOW), "HttpRequest.headers"),
        (lambda: accept_task(app_task, QUEUE, NOW), "AppEngineHttpRequest.headers"),
        (lambda: configured(beta.Queue(name=QUEUE, http_target=target)), "HttpTarget.headerOverrides"),
        (lambda: updated(old, beta.Queue(http_target=target), ["http_target"]), "HttpTarget.headerOverrides"),
    ):
        text = f'{place}: "{name}" is not the name of an HTTP header.'
        with refused(text=f"^{re.escape(text)}$"):
            create()


def test_versions_differ_in_their_numbers_only() -> None:
    """A v2 task becomes the v2beta3 task with the same content, and comes back."""
    task = http_task("a", body=b"body")
    task.schedule_time.FromMicroseconds(NOW)
    task.dispatch_deadline.seconds = 77
    task.retry_config.max_attempts = 3
    task.dispatch_count, task.view = 4, 2
    task.last_attempt.response_status.code = 5
    wire = task.SerializeToString()
    shown = beta.Task.FromString(tasks_module.as_beta(wire))
    assert json_format.MessageToDict(shown) == json_format.MessageToDict(task)
    assert v2.Task.FromString(tasks_module.as_v2(tasks_module.as_beta(wire))) == task


def test_versions_drop_unknown_fields() -> None:
    """The payload of a pull task has no place in v2."""
    pull = beta.Task(name="n", pull_message=beta.PullMessage(payload=b"x"))
    assert v2.Task.FromString(tasks_module.as_v2(pull.SerializeToString())) == v2.Task(name="n")
