"""`send`: the answer of a target."""

from cloudtasks_nb.handlers.send import send
from tests.web import Reply, http_server

_LARGE = b'"' + b"x" * 3_000_000 + b'"'


def test_a_large_answer_is_read_to_its_end() -> None:
    """An answer that arrives in many parts is whole."""
    with http_server(lambda _: Reply(body=_LARGE)) as port:
        answer = send("POST", f"http://127.0.0.1:{port}/", {}, b"", 20.0)
    assert (answer.status, answer.result) == (200, _LARGE)
