"""Round ticks of axes, and the labels of times."""

import datetime as dt
from zoneinfo import ZoneInfo

from cloudtasks_nb.display.axis import dates_text, log_ticks, time_ticks
from tests.cases import cases

DAY = 86_400_000_000
NOON = round(dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC).timestamp() * 1e6)


@cases(
    (1_000_000, ["12:00:00", "12:00:00.2", "12:00:00.4", "12:00:00.6", "12:00:00.8", "12:00:01"]),
    (20_000_000, ["12:00:00", "12:00:05", "12:00:10", "12:00:15", "12:00:20"]),
    (300_000_000, ["12:00", "12:01", "12:02", "12:03", "12:04", "12:05"]),
    (DAY, ["12:00", "18:00", "2026-01-03", "06:00", "12:00"]),
    (3 * DAY, ["12:00", "2026-01-03", "12:00", "2026-01-04", "12:00", "2026-01-05", "12:00"]),
    (5 * DAY, ["2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06", "2026-01-07"]),
)
def test_times_have_round_labels(span: int, labels: list[str]) -> None:
    """The labels have as much of a time as the step needs."""
    assert [label for _, label in time_ticks(NOON, NOON + span, 6)] == labels


def test_times_are_round_in_their_zone() -> None:
    """Noon in UTC is half past three in Tehran; the axis has full hours and days of there."""
    tehran = ZoneInfo("Asia/Tehran")
    labels = [label for _, label in time_ticks(NOON, NOON + DAY // 2, 6, tehran)]
    assert labels == ["16:00", "18:00", "20:00", "22:00", "2026-01-03", "02:00"]
    assert dates_text(NOON, NOON + DAY // 2, tehran) == "2026-01-02 to 2026-01-03, Asia/Tehran"


def test_the_steps_of_times_are_those_of_clocks_and_calendars() -> None:
    """From 100 µs to a year, they are parts of a second, a minute, an hour and a day, and whole days and weeks."""
    longest = [10 ** (places / 40) for places in range(2 * 40, 15 * 40)]  # microseconds
    ticks = [[at for at, _ in time_ticks(0, round(span), 6)] for span in longest]
    steps = dict.fromkeys(second - first for first, second, *_ in ticks)
    assert [step / 1e6 for step in steps] == [
        *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
        *(60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200),
        *(days * 86_400 for days in (1, 2, 7, 14, 28, 91, 182, 364)),
    ]


def test_the_name_of_an_axis_has_its_days() -> None:
    """One or two."""
    assert dates_text(NOON, NOON) == "2026-01-02, UTC"
    assert dates_text(NOON, NOON + DAY) == "2026-01-02 to 2026-01-03, UTC"


def test_very_long_axes_have_few_ticks() -> None:
    """A century has about one tick a year at most, and no span is too short."""
    assert len(time_ticks(0, 36_525 * DAY, 6)) <= 101
    assert len(time_ticks(NOON, NOON + 1, 6)) <= 2


def test_logarithmic_axes_have_round_durations() -> None:
    """Above ten seconds they are round minutes, hours and days."""
    assert log_ticks(0.02, 4000) == [0.1, 1, 10, 60, 600, 3600]
