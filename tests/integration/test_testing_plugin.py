"""The pytest plugin for users' tests: each case is a test file of theirs, run by a pytest of its own."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.processes import run

CONFTEST = 'pytest_plugins = ["cloudtasks_nb.testing"]\n'
HEAD = """
import datetime as dt, json, os, urllib.request
import pytest
import cloudtasks_nb as ct
from cloudtasks_nb import testing

NOWHERE = "http://127.0.0.1:9/never"

"""


def run_pytest(folder: Path, tests: str, *, conftest: str = "", code: int = 0) -> str:
    """Run a user's test file, expect an exit code (0: it has tests, and all passed), and return the output."""
    (folder / "conftest.py").write_text(CONFTEST + dedent(conftest))
    (folder / "test_users.py").write_text(HEAD + dedent(tests))
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_users.py", cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_fixtures_serve_a_users_tests(tmp_path: Path) -> None:
    """A task that the code under test makes is delivered, and the test sees when and how it ended."""
    tests = """
    def double(x):
        if x == 3:
            raise ValueError("three")
        return 2 * x

    def test_outcomes(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed({"numbers": {"max_attempts": 2, "min_backoff": "10ms"}})
        queue = cloud_tasks.queue("numbers")
        with ct.serve(double) as handler:
            queue.enqueue(handler, {"x": 2}, task_id="good")
            queue.enqueue(handler, {"x": 3}, task_id="bad")
            done = cloud_tasks_emulator.history("numbers", at_least=2, body=True)
        assert {task["task"]: task["status"] for task in done} == {"good": "OK", "bad": "INTERNAL"}
        tries = {task["task"]: task["attempts"] for task in done}
        assert [attempt["http_status"] for attempt in tries["bad"]] == [500, 500]
        assert json.loads(tries["good"][0]["body"]) == {"x": 2}
        assert tries["good"][0]["headers"]["X-CloudTasks-QueueName"] == "numbers"

    def test_fan_out(cloud_tasks, cloud_tasks_emulator):
        import pandas as pd
        cloud_tasks_emulator.seed("numbers")
        with ct.serve(double) as handler:
            batch = cloud_tasks.queue("numbers").fan_out(pd.DataFrame({"x": [1, 2]}), url=handler)
            assert batch.wait("240s").succeeded == 2

    def test_signed_tasks(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed(["signed"])
        account = "caller@test.iam.gserviceaccount.com"
        with ct.serve(double, service_account=account) as handler:
            cloud_tasks.queue("signed").enqueue(handler, {"x": 1}, service_account=account)
            [task] = cloud_tasks_emulator.history("signed", at_least=1)
        assert task["status"] == "OK"
    """
    run_pytest(tmp_path, tests)


def test_results_are_stored_in_the_home_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test does not write into the store that the environment names, which may be the team's bucket."""
    monkeypatch.setenv("CLOUDTASKS_NB_STORE", "gs://team/tasks")
    tests = """
    def test_store(cloud_tasks):
        with ct.serve(lambda: None) as handler:
            assert handler.store.startswith(os.environ["CLOUDTASKS_NB_HOME"])
    """
    run_pytest(tmp_path, tests)


