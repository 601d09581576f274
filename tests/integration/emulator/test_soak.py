"""A short soak; `make soak` runs ten minutes."""

from pathlib import Path

import pytest

from tests.benchmarks.soak import RATE, SOAK, Soak

SECONDS = 12


@pytest.mark.nightly
def test_a_short_soak(tmp_path: Path) -> None:
    """Each task is delivered exactly as often as it had to be, the log has every attempt, and files stay small."""
    verdict = Soak(SECONDS, tmp_path / "emulator").run()
    assert (verdict.lost, verdict.repeated) == (0, 0)
    assert verdict.tasks == RATE * SECONDS
    assert verdict.logged == verdict.deliveries > verdict.tasks
    values = verdict.values()
    assert set(values) == {figure.key for figure in SOAK.figures}
    assert values["wal peak"] < 20
    assert values["folder end"] < 40
