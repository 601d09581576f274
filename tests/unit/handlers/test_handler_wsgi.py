"""`app`: a function behind a WSGI server."""

import io
import logging
import re
import threading
from http.client import HTTPConnection
from typing import Any
from unittest.mock import Mock
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from cloudtasks_nb.handlers import app
from tests.cases import cases
from tests.unit.handlers.conftest import ACCOUNT, AUDIENCE

pytestmark = pytest.mark.usefixtures("google_certs")
BOTH: dict[str, Any] = {"service_account": ACCOUNT, "audience": AUDIENCE}


def report(day: str) -> str:
    """Serve as an ordinary function."""
    if day == "never":
        raise LookupError(day)
    return day.upper()


@pytest.fixture
def application() -> WSGIApplication:
    """Return the function as an application."""
    return app(report, **BOTH)


def request(application: WSGIApplication, body: bytes = b"", **environ: Any) -> tuple[int, dict[str, str], bytes]:
    """Call an application directly; None leaves a variable out."""
    usual: dict[str, Any] = {}
    setup_testing_defaults(usual)
    usual |= {"REQUEST_METHOD": "POST", "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    start_response = Mock()
    given = {name: value for name, value in (usual | environ).items() if value is not None}
    content = b"".join(application(given, start_response))
    status, headers = start_response.call_args.args[:2]
    assert int(dict(headers)["Content-Length"]) == len(content)
    return int(status[:3]), dict(headers), content


@cases(
    ('{"day": "größe"}'.encode(), 200, '"GRÖSSE"'.encode()),
    (b'{"day": "never"}', 500, b"LookupError: never"),
    (b"", 400, b"TypeError: report(day): missing a required argument: 'day'; the body gave no names"),
)
def test_it_answers_as_serve(application: Any, issuer: Any, body: bytes, status: int, content: bytes) -> None:
    """The same function behaves the same on Cloud Run: bodies, results and exceptions."""
    assert request(application, body, HTTP_AUTHORIZATION=issuer.bearer())[::2] == (status, content)


def test_failures_are_logged(application: Any, issuer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """On Cloud Run the log replaces calls(), with tracebacks; successes are not logged."""
    bearer = issuer.bearer()
    with caplog.at_level(logging.INFO, logger="cloudtasks_nb.handlers"):
        request(application, b'{"day": "mon"}', HTTP_AUTHORIZATION=bearer)
        assert caplog.text == ""
        request(application, b'{"day": "never"}', HTTP_AUTHORIZATION=bearer, HTTP_X_CLOUDTASKS_TASKNAME="t1")
        request(application, b'{"day": "never"}')
    assert re.search(r"report answered 500 to task 't1': Traceback[\s\S]*in report", caplog.text)
    assert "report answered 401 to task None: the request has no Bearer token" in caplog.text


def test_a_get_is_explained(application: WSGIApplication) -> None:
    """A method without a body gets the friendly text and no call."""
    status, headers, content = request(application, REQUEST_METHOD="GET")
    assert (status, headers["Allow"]) == (405, "POST, PUT, PATCH")
    assert b"waits for tasks" in content


@cases(("/run", {}, 405), ("/run", {"aud": "https://elsewhere.example"}, 401), ("/done", {}, 404))
def test_a_get_tests_path_and_token(issuer: Any, path: str, claims: dict[str, str], status: int) -> None:
    """With a token, as `doctor()` sends it, a wrong path or audience is found without a call of the function."""
    application = app({"/run": report}, **BOTH)
    bearer = issuer.bearer(**claims)
    assert request(application, REQUEST_METHOD="GET", PATH_INFO=path, HTTP_AUTHORIZATION=bearer)[0] == status


LENGTHS: dict[str, tuple[bytes, dict[str, Any], int]] = {
    **{length: (b'"mon"', {"CONTENT_LENGTH": length}, 400) for length in ("x", "-1", "50")},
    "announced": (b'"mon"', {"CONTENT_LENGTH": str(3 * 1024 * 1024)}, 413),
    "exact": (b'"mon" and the next request', {"CONTENT_LENGTH": "5"}, 200),
    "no length": (b'"mon"', {"CONTENT_LENGTH": None}, 400),
    "chunked": (b'"mon"', {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}, 200),
    "too large": (b"x" * (3 * 1024 * 1024), {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}, 413),
}


@pytest.mark.parametrize(("body", "environ", "status"), LENGTHS.values(), ids=LENGTHS)
def test_the_end_of_a_body(application: Any, issuer: Any, body: bytes, environ: dict[str, Any], status: int) -> None:
    """Half a body is not taken for a whole one, and one without an announced length only from a server that ends it."""
    assert request(application, body, HTTP_AUTHORIZATION=issuer.bearer(), **environ)[0] == status


def test_an_async_function_is_run(issuer: Any) -> None:
    """An async function works behind a WSGI server, too, in one loop."""

    async def where() -> str:
        return threading.current_thread().name

    application = app(where, **BOTH, name="here")
    answers = [request(application, HTTP_AUTHORIZATION=issuer.bearer()) for _ in range(2)]
    assert [answer[2] for answer in answers] == [b'"here-coroutines"'] * 2
    application._coroutines.close(20)  # type: ignore[attr-defined]  # the test leaves no thread running


@cases(
    *((path, 200, b'"MON"') for path in ("/run", "/run/", "/run/JFK")),
    *((path, 200, b'"done: mon"') for path in ("/run/done", "/run/done/x", "/gr\xc3\xb6\xc3\x9fe")),
    *((path, 404, b"there is no function at this path") for path in ("/runs", "/", "")),
)
def test_functions_by_path(issuer: Any, path: str, status: int, content: bytes) -> None:
    """The longest path of the mapping that a request's path begins with decides, and whole segments count."""

    def done(day: str) -> str:
        return f"done: {day}"

    paths = {"/run": report, "/run/done/": done, "/größe": done}
    application = app(paths, **BOTH)
    found = request(application, b'{"day": "mon"}', PATH_INFO=path, HTTP_AUTHORIZATION=issuer.bearer())[::2]
    assert found == (status, content)


def test_one_function_has_all_paths(application: WSGIApplication, issuer: Any) -> None:
    """A function alone is called whatever the path is; so is that of "/" where no other fits."""
    mapped = app({"/": report, "/done": len}, **BOTH)
    for one in (application, mapped):
        for path in ("", "/", "/JFK"):
            answer = request(one, b'{"day": "mon"}', PATH_INFO=path, HTTP_AUTHORIZATION=issuer.bearer())
            assert (answer[0], answer[2]) == (200, b'"MON"')


class Quiet(WSGIRequestHandler):
    """Writes no access log."""

    def log_message(self, *_args: object) -> None:
        """Log nothing."""


def test_it_runs_under_a_wsgi_server(application: WSGIApplication, issuer: Any) -> None:
    """The server of wsgiref and its validator find nothing wrong with it."""
    with make_server("127.0.0.1", 0, validator(application), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=240)
        connection.request("POST", "/any/path?x=1", b'{"day": "mon"}', {"Authorization": issuer.bearer()})
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'"MON"')
        connection.close()
        thread.join(240)
