"""`canary` against the emulator and a function: which rows are called, and when the others are."""

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import PreconditionError
from tests.integration.fanout.conftest import PATIENCE, Serve

ROWS = pd.DataFrame({"number": range(100)})


def test_a_canary_that_fails_and_is_mended(once: ct.Queue, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows alone are called, the error names the cause, the same cell sends nothing, and a retry sends the rest."""
    called, bad = set[int](), {2}

    def work(number: int) -> None:
        called.add(number)
        if number in bad:
            raise KeyError(number)

    handler = serve(work)
    batch = once.fan_out(ROWS, url=handler, canary=5)
    with pytest.raises(PreconditionError) as raised:
        batch.wait(PATIENCE)
    text = "canary: 1 of 5 rows failed (KeyError: 2): the other 95 rows are not sent"
    assert raised.value.message == text
    assert f"{text} → batch.resume()" in repr(batch)
    assert called == set(range(5))
    capsys.readouterr()
    again = once.fan_out(ROWS, url=handler, canary=5)
    assert "95 of those that it has are still unsent: they are held back: batch.resume()" in capsys.readouterr().out
    with pytest.raises(PreconditionError, match="1 of 5 rows failed"):
        again.wait(PATIENCE)
    bad.clear()
    assert batch.retry_failed().wait(PATIENCE).succeeded == 100
    assert called == set(range(100))
