"""The server side of the console: who gets the page, what the page is told, and what it may change."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from cloudtasks_nb._names import CODES
from cloudtasks_nb.display.colours import COLOURS, colour
from cloudtasks_nb.emulator import __main__ as command
from cloudtasks_nb.emulator.frontends import console
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, StartEmulator, Target

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = Path(console.__file__).parent


def get(emulator: Emulator, path: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
    """Return status, headers and text of an answer."""
    answer = requests.get(f"http://{emulator.http}{path}", headers=headers, timeout=PATIENCE)
    return answer.status_code, answer.headers, answer.text


def attempts(emulator: Emulator, query: str = "") -> Any:
    """Return what the page gets about attempts."""
    return emulator.request("GET", f"/console/attempts?{query}")


def test_the_page_loads_only_files_of_its_own(emulator: Emulator) -> None:
    """A browser gets the page and its files, each with a policy that allows no script of elsewhere and none inline."""
    status, headers, page = get(emulator, "/", BROWSER)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert set(re.findall(r'(?:src|href)="([^#d][^"]*)"', page)) == {"/console/console.css", "/console/console.js"}
    assert not re.search(r"<style|<script>|\son\w+=|\sstyle=", page)
    for name in ("", "console/console.css", "console/console.js", "console/secrets.js"):
        status, headers, _ = get(emulator, f"/{name}", BROWSER)
        assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
    assert get(emulator, "/console/console.html", BROWSER)[0] == 404
    assert get(emulator, "/console/..%2fguard.py", BROWSER)[0] == 404


def test_queues_of_all_projects_with_totals(emulator: Emulator, target: Target) -> None:
    """The answer has the queues of all projects and locations, each with its counts, and the totals of all."""
    names = [f"{LOCATION}/queues/a", "projects/other/locations/europe-west1/queues/b"]
    emulator.request("POST", "/admin/seed", {"queues": [{"name": names[0]}, {"name": names[1], "state": "PAUSED"}]})
    target.script(200, 404)
    for name in (*names[:1] * 2, *names[1:] * 3):
        emulator.client.create_task({"parent": name, "task": {"http_request": {"url": target.url}}})
    found = emulator.until(lambda: (f := emulator.request("GET", "/console/queues"))["totals"]["attempts"] >= 2 and f)
    first, second = found["queues"]
    running = (names[0], "RUNNING", found["totals"]["attempts"], found["totals"]["failed"])
    shown = [(q["name"], q["state"], q["attempts"], q["failed"]) for q in (first, second)]
    assert shown == [running, (names[1], "PAUSED", 0, 0)]
    assert (second["tasks"], second["rate"], second["maxConcurrent"], second["maxAttempts"]) == (3, 500, 1000, 100)
    assert found["totals"]["queues"] == found["found"] == 2
    assert found["totals"]["failed"] >= 1
    assert not found["writes"]
    chosen = emulator.request("GET", "/console/queues?find=OTHER/")
    assert ([q["name"] for q in chosen["queues"]], chosen["totals"]["queues"]) == (names[1:], 2)


def test_attempts_of_all_queues_the_newest_first(emulator: Emulator, target: Target) -> None:
    """Attempts are there although the queues write no log; `after` leaves out those that were read before."""
    one, other = (emulator.make_queue(retry_config={"max_attempts": 1}) for _ in range(2))
    before = attempts(emulator)["newest"]
    target.script(500, 204)
    bad = emulator.enqueue(one, target.url, {"body": b"\xff\x00", "headers": {"X-Own": "1"}}).name
    emulator.gone(bad)
    emulator.gone(emulator.enqueue(other, target.url).name)
    new = attempts(emulator, f"after={before}")
    good, failed = new["attempts"]
    shown = [(a["queue"], a["status"], a["httpStatus"], a["attempt"], a["retry"]) for a in (failed, good)]
    assert shown == [(one, "INTERNAL", 500, 1, 0), (other, "OK", 204, 1, 0)]
    assert failed["target"] == f"POST {target.url}"
    assert attempts(emulator, f"after={new['newest']}") == {"attempts": [], "newest": new["newest"]}
    assert attempts(emulator, f"after={before}&failed=1")["attempts"] == [failed]
    assert attempts(emulator, f"after={before}&queue={other}")["attempts"] == [good]
    of_task = attempts(emulator, f"queue={one}&task={bad.rpartition('/')[2]}")
    assert (of_task["attempts"], of_task["there"]) == ([failed], False)
    assert base64.b64decode(of_task["request"]["body"]) == b"\xff\x00"
    assert of_task["request"]["headers"]["X-Own"] == "1"


def test_a_task_that_is_tried_again(emulator: Emulator, failed_once: Any) -> None:
    """While a task waits for its next attempt, the answer says so and when that is."""
    queue, _, task = failed_once.name.partition("/tasks/")
    found = attempts(emulator, f"queue={queue}&task={task}")
    (attempt,) = found["attempts"]
    assert (found["there"], attempt["retry"] > attempt["ended"]) == (True, True)
    nothing = {"attempts": [], "newest": found["newest"], "there": False, "request": None}
    assert attempts(emulator, f"queue={queue}&task=unknown") == nothing


def test_after_a_restart_attempts_come_from_the_log(tmp_path: Path, target: Target, free_port: int) -> None:
    """What ended before the process has started is read from the operations log, once."""
    name = f"{LOCATION}/queues/logged"
    arguments = ("--data-dir", str(tmp_path))
    with Emulator(*arguments) as emulator:
        queue = {"name": name, "stackdriver_logging_config": {"sampling_ratio": 1.0}}
        emulator.client.create_queue({"parent": LOCATION, "queue": {**queue, "retry_config": {"max_attempts": 1}}})
        target.script(500, 200)
        for task, url in {"bad": target.url, "good": target.url, "lost": f"http://127.0.0.1:{free_port}"}.items():
            full = f"{name}/tasks/{task}"
            emulator.client.create_task({"parent": name, "task": {"name": full, "http_request": {"url": url}}})
            emulator.gone(full)
        live = attempts(emulator)["attempts"]
        run = emulator.request("GET", "/console/queues")["run"]
    with Emulator(*arguments) as emulator:
        stored = attempts(emulator)["attempts"]
        shared = ("queue", "task", "attempt", "status", "cause", "retry", "target", "took", "ended")
        assert [[a[key] for key in shared] for a in stored] == [[a[key] for key in shared] for a in live]
        failed = [(a["task"], a["cause"]) for a in attempts(emulator, "failed=1")["attempts"]]
        assert failed == [("lost", f"127.0.0.1:{free_port} refuses the connection"), ("bad", "")]
        assert attempts(emulator, f"queue={LOCATION}/queues/other")["attempts"] == []
        assert attempts(emulator, "after=1")["attempts"] == []
        assert emulator.request("GET", "/console/queues")["run"] != run


def test_a_reset_is_another_run(emulator: Emulator, queue: str, target: Target) -> None:
    """The page learns that what it knows is gone."""
    emulator.enqueue(queue, target.url)
    emulator.until(lambda: attempts(emulator)["attempts"])
    run = emulator.request("GET", "/console/queues")["run"]
    emulator.request("POST", "/admin/reset", {})
    assert emulator.request("GET", "/console/queues")["run"] != run
    assert attempts(emulator)["attempts"] == []


def test_colours_and_codes_are_those_of_the_panels() -> None:
    """The emulator cannot import the toolkit, so it repeats the colours of states and the codes."""
    style = (FILES / "console.css").read_text(encoding="utf-8")
    dots = dict(re.findall(r'\.dot\[data-state="(\w+)"\] \{\s+background: (#\w+);', style))
    assert dots == {state: COLOURS[state] for state in dots}
    assert {"succeeded", "failed", "cancelled", "scheduled", "ready", "running", "retrying"} == set(dots)
    script = (FILES / "console.js").read_text(encoding="utf-8")
    words = re.search(r"const CODES = \((.*?)\)\.split", script, flags=re.DOTALL)
    assert words is not None
    assert "".join(re.findall(r'"([^"]*)"', words[1])).split() == list(CODES)
    aliases = dict(re.findall(r'(\w+): "(\w+)"', str(re.search(r"const STATES = \{(.*)\}", script)))) or {}
    assert {word: COLOURS[state] for word, state in aliases.items()} == {word: colour(word) for word in aliases}


def test_a_strict_emulator_has_no_console(start_emulator: StartEmulator, capsys: pytest.CaptureFixture[str]) -> None:
    """A browser is told why, there is nothing below /console/, and the command line refuses --console-writes."""
    emulator = start_emulator("--strict")
    for path, text in (("/", "needs a bearer token"), ("/console/queues", "")):
        url, authorities = f"https://{emulator.http}{path}", emulator.ready["ca"]
        answer = requests.get(url, headers=BROWSER, timeout=PATIENCE, verify=authorities)
        assert (answer.status_code, text in answer.text) == (404, True)
    with pytest.raises(SystemExit):
        command.main(["--strict", "--console-writes"])
    assert "--console-writes cannot be used with --strict, which has no console" in capsys.readouterr().err
