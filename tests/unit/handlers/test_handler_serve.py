from __future__ import annotations

import functools
import gc
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb import handlers
from cloudtasks_nb.errors import ConfigurationError, HandlerError
from cloudtasks_nb.handlers import handler as handler_module
from cloudtasks_nb.handlers.address import derive_address
from cloudtasks_nb.handlers.serving import name_at
from cloudtasks_nb.service import open_clients

__all__: list[str] = []

ACCOUNT = "runner@demo.iam.gserviceaccount.com"
Serve = Callable[..., handlers.Handler]
Post = Callable[..., Any]


def report(day: str, origin: str = "JFK") -> dict[str, str]:
    """Serve as an ordinary function."""
    if day == "never":
        raise LookupError(f"no such day: {day}")
    return {"day": day, "origin": origin}


def test_a_task_becomes_a_call(serve: Serve, post: Post) -> None:
    """The function is called with the task's body, its result is the answer, and the call is on record."""
    handler = serve(report)
    answer = post(
        handler.url,
        b'{"day": "2013-01-01"}',
        X_CloudTasks_TaskName="t1",
        X_CloudTasks_QueueName="reports",
        X_CloudTasks_TaskRetryCount="2",
    )
    assert (answer.status, answer.body) == (200, b'{"day":"2013-01-01","origin":"JFK"}')
    (call,) = handler.calls().to_dict("records")
    assert (call["task"], call["queue"], call["attempt"], call["status"]) == ("t1", "reports", 3, 200)
    assert call["result"] == {"day": "2013-01-01", "origin": "JFK"}


def test_an_exception_is_a_status_and_its_traceback_stays_here(serve: Serve, post: Post) -> None:
    """The answer says type and message; where it happened is only in calls()."""
    handler = serve(report)
    answer = post(handler.url, b'{"day": "never"}')
    assert (answer.status, answer.body) == (404, b"LookupError: no such day: never")
    (error,) = handler.calls()["error"]
    assert error.startswith("Traceback")
    assert "in report" in error
    assert "cloudtasks_nb" not in error


@pytest.mark.parametrize("count", ["", "x", "-1", "²", "9" * 30])
def test_a_retry_count_that_is_none_is_not_known(serve: Serve, post: Post, count: str) -> None:
    """Headers can be sent by anybody; a bad one is NA and nothing worse."""
    handler = serve(report)
    headers = {"X_CloudTasks_TaskRetryCount": count.encode().decode("latin-1")}
    assert post(handler.url, b'{"day": "1"}', **headers).status == 200
    assert handler.calls()["attempt"].isna().all()


@pytest.mark.parametrize("body", ['{"day": "zwölf 日"}'.encode(), b'{"day": "' + b"x" * 1_500_000 + b'"}'])
def test_bodies_of_a_tasks_full_size_and_any_script_arrive(serve: Serve, post: Post, body: bytes) -> None:
    """A body may be as large as a task can be, and in any language."""
    handler = serve(report)
    answer = post(handler.url, body, Content_Type="application/json")
    assert (answer.status, len(answer.body)) == (200, len(body) - 1 + len(',"origin":"JFK"}') - 1)


def test_a_body_beyond_any_task_is_refused(serve: Serve, post: Post) -> None:
    """What no queue can send is not read to its end."""
    handler = serve(report)
    assert post(handler.url, b"x" * (3 * 1024 * 1024)).status == 413
    assert handler.calls().empty