def test_each_test_begins_empty(tmp_path: Path) -> None:
    """Queues, tasks, batches, names of tasks and the clock of one test are not seen by the next."""
    tests = """
    homes, hosts = [], []

    @pytest.mark.parametrize("time", ["first", "second", "third"])
    def test_again(cloud_tasks, cloud_tasks_emulator, time):
        homes.append(os.environ["CLOUDTASKS_NB_HOME"])
        hosts.append(os.environ["CLOUD_TASKS_EMULATOR_HOST"])
        assert hosts[-1] == cloud_tasks_emulator.grpc == cloud_tasks.endpoint
        assert len(cloud_tasks.queues()) == len(cloud_tasks.batches()) == 0
        assert cloud_tasks_emulator.now - dt.datetime.now(dt.UTC) < dt.timedelta(hours=1)
        cloud_tasks_emulator.seed({"q": {"state": "PAUSED"}})
        cloud_tasks.queue("q").enqueue(NOWHERE, task_id="the-same")
        cloud_tasks.queue("q").delete_tasks("the-same")
        if time == "second":
            cloud_tasks_emulator.advance("2h")

    def test_it_was_one_emulator():
        assert len(set(homes)) == 3
        assert len(set(hosts)) == 1
        assert "CLOUD_TASKS_EMULATOR_HOST" not in os.environ

    def test_an_emulator_that_died_is_replaced(cloud_tasks_emulator):
        cloud_tasks_emulator.close()

    def test_after_that(cloud_tasks_emulator):
        cloud_tasks_emulator.seed("q")
    """
    run_pytest(tmp_path, tests)


def test_the_clock_moves_and_the_state_comes_back(tmp_path: Path) -> None:
    """A task that is due in a day is dispatched at once, and a snapshot brings everything back."""
    tests = """
    def test_time(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed({"q": {"rate": 5, "max_attempts": 1}})
        queue = cloud_tasks.queue("q")
        assert cloud_tasks.queues().loc["q", ["rate", "max_attempts", "log_sampling_ratio"]].tolist() == [5, 1, 1]
        task = queue.schedule(NOWHERE, delay="1d")
        before = cloud_tasks_emulator.now
        cloud_tasks_emulator.advance(90_000)
        assert (cloud_tasks_emulator.now - before).total_seconds() >= 90_000
        [done] = cloud_tasks_emulator.history("q", at_least=1)
        assert [done["task"]] == task.index.tolist()
        assert len(queue.tasks()) == 0

    def test_back(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed({"q": {"state": "PAUSED"}})
        queue = cloud_tasks.queue("q")
        task = queue.enqueue(NOWHERE)
        kept = cloud_tasks_emulator.snapshot()
        queue.purge()
        assert len(queue.tasks()) == 0
        cloud_tasks_emulator.restore(kept)
        assert queue.tasks().index.tolist() == task.index.tolist()
        cloud_tasks_emulator.reset()
        assert len(cloud_tasks.queues()) == 0
    """
    run_pytest(tmp_path, tests)


def test_other_ways_to_reach_it(tmp_path: Path) -> None:
    """Code that calls `ct.connect`, Google's own client and REST all reach the emulator of the test."""
    tests = """
    PARENT = "projects/elsewhere/locations/europe-west1"

    def test_ways(cloud_tasks_emulator):
        cloud_tasks_emulator.seed([f"{PARENT}/queues/q"])
        with ct.connect("elsewhere", "europe-west1") as tasks:
            assert tasks.queues().index.tolist() == ["q"]
            assert [queue.name for queue in tasks.client.list_queues(parent=PARENT)] == [f"{PARENT}/queues/q"]
        with urllib.request.urlopen(f"{cloud_tasks_emulator.http}/v2/{PARENT}/queues") as answer:
            assert [queue["name"] for queue in json.load(answer)["queues"]] == [f"{PARENT}/queues/q"]
    """
    run_pytest(tmp_path, tests)


def test_options_are_the_users(tmp_path: Path) -> None:
    """The emulator's options come from a fixture that a `conftest.py` overrides."""
    tests = """
    def test_made_on_demand(cloud_tasks):
        cloud_tasks.queue("nobody-made-it").enqueue(NOWHERE)
        assert cloud_tasks.queues().index.tolist() == ["nobody-made-it"]
    """
    conftest = """
    import pytest

    @pytest.fixture(scope="session")
    def cloud_tasks_emulator_arguments():
        return ["--create-queues-on-demand"]
    """
    run_pytest(tmp_path, tests, conftest=conftest)


