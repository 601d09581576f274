"""Handlers store what a task of a batch became before they answer it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.handlers import app, serve
from cloudtasks_nb.handlers.version import version_of
from cloudtasks_nb.service import open_clients
from cloudtasks_nb.store.results import StoredResult, results_of_task
from cloudtasks_nb.store.store import Store
from tests.stored import best_results, stored_results
from tests.unit.handlers.conftest import ACCOUNT, AUDIENCE, post, report
from tests.unit.handlers.test_handler_wsgi import request

BATCH = "a91f03c2"
TASK = f"{'0123456789' * 2}-{BATCH}-1"
QUEUE = {"X_CloudTasks_QueueName": "letters"}


def stored(place: str | Path, task: str = TASK) -> StoredResult:
    """Return what is stored for a task."""
    return best_results(place, BATCH)[task]


def test_a_result_is_stored_before_the_answer(tmp_path: Path) -> None:
    """What the function returned is in the store when the task has its answer."""
    handler = serve(report, store=tmp_path)
    words = {"X_CloudTasks_TaskName": TASK, "X_CloudTasks_TaskRetryCount": "2", TAG_HEADER: "a tag"}
    answer = post(handler.url, b'{"day": "mon"}', **words)
    found = stored(tmp_path)
    assert found.tag == "a tag"
    assert (answer.status, found.task, found.attempt, found.status, found.error) == (200, TASK, 3, 200, None)
    assert found.result == {"day": "mon", "origin": "JFK"}
    assert None not in (found.started.tzinfo, found.duration)
    assert handler.store == str(tmp_path)


@pytest.mark.parametrize(("body", "words"), [(b'{"day": "never"}', "in report"), (b"{}", "missing a required")])
def test_an_error_is_stored_with_its_traceback(tmp_path: Path, body: bytes, words: str) -> None:
    """An exception is stored, and a body that does not fit the function as well."""
    answer = post(serve(report, store=tmp_path).url, body, X_CloudTasks_TaskName=TASK)
    found = stored(tmp_path)
    assert (found.status, found.result) == (answer.status, None)
    assert words in str(found.error)


NAMES = (f"../../{TASK}", f"{TASK}/../x", f"{TASK}\u00b2", "")
NOT_STORED = [{}, {"X_CloudTasks_TaskName": "mine"}, *({"X_CloudTasks_TaskName": name, **QUEUE} for name in NAMES)]


@pytest.mark.parametrize("headers", NOT_STORED, ids=str)
def test_only_tasks_are_stored(tmp_path: Path, headers: dict[str, str]) -> None:
    """A request that no queue sent, or that does not say which, and a forged name write nothing."""
    folder = tmp_path / "store"
    assert post(serve(report, store=folder).url, b'{"day": "mon"}', **headers).status == 200
    assert list(tmp_path.rglob("*.json*")) == []


def test_a_task_without_a_batch_is_stored_by_its_queue_and_id(tmp_path: Path) -> None:
    """Each attempt has an object of its own; another queue, and another task, have others."""
    url = serve(report, store=tmp_path).url
    for day, attempt in (("never", "0"), ("mon", "1")):
        words = {"X_CloudTasks_TaskName": "mine", "X_CloudTasks_TaskRetryCount": attempt, **QUEUE}
        post(url, b'{"day": "%s"}' % day.encode(), **words)
    (folder,) = tmp_path.glob("results/tasks/*")
    for number, garbage in enumerate((b"", b"no result", b'{"a":' * 100_000)):
        (folder / f"{number}").write_bytes(garbage)
    found = sorted(results_of_task(Store(tmp_path), "letters", "mine"), key=lambda one: one.rank, reverse=True)
    assert [(one.attempt, one.status, one.tag) for one in found] == [(2, 200, None), (1, 500, None)]
    assert found[0].result == {"day": "mon", "origin": "JFK"}
    others = [("reports", "mine"), ("letters", "yours")]
    assert [results_of_task(Store(tmp_path), *other) for other in others] == [[], []]


@pytest.mark.parametrize(("day", "word"), [("mon", "StoreError"), ("never", "no such day")])
def test_a_store_that_cannot_be_written(tmp_path: Path, day: str, word: str) -> None:
    """A result that is not stored is not acknowledged; the text of the function's own error comes first."""
    (tmp_path / "file").touch()
    handler = serve(report, store=tmp_path / "file" / "store")
    answer = post(handler.url, b'{"day": "%s"}' % day.encode(), X_CloudTasks_TaskName=TASK)
    assert (answer.status, word.encode() in answer.body) == (500, True)
    assert "cannot be written in" in handler.calls().iloc[-1]["error"]


