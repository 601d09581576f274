"""What a batch shows of itself."""

import datetime as dt
from typing import Any

from cloudtasks_nb.fanout.batch.report import segments
from tests.cases import cases
from tests.unit.fanout.batch.conftest import report

DELETED, UNKNOWN = "deleted from the queue", "no longer in the queue, and neither the log nor a result shows why"
NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def test_failures_come_with_their_causes_and_the_next_line_to_type() -> None:
    """The last line says how many failed of what, and what retries them."""
    shown = report(known={"causes": {"INTERNAL": 20900, "NOT_FOUND": 134}}, succeeded=10, failed=21034)
    assert shown.lines()[-1] == "21,034 failed (INTERNAL 20,900, NOT_FOUND 134) → batch.retry_failed()"


def test_what_delays_a_batch_comes_first_with_what_helps() -> None:
    """A batch found again says what sends the rest; a panel, which has buttons, does not."""
    shown = report(unsent=40000, state="stopped", reason="40,000 unsent", action="batch.resume()")
    assert shown.lines() == ["40,000 unsent → batch.resume()"]
    assert shown.lines(methods=False) == ["40,000 unsent"]
    words: dict[str, Any] = {"state": "failing", "reason": "1 failed (INTERNAL 1)", "action": "batch.errors()"}
    both = report(known={"causes": {"INTERNAL": 1}}, failed=1, ready=1, **words)
    assert both.lines() == ["1 failed (INTERNAL 1) → batch.retry_failed()"], "what failed is said once"


def test_rows_that_are_not_known_are_not_called_done() -> None:
    """Of lost and rejected rows nobody knows how they would have ended."""
    assert "<b>0</b> known of 10,000<" in report(gone=10_000, state="unknown").html()
    assert report(gone=10_000, state="unknown").text().splitlines()[1].endswith("  unknown, 0 known of 10,000")
    assert "<b>3</b> of 3 done<" in report(succeeded=2, cancelled=1, state="cancelled").html()
    assert report(succeeded=1, rejected=2).lines(methods=False) == ["2 rejected"]


def test_settling_rows_are_not_final_and_say_what_they_wait_for() -> None:
    """They are counted apart from what is in the queue."""
    shown = report(total=20, succeeded=5, ready=None, running=3, settling=12)
    assert shown.lines() == ["12 settling: their log entries are awaited"]
    assert repr(shown.progress) == "20 rows: 3 running, 5 succeeded, 12 settling"
    assert (shown.progress.pending, shown.progress.finished, segments(shown.progress)["queued"]) == (15, False, 0)


def test_retrying_rows_say_how_far_they_are() -> None:
    """Attempt, of how many, and when the next one is."""
    shown = report({"retry_note": "attempt 3 of 5, next in 12 min"}, retrying=5)
    assert shown.lines() == ["5 retrying, attempt 3 of 5, next in 12 min"]


def test_text_has_title_bar_counts() -> None:
    """Outside a notebook four lines tell it all."""
    text = report({"name": "year"}, succeeded=3, ready=1).text().splitlines()
    assert text[0] == 'Batch "year" a91f03c2 on queue reports  [LOCAL]'
    assert text[1].endswith("] 75 %")
    assert text[2] == "4 rows: 1 ready, 3 succeeded"


def test_html_escapes_every_word_and_tells_no_state_by_colour_alone() -> None:
    """Names come from people; colours have a legend."""
    words = {"name": "<img src=x>", "notes": ["<i>"], "log_url": "https://log?a&b"}
    html = report(words, succeeded=3, failed=1, state="stopped", reason="nobody answers <i>").html()
    assert "<img" not in html
    assert "<i>" not in html
    assert "&lt;img src=x&gt;" in html
    assert "nobody answers &lt;i&gt;" in html
    assert 'href="https://log?a&amp;b"' in html
    assert "4 rows: 3 succeeded, 1 failed" in html
    assert "</span> succeeded <b>3</b>" in html
    assert 'aria-valuenow="100"' in html


def test_rows_of_unknown_state_have_a_part_of_the_bar() -> None:
    """Pending rows whose state is not known are shown as queued; the bar has a role and a value for screen readers."""
    html = report(total=4, succeeded=1, scheduled=None, ready=None, running=None, retrying=None).html()
    assert "3 queued" in html
    assert 'role="progressbar"' in html
    assert 'aria-valuenow="25"' in html


def test_a_name_from_right_to_left_stays_in_its_place() -> None:
    """It is isolated from the id behind it, as HTML and as text."""
    shown = report({"name": "\u05e9\u05dc 9"}, succeeded=1)
    assert '"<bdi>\u05e9\u05dc 9</bdi>" a91f03c2' in shown.html().replace("&quot;", '"')
    assert '"\u2068\u05e9\u05dc 9\u2069" a91f03c2' in shown.text()


def test_others_cannot_steer_the_terminal() -> None:
    """Control characters in a name, a part, a cause, a reason or a note are escapes."""
    for word in ("name", "part"):
        shown = report(
            {word: "a\u202e\x1b[2J", "notes": ["\x9b"]}, {"causes": {"E: \x1b]0;P\x07": 1}}, failed=1, reason="\r"
        )
        assert [letter for letter in shown.text() if ord(letter) < 32 or 127 <= ord(letter) < 160] == ["\n"] * 5
        assert r"a\u202e\x1b[2J" in shown.text()


def test_the_pace_is_shown_while_it_goes_on() -> None:
    """Rate and rest in the two largest units."""
    html = report(ready=5, succeeded=5, rate=2.5, at=NOW, eta=NOW + dt.timedelta(minutes=90)).html()
    assert "2.5 done a second, the last one in about 1 h 30 min" in html
    assert "10 done, 2.5 done a second</div>" in report(ready=5, succeeded=5, rate=2.5, at=NOW).html()
    assert "done a second" not in report(succeeded=5, rate=2.5).html()


@cases(
    ({DELETED: 2}, f"2 gone: {DELETED}", "batch.resend({})"),
    ({DELETED: 1, None: 1}, f"1 gone: {DELETED}; 1 gone: {UNKNOWN}; it may have run", "{}"),
    ({None: 2}, f"2 gone: {UNKNOWN}; they may have run", "{}"),
    ({}, f"2 gone: {UNKNOWN}; they may have run", "{}"),
)
def test_rows_that_were_lost_say_how(lost: dict[str | None, int], text: str, line: str) -> None:
    """The line sends them again, unless they may have run: then it shows them."""
    shown = report(known={"lost": lost}, gone=2, cancelled=4)
    rows = "batch.tasks().query(\"state == '{}'\")"
    assert shown.lines() == [
        f"4 cancelled → batch.resend({rows.format('cancelled')})",
        f"{text} → {line.format(rows.format('gone'))}",
    ]


def test_the_periods_of_a_backfill_are_shown() -> None:
    """The report of a batch has the line in its text, and line and grid in its HTML."""
    shown = report({"partitions": "1 D in <zone>", "grid": "<svg></svg>"}, succeeded=1)
    assert shown.text().splitlines()[1] == "1 D in <zone>"
    assert "1 D in &lt;zone&gt;</div><svg></svg>" in shown.html()


def test_few_rows_are_counted_in_words_that_fit() -> None:
    """One row is not rows, and none are none."""
    assert report(unsent=1).text().splitlines()[2] == "1 row: 1 unsent"
    assert report(total=0).text().splitlines()[2] == "0 rows"
    assert 'aria-valuenow="100"' in report(total=0).html()
