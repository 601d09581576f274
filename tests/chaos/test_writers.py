"""Some handler processes are killed while they store results; `make chaos` kills many."""

from pathlib import Path

import pytest

from tests.buckets import s3_bucket
from tests.chaos.writers import Outcome, kill_handlers


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_killed_handler_loses_no_answer(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered is stored, and of several attempts of a row the latest that succeeded counts."""
    if kind == "folder":
        outcome = kill_handlers(str(tmp_path), kills=4, seed=1)
    else:
        with s3_bucket() as variables:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            outcome = kill_handlers("s3://team/chaos", kills=4, seed=1)
    assert outcome.good, outcome
    assert min(outcome.kills, outcome.answered, outcome.unanswered) > 0


def test_the_oracle_sees_what_is_lost() -> None:
    """An outcome with a lost result, or one of an older attempt, is not good."""
    assert Outcome().good
    assert not any(outcome.good for outcome in (Outcome(lost=1), Outcome(older=1)))
