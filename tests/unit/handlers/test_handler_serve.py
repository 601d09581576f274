"""`serve`: names, URLs, and what it refuses."""

import datetime as dt
import gc
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloudtasks_nb import handlers
from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers import serve, serving
from cloudtasks_nb.handlers.address import derive_address
from cloudtasks_nb.handlers.call import ReceivedRequest
from cloudtasks_nb.handlers.serving import name_at
from cloudtasks_nb.service import open_clients
from tests.processes import run
from tests.unit.handlers.conftest import ACCOUNT, Gate, post, report


def test_a_request_while_the_workers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes at the moment of the replacement is answered by the new workers; it does not hang."""
    handler = serve(lambda: "old", name="report")
    submit = handler._workers.submit

    def replace_and_submit(job: Any) -> Any:
        serve(lambda: "new", name="report", workers=3)
        return submit(job)

    monkeypatch.setattr(handler._workers, "submit", replace_and_submit)
    future = handler._submit(ReceivedRequest(time=dt.datetime.now(dt.UTC), body=b""))
    assert future.result(240).result == b'"new"'


def test_the_same_name_again_replaces_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    """The same handler calls the new function, and a line says so; running calls end with the old function."""
    gate = Gate()
    workers: Any = np.int64(3)
    handler = serve(gate.function("old"), name="report")
    assert capsys.readouterr().out == ""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, handler.url, b"")
        assert gate.entered()
        assert serve(lambda: "new", name="report", workers=workers) is handler
        assert post(handler.url, b"").body == b'"new"'
        gate.open()
        assert running.result(240).body == b'"old"'
    out = capsys.readouterr().out
    assert out == f"report is served already: the function was replaced, the URL stays {handler.url}\n"
    assert list(handler.calls()["result"]) == ["old", "new"]


def test_the_same_function_again_keeps_its_threads(capsys: pytest.CaptureFixture[str]) -> None:
    """With the same number of workers none is started, and nothing is said, as nothing was replaced."""
    handler = serve(report)
    before = {thread.ident for thread in threading.enumerate()}
    serve(report)
    assert {thread.ident for thread in threading.enumerate()} == before
    assert post(handler.url, b'{"day": "1"}').status == 200
    assert capsys.readouterr().out == ""


def test_a_closed_handler_is_served_anew_at_the_old_address() -> None:
    """After close() the URL is free, the record stays, and the next serve() has the URL again."""
    handler = serve(report)
    post(handler.url, b'{"day": "1"}')
    handler.close()
    handler.close()
    with pytest.raises(ConnectionRefusedError):
        post(handler.url)
    again = serve(report)
    assert (again is handler, again.url) == (False, handler.url)
    assert (len(handler.calls()), len(again.calls())) == (1, 0)
    handler.close()
    assert serve(report) is again, "closing the old one does not forget the new one"


def test_a_port_in_use_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If another program uses the port, the URL is new, and a line names the consequence for earlier tasks."""
    port = derive_address(home, "report").port
    with socket.create_server(("127.0.0.1", port)):
        handler = serve(report)
    assert (handler.lasting, post(handler.url, b'{"day": "1"}').status) == (False, 200)
    out = capsys.readouterr().out
    assert out.startswith(f"port {port} of report is in use: {handler.url} is new")
    assert ("tasks that were sent before will not reach it" in out, out.count("\n")) == (True, 1)


def test_a_handler_of_another_kernel_has_the_port(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be one's other notebook: nothing is broken, and the line says whom earlier tasks reach."""
    other = serve(report)
    serving._served.clear()  # as in a kernel of its own
    port, handler = derive_address(home, "report").port, serve(report)
    assert (other.lasting, handler.lasting, len(other.calls())) == (True, False, 0)
    out = capsys.readouterr().out
    assert out.startswith(f"another kernel serves report at port {port}: {handler.url} is new")
    assert out.endswith("they reach that kernel; handler.close() there, then ct.serve here gets the old URL\n")
    handler.close()
    other.close()
    assert serve(report).url == other.url


def test_the_name_at_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    """A lasting URL leads to its name always, a temporary one while it is served."""
    lasting, temporary = serve(report), serve(lambda: None)
    capsys.readouterr()
    assert [name_at(handler.url) for handler in (lasting, temporary)] == [lasting.name, temporary.name]
    for handler in (lasting, temporary):
        handler.close()
    assert [name_at(handler.url) for handler in (lasting, temporary)] == ["report", None]
    assert name_at(f"{lasting.url}?day=1") is None


def test_a_name_gives_a_lasting_url(capsys: pytest.CaptureFixture[str]) -> None:
    """A lambda with name= has a lasting URL, whatever characters the name has."""
    handler = serve(lambda: 1, name="größe & co?")
    assert (handler.lasting, post(handler.url, b"").body, capsys.readouterr().out) == (True, b"1", "")


def test_a_server_that_cannot_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while it starts closes the port, ends the threads and registers no handler."""

    def interrupted(coroutine: Any, **_: Any) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cloudtasks_nb._loop.run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            handlers.serve(report)
    gc.collect()  # an unclosed socket would warn here, and warnings are errors
    for thread in threading.enumerate():
        if thread.name.startswith("report-"):
            thread.join(240)
    assert serve(report).url == derive_address(home, "report").url


def test_the_newest_connection_is_the_issuer_unless_one_is_given(issuer: Any) -> None:
    """Without tasks= the newest connection counts; audience= is what the tokens must be issued for."""
    open_clients.add(issuer)
    try:
        handler = serve(report, service_account=ACCOUNT, audience="https://mine.example")
    finally:
        open_clients.remove(issuer)
    bearer = issuer.bearer(aud="https://mine.example")
    assert post(handler.url, b'{"day": "1"}', Authorization=bearer).status == 200
    with pytest.raises(HandlerError, match="there is no connection"):
        handlers.serve(report, service_account=ACCOUNT)


def test_replacing_can_add_and_remove_the_check(issuer: Any) -> None:
    """The settings of the last serve() hold."""
    tasks = SimpleNamespace(certs_url=issuer.url)
    handler = serve(report)
    serve(report, service_account=ACCOUNT, tasks=tasks)
    assert post(handler.url, b'{"day": "1"}').status == 401
    serve(report)
    assert post(handler.url, b'{"day": "1"}').status == 200


def test_a_function_that_hangs_does_not_keep_the_process() -> None:
    """When the main thread ends, the process ends, even if calls hang."""
    code = """
import threading, urllib.request
from cloudtasks_nb import handlers
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
    assert began.wait(240)
print("end")
"""
    assert run(sys.executable, "-c", code).stdout == "end\n"