@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        (lambda url: url + "x", {}, 404),
        (lambda url: url.rsplit("/", 1)[0], {}, 404),
        (lambda url: "/".join(url.split("/")[:3]) + "/", {}, 404),
        (lambda url: "/".join(url.split("/")[:3]) + "/%FF%00", {}, 404),
        (lambda url: url, {"Origin": "https://evil.example"}, 403),
        (lambda url: url, {"Origin": "null"}, 403),
        (lambda url: url, {"Host": "evil.example"}, 403),
        (lambda url: url, {"Host": "127.0.0.1"}, 403),
        (lambda url: url, {"Host": "127.0.0.1:1"}, 403),
        (lambda url: url + "?x=1", {}, 200),
        (lambda url: url.replace("127.0.0.1", "localhost"), {}, 200),
    ],
)
def test_only_requests_to_the_function_from_this_machine_reach_it(
    serve: Serve, post: Post, change: Callable[[str], str], headers: dict[str, str], status: int
) -> None:
    """Web pages, foreign host names and guessed paths get an answer that tells nothing."""
    handler = serve(report)
    secret = handler.url.rsplit("/", 1)[1]
    answer = post(change(handler.url), b'{"day": "1"}', **headers)
    assert answer.status == status
    assert secret.encode() not in answer.body
    assert len(handler.calls()) == (status == 200)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_method_without_a_body_is_told_what_this_is(serve: Serve, post: Post, method: str) -> None:
    """Somebody who opens the URL in a browser learns how to use it."""
    handler = serve(report)
    answer = post(handler.url, None, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, PUT, PATCH")
    assert method == "HEAD" or b"queue.enqueue(handler" in answer.body
    assert handler.calls().empty


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_method_with_a_body_calls_the_function(serve: Serve, post: Post, method: str) -> None:
    """A task may use any method that carries its arguments."""
    assert post(serve(report).url, b'{"day": "1"}', method=method).status == 200


def test_eight_calls_run_at_once(serve: Serve, post: Post) -> None:
    """Eight calls meet at a barrier, while this thread does nothing for them."""
    barrier = threading.Barrier(8)
    handler = serve(lambda: barrier.wait(20), name="meet")
    with ThreadPoolExecutor(8) as pool:
        answers = [future.result(30) for future in [pool.submit(post, handler.url, b"") for _ in range(8)]]
    assert sorted(int(answer.body) for answer in answers) == list(range(8))


def test_no_more_calls_run_than_there_are_workers(serve: Serve, post: Post) -> None:
    """Six tasks on two workers run two by two."""
    barrier, lock = threading.Barrier(2), threading.Lock()
    running: list[int] = [0]
    seen: list[int] = []

    def pair() -> None:
        with lock:
            running[0] += 1
            seen.append(running[0])
        barrier.wait(20)
        with lock:
            running[0] -= 1
        barrier.wait(20)

    handler = serve(pair, workers=2)
    with ThreadPoolExecutor(6) as pool:
        answers = [future.result(30) for future in [pool.submit(post, handler.url, b"") for _ in range(6)]]
    assert [answer.status for answer in answers] == [200] * 6
    assert max(seen) == 2


def test_an_async_function_runs_in_a_loop_of_its_own(serve: Serve, post: Post) -> None:
    """Coroutines of a handler share a loop, and one that blocks does not stop another handler."""
    go, began = threading.Event(), threading.Event()

    async def block() -> str:
        began.set()
        go.wait(20)  # what nobody should do in a coroutine, and everybody does once
        return threading.current_thread().name

    blocking, other = serve(block), serve(report)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(post, blocking.url, b"")
        assert began.wait(20)
        assert post(other.url, b'{"day": "1"}').status == 200
        go.set()
        assert blocked.result(20).body == b'"block-coroutines"'


def test_the_same_name_again_replaces_the_function(
    serve: Serve, post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cell run again keeps URL, handler and record, and says what it did; calls that run end with the old."""
    go, began = threading.Event(), threading.Event()

    def old() -> str:
        began.set()
        go.wait(20)
        return "old"

    handler = serve(old, name="report")
    assert capsys.readouterr().out == ""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, handler.url, b"")
        assert began.wait(20)
        assert serve(lambda: "new", name="report", workers=3) is handler
        assert post(handler.url, b"").body == b'"new"'
        go.set()
        assert running.result(20).body == b'"old"'
    out = capsys.readouterr().out
    assert out == f"report is served already: the function was replaced, the URL stays {handler.url}\n"
    assert list(handler.calls()["result"]) == ["old", "new"]


def test_the_same_function_again_keeps_its_threads(serve: Serve, post: Post) -> None:
    """Replacing with the same number of workers starts none."""
    handler = serve(report)
    before = {thread.ident for thread in threading.enumerate()}
    serve(report)
    assert {thread.ident for thread in threading.enumerate()} == before
    assert post(handler.url, b'{"day": "1"}').status == 200


def test_a_closed_handler_is_served_anew_at_the_old_address(serve: Serve, post: Post) -> None:
    """After close() the URL is free, the record stays, and the next serve() has the URL again."""
    handler = serve(report)
    post(handler.url, b'{"day": "1"}')
    handler.close()
    handler.close()
    with pytest.raises(ConnectionRefusedError):
        post(handler.url)
    again = serve(report)
    assert again is not handler
    assert again.url == handler.url
    assert (len(handler.calls()), len(again.calls())) == (1, 0)
    handler.close()
    assert serve(report) is again, "closing the old one does not forget the new one"


def test_a_with_statement_closes(post: Post) -> None:
    """A handler is a context manager; its text is its URL."""
    with handlers.serve(report) as handler:
        assert str(handler) == handler.url
        assert handler.name == "report"
        assert repr(handler) == f"<Handler report at {handler.url}>"
    assert handler.closed
    with pytest.raises(ConnectionRefusedError):
        post(handler.url)


def test_a_closed_handler_says_so(serve: Serve) -> None:
    """What it is worth now stands in its repr and on its card, with the next line; an address for once has no next."""
    lasting, passing = serve(report), serve(lambda: None)
    lasting.close()
    passing.close()
    assert repr(lasting) == f"<Handler report at {lasting.url}, closed: ct.serve(report) serves it again>"
    assert "closed: its tasks will reach no other" in repr(passing)
    for handler, words in ((lasting, "→ ct.serve(report) serves it again"), (passing, 'name="report"')):
        text, _ = shown(handler)
        assert "closed; its tasks wait with ct.local(), elsewhere they fail" in text[0]
        assert words in text[-1]


def test_closing_leaves_no_thread_behind(serve: Serve, post: Post) -> None:
    """Workers and the coroutines' loop end with the handler; only the package's own loop stays."""

    async def hello() -> str:
        return "hello"

    with handlers.serve(hello) as handler:
        assert post(handler.url, b"").status == 200
        names = {thread.name for thread in threading.enumerate()}
        assert {"hello-0", "hello-7", "hello-coroutines"} <= names
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("hello")]


def test_closing_waits_for_calls_that_run(serve: Serve, post: Post) -> None:
    """A call that has begun is answered before the handler is closed."""
    go, began = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        go.wait(20)
        return "done"

    handler = serve(slow)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(post, handler.url, b"")
        assert began.wait(20)
        closing = pool.submit(handler.close)
        go.set()
        assert running.result(20).body == b'"done"'
        closing.result(20)


def test_closing_does_not_wait_for_ever(
    serve: Serve, post: Post, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A call that hangs is cut off and said; when it ends at last, it is on record."""
    monkeypatch.setattr(handler_module, "_GRACE", 0.05)
    monkeypatch.setattr(handler_module, "_JOIN", 0.05)
    go, began = threading.Event(), threading.Event()

    def stuck() -> str:
        began.set()
        go.wait(20)
        return "late"

    handler = serve(stuck)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, handler.url, b"")
        assert began.wait(20)
        handler.close()
        assert isinstance(running.exception(20), ConnectionError | OSError)
    assert "stuck still runs (calls: 1)" in capsys.readouterr().out
    go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("stuck-"):
            thread.join(20)
    assert list(handler.calls()["result"]) == ["late"]


def test_a_held_port_is_said(serve: Serve, post: Post, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another program at the address means a fresh URL and a line about earlier tasks."""
    port = derive_address(home, "report").port
    with socket.create_server(("127.0.0.1", port)):
        handler = serve(report)
    assert not handler.lasting
    assert post(handler.url, b'{"day": "1"}').status == 200
    out = capsys.readouterr().out
    assert out.startswith(f"port {port} of report is in use: {handler.url} is new")
    assert "tasks that were sent before will not reach it" in out
    assert out.count("\n") == 1


def test_whose_address_it_is(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A lasting address names its handler for ever, a passing one while it is served."""
    lasting, passing = serve(report), serve(lambda: None)
    capsys.readouterr()
    assert [name_at(handler.url) for handler in (lasting, passing)] == [lasting.name, passing.name]
    for handler in (lasting, passing):
        handler.close()
    assert [name_at(handler.url) for handler in (lasting, passing)] == ["report", None]
    assert name_at(f"{lasting.url}?day=1") is None


class Callable1:
    """Callable, and without a name of its own."""

    def __call__(self) -> int:
        """Return one."""
        return 1


@pytest.mark.parametrize(
    ("fn", "prefix"),
    [(lambda: 1, "lambda-"), (functools.partial(int, "1"), "partial-"), (Callable1(), "Callable1-")],
    ids=["lambda", "partial", "object"],
)
def test_what_has_no_name_gets_a_passing_url(
    serve: Serve, post: Post, capsys: pytest.CaptureFixture[str], fn: Any, prefix: str
) -> None:
    """Twice the same nameless function are two handlers, and it is said that their URLs pass."""
    first, second = serve(fn), serve(fn)
    assert first.url != second.url
    assert first.name != second.name
    assert first.name.startswith(prefix)
    assert post(second.url, b"").body == b"1"
    out = capsys.readouterr().out
    assert out.count("without a name of its own") == 2
    assert 'name="..." gives it a URL that stays' in out


def test_a_name_makes_a_nameless_function_last(serve: Serve, post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    """A lambda with name= has a URL that stays, whatever letters the name has."""
    handler = serve(lambda: 1, name="größe & co?")
    assert handler.lasting
    assert post(handler.url, b"").body == b"1"
    assert capsys.readouterr().out == ""


def generated() -> Iterator[int]:
    """Yield."""
    yield 1


async def generated_async() -> AsyncIterator[int]:
    """Yield."""
    yield 1


@pytest.mark.parametrize(
    ("fn", "settings", "words"),
    [
        (report("1"), {}, "is not a function"),
        (None, {}, "None is not a function"),
        (generated, {}, "generated yields"),
        (generated_async, {}, "generated_async yields"),
        (report, {"workers": 0}, "workers=0"),
        (report, {"workers": True}, "workers=True"),
        (report, {"workers": "8"}, "workers='8'"),
        (report, {"name": ""}, "name=''"),
        (report, {"name": "a/b"}, "name='a/b'"),
        (report, {"name": ".."}, "name='..'"),
        (report, {"name": "a\n"}, "cannot be a handler's name"),
        (report, {"name": 3}, "name=3"),
        (report, {"name": "x" * 101}, "cannot be a handler's name"),
        (report, {"audience": "https://x"}, "audience= alone"),
        (report, {"service_account": ""}, "service_account=''"),
        (report, {"service_account": ACCOUNT}, "there is no connection"),
        (report, {"service_account": ACCOUNT, "tasks": object()}, "tasks=object is not a connection"),
    ],
)
def test_what_cannot_be_served_is_refused(fn: Any, settings: dict[str, Any], words: str, home: Path) -> None:
    """An error names the argument and the next step, and nothing is left listening."""
    with pytest.raises(HandlerError) as caught:
        handlers.serve(fn, **settings)
    assert words in caught.value.message
    assert caught.value.hint
    assert list(home.iterdir()) == []


def test_a_home_that_cannot_be_made_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the home should be says which variable to set."""
    (home / "file").touch()
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home / "file" / "home"))
    with pytest.raises(ConfigurationError, match="cannot be made") as caught:
        handlers.serve(report)
    assert "CLOUDTASKS_NB_HOME" in str(caught.value.hint)


def test_a_server_that_cannot_start_leaves_nothing_open(
    home: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    """An interrupt while the server starts closes the port, ends the threads and registers nothing."""

    def interrupted(coroutine: Any) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cloudtasks_nb._loop.run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            handlers.serve(report)
    gc.collect()  # an unclosed socket would warn here, and warnings are errors
    for thread in threading.enumerate():
        if thread.name.startswith("report-"):
            thread.join(20)
    assert serve(report).url == derive_address(home, "report").url


def test_a_token_of_the_account_is_wanted(serve: Serve, post: Post, issuer: Any) -> None:
    """With service_account= the function is called only for tokens that the emulator issued for this URL."""
    handler = serve(report, service_account=ACCOUNT, tasks=issuer)
    body = b'{"day": "1"}'
    good = post(handler.url, body, Authorization=issuer.bearer(aud=handler.url))
    missing = post(handler.url, body)
    elsewhere = post(handler.url, body, Authorization=issuer.bearer(aud="https://elsewhere.example"))
    thief = post(handler.url, body, Authorization=issuer.bearer(aud=handler.url, email="thief@x"))
    assert [answer.status for answer in (good, missing, elsewhere, thief)] == [200, 401, 401, 403]
    calls = handler.calls()
    assert list(calls["status"]) == [200, 401, 401, 403]
    assert list(calls["duration"].isna()) == [False, True, True, True]
    assert ["Bearer token" in str(calls["error"][1]), "audience" in str(calls["error"][2])] == [True, True]
    assert issuer.fetches == 1


def test_the_newest_connection_is_the_issuer_unless_one_is_given(serve: Serve, post: Post, issuer: Any) -> None:
    """Whoever makes connections tells which is the newest; audience= is what the tokens must be for."""
    open_clients.add(issuer)
    try:
        handler = serve(report, service_account=ACCOUNT, audience="https://mine.example")
    finally:
        open_clients.remove(issuer)
    bearer = issuer.bearer(aud="https://mine.example")
    assert post(handler.url, b'{"day": "1"}', Authorization=bearer).status == 200
    with pytest.raises(HandlerError, match="there is no connection"):
        handlers.serve(report, service_account=ACCOUNT)


def test_replacing_can_add_and_lift_the_check(serve: Serve, post: Post, issuer: Any) -> None:
    """The settings of the newest serve() hold."""
    tasks = SimpleNamespace(certs_url=issuer.url)
    handler = serve(report)
    serve(report, service_account=ACCOUNT, tasks=tasks)
    assert post(handler.url, b'{"day": "1"}').status == 401
    serve(report)
    assert post(handler.url, b'{"day": "1"}').status == 200


def shown(handler: handlers.Handler) -> tuple[list[str], str]:
    """Return what a notebook shows of a handler: the lines of its text, and its HTML."""
    bundle = handler._repr_mimebundle_(include=None, exclude=None)
    return bundle["text/plain"].splitlines(), bundle["text/html"]


def test_a_card_has_state_url_counts_last_error_and_the_next_line(serve: Serve, post: Post) -> None:
    """Text and HTML say how many calls there were, and how the last one failed."""
    handler = serve(report)
    post(handler.url, b'{"day": "mon"}')
    assert "1 call: 1 succeeded, 0 failed" in shown(handler)[0]
    post(handler.url, b'{"day": "never"}')
    text, html = shown(handler)
    assert text == [
        "report: waiting for tasks",
        handler.url,
        "2 calls: 1 succeeded, 1 failed",
        "last error: LookupError: no such day: never",
        "→ handler.calls()",
    ]
    assert all(line.removeprefix("report: ").removeprefix("→ ") in html for line in text)


def test_a_card_is_escaped_and_bounded(serve: Serve, post: Post) -> None:
    """Whatever a task sends or a function returns is shown as text, and shortened; the newest five calls are listed."""
    evil = "<img src=x onerror=alert(1)>"

    def echo(*, fail: bool) -> str:
        if fail:
            raise RuntimeError(f"two\n  lines {evil * 100}")
        return evil * 100

    handler = serve(echo, name=evil)
    assert "<table" not in shown(handler)[1]
    for fail in (*["false"] * 6, "true"):
        post(handler.url, f'{{"fail": {fail}}}'.encode(), X_CloudTasks_TaskName=evil)
    text, html = shown(handler)
    assert text[3].startswith("last error: RuntimeError: two lines <img")
    assert "<img" not in html
    assert "&lt;img src=x onerror" in html
    assert html.count("<tr>") == 6
    assert len(html) < 5000


@pytest.mark.parametrize(
    ("fn", "arguments"),
    [
        (lambda day, origin="JFK", *, shop: None, '{"day": ..., "shop": ...}'),  # noqa: ARG005 - only its parameters matter
        (lambda *rest, **more: None, "{}"),  # noqa: ARG005 - only its parameters matter
        (dict, "{...}"),
    ],
)
def test_the_next_line_fits_the_function(serve: Serve, fn: Any, arguments: str) -> None:
    """Before the first call, the next line has the function's own arguments."""
    assert shown(serve(fn, name="fn"))[0][-1] == f"→ queue.enqueue(handler, {arguments})"


def python(code: str, timeout: float = 60) -> str:
    """Run a script in a process of its own, with this home."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=timeout)
    return done.stdout.strip()


def test_a_new_process_has_the_same_url(serve: Serve) -> None:
    """Tasks that were queued before a restart still reach the function."""
    code = """
from cloudtasks_nb import handlers
from cloudtasks_nb.service import open_clients
def report(): ...
with handlers.serve(report) as handler:
    print(handler.url)
"""
    assert python(code) == python(code) == serve(report).url


def test_a_function_that_hangs_does_not_keep_the_process() -> None:
    """When the main thread ends, the process ends, whatever runs in the handler."""
    code = """
import threading, urllib.request
from cloudtasks_nb import handlers
from cloudtasks_nb.service import open_clients
began = threading.Event()
def hang():
    began.set()
    threading.Event().wait()
async def hang_too():
    hang()
for fn in hang, hang_too:
    began.clear()
    url = handlers.serve(fn).url
    threading.Thread(target=urllib.request.urlopen, args=(url, b""), daemon=True).start()
    assert began.wait(20)
print("end")
"""
    assert python(code) == "end"
