"""Times as text and as HTML."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from cloudtasks_nb.display import times
from cloudtasks_nb.display.times import from_micros, time_html, time_text
from tests.cases import cases


@cases(
    (datetime(2026, 3, 5, 9, 8, 7, 999, tzinfo=UTC), "2026-03-05 09:08:07"),
    (datetime(2026, 3, 5, 1, 0, tzinfo=timezone(timedelta(hours=2))), "2026-03-04 23:00:00"),
    (datetime(2026, 3, 5, 9, 8, 7), "2026-03-05 09:08:07"),  # noqa: DTZ001 - a time without a zone stays
)
def test_a_time_is_written_in_utc(value: datetime, text: str) -> None:
    """Date and seconds are always there."""
    assert time_text(value) == text


def test_an_element_has_the_exact_time() -> None:
    """A panel in a browser reads the attribute; an export shows the text, with its zone."""
    exact = '<time datetime="2026-01-02T00:00:00.250Z">2026-01-02 00:00:00 UTC</time>'
    assert time_html(from_micros(1_767_312_000_250_000)) == exact
    assert time_html(from_micros(None)) == ""


def test_the_browser_finds_the_times_that_python_finds() -> None:
    """A sentence has its times in the zone of the panel."""
    script = Path(times.__file__).parents[1] / "panels/widgets/browser.js"
    assert f"const MOMENT = /{times._MOMENT.pattern}/g;" in script.read_text(encoding="utf-8")
