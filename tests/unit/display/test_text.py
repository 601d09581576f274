"""Counts, durations and colours: the forms in which every card, panel and message has them."""

from collections.abc import Callable

import numpy as np
import pytest

from cloudtasks_nb._frames import TASK_STATES
from cloudtasks_nb.display.colours import COLOURS, colour
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text, counted, percent_text
from tests.cases import cases

DURATIONS = {0: "0 ms", 0.0004: "0.4 ms", 0.009: "9 ms", 0.0123: "12 ms", 0.35: "350 ms", 0.9996: "1 s"}
DURATIONS |= {12.34: "12.3 s", 15: "15 s", 59.97: "1 min", 125: "2 min 05 s", 600: "10 min", 3599.6: "1 h"}
DURATIONS |= {3900: "1 h 05 min", 86_400 * 3 + 3_600 * 4: "3 d 04 h", -12: "-12 s"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations_are_said_in_their_leading_units(seconds: float, text: str) -> None:
    """A duration shows two units at most, and no unit of which there is none."""
    assert duration_text(seconds) == text


# Functions, with what they return of one number.
@cases(
    (count_text, {0: "0", 1234567: "1,234,567", 5.0: "5", 0.5: "0.5", 1234.567: "1,234.57", 0.00321: "0.00321"}),
    (lambda number: counted(int(number), "tasks"), {1: "1 task", 0: "0 tasks", 2000: "2,000 tasks"}),
    (lambda number: counted(int(number), "batches"), {1: "1 batch"}),
    (percent_text, {0: "0 %", 0.001: "<1 %", 0.25: "25 %", 0.99999: "99 %", 1: "100 %"}),
)
def test_numbers(form: Callable[[float], str], texts: dict[float, str]) -> None:
    """Whole numbers are grouped, one is singular, and only nothing is 0 % and only all is 100 %."""
    assert {number: form(number) for number in texts} == texts


@cases(
    *(("RUNNING", "running"), ("PAUSED", "retrying"), ("OK", "succeeded"), ("DEADLINE_EXCEEDED", "failed")),
    *(("unknown", "gone"), ("UNKNOWN", "failed")),
)
def test_words_of_one_meaning_share_a_colour(word: str, same: str) -> None:
    """States of queues and status codes are coloured like the states of tasks."""
    assert colour(word) == COLOURS[same]


def test_every_state_has_a_colour_that_can_be_seen_on_both_themes() -> None:
    """A dot has a contrast of 3:1 at least, on white and on the dark theme's ground."""
    assert set(COLOURS) == {*TASK_STATES, "queued", "settling"}
    assert len({COLOURS[state] for state in TASK_STATES}) == len(TASK_STATES)
    for ground in ("#ffffff", "#212121"):
        assert [name for name, hue in COLOURS.items() if contrast(hue, ground) < 3] == []


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, as WCAG defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(hue: str) -> float:
    """Relative luminance of `#rrggbb`."""
    channels = (int(hue[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
