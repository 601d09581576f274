"""The HTML parts of cards: values as text, everything escaped."""

from typing import Any

import pandas as pd

from cloudtasks_nb.display.card import facts_html, html_card, section_html, state_html
from cloudtasks_nb.panels.cards.task import timeline
from cloudtasks_nb.panels.forms.code import quoted
from cloudtasks_nb.panels.widgets.cells import code_html
from tests.cases import cases
from tests.unit.panels.conftest import NOW, entry

EVIL = "<img src=x onerror=alert(1)>"


@cases(
    (None, "none"),
    (pd.NA, "none"),
    ({"day": 1}, "{\n  &quot;day&quot;: 1\n}"),
    ([1, 2], "[\n  1,\n  2\n]"),
    ("plain", ">plain<"),
    (b"\xff\x00", "\\xff"),
    (2**70, ">1180591620717411303424<"),
    ("x" * 20_005, "… 5 more characters"),
)
def test_payloads_are_written_out(value: Any, text: str) -> None:
    """JSON is indented, text unchanged, bytes are escaped, and long payloads are cut."""
    assert text in code_html(value)


@cases(
    code_html({"x": EVIL}),
    html_card(EVIL, section_html(EVIL, "")),
    facts_html({EVIL: EVIL}),
    state_html(EVIL),
    timeline([entry(1, "t", status=EVIL)], {1: EVIL}),
)
def test_everything_is_escaped(html: str) -> None:
    """No text becomes markup."""
    assert "<img" not in html
    assert "&lt;img" in html


def test_a_timeline_has_every_attempt() -> None:
    """Attempts with answer, duration and next try; deletions too; the last line of a traceback."""
    entries = [
        entry(1, "t", status="INTERNAL", retry_time=NOW + 60_000_000),
        entry(2, "t", attempt=2, duration=None),
        entry(3, "t", attempt=0, deleted=True),
    ]
    html = timeline(entries, {1: "Traceback …\nKeyError: 3\n"})
    for words in ("INTERNAL", "250 ms", "2026-01-02 00:01", ">2</td>", "deleted", "KeyError: 3"):
        assert words in html
    assert "no attempt" in timeline([], {})
    assert "Error in this kernel" not in timeline(entries, {})


@cases(("a", '"a"'), ("it's", '"it\'s"'), ('"\n', '"\\"\\n"'), (["a", 1], '["a", 1]'), (0.5, "0.5"), (None, "None"))
def test_values_are_written_as_python(value: Any, code: str) -> None:
    """A copied line of Python has the same values."""
    assert quoted(value) == code
    assert eval(code) == value  # noqa: S307 - that is what it is for
