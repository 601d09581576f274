"""A function fails for good, or for now, or as a service that it called has failed."""

import asyncio
import datetime as dt
import pickle
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.error import HTTPError

import aiohttp
import numpy as np
import pytest
import requests
from google.api_core import exceptions

import cloudtasks_nb as ct
from cloudtasks_nb.handlers import serve
from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import ReceivedRequest, TaskFunction, call
from cloudtasks_nb.handlers.failures import GiveUp, TryLater, retry_after, upstream_status
from cloudtasks_nb.store.results import result_objects
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.unit.handlers.conftest import post
from tests.unit.handlers.test_handler_store import BATCH, TASK, stored

LATER = {"Retry-After": "7"}


def answered(error: BaseException) -> Answer:
    """Return the answer to a call that raises."""
    return call(Mock(side_effect=error), b"", run=asyncio.run)


def of_requests(status: int, headers: dict[str, str]) -> Exception:
    """Return the exception of `raise_for_status`."""
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return requests.HTTPError("no", response=response)


def of_httpx(status: int, headers: dict[str, str]) -> Exception:
    """Return an exception with the attributes of httpx."""
    error: Any = RuntimeError("no")
    error.response = SimpleNamespace(status_code=status, headers=headers)
    return error  # type: ignore[no-any-return]


def of_aiohttp(status: int, headers: dict[str, str]) -> Exception:
    """Return the exception of `raise_for_status`."""
    nobody: Any = None
    return aiohttp.ClientResponseError(nobody, (), status=status, headers=headers or None)  # type: ignore[arg-type]


def of_urllib(status: int, headers: Any) -> Exception:
    """Return the exception of `urlopen`."""
    return HTTPError("https://api.example", status, "no", headers, None)


def of_google(status: int, headers: dict[str, str]) -> Exception:
    """Return the exception of a client of Google's that uses REST."""
    response = SimpleNamespace(headers=headers) if headers else None
    error: Exception = exceptions.from_http_status(status, "no", response=response)
    return error


def caused(error: Exception, cause: Exception, *, handled: bool = False) -> Exception:
    """Return an exception that was raised from another one, or while that was handled."""
    error.__context__ = cause
    if not handled:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize("made", [of_requests, of_httpx, of_aiohttp, of_urllib, of_google])
def test_an_answer_of_a_service_is_known_by_the_attributes_of_its_exception(made: Any) -> None:
    """Its status is stored; only one that says when to try again is answered with 503."""
    for status, delay in ((404, None), (500, None), (429, 7), (503, 7)):
        assert (answered(made(status, {})).upstream, answered(made(status, {})).status) == (status, 500)
        answer = answered(made(status, LATER))
        assert (answer.upstream, answer.status, answer.retry_after) == (status, 503 if delay else 500, delay)


class BrokenError(Exception):
    """An exception whose attributes cannot be read."""

    @property
    def response(self) -> Any:
        """Have none."""
        raise RuntimeError("no response")


NOT_FOUND = of_requests(404, {})
UPSTREAM: list[tuple[BaseException, int | None]] = [
    *((one, None) for one in (KeyError("x"), BrokenError(), of_requests(304, {}), of_requests(600, {}))),
    (of_aiohttp(np.int64(404), {}), 404),  # type: ignore[arg-type]
    (caused(KeyError("x"), NOT_FOUND), 404),
    (caused(KeyError("x"), NOT_FOUND, handled=True), None),
    *((caused(GiveUp("x"), NOT_FOUND, handled=handled), 404) for handled in (True, False)),
    (caused(caused(GiveUp("x"), KeyError("x")), NOT_FOUND), 404),
]


@pytest.mark.parametrize(("error", "status"), UPSTREAM)
def test_what_an_exception_was_raised_from_counts(error: BaseException, status: int | None) -> None:
    """So does what was handled when a function gave up; another exception may have nothing to do with that."""
    assert upstream_status(error) == status


def test_a_chain_that_is_a_circle_ends() -> None:
    """Python lets one make it."""
    first, second = KeyError("x"), KeyError("y")
    first.__cause__, second.__cause__ = second, first
    assert (upstream_status(first), retry_after(first)) == (None, None)


DELAYS = [("0", 0), (" 12 ", 12), ("1.5", None), ("-1", None), ("9" * 10, None), ("soon", None), ("٣", None)]


@pytest.mark.parametrize(("text", "seconds"), [*DELAYS, ("Fri, 31 Dec 1999 23:59:59 GMT", 0)])
def test_what_a_service_asks_to_wait(text: str, seconds: int | None) -> None:
    """Seconds or a date; what is neither is no wish."""
    assert retry_after(of_requests(429, {"retry-after": text})) == seconds


