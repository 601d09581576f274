"""When a call is repeated: the codes, and pauses with jitter."""

from itertools import islice

import grpc

from cloudtasks_nb.service.retries import LOST, RETRIED, RETRIED_SOME, backoff


def test_what_a_batch_repeats() -> None:
    """No code of a lasting refusal is repeated; a quota is, and a lost answer."""
    assert {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"} == RETRIED
    assert {"INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS"} == RETRIED_SOME
    assert LOST < RETRIED | RETRIED_SOME < {code.name for code in grpc.StatusCode}


def test_pauses_have_full_jitter_under_a_bound_that_doubles() -> None:
    """Pauses lie anywhere between nothing and a bound, which grows to a longest one."""
    runs = [list(islice(backoff(), 12)) for _ in range(500)]
    for at, bound in enumerate([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]):
        pauses = [run[at] for run in runs]
        assert 0.9 * bound < max(pauses) <= bound
        assert min(pauses) < 0.1 * bound
