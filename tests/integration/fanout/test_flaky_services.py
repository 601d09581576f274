"""A function calls a service that throttles, that does not know all things, and that fails."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import requests

import cloudtasks_nb as ct
from tests.integration.fanout.conftest import Serve, reached
from tests.web import Reply, Request, http_server


class Places:
    """A service on this machine: it does not know an x, is throttled for each y once, and fails for a z."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.url = ""

    def answer(self, request: Request) -> Reply:
        """Answer a request."""
        place = request.url.path[1:]
        self.calls[place] += 1
        if place[0] == "y" and self.calls[place] == 1:
            return Reply(status=429, headers={"Retry-After": "1"})
        return Reply(status={"x": 404, "z": 500}.get(place[0], 200))


@pytest.fixture
def places() -> Iterator[Places]:
    """Run the service."""
    made = Places()
    with http_server(made.answer) as port:
        made.url = f"http://127.0.0.1:{port}/"
        yield made


FRAME = pd.DataFrame({"place": ["a1", "x1", "x2", "y1", "z1"]})


def with_requests(url: str) -> None:
    """Ask for a place."""
    response = requests.get(url, timeout=240)
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        if response.status_code == 404:
            raise ct.GiveUp("no such place") from error
        raise


@pytest.fixture
def queue(tasks: ct.Client) -> ct.Queue:
    """Give a queue that tries a task twice, at once."""
    return tasks.queue("reports", create=True, max_attempts=2, min_backoff="1ms", max_backoff="1ms")


def test_what_is_hopeless_is_called_once_and_what_is_throttled_succeeds(
    queue: ct.Queue, serve: Serve, places: Places
) -> None:
    """Rows are chosen by the status of the service, also those that were given up."""
    batch = queue.fan_out(FRAME, url=serve(lambda place: with_requests(places.url + place), name="places"))
    batch.wait("240s")
    assert places.calls == {"a1": 1, "x1": 1, "x2": 1, "y1": 2, "z1": 2}
    states = batch.tasks().set_index("place")
    assert states["state"].tolist() == ["succeeded", "failed", "failed", "succeeded", "failed"]
    assert states.loc[["x1", "z1"], "last_http_status"].tolist() == [404, 500]
    assert batch.errors().set_index("cause").loc["no such place", "failed"] == 2
    assert batch.results()["error"].tolist()[1] == "no such place"
    assert batch.failed()["error"].to_dict() == batch.results()["error"].dropna().to_dict()
    assert tried_again(batch, "404") == ["x1", "x2"]


def test_an_exception_of_the_function_has_no_status_of_a_service(
    queue: ct.Queue, serve: Serve, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    """A KeyError is an ERROR and no 404, also where it is given up; 404 chooses rows whose service answered so."""

    def price(place: str) -> int:
        with_requests(places.url + place)
        return {"b1": 7}[place]

    batch = queue.fan_out(FRAME, url=serve(price, give_up_on=(KeyError,)))
    batch.wait("240s")
    failed = batch.failed().astype(object)
    assert failed["last_status"].tolist() == ["ERROR", "OK", "OK", "ERROR", "INTERNAL"]
    assert failed["last_http_status"].fillna(0).tolist() == [0, 404, 404, 0, 500]
    assert failed["attempts"].tolist() == [1, 1, 1, 2, 2]
    capsys.readouterr()
    assert batch.attempts(status="ERROR")["status"].unique().tolist() == ["INTERNAL"]
    assert "status='ERROR' is read as INTERNAL" in capsys.readouterr().out
    assert tried_again(batch, 404) == ["x1", "x2"]
    assert tried_again(batch, "ERROR") == ["a1", "x1", "x2", "y1"]
    assert "is not known" not in capsys.readouterr().out


def test_why_a_function_gave_up_reads_the_same_everywhere(queue: ct.Queue, serve: Serve) -> None:
    """A text that is only a value, a status or empty has the name of the exception in front, as its cause has."""

    def give_up(why: str) -> None:
        raise ct.GiveUp(why)

    handler = serve(give_up)
    expected = ["GiveUp: 404", "GiveUp: OK", "GiveUp: ", "no such place"]
    batch = queue.fan_out(pd.DataFrame({"why": ["404", "OK", "", "no such place"]}), url=handler)
    batch.wait("240s")
    assert batch.failed()["error"].tolist() == batch.results()["error"].tolist() == expected
    assert queue.wait(queue.enqueue(handler, {"why": "404"}), "60s")["error"].tolist() == ["GiveUp: 404"]


def tried_again(batch: ct.Batch, where: Any) -> list[str]:
    """Send rows again; return the places that are in a later try."""
    batch.retry_failed(where)
    reached(batch, lambda progress: not progress.unsent)
    batch.wait("240s")
    made = batch.tasks()
    return [str(place) for place in made.loc[made["try"] > 1, "place"]]
