"""Tasks that somebody has put into a shared store, who may read the queue and write to the store, and no more."""

import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from google.cloud.tasks_v2 import types

import cloudtasks_nb as ct
from cloudtasks_nb import cli
from cloudtasks_nb.errors import OutboxError, PreconditionError
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.fanout.outbox.database import StoredBlock, pack_tasks
from tests.integration.conftest import Target
from tests.integration.fanout.conftest import Connect, Serve, reached

ROWS = pd.DataFrame({"day": range(20)})
BOSS = "boss@demo.iam.gserviceaccount.com"
PAYROLL = "https://payroll.internal"
Stuck = Callable[..., ct.Batch]


@pytest.fixture
def evil(target: Target) -> Iterator[Target]:
    """Give a server of the attacker."""
    with type(target)() as other:
        yield other


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


def edit(store: Path, batch: str, change: Callable[[Any], None], **record: Any) -> None:
    """Change each task of a batch in a store, and fields of its record."""
    for path in (store / "batches" / batch / "rows").iterdir():
        data = path.read_bytes()
        at = 4 + int.from_bytes(data[:4], "big")
        head = orjson.loads(zlib.decompress(data[4:at]))
        parts = [data[at + start : at + end] for start, end in pairwise([0, *accumulate(head["lengths"])])]
        tasks = [types.Task.pb().FromString(task) for task in StoredBlock(0, *parts).tasks(range(len(head["rows"])))]
        for task in tasks:
            change(task)
        parts[1] = pack_tasks([task.SerializeToString() for task in tasks])
        packed = zlib.compress(orjson.dumps(head | {"lengths": list(map(len, parts))}))
        path.write_bytes(b"".join((len(packed).to_bytes(4, "big"), packed, *parts)))
    path = store / "batches" / batch / "record.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | record))


def test_a_token_for_a_foreign_audience(connect: Connect, stuck: Stuck, evil: Target) -> None:
    """Nothing is sent before somebody has seen host, account and audience; then it stays trusted."""
    batch = stuck("mallory", evil.url, service_account=BOSS, audience=PAYROLL)
    theirs = connect("ada").batch("march")
    with pytest.raises(PreconditionError, match=r"20 rows of batch .* were not rendered in this home") as caught:
        theirs.resume()
    for fact in (evil.url.removesuffix("/job"), BOSS, PAYROLL, "mallory@", "batch.resume(trust=True)"):
        assert fact in str(caught.value)
    with pytest.raises(PreconditionError, match="no process sends them"):
        theirs.wait("240s")
    assert not evil.received
    theirs.cancel().wait("240s")
    for rows in (20, 1):
        with pytest.raises(PreconditionError, match=PAYROLL):
            theirs.resend(theirs.tasks().head(rows))
    assert theirs.progress().cancelled == 20
    assert theirs.resend(theirs.tasks().head(2), trust=True).wait("240s").succeeded == 2
    assert theirs.resend(theirs.tasks().head(2)).wait("240s").succeeded == 2
    assert len(evil.received) == 4
    assert batch.id == theirs.id


