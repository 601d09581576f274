"""Requests to a handler: which reach the function, and how many at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.handlers import serve
from tests.cases import cases
from tests.unit.handlers.conftest import ACCOUNT, Gate, post, report


@pytest.mark.parametrize("count", ["", "x", "-1", "²", "9" * 30])
def test_a_retry_count_that_is_none_is_not_known(count: str) -> None:
    """Any program can send headers; an invalid count is NA."""
    handler = serve(report)
    headers = {"X_CloudTasks_TaskRetryCount": count.encode().decode("latin-1")}
    assert post(handler.url, b'{"day": "1"}', **headers).status == 200
    assert handler.calls()["attempt"].isna().all()


@pytest.mark.parametrize("body", ['{"day": "zwölf 日"}'.encode(), b'{"day": "' + b"x" * 1_500_000 + b'"}'])
def test_bodies_of_a_tasks_full_size_and_any_script_arrive(body: bytes) -> None:
    """A body may be as large as a task can be, and in any language."""
    answer = post(serve(report).url, body, Content_Type="application/json")
    assert (answer.status, len(answer.body)) == (200, len(body) - 1 + len(',"origin":"JFK"}') - 1)


def test_a_body_beyond_any_task_is_refused() -> None:
    """A body that no queue can send is not read to its end."""
    handler = serve(report)
    assert post(handler.url, b"x" * (3 * 1024 * 1024)).status == 413
    assert handler.calls().empty


@cases(
    *((change, {}, 404) for change in (lambda url: url + "x", lambda url: url.rsplit("/", 1)[0])),
    *((lambda url, end=end: "/".join(url.split("/")[:3]) + end, {}, 404) for end in ("/", "/%FF%00")),
    *((str, {"Origin": origin}, 403) for origin in ("https://evil.example", "null")),
    *((str, {"Host": host}, 403) for host in ("evil.example", "127.0.0.1", "127.0.0.1:1")),
    (lambda url: url + "?x=1", {}, 200),
    (lambda url: url.replace("127.0.0.1", "localhost"), {}, 200),
)
def test_who_reaches_the_function(change: Any, headers: dict[str, str], status: int) -> None:
    """Web pages, foreign host names and guessed paths get an answer that does not contain the secret."""
    handler = serve(report)
    secret = handler.url.rsplit("/", 1)[1]
    answer = post(change(handler.url), b'{"day": "1"}', **headers)
    assert (answer.status, secret.encode() in answer.body, len(handler.calls())) == (status, False, status == 200)


def test_the_work_of_the_toolkit_delays_no_request() -> None:
    """Nor do requests delay that: each has an event loop of its own."""
    handler, release = serve(report), threading.Event()
    _loop.call_soon(release.wait)
    try:
        assert post(handler.url, b'{"day": "1"}').status == 200
    finally:
        release.set()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_method_without_a_body_gets_an_explanation(method: str) -> None:
    """The answer to a browser explains how to use the URL, and names the methods that call the function."""
    handler = serve(report)
    answer = post(handler.url, None, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, PUT, PATCH")
    assert method == "HEAD" or b"queue.enqueue(handler" in answer.body
    assert handler.calls().empty
    for with_body in answer.headers["allow"].split(", "):
        assert post(handler.url, b'{"day": "1"}', method=with_body).status == 200


@pytest.mark.parametrize("parts", [3, 5], ids=["origin", "whole URL"])
def test_the_default_audiences(issuer: Any, parts: int) -> None:
    """Tasks of the toolkit have the origin of the URL as audience, those of other clients the whole URL."""
    url = serve(report, service_account=ACCOUNT, tasks=issuer).url
    audience = "/".join(url.split("/")[:parts])
    assert post(url, b'{"day": "1"}', Authorization=issuer.bearer(aud=audience)).status == 200


def test_a_token_of_the_account_is_required(issuer: Any) -> None:
    """With service_account= the function is called only for tokens that the emulator issued for this URL."""
    handler = serve(report, service_account=ACCOUNT, tasks=issuer)
    body = b'{"day": "1"}'
    claims = [
        {"aud": handler.url},
        None,
        {"aud": "https://elsewhere.example"},
        {"aud": handler.url, "email": "thief@x"},
    ]
    tokens = [{} if one is None else {"Authorization": issuer.bearer(**one)} for one in claims]
    answers = [post(handler.url, body, **token).status for token in tokens]
    calls = handler.calls()
    assert answers == list(calls["status"]) == [200, 401, 401, 403]
    assert list(calls["duration"].isna()) == [False, True, True, True]
    assert ["Bearer token" in str(calls["error"][1]), "audience" in str(calls["error"][2])] == [True, True]
    assert issuer.fetches == 1


def test_eight_calls_run_at_once() -> None:
    """Eight calls meet at a barrier, while this thread does nothing for them."""
    barrier = threading.Barrier(8)
    handler = serve(lambda: barrier.wait(240), name="meet")
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(post, [handler.url] * 8)]
    assert sorted(int(answer.body) for answer in answers) == list(range(8))


def test_no_more_calls_run_than_there_are_workers() -> None:
    """Six tasks on two workers run two by two."""
    barrier, lock = threading.Barrier(2), threading.Lock()
    running, seen = set[int](), list[int]()

    def pair() -> None:
        with lock:
            running.add(threading.get_ident())
            seen.append(len(running))
        barrier.wait(240)
        with lock:
            running.remove(threading.get_ident())
        barrier.wait(240)

    handler = serve(pair, workers=2)
    with ThreadPoolExecutor(6) as pool:
        answers = [*pool.map(post, [handler.url] * 6)]
    assert ([answer.status for answer in answers], max(seen)) == ([200] * 6, 2)


def test_an_async_function_runs_in_a_loop_of_its_own() -> None:
    """Coroutines of a handler share a loop, and one that blocks does not stop another handler."""
    gate = Gate()

    async def block() -> str:
        gate.wait()  # a mistake in a coroutine, and a common one
        return threading.current_thread().name

    blocking, other = serve(block), serve(report)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(post, blocking.url, b"")
        assert gate.entered()
        assert post(other.url, b'{"day": "1"}').status == 200
        gate.open()
        assert blocked.result(240).body == b'"block-coroutines"'
