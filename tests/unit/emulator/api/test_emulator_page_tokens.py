"""Page tokens that were changed on their way."""

from __future__ import annotations

import pytest

from cloudtasks_nb.emulator.api.pages import page_token, read_token
from tests.unit.emulator.conftest import refused


@pytest.mark.parametrize("form", ["{}!", " {}", "{:.10}"])
def test_a_token_is_taken_only_as_it_was_given(form: str) -> None:
    """Nothing is left out of it to make it readable, and nothing may be missing."""
    token = page_token("there", "query")
    assert read_token(token, "query") == "there"
    with refused(text="The page token is invalid"):
        read_token(form.format(token), "query")
