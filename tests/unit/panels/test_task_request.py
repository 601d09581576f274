"""The request of a task as curl, JSON and Python, and the form that sends it again."""

import base64
import getpass
import json
import shlex
from typing import Any

import pytest

from cloudtasks_nb.display.secrets import MASK
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels import PanelContext
from cloudtasks_nb.panels.cards.task import hex_html
from cloudtasks_nb.panels.forms.task_form import TaskForm, TaskRequest
from tests.cases import cases

JSON = TaskRequest(
    url="https://svc/run?day=1&token=hush",
    headers={
        "Content-Type": "application/json",
        "User-Agent": "Google-Cloud-Tasks",
        "X-Team": "data",
        "Authorization": "Bearer hush",
    },
    body=b'{"day": "it\'s", "api_key": "hush", "rows": [1, {"password": "hush"}], "on": true}',
)
BINARY = TaskRequest(url="https://svc/", method="PUT", headers={}, body=bytes(range(256)) * 2)
SIGNED = TaskRequest(url="https://svc/", method="GET", headers={}, service_account="sa@p", audience="https://svc")


def line(request: TaskRequest) -> str:
    """Return the line of Python."""
    arguments, options = request.code()
    return PanelContext.line(None, "reports", "enqueue", *arguments, **options)  # type: ignore[arg-type]  # unused


