"""Cards: an object as text and as HTML."""

import pandas as pd

from cloudtasks_nb.display.card import card

FRAME = pd.DataFrame({"url": ["<b>x</b>"]}, index=pd.Index(["t"], name="task"))


def test_both_forms_have_the_same_content() -> None:
    """Title, badge, facts, table and notes are in the text and in the HTML."""
    made = card("Queue q", badge="LOCAL", facts={"state": "RUNNING"}, frame=FRAME, notes=["queue.attempts()"])
    assert set(made) == {"text/plain", "text/html"}
    for text in made.values():
        for word in ("Queue q", "LOCAL", "state", "RUNNING", "task", "queue.attempts()"):
            assert word in text


def test_everything_is_escaped() -> None:
    """Text from a task cannot become part of the page."""
    evil = "<script>alert(1)</script>"
    made = card(evil, badge=evil, facts={evil: evil}, frame=pd.DataFrame({"a": [evil]}), notes=[evil])["text/html"]
    assert "<script>" not in made
    assert made.count("&lt;script&gt;") == 7


def test_unknown_values_are_left_out() -> None:
    """No fact without a value, no table without rows, no badge without a word."""
    made = card("Queue q", facts={"tasks": None}, frame=FRAME.iloc[:0])
    assert made["text/plain"] == "Queue q"
    assert "<table" not in made["text/html"]
    assert "tasks" not in made["text/html"]
