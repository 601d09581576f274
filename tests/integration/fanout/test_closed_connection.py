"""A batch kept after its connection was closed."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.cases import cases
from tests.integration.fanout.conftest import PATIENCE, sent

URL = "http://127.0.0.1:9/{a}"
DATA = pd.DataFrame({"a": [1, 2]})


@pytest.fixture
def closed(tasks: ct.Client, paused: ct.Queue) -> ct.Batch:
    """Give a batch whose connection was closed when its tasks were in the queue."""
    batch = sent(paused.fan_out(DATA, url=URL))
    tasks.close()
    return batch


@cases(
    lambda batch: batch.wait(timeout="240s"),
    lambda batch: batch.retry_failed(),
    lambda batch: batch.resend(batch.tasks()),
    lambda batch: batch.cancel(),
    lambda batch: batch.resume(),
    lambda batch: batch.on_complete("https://svc.example.com/done"),
)
def test_verbs_say_that_it_is_closed(closed: ct.Batch, verb: Callable[[ct.Batch], Any]) -> None:
    """No verb hangs or fails in words of its own; what is known is shown all the same."""
    with pytest.raises(errors.PreconditionError, match="connection is closed") as caught:
        verb(closed)
    assert "ct.connect()" in str(caught.value.hint)
    assert (closed.progress().total, len(closed.tasks()), len(closed.failed())) == (2, 2, 0)


def test_who_waits_hears_of_it(tasks: ct.Client, paused: ct.Queue) -> None:
    """`wait()` in another thread ends when the connection is closed."""
    batch = sent(paused.fan_out(DATA, url=URL))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batch.wait)
        tasks.close()
        with pytest.raises(errors.PreconditionError, match="connection is closed"):
            waiting.result(PATIENCE)


def test_a_batch_that_has_ended_is_not_waited_for(tasks: ct.Client, paused: ct.Queue) -> None:
    """What it came to is returned, also with the connection closed: nobody is left to notify of its end."""
    batch = sent(paused.fan_out(DATA, url=URL)).cancel()
    batch.wait("240s")
    tasks.close()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(batch.wait).result(PATIENCE).cancelled == len(DATA)


def test_closing_says_what_is_not_sent(tasks: ct.Client, paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """It does not wait for the sending, which goes on when the batch is opened again."""
    batch = paused.fan_out(pd.DataFrame({"a": range(1_000)}), url=URL, send_rate=1)
    capsys.readouterr()
    tasks.close()
    again = rf'tasks\.batch\("{batch.id}"\)\.resume\(\)'
    assert re.fullmatch(rf"batch {batch.id}: [\d,]+ rows not sent: {again}\n", capsys.readouterr().out)
