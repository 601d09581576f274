"""The error tree: what a class says by itself, which facts it carries, and which of Python's own errors it is."""

import inspect
import pickle
import re

import pytest

from cloudtasks_nb import errors
from cloudtasks_nb.errors import CloudTasksError

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES)
def test_words_and_facts(kind: type[CloudTasksError]) -> None:
    """Without words it says what its class is about; facts are attributes, and the hint is printed below the text."""
    bare, error = kind(), kind("it is gone", resource="q", code="NOT_FOUND", hint="make it")
    assert str(bare) == bare.message == (inspect.getdoc(kind) or "").splitlines()[0]
    assert (bare.resource, bare.code, bare.hint) == (None, None, None)
    assert (error.message, error.resource, error.code, error.hint) == ("it is gone", "q", "NOT_FOUND", "make it")
    assert str(error) == "it is gone\n  → make it"


def test_what_others_wrote_is_safe_to_show() -> None:
    """Secrets are dots in every form of an error, and control characters are escapes in what is printed."""
    error = CloudTasksError(
        "ValueError: \x1b]0;PWNED\x07\x1b[2J at https://ann:hunter2@svc", hint='send token="hunter2", not\x9bit'
    )
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    for shown in (str(error), repr(error), str(copied), error.message, str(error.hint)):
        assert "hunter2" not in shown
        assert "•••" in shown
    assert (
        str(copied)
        == str(error)
        == ('ValueError: \\x1b]0;PWNED\\x07\\x1b[2J at https://ann:•••@svc\n  → send token="•••", not\\x9bit')
    )


PARENTS = [
    *((errors.InvalidInputError, ValueError), (errors.NaiveTimeError, ValueError)),
    *((errors.ArgumentError, TypeError), (errors.UnknownNameError, AttributeError)),
    *((errors.NotFoundError, LookupError), (errors.QueueNotFoundError, LookupError)),
    *((errors.BatchTimeoutError, TimeoutError), (errors.EndpointError, errors.UnavailableError)),
    (errors.CredentialsError, errors.ConfigurationError),
]


@pytest.mark.parametrize(("kind", "also"), PARENTS)
def test_who_expects_an_error_of_python_catches_ours(kind: type[CloudTasksError], also: type[Exception]) -> None:
    """`except ValueError`, `LookupError`, `TypeError` and others catch the errors that are of this kind."""
    assert issubclass(kind, also)


def test_the_drawing_is_the_tree() -> None:
    """The tree in the module's docstring shows each class below its parent."""
    parents: dict[int, str] = {}
    drawn = {}
    for indent, name in re.findall(r"^([ │├└─]*)(\w+Error)\b", inspect.getdoc(errors) or "", re.MULTILINE):
        depth = len(indent)
        parents[depth] = name
        above = [level for level in parents if level < depth]
        drawn[name] = parents[max(above)] if above else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}
