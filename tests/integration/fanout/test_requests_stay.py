"""A home sends only what its own cells have rendered: a shared store has no requests."""

import zlib
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import cli
from cloudtasks_nb.errors import PreconditionError
from cloudtasks_nb.fanout.batch.sending import Sending
from tests.integration.conftest import Target
from tests.integration.fanout.conftest import Connect, reached
from tests.raising import raises

ROWS = pd.DataFrame({"day": range(20)})
Stuck = Callable[..., ct.Batch]


@pytest.fixture
def stuck(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Stuck:
    """Run a cell in a home that may not send, so that its rows are in the store and nowhere else."""

    def run(home: str, url: Any, **words: Any) -> ct.Batch:
        with monkeypatch.context() as patched:
            patched.setattr(Sending, "begin", lambda _: None)
            return cell(connect(home), url, **words)

    return run


def cell(tasks: ct.Client, url: Any, rows: pd.DataFrame = ROWS, **words: Any) -> ct.Batch:
    """Run the cell."""
    queue = tasks.queue("reports", create=True, max_attempts=1)
    options: Any = {"name": "march", "body": ["day"], "progress": False} | words
    batch: ct.Batch = queue.fan_out(rows, url=url, **options)
    return batch


def stored(folder: Path) -> bytes:
    """Return all that a store has of batches, decompressed."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.parent.name == "rows":
            at = 4 + int.from_bytes(data[:4], "big")
            head = zlib.decompress(data[4:at])
            lengths = accumulate(orjson.loads(head)["lengths"], initial=at)
            parts = [data[start:end] for start, end in pairwise(lengths)]
            data = b"".join((head, *parts[:-1], zlib.decompress(parts[-1])))
        found.append(data)
    return b"\n".join(found)


def test_the_store_has_no_requests(connect: Connect, target: Target, tmp_path: Path) -> None:
    """It has columns that are shown, and of the URL scheme and host: no path, no body, no header, no account."""
    account = "boss@demo.iam.gserviceaccount.com"
    words: Any = {"headers": {"X-Shop": "berlin"}, "body": {"hidden": "{day}-swordfish"}, "service_account": account}
    cell(connect("ada"), f"{target.url}/in/{{day}}?limit=7", **words).wait("240s")
    found = stored(tmp_path / "store" / "batches")
    assert b'"day"' in found
    host = target.url.removesuffix("/job").encode()
    assert host in found
    for hidden in (host + b"/", b"limit", b"berlin", b"X-Shop", b"swordfish", account.encode()):
        assert hidden not in found


def test_verbs_that_send_want_the_cell(connect: Connect, stuck: Stuck, target: Target) -> None:
    """Nothing is sent of rows that another home has rendered; after the cell all is."""
    stuck("bob", target.url)
    ada = connect("ada")
    theirs = ada.batch("march")
    render = "run the cell that made the batch here, then retry"
    with raises(PreconditionError, match=r"20 rows of batch .* were not rendered in this home", hint=render):
        theirs.resume()
    theirs.take_over()
    with raises(PreconditionError, match="20 rows were not rendered in this home", hint=render.partition(",")[0]):
        theirs.wait("240s")
    assert theirs.status().state == "held"
    assert theirs.tasks()["url"].isna().all()
    assert cell(ada, target.url).wait("240s").succeeded == 20
    assert len(target.received) == 20
    assert cli.main(["watch", "march", "--resume"]) == 0


def test_a_part_of_the_rows_is_rendered_here(connect: Connect, stuck: Stuck, target: Target) -> None:
    """These are sent, and the others wait for the cell that has them."""
    stuck("bob", target.url)
    ada = connect("ada")
    ada.batch("march")
    some = cell(ada, target.url, ROWS.sample(frac=0.3, random_state=1))
    assert reached(some.whole, lambda progress: progress.succeeded == 6).unsent == 14
    with pytest.raises(PreconditionError, match="14 rows of batch"):
        some.resume()
    assert some.resend(some.tasks().head(2)).wait("240s").succeeded == 6
    with pytest.raises(PreconditionError, match="14 rows were not rendered"):
        some.whole.wait("240s")
    some.whole.cancel().wait("240s")
    with pytest.raises(PreconditionError, match=r"1 row of batch .* was not rendered"):
        some.whole.resend(some.whole.tasks().query("state == 'cancelled'").head(1))
    assert len(target.received) == 8


def test_a_canary_does_not_wait_for_rows_that_are_not_sent(connect: Connect, stuck: Stuck, target: Target) -> None:
    """It is held until its rows are rendered here, and says so; then it goes on as the canary that it is."""
    stuck("bob", target.url, canary=5)
    ada = connect("ada")
    ada.batch("march")
    some = cell(ada, target.url, ROWS.iloc[2:15], canary=5)
    assert reached(some, lambda progress: progress.state == "held").succeeded == 3
    assert some.status().reason == "canary: 2 of 5 rows not rendered in this home: the other 15 rows are not sent"
    with pytest.raises(PreconditionError, match="canary: 2 of 5"):
        some.wait("240s")
    assert cell(ada, target.url, canary=5).wait("240s").succeeded == 20
    assert len(target.received) == 20
