"""`canary` and `pause_at` against the emulator and a function: which rows are called, and when the others are."""

from collections.abc import Iterator

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import PreconditionError
from tests.integration.fanout.conftest import PATIENCE, reached

ROWS = pd.DataFrame({"number": range(100)})


class Work:
    """A function that is called for each row, and fails for those in a set."""

    def __init__(self) -> None:
        self.called: set[int] = set()
        self.bad: set[int] = set()
        self.handler = ct.serve(self.work, name="work")

    def work(self, number: int) -> int:
        """Do the work of one row."""
        self.called.add(number)
        if number in self.bad:
            raise KeyError(number)
        return number


@pytest.fixture
def work() -> Iterator[Work]:
    """Serve the function."""
    made = Work()
    yield made
    made.handler.close()


def test_a_canary_that_fails_and_is_mended(once: ct.Queue, work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows alone are called, the error names the cause, the same cell sends nothing, and a retry sends the rest."""
    work.bad = {2}
    batch = once.fan_out(ROWS, url=work.handler, canary=5)
    with pytest.raises(PreconditionError) as raised:
        batch.wait(PATIENCE)
    text = "canary: 1 of 5 rows failed (KeyError: 2): the other 95 rows are not sent"
    assert raised.value.message == text
    assert f"{text} → batch.resume()" in repr(batch)
    assert work.called == set(range(5))
    capsys.readouterr()
    again = once.fan_out(ROWS, url=work.handler, canary=5)
    assert "95 of those that it has are still unsent: they are held back: batch.resume()" in capsys.readouterr().out
    with pytest.raises(PreconditionError, match="1 of 5 rows failed"):
        again.wait(PATIENCE)
    work.bad.clear()
    assert batch.retry_failed().wait(PATIENCE).succeeded == 100
    assert work.called == set(range(100))


def test_sending_pauses_and_goes_on(once: ct.Queue, work: Work) -> None:
    """Rows that are in the queue run to their end; `resume` sends the others, and a retry those that failed."""
    rows = pd.DataFrame({"number": range(1000)})  # at this rate, enough for a minute
    work.bad = set(range(1000))
    batch = once.fan_out(rows, url=work.handler, pause_at="5%", send_rate=20)
    with pytest.raises(PreconditionError, match=r"^paused: \d+ of \d+ rows failed \(KeyError.*\), more than 5 %"):
        batch.wait(PATIENCE)
    paused = reached(batch, lambda progress: progress.done + progress.unsent == 1000)
    assert (paused.failed, paused.cancelled) == (len(work.called), 0)
    assert 20 <= paused.failed < 1000
    work.bad.clear()
    again = once.fan_out(rows, url=work.handler, pause_at="5%")  # as fast as possible, but held back all the same
    assert again.progress().unsent == paused.unsent
    assert again.resume().wait(PATIENCE).succeeded == paused.unsent
    assert batch.retry_failed().wait(PATIENCE).succeeded == 1000
