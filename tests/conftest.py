"""What every test has: a home of its own, and no settings of the person who runs the tests."""

import asyncio
import io
import os
import sys
from collections.abc import Generator, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import settings

import cloudtasks_nb as ct
from cloudtasks_nb import _loop
from cloudtasks_nb._names import OPTION_VARIABLES
from cloudtasks_nb.display import notify
from cloudtasks_nb.fanout import disk
from cloudtasks_nb.handlers import serving
from cloudtasks_nb.service import open_clients

pytest_plugins = ["cloudtasks_nb.testing"]
# Half of the collection is the rewriting of assertions, which pytest keeps beside the bytecode.
sys.dont_write_bytecode = False

#: Variables that choose a project, an endpoint or credentials; a test that wants one sets it.
PERSONAL = (
    *("APP_ENGINE_EMULATOR_HOST", "CLOUD_TASKS_EMULATOR_HOST", "CLOUDTASKS_NB_LOCATION", "CLOUDTASKS_NB_STORE"),
    *("CLOUDSDK_ACTIVE_CONFIG_NAME", "GCLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_LOCATION"),
    *("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_QUOTA_PROJECT", "GOOGLE_CLOUD_UNIVERSE_DOMAIN"),
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)

# A deadline is a timing assertion, and the example database would be a folder in the checkout.
settings.register_profile("suite", deadline=None, database=None)
settings.register_profile("long", settings.get_profile("suite"), max_examples=200, stateful_step_count=50)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures of a wider scope than a test see no personal settings and no personal home either."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*PERSONAL, *(name for name in os.environ if name.startswith(OPTION_VARIABLES))):
            patch.delenv(name, raising=False)
        patch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.mktemp("gcloud")))
        patch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the batches and handler addresses of another; what it has served is closed; notes go to stdout."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    monkeypatch.setattr(disk, "MOUNTS", home / "none")  # the disk of a container would be reported
    monkeypatch.setattr(notify, "in_notebook", lambda: True)  # bars are on stderr: there a test cannot compare lines
    yield
    for handler in [*serving._served.values()]:
        handler.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the background loop waits for when a test has taken too long: the threads alone do not tell."""
    if call.excinfo is not None and "Timeout" in str(call.excinfo.value):
        text = io.StringIO()
        for task in asyncio.all_tasks(_loop.loop()):
            task.print_stack(file=text)
        item.add_report_section(call.when, "background loop", text.getvalue())
    return (yield)


@pytest.fixture
def alone(local_emulator: ct.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run with an empty emulator in an empty folder, and close each connection that is made."""
    connection = HTTPConnection(str(local_emulator._connection.endpoint.http).removeprefix("http://"))
    connection.request("POST", "/admin/reset", headers=dict(local_emulator.metadata))
    assert connection.getresponse().status == 200
    connection.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no test finds the credentials of a machine in Google's cloud
    made, remember = list[ct.Client](), open_clients.add

    def add(connection: ct.Client) -> None:
        made.append(connection)
        remember(connection)

    monkeypatch.setattr(open_clients, "add", add)
    yield
    for one in made:  # also those that nobody refers to: they keep the emulator running
        one.close()


@pytest.fixture(scope="module")
def local_emulator() -> Iterator[ct.Client]:
    """Keep the temporary emulator of `ct.local()` running for all tests of a file."""
    with ct.local() as kept:
        open_clients.remove(kept)  # no test shall take it for the newest connection
        yield kept