def test_a_date_to_wait_for() -> None:
    """Seconds until then, by the clock of the machine."""
    in_an_hour = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), usegmt=True)
    assert 3_000 < (retry_after(of_requests(503, {"Retry-After": in_an_hour})) or 0) <= 3_600


def test_a_function_gives_up(tmp_path: Path) -> None:
    """The task is answered as done; the stored result has the reason, and is among those that are no successes."""

    def find() -> None:
        try:
            raise NOT_FOUND
        except requests.HTTPError:
            raise ct.GiveUp("no such place") from None

    answer = post(serve(find, store=tmp_path).url, b"", X_CloudTasks_TaskName=TASK)
    found = stored(tmp_path)
    assert (answer.status, answer.body, answer.headers.get("retry-after")) == (200, b"no such place", None)
    assert (found.ok, found.status, found.gave_up, found.upstream) == (False, 200, "no such place", None)
    assert "in find" in str(found.error)
    assert len(list(result_objects(Store(tmp_path), BATCH, failures=True))) == 1


class OwnError(KeyError):
    """An exception of the notebook."""


class LaterError(TryLater, KeyError):
    """An exception that says when to try again."""


@cases(
    (KeyError("a"), (KeyError, ValueError), 200),
    (OwnError("a"), KeyError, 200),
    (ValueError("a"), KeyError, 500),
    *((kind("a"), (), 200) for kind in (NameError, UnboundLocalError, ModuleNotFoundError, IndentationError)),
    (NotImplementedError(), KeyError, 200),
    *((error, Exception, 503) for error in (ct.TryLater("1s"), LaterError("1s"), of_requests(429, LATER))),
    (of_requests(404, {}), requests.HTTPError, 200),
)
def test_exceptions_after_which_a_function_gives_up(tmp_path: Path, error: Any, given: Any, status: int) -> None:
    """The task is done after the first attempt, and the store has the exception, unless that says when to try again."""
    handler = serve(Mock(side_effect=error), name="find", give_up_on=given, store=tmp_path)
    answer = post(handler.url, b"", X_CloudTasks_TaskName=TASK)
    found, gave_up = stored(tmp_path), f"{type(error).__name__}: {error}" if status == 200 else None
    assert (answer.status, found.gave_up, found.ok) == (status, gave_up, False)
    assert found.status == (503 if status == 503 else 500)
    assert handler.calls()["status"].tolist() == [status]


def test_without_a_store_such_an_exception_is_no_success(tmp_path: Path) -> None:
    """Nobody could tell a 200 from a success; so it is with a request that is no task's."""
    failing = Mock(side_effect=NameError("a"))
    assert post(serve(failing, name="find", store=tmp_path).url, b"").status == 500
    function = TaskFunction(fn=failing, verifier=None)
    request = ReceivedRequest(time=dt.datetime.now(dt.UTC), body=b"", task=TASK, queue="reports")
    assert function.answer(request, run=asyncio.run).status == 500


def test_a_reason_to_give_up_that_is_not_stored_is_not_acknowledged(tmp_path: Path) -> None:
    """The task is tried again, as when a result is not stored."""
    (tmp_path / "file").touch()
    handler = serve(Mock(side_effect=ct.GiveUp("no"), __name__="find"), store=tmp_path / "file" / "store")
    assert post(handler.url, b"", X_CloudTasks_TaskName=TASK).status == 500


@pytest.mark.parametrize(("delay", "seconds"), [("30s", "30"), (0.2, "1"), (dt.timedelta(minutes=2), "120"), (0, "0")])
def test_a_function_wants_to_be_called_later(tmp_path: Path, delay: Any, seconds: str) -> None:
    """The answer says when, in whole seconds."""
    error = ct.TryLater(delay, "quota")
    answer = post(serve(Mock(side_effect=error), name="x", store=tmp_path).url, b"", X_CloudTasks_TaskName=TASK)
    assert (answer.status, answer.headers["retry-after"], answer.body) == (503, seconds, b"TryLater: quota")
    assert (stored(tmp_path).status, stored(tmp_path).upstream) == (503, None)


def test_a_delay_is_its_message() -> None:
    """Where no other one is given, also of a copy."""
    copy = pickle.loads(pickle.dumps(ct.TryLater("90s")))  # noqa: S301 - our own
    assert (copy.delay, str(copy)) == (90, "in 90 s")