def run(code: str, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Run a line with a queue that records its arguments, and a user who types "hush" for each secret."""
    given: list[Any] = []

    class Recorder:
        def queue(self, _name: str) -> Any:
            return self

        def enqueue(self, *args: Any, **options: Any) -> None:
            given.extend([args, options])

    monkeypatch.setattr(getpass, "getpass", lambda _name: "hush")
    exec(code, {"tasks": Recorder()})  # noqa: S102 - that is what it is for
    return given[0], given[1]


def test_python_asks_for_secrets_and_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line holds no secret; run, it gives URL, body and headers as they were."""
    code = line(JSON)
    assert "hush" not in code
    args, options = run(code, monkeypatch)
    assert args == (JSON.url, json.loads(JSON.body))
    assert options == {"headers": {"X-Team": "data", "Authorization": "hush"}}


@cases(
    (b"", ()),
    (b"plain \xc3\xa4", ("plain ä",)),
    (b'"quoted"', ('"quoted"',)),
    (b"null", ("null",)),
    (b"[1, null, true]", ([1, None, True],)),
    (b"5", (5,)),
    (b"\xff\x00", (b"\xff\x00",)),
)
def test_bodies_are_written_as_they_were_sent(
    monkeypatch: pytest.MonkeyPatch, body: bytes, given: tuple[Any, ...]
) -> None:
    """What JSON holds is a value, everything else text or bytes."""
    args, options = run(line(TaskRequest(url="https://svc/", body=body)), monkeypatch)
    assert (args, options) == (("https://svc/", *given), {})


def test_curl_has_the_request_without_secrets() -> None:
    """A shell reads the words as they are; the body is as it was sent but for its secrets."""
    words = shlex.split(JSON.curl().replace("\\\n", " "))
    assert words[:4] == ["curl", "-X", "POST", f"https://svc/run?day=1&token={MASK}"]
    assert words[words.index("-H") + 1 :: 2][:4] == [
        "Content-Type: application/json",
        "User-Agent: Google-Cloud-Tasks",
        "X-Team: data",
        f"Authorization: {MASK}",
    ]
    assert json.loads(words[-1])["rows"] == [1, {"password": MASK}]
    plain = b'{"a":   1}'
    assert shlex.split(TaskRequest(url="https://svc/", body=plain).curl())[-1] == plain.decode()
    assert "--head" in TaskRequest(url="https://svc/", method="HEAD").curl()
    assert (
        "gcloud auth print-identity-token --impersonate-service-account=sa@p --audiences=https://svc" in SIGNED.curl()
    )


def test_the_account_and_audience_of_a_task_are_no_shell_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are quoted in curl, and an audience with a secret is asked for in Python."""
    audience = "https://svc/?day=1&token=hush"
    evil = TaskRequest(url="https://svc/", service_account="$(reboot)", audience=audience)
    assert f"--impersonate-service-account='$(reboot)' --audiences='https://svc/?day=1&token={MASK}'" in evil.curl()
    assert "hush" not in line(evil)
    assert run(line(evil), monkeypatch)[1]["audience"] == audience


def test_a_binary_body_is_written_in_base64() -> None:
    """In curl and in JSON."""
    text = base64.b64encode(BINARY.body).decode()
    assert BINARY.curl().startswith(f"echo {text} | base64 -d | curl -X PUT")
    assert json.loads(BINARY.json()) == {"method": "PUT", "url": "https://svc/", "body_base64": text}


def test_json_has_no_secret() -> None:
    """It has method, URL, headers and the decoded body."""
    found = json.loads(JSON.json())
    assert "hush" not in JSON.json()
    assert (found["method"], found["headers"]["X-Team"], found["body"]["on"]) == ("POST", "data", True)
    assert json.loads(SIGNED.json())["service_account"] == "sa@p"


def test_a_binary_body_is_shown_in_hexadecimal() -> None:
    """Its size, and the first 256 bytes, sixteen in a line, with the text beside them."""
    shown = hex_html(BINARY.body)
    assert shown.startswith("512 bytes, not text, the first 256:")
    assert "0040  40 41 42 43" in shown
    assert "@ABCDEFGHIJKLMNO" in shown
    assert "&lt;=&gt;" in shown
    assert len(shown.splitlines()) == 16
    assert hex_html(b"\xff").startswith("1 byte, not text:")


def filled(request: TaskRequest) -> TaskForm:
    """Return a form with a request."""
    form = TaskForm(lambda: None)
    form.fill(request)
    return form


def test_a_form_that_is_not_edited_sends_the_same() -> None:
    """Its fields show dots, which stand for the secrets."""
    form = filled(JSON)
    shown = [form.request.url.value, form.request.headers.value, form.body.value]
    assert "hush" not in "".join(shown)
    assert form.arguments == {
        "url": JSON.url,
        "headers": {"X-Team": "data", "Authorization": "Bearer hush"},
        "body": json.loads(JSON.body),
    }
    assert "hush" not in repr(form.code)
    form = filled(SIGNED)
    assert form.arguments == {
        "url": "https://svc/",
        "method": "GET",
        "service_account": "sa@p",
        "audience": "https://svc",
    }
    form.clear()
    assert (form.request.url.value, form.body.value, form.request.signed.value) == ("", "", "")


@cases(
    ('{"day": "2", "api_key": "•••"}', {"day": "2", "api_key": "hush"}, "valid JSON"),
    ('{"rows": [1, {"password": "•••"}, 3]}', {"rows": [1, {"password": "hush"}, 3]}, "valid JSON"),
    ("", None, "no body"),
    ("7", 7, "valid JSON"),
)
def test_a_body_is_edited(typed: str, body: Any, note: str) -> None:
    """Dots keep the secret that was there; the note says what is sent."""
    form = filled(JSON)
    form.body.value = typed
    assert form.arguments.get("body") == body
    assert note in form.note.value


@cases(('{"day": 2,}', "not JSON"), ('{"new_key": "•••"}', "dots"), ('{"day": "•••", "x": "a •••"}', "dots"))
def test_a_body_that_cannot_be_sent_says_why(typed: str, words: str) -> None:
    """While it is typed; dots that stand for nothing are not sent."""
    form = filled(JSON)
    form.body.value = typed
    assert words in form.note.value
    with pytest.raises(InvalidInputError, match=words):
        _ = form.arguments


def test_text_and_bytes_are_sent_as_they_are() -> None:
    """Text may be edited, with its secrets kept; bytes cannot."""
    form = filled(TaskRequest(url="https://svc/", body=b"day=1&token=hush"))
    assert form.body.value == f"day=1&token={MASK}"
    form.body.value = f"day=2&token={MASK}"
    assert form.arguments["body"] == "day=2&token=hush"
    assert "text, sent as it is" in form.note.value
    form = filled(BINARY)
    assert (form.body.disabled, form.arguments["body"]) == (True, BINARY.body)
    assert "512 bytes that are not text" in form.note.value
