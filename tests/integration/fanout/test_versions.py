"""An edited function: which rows were computed by an earlier version of it, and how they are computed again."""

from collections.abc import Callable

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from tests.integration.conftest import Target
from tests.integration.fanout.conftest import Serve, outcomes

ROWS = pd.DataFrame({"x": range(6)})
AGAIN = "computed by an earlier version of {}: batch.resend(batch.stale()) computes"


def double(x: int) -> int:
    """Compute by the old formula; one row fails."""
    if x == 5:
        raise ValueError("no")
    return 2 * x


def triple(x: int) -> int:
    """Compute by the new formula."""
    return 3 * x


Run = Callable[..., ct.Batch]


@pytest.fixture
def run(tasks: ct.Client, serve: Serve) -> Run:
    """Serve a function under one name, and fan rows out to it: the cell that is run again and again."""
    queue = tasks.queue("reports", create=True, max_attempts=1)

    def cell(fn: Callable[..., object], rows: pd.DataFrame = ROWS, name: str = "bmi") -> ct.Batch:
        batch = queue.fan_out(rows, url=serve(fn, name=f"bmi-{queue.id}"), name=name, progress=False)
        batch.wait("240s")
        return batch

    return cell


def test_an_edited_function(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The same cell says that the results are old, and how to get new ones; then they are."""
    run(double)
    capsys.readouterr()
    run(double)
    assert "earlier version" not in capsys.readouterr().out
    batch = run(triple)
    assert f"6 of these rows were {AGAIN.format('bmi-reports')} them again" in capsys.readouterr().out
    assert batch.stale()["x"].tolist() == [0, 1, 2, 3, 4, 5]
    batch.resend(batch.stale()).wait("240s")
    assert batch.stale().columns.tolist() == batch.tasks().columns.tolist()
    assert batch.stale().empty
    capsys.readouterr()
    assert batch.results()["result"].tolist() == [0, 3, 6, 9, 12, 15]
    assert capsys.readouterr().out == ""


def test_a_retry_mixes_versions(run: Run, tasks: ct.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """The frame of results says so, and also a batch that was found again."""
    run(double)
    run(triple).retry_failed().wait("240s")
    capsys.readouterr()
    for batch in (tasks.batch("bmi"), tasks.batch()):
        assert batch.results()["result"].tolist() == [0, 2, 4, 6, 8, 15]
        assert f"5 of these rows were {AGAIN.format('bmi-reports')} them again" in capsys.readouterr().out
        assert batch.stale()["x"].tolist() == [0, 1, 2, 3, 4]


def test_data_are_not_covered(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A rerun of the cell names the data that the version does not cover, and how rows are computed again."""
    shops = pd.DataFrame({"y": range(6)})
    run(lambda x: int(shops["y"][x]))
    assert "does not cover" not in capsys.readouterr().out
    shops["y"] += 10
    batch = run(lambda x: int(shops["y"][x]))
    line = "the version of bmi-reports does not cover shops (DataFrame); if that has changed, "
    assert f'{line}name="second" makes a new batch of all rows' in capsys.readouterr().out
    assert batch.results()["result"].tolist() == list(range(6))
    again = run(lambda x: int(shops["y"][x]), name="second")
    assert again.results()["result"].tolist() == list(range(10, 16))


def test_without_a_handler(tasks: ct.Client, serve: Serve, target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be stale; where versions are mixed, the results have a line that names them."""
    queue = tasks.queue("reports", create=True, max_attempts=1)
    with pytest.raises(PreconditionError, match="no version is known") as caught:
        queue.fan_out(ROWS, url=f"{target.url}/run").stale()
    assert "ct.serve or ct.deploy" in str(caught.value)
    first = serve(double, name="first").version
    batch = queue.fan_out(ROWS.assign(z=1)[["x"]], url=f"{serve(double, name='by-url').url}?", progress=False)
    assert outcomes(batch) == (5, 1, 0)
    serve(triple, name="by-url")
    batch.retry_failed().wait("240s")
    capsys.readouterr()
    batch.results()
    out = capsys.readouterr().out
    assert "these rows were computed by 2 versions of a function: " in out
    assert f"{first} (5 rows)" in out


def test_a_store_that_does_not_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows are sent all the same, and a line says that their versions are not known."""
    run(double)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the bucket does not answer")

    monkeypatch.setattr(StoredResults, "sync", fail)
    run(double)
    assert "by which version of bmi-reports rows were computed could not be read" in capsys.readouterr().out