def test_options_of_a_file_and_of_a_test(tmp_path: Path) -> None:
    """A file or a test with other options gets an emulator that has them; equal options share one."""
    tests = """
    DEMAND = pytest.mark.parametrize("cloud_tasks_emulator_arguments", [["--create-queues-on-demand"]])
    used = []
    testing._MAX_KEPT = 2

    def test_the_options_of_the_file(cloud_tasks, cloud_tasks_emulator):
        used.append(cloud_tasks_emulator)
        with pytest.raises(ct.errors.NotFoundError):
            cloud_tasks.queue("nobody-made-it").enqueue(NOWHERE)

    @DEMAND
    def test_options_of_its_own(cloud_tasks, cloud_tasks_emulator):
        used.append(cloud_tasks_emulator)
        cloud_tasks.queue("nobody-made-it").enqueue(NOWHERE)

    @DEMAND
    def test_the_same_options(cloud_tasks, cloud_tasks_emulator):
        used.append(cloud_tasks_emulator)
        assert len(cloud_tasks.queues()) == 0

    def test_the_options_of_the_file_again(cloud_tasks_emulator):
        first, second, third = used
        assert (cloud_tasks_emulator is first, second is third, first is second) == (True, True, False)

    @pytest.mark.parametrize("cloud_tasks_emulator_arguments", [["--no-batch"]])
    def test_more_options_than_are_kept(cloud_tasks_emulator):
        used.append(cloud_tasks_emulator)

    def test_those_that_were_used_last_are_kept(_cloud_tasks_started):
        assert list(_cloud_tasks_started.values()) == [used[0], used[3]]
        with pytest.raises(ct.errors.EmulatorError, match="does not answer"):
            used[1].reset()
    """
    run_pytest(tmp_path, tests)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    """A bad name, word or value, a snapshot that is not there, and tasks that do not come are named."""
    tests = """
    @pytest.mark.parametrize(
        ("queues", "error", "words"),
        [
            ("no queue", ct.errors.InvalidInputError, "no queue"),
            ({"q": {"rat": 5}}, ct.errors.InvalidInputError, 'did you mean "rate"'),
            ({"q": {"rate": 501}}, ct.errors.EmulatorError, "maxDispatchesPerSecond"),
            ({"q": {"state": "ASLEEP"}}, ct.errors.EmulatorError, "ASLEEP"),
        ],
    )
    def test_seed(cloud_tasks, cloud_tasks_emulator, queues, error, words):
        with pytest.raises(error, match=words):
            cloud_tasks_emulator.seed(queues)
        assert len(cloud_tasks.queues()) == 0

    def test_others(cloud_tasks_emulator):
        with pytest.raises(ct.errors.EmulatorError, match="no snapshot nothing"):
            cloud_tasks_emulator.restore("nothing")
        with pytest.raises(ct.errors.InvalidInputError, match="seconds='soon'"):
            cloud_tasks_emulator.advance("soon")
        with pytest.raises(pytest.fail.Exception, match="after 1ms 0 of 1 tasks"):
            cloud_tasks_emulator.history("q", at_least=1, timeout="1ms")
        cloud_tasks_emulator.close()
        with pytest.raises(ct.errors.EmulatorError, match="does not answer"):
            cloud_tasks_emulator.reset()
    """
    run_pytest(tmp_path, tests)


def test_an_option_that_there_is_not(tmp_path: Path) -> None:
    """The emulator's own words are in the error of the test."""
    tests = """
    @pytest.fixture(scope="session")
    def cloud_tasks_emulator_arguments():
        return ["--colour"]

    def test_it(cloud_tasks_emulator):
        pass
    """
    printed = run_pytest(tmp_path, tests, code=1)
    assert "EmulatorError: the emulator did not start" in printed
    assert "unrecognized arguments: --colour" in printed


def test_without_pytest_the_error_says_what_to_install() -> None:
    """The package does not depend on pytest; importing the plugin without it raises an error that names it."""
    code = "import sys; sys.modules['pytest'] = None; import cloudtasks_nb.testing"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 1
    assert "ImportError: cloudtasks_nb.testing needs pytest" in done.stderr
    assert "pip install pytest" in done.stderr
