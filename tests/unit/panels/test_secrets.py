"""Secrets are masked by one rule wherever a panel shows them or a saved notebook would keep them."""

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from cloudtasks_nb.errors import ServiceError
from cloudtasks_nb.panels import FanOutPanel
from cloudtasks_nb.panels.batch_actions import retry_code
from cloudtasks_nb.panels.cards.plan import error_html
from cloudtasks_nb.panels.cards.task import timeline
from cloudtasks_nb.panels.forms.request_form import UrlChoice
from cloudtasks_nb.panels.widgets.cells import Column, cell, code_html
from cloudtasks_nb.panels.widgets.choices import ChoiceButton, Choices
from cloudtasks_nb.panels.widgets.footer import Footer, Prompt, Question
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeShell, Harness, entry, open_widgets

SECRET = "s3cr3t"  # noqa: S105 - it is looked for
TEXTS = [
    f"GET https://svc/run?day=1&token={SECRET} failed",
    f"Authorization: Bearer {SECRET}",
    f'{{"user": "ada", "password": "{SECRET}"}}',
    f"X-Api-Key: {SECRET}",
]


def footer(text: str) -> str:
    """Return all that a footer keeps of a text."""
    made = Footer()
    made.status = made.warning = text
    made.fail(ServiceError(text, hint=text))
    ours = dict(made.alert)
    made.fail(LookupError(text))
    return json.dumps([ours, made.alert, made.status, made.warning])


def question(text: str) -> str:
    """Return what a question shows."""
    shown: list[object] = []
    Prompt(shown.append).ask(Question(title=text, scope=text, verb="Send", line=text), lambda: None)
    return json.dumps(shown)


def choice(text: str) -> str:
    """Return what the page has of a choice, and check that a click on it still names it."""
    clicked: list[str] = []
    made = Choices("Causes", "stacked", picked=clicked.append)
    made.offer([ChoiceButton(key=text, text=text, number=1), ChoiceButton(key="other", text="other", number=1)])
    made.picked = text
    state = made.get_state()
    user.send_message(made, do="pick", key=state["picked"])
    assert clicked == [text]
    return json.dumps([state["items"], state["picked"]])


PLACES: dict[str, Callable[[str], str]] = {
    "footer": footer,
    "question": question,
    "error in place of the first tasks": lambda text: error_html(ServiceError(text, hint=text), quiet=False),
    "last line of a traceback": lambda text: timeline([entry(1, "t", status="INTERNAL")], {1: f"Traceback\n{text}"}),
    "body or traceback": code_html,
    "cell and tooltip": lambda text: str(cell(f"{text}\n" * 20, Column("last_message"))),
    "choice": choice,
    "line that retries a cause": lambda text: retry_code("batch", text, [text]) + "•••",
    "offered URL": lambda text: UrlChoice(text=text, kind="used by the batch a").label,
}


@pytest.mark.parametrize("text", TEXTS, ids=["url", "header", "body", "key"])
@pytest.mark.parametrize("place", PLACES)
def test_a_text_is_shown_without_its_secret(place: str, text: str) -> None:
    """A secret is masked in every view."""
    shown = PLACES[place](text)
    assert SECRET not in shown
    assert "•••" in shown or "\\u2022" in shown


@pytest.mark.parametrize("cause", [f"token={SECRET}: no (1)", f"no user token={SECRET} in [x]", f"?token={SECRET}"])
def test_the_line_that_retries_a_cause_chooses_it_and_no_other(cause: str) -> None:
    """It has the text around the secret, also if the text begins or ends with it."""
    causes = [cause, "INTERNAL", "KeyError: 'x'", f"no user token={SECRET} in [y]"]
    errors = pd.DataFrame({"cause": causes})
    batch = Mock(errors=lambda: errors)
    exec(retry_code("batch", cause, causes), {"batch": batch})  # noqa: S102 - the line is Python
    (rows,) = batch.retry_failed.call_args.args
    assert rows["cause"].tolist() == [cause]


def test_a_form_leaves_no_secret_on_the_page(harness: Harness, shell: FakeShell) -> None:
    """URL, headers and bodies from the form to the failed row: neither in a widget's state nor in an export."""
    shell.user_ns["users"] = pd.DataFrame({"user": ["ada", "bob"], "password": SECRET, "note": f"?token={SECRET}"})
    before = set(open_widgets())
    panel: Any = user.show(FanOutPanel(harness.context(), queue="reports"))
    panel.request.headers.value = f"Authorization: Bearer {SECRET}\nX-Api-Key: {SECRET}"
    panel.request.url.value = f"https://svc/run?token={SECRET}&user={{user}}"
    panel.settle()
    user.click(panel, panel.make_plan)
    batch = user.send(panel)
    harness.finish(harness.sent(batch), 0)
    panel.refresh()
    pages = [panel.static_html(), panel.footer.line]
    new = {name: widget for name, widget in open_widgets().items() if name not in before}
    pages += [json.dumps(widget.get_state(), default=str) for widget in new.values()]
    assert "1 failed" in pages[0]
    assert [page for page in pages if SECRET in page] == []