def test_the_default_store(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the connection, else the environment names it, else it is a folder in the home."""
    monkeypatch.setattr(open_clients, "newest", lambda: None)
    assert serve(report).store == str(home / "store")
    monkeypatch.setenv("CLOUDTASKS_NB_STORE", str(tmp_path))
    assert serve(report).store == str(tmp_path)
    assert serve(report, tasks=SimpleNamespace(store="memory://ours")).store == "memory://ours"


@pytest.mark.usefixtures("google_certs")
def test_an_application_stores_results_of_its_own_callers(
    issuer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployed function stores what it answers; a request with another token writes nothing."""
    monkeypatch.setenv("K_REVISION", "report-00002-abc")
    application = app(report, audience=AUDIENCE, service_account=ACCOUNT, store=tmp_path)
    names = {"HTTP_X_CLOUDTASKS_TASKNAME": TASK, "HTTP_X_CLOUDTASKS_TASKRETRYCOUNT": "0"}
    assert request(application, b'{"day": "mon"}', HTTP_AUTHORIZATION="Bearer x", **names)[0] == 401
    assert list(tmp_path.rglob("*.json*")) == []
    single = {**names, "HTTP_X_CLOUDTASKS_TASKNAME": "mine", "HTTP_X_CLOUDTASKS_QUEUENAME": "letters"}
    assert request(application, b'{"day": "mon"}', HTTP_AUTHORIZATION=issuer.bearer(), **single)[0] == 200
    assert [one.status for one in results_of_task(Store(tmp_path), "letters", "mine")] == [200]
    names["HTTP_BATCH_TAG"] = "a tag"
    assert request(application, b'{"day": "mon"}', HTTP_AUTHORIZATION=issuer.bearer(), **names)[0] == 200
    assert stored(tmp_path).tag == "a tag"
    assert (stored(tmp_path).attempt, stored(tmp_path).result) == (1, {"day": "mon", "origin": "JFK"})
    assert (stored(tmp_path).version, stored(tmp_path).revision) == (version_of(report).digits, "report-00002-abc")


@pytest.mark.usefixtures("google_certs")
def test_the_functions_of_an_application_store_together(issuer: Any, tmp_path: Path) -> None:
    """They have one writer: what several of them answer to the tasks of a batch is in one file."""
    application = app({"/a": report, "/b": report}, audience=AUDIENCE, service_account=ACCOUNT, store=tmp_path)
    for path in ("/a", "/b"):
        words = {"HTTP_AUTHORIZATION": issuer.bearer(), "HTTP_X_CLOUDTASKS_TASKNAME": TASK, "PATH_INFO": path}
        assert request(application, b'"mon"', **words)[0] == 200
    assert len(stored_results(tmp_path, BATCH)) == 2
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1


@pytest.mark.parametrize("named", [None, "memory://deployed"])
@pytest.mark.usefixtures("google_certs")
def test_an_application_without_a_store(issuer: Any, monkeypatch: Any, home: Path, named: str | None) -> None:
    """The disk of a deployed function ends with it: without a name nothing is stored; the environment can name one."""
    if named is not None:
        monkeypatch.setenv("CLOUDTASKS_NB_STORE", named)
    application = app(report, audience=AUDIENCE, service_account=ACCOUNT)
    request(application, b'"mon"', HTTP_AUTHORIZATION=issuer.bearer(), HTTP_X_CLOUDTASKS_TASKNAME=TASK)
    assert list(home.rglob("*.json*")) == []
    assert named is None or stored(named).result == {"day": "mon", "origin": "JFK"}


def test_an_error_of_any_text_is_stored(tmp_path: Path) -> None:
    """Text that is no Unicode, and megabytes of it, are an error like any other."""

    def fail() -> None:
        raise ValueError("\ud800" + "x" * 10**7)

    answer = post(serve(fail, store=tmp_path).url, b"", X_CloudTasks_TaskName=TASK)
    found = stored(tmp_path)
    assert (answer.status, found.status) == (500, 500)
    assert "ValueError: ?xxx" in str(found.error)
    assert len(str(found.error)) < 10**6
