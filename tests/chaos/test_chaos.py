"""Some rounds of chaos; `make chaos` plays many."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.kinds import KINDS, DiskRound
from tests.chaos.rounds import Kernels, Round, Verdict, play
from tests.chaos.team import TeamRound


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    """Give the process that forks the kernels of all rounds."""
    made = Kernels(tmp_path_factory.mktemp("kernels"))
    yield made
    made.close()


def why(verdict: Verdict, errors: Path) -> str:
    """Describe a round that failed."""
    return f"{verdict}\n{errors.read_text(encoding='utf-8')[-4000:]}"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", dict.fromkeys(KINDS), ids=lambda kind: kind.kind)
def test_a_round(kind: type[Round], seed: int, kernels: Kernels) -> None:
    """No row is lost, sent again unasked or past a brake, no state is false, and nothing hangs, whatever is killed."""
    if kind is DiskRound and not kernels.disks:
        pytest.skip("no disk can be mounted here")
    verdict = play(seed, kernels, kind)
    assert verdict.good, why(verdict, kernels.errors)
    assert verdict.states.total() == verdict.rows


@pytest.mark.nightly
def test_a_team(kernels: Kernels) -> None:
    """Of homes that share a folder none loses a row, sends it again or says what is not so."""
    verdict = play(1, kernels, TeamRound)
    assert verdict.good, "\n".join([*verdict.history, why(verdict, kernels.errors)])


def test_the_oracle_sees_what_is_false() -> None:
    """A verdict with a row that is lost, repeated, sent past a brake, false or hanging is not good."""
    assert Verdict(seed=0, steps=["send"], rows=1).good
    problems: list[dict[str, Any]] = [
        {"lost": 1},
        {"twice": 1},
        {"past": 1},
        {"hung": ["send"]},
        {"false": Counter(["failed"])},
    ]
    for problem in problems:
        assert not Verdict(seed=0, steps=["send"], rows=1, **problem).good
