"""Fixtures for pytest: an emulator for the tests, and a connection to it.

In ``conftest.py``:

    pytest_plugins = ["cloudtasks_nb.testing"]

and in a test:

    def test_report_is_made_once(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed({"reports": {"max_attempts": 2}})
        make_report(cloud_tasks.queue("reports"))  # what is tested
        done = cloud_tasks_emulator.history("reports", at_least=1)
        assert [task["status"] for task in done] == ["OK"]

The emulator is started once for all tests and is emptied before each one; tests with other options get one of their
own. Other clients and languages can use it too: gRPC at ``cloud_tasks_emulator.grpc``, REST at
``cloud_tasks_emulator.http``.
"""

from __future__ import annotations

from collections.abc import Iterator

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "cloudtasks_nb.testing needs pytest, which cloudtasks_nb does not install: pip install pytest"
    ) from error

from cloudtasks_nb._settings import STORE_VARIABLE
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.client.emulator_process import note
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import resolve
from cloudtasks_nb.testing.emulator import Emulator
from cloudtasks_nb.testing.strict import StrictEmulator, strict_emulator

__all__ = [
    "Emulator",
    "StrictEmulator",
    "cloud_tasks",
    "cloud_tasks_emulator",
    "cloud_tasks_emulator_arguments",
    "strict_emulator",
]

#: Emulators with different options that are kept; each takes some 100 MB of memory.
_MAX_KEPT = 4


@pytest.fixture(scope="session")
def cloud_tasks_emulator_arguments() -> list[str]:
    """Return the emulator's options, none by default; override it for all tests, for a file or for one test.

    ``cloudtasks-nb emulator --help`` lists the options. Tests with equal options share an emulator. While they run,
    every user of the machine can call it; with ``--token`` only the user who runs them.

    Examples
    --------
    >>> cloud_tasks_emulator_arguments
    []
    >>> import pytest
    >>> one_by_one = pytest.mark.parametrize("cloud_tasks_emulator_arguments", [["--no-batch"]])
    >>> @one_by_one
    ... def test_report_is_made_once(cloud_tasks, cloud_tasks_emulator): ...
    """
    return []


@pytest.fixture(scope="session")
def _cloud_tasks_started() -> Iterator[dict[tuple[str, ...], Emulator]]:
    """Give the emulators that all tests share, by their arguments; the one that was used last stands last."""
    kept: dict[tuple[str, ...], Emulator] = {}
    yield kept
    for emulator in kept.values():
        emulator.close()


@pytest.fixture
def cloud_tasks_emulator(
    _cloud_tasks_started: dict[tuple[str, ...], Emulator],
    cloud_tasks_emulator_arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Emulator:
    """Return an empty emulator; ``ct.connect()`` connects to it too, by ``CLOUD_TASKS_EMULATOR_HOST``.

    Examples
    --------
    >>> cloud_tasks_emulator.seed("reports")
    >>> ct.connect("test").queues().index.tolist()
    ['reports']
    """
    kept, arguments = _cloud_tasks_started, tuple(cloud_tasks_emulator_arguments)
    if arguments in kept and not kept[arguments].empty():
        kept.pop(arguments).close()
    if arguments not in kept:
        if len(kept) >= _MAX_KEPT:
            kept.pop(next(iter(kept))).close()
        kept[arguments] = Emulator(arguments)
    emulator = kept[arguments] = kept.pop(arguments)
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.grpc)
    _note(emulator)
    return emulator


@pytest.fixture
def cloud_tasks(
    cloud_tasks_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """Give a connection to the emulator, with a new home: a test sees neither other tests' batches nor yours.

    Examples
    --------
    >>> cloud_tasks.queue("reports", create=True)
    made queue reports with log_sampling_ratio=1.0 ...
    <Queue projects/test/locations/us-central1/queues/reports>
    """
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path_factory.mktemp("cloudtasks_nb")))
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    emulator = cloud_tasks_emulator
    _note(emulator)
    endpoint = resolve(emulator.project, emulator.location, emulator.grpc)
    with Client(Connection(endpoint, Auth())) as client:
        yield client


def _note(emulator: Emulator) -> None:
    """Let connections that know only its port find its token, if it has one, in the home that this test has."""
    note(emulator._facts)  # noqa: SLF001 - it is of this package
