"""The question before rows are sent that another home has rendered."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pandas as pd
import pytest

from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.panels import BatchPanel
from tests.unit.panels.conftest import Harness, asked, click, confirm, show

ROWS = pd.DataFrame({"day": ["a", "b", "c"]})
BOSS = "boss@p.iam.gserviceaccount.com"


def distrust(batch: Batch, maker: str) -> None:
    """Make the rows of a batch those of another home."""
    with closing(sqlite3.connect(batch._outbox.path)) as connection, connection:
        connection.execute("UPDATE rows SET maker = ?", (maker,))


@pytest.fixture
def batch(harness: Harness) -> Batch:
    """Make a batch of another home, of which two rows failed."""
    made = harness.queue().fan_out(ROWS, url="https://evil/{day}", service_account=BOSS, progress=False)
    harness.finish(harness.sent(made), 0, 1)
    distrust(made, "<b>mallory</b>")
    return made


def own(batch: Batch) -> BatchPanel:
    """Open the panel of a batch."""
    panel: BatchPanel = batch.panel()
    return show(panel)


def select(panel: BatchPanel, rows: int) -> None:
    """Select the first rows of the table."""
    table = panel.view.rows.table
    assert table is not None
    table.select(table.page_keys[:rows])


def _retry(panel: BatchPanel) -> None:
    click(panel, panel.view.actions.retry)


def _retry_cause(panel: BatchPanel) -> None:
    (cause,) = panel.view.view.reader.causes()  # type: ignore[union-attr]  # it is shown
    panel.view.actions.ask_retry_cause(cause)
    panel.settle()


def _resend(panel: BatchPanel) -> None:
    select(panel, 2)
    click(panel, panel.view.actions.resend)


@pytest.mark.parametrize("ask", [_retry, _retry_cause, _resend])
def test_a_retry_asks_with_the_facts(harness: Harness, batch: Batch, ask: Callable[[BatchPanel], None]) -> None:
    """Also for few rows; once they are trusted, it does not ask again."""
    panel = own(batch)
    ask(panel)
    question = asked(panel)
    assert (
        question.facts[0]
        == f"2 rows of batch {batch.id}, for queue reports of project p, were not rendered in this home"
    )
    assert question.facts[1] == f"2 rows: call https://evil with an OIDC token of {BOSS} for https://evil"
    assert "<b>mallory</b>" in str(question.facts)
    assert question.line.endswith("trust=True)")
    assert len(harness.transport.created) == 3
    confirm(panel)
    harness.sent(batch)
    assert len(harness.transport.created) == 5
    harness.finish(batch, 0, 1)
    ask(panel)
    assert panel.prompt.question is None
    panel.close()


def test_what_is_added_after_the_question_is_not_trusted(harness: Harness, batch: Batch) -> None:
    """The answer is about the rows that were shown."""
    panel = own(batch)
    select(panel, 1)
    asked(panel, panel.view.actions.resend)
    confirm(panel)
    harness.sent(batch)
    assert len(harness.transport.created) == 4
    harness.finish(batch, 0)
    assert asked(panel, panel.view.actions.retry).facts[0].startswith("1 row of batch")
    panel.close()