def test_the_command_line_asks_too(
    connect: Connect, stuck: Stuck, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows the same facts and sends nothing, until it is told to trust them."""
    stuck("bob", target.url, service_account=BOSS, audience=PAYROLL)
    ada = connect("ada")
    ada.batch("march")
    ada.close()
    assert cli.main(["watch", "march", "--resume"]) == 2
    refused = capsys.readouterr().err
    facts = [target.url.removesuffix("/job"), BOSS, PAYROLL, "bob@", "cloudtasks-nb watch BATCH --trust sends them"]
    assert [fact for fact in facts if fact not in refused] == []
    assert not target.received
    assert cli.main(["watch", "march", "--trust"]) == 0
    trusted = capsys.readouterr().out
    assert [fact for fact in facts[:-1] if fact not in trusted] == []
    assert len(target.received) == 20


def test_an_access_token_through_an_edited_task(connect: Connect, stuck: Stuck, evil: Target, tmp_path: Path) -> None:
    """A task with fields that this package does not write is not taken at all."""
    batch = stuck("bob", evil.url)

    def change(task: Any) -> None:
        task.http_request.oauth_token.service_account_email = BOSS

    edit(tmp_path / "store", batch.id, change)
    with pytest.raises(OutboxError, match="it has oauth_token, which this package does not write"):
        connect("ada").batch("march")


@pytest.mark.parametrize("name", ["march", None])
def test_a_cell_does_not_attach_to_foreign_bytes(
    connect: Connect, stuck: Stuck, target: Target, evil: Target, tmp_path: Path, name: str | None
) -> None:
    """A record and digests that say that these are the rows of the cell do not make them so."""
    batch = stuck("bob", target.url, name=name)

    def change(task: Any) -> None:
        task.http_request.url = evil.url

    edit(tmp_path / "store", batch.id, change)
    ada = connect("ada")
    assert ada.batch(batch.id).id == batch.id
    mine = cell(ada, target.url, name=name)
    assert reached(mine.whole, lambda progress: progress.succeeded == 20).unsent == 20
    assert (len(target.received), len(evil.received)) == (20, 0)


def test_a_cell_whose_handler_stands_for_another_url(
    connect: Connect, stuck: Stuck, serve: Serve, evil: Target, tmp_path: Path
) -> None:
    """The digest has the name of a handler and no URL or token; the tasks are those that were rendered here."""
    handler = serve(lambda day: day, store=tmp_path / "store")
    batch = stuck("bob", handler)

    def change(task: Any) -> None:
        task.http_request.url = evil.url
        task.http_request.oidc_token.service_account_email = BOSS

    edit(tmp_path / "store", batch.id, change)
    ada = connect("ada")
    assert len(ada.batch("march").tasks()) == 20
    assert cell(ada, handler).wait("240s").succeeded == 20
    assert ada.batch("march").results()["result"].tolist() == list(range(20))
    assert not evil.received


def test_the_same_cell_needs_no_trust(connect: Connect, stuck: Stuck, target: Target) -> None:
    """What this home has rendered it sends; of a part of the rows, the others wait for somebody who trusts them."""
    stuck("bob", target.url)
    ada = connect("ada")
    ada.batch("march")
    some = cell(ada, target.url, ROWS.sample(frac=0.3, random_state=1))
    assert reached(some.whole, lambda progress: progress.succeeded == 6).unsent == 14
    assert len(target.received) == 6
    with pytest.raises(PreconditionError, match="14 rows of batch"):
        some.resume()
    assert cell(ada, target.url).wait("240s").succeeded == 20
    assert sorted(orjson.loads(call.body)["day"] for call in target.received) == list(range(20))


@pytest.mark.parametrize("own", [False, True])
def test_rows_that_are_added_later_are_not_trusted(
    connect: Connect, stuck: Stuck, target: Target, evil: Target, tmp_path: Path, *, own: bool
) -> None:
    """To have trusted a batch is not to trust whoever adds to it, also if this home has made the batch."""
    ada = connect("ada")
    if own:
        mine = cell(ada, target.url, ROWS.head(5))
    else:
        stuck("bob", target.url, rows=ROWS.head(5))
        mine = ada.batch("march").resume(trust=True)
    assert mine.wait("240s").succeeded == 5
    stuck("mallory", target.url, rows=ROWS.tail(2))

    def change(task: Any) -> None:
        task.http_request.url = evil.url

    edit(tmp_path / "store", mine.id, change)
    if own:
        with pytest.raises(PreconditionError, match="2 rows of it are of other homes"):
            mine.delete()
    else:
        assert len(ada.batch("march").tasks()) == 7
    added = cell(ada, target.url, ROWS.head(10))
    assert reached(added.whole, lambda progress: progress.succeeded == 10).unsent == 2
    with pytest.raises(PreconditionError, match=r"(?s)2 rows of batch .*mallory@"):
        added.resume()
    assert (len(target.received), len(evil.received)) == (10, 0)


def test_a_canary_does_not_wait_for_rows_that_are_not_sent(connect: Connect, stuck: Stuck, target: Target) -> None:
    """It is held until somebody trusts its rows, and says so; then it goes on as the canary that it is."""
    stuck("bob", target.url, canary=5)
    ada = connect("ada")
    ada.batch("march")
    some = cell(ada, target.url, ROWS.iloc[2:15], canary=5)
    assert reached(some, lambda progress: progress.state == "held").succeeded == 3
    assert some.status().reason == "canary: 2 of 5 rows not rendered in this home: the other 15 rows are not sent"
    with pytest.raises(PreconditionError, match="canary: 2 of 5"):
        some.wait("240s")
    assert some.resume(trust=True).whole.wait("240s").succeeded == 20
    assert len(target.received) == 20
