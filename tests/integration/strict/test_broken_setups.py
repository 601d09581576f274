"""`tasks.doctor()` on a strict emulator: each broken set-up is told apart, with the line that mends it."""

import itertools
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from google.oauth2.service_account import Credentials

import cloudtasks_nb as ct
from cloudtasks_nb.display.notify import Output, redirect
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.testing import StrictEmulator
from tests.cases import cases
from tests.certificates import Authority
from tests.integration.conftest import Answer, Target
from tests.integration.toolkit.test_doctor import wrong
from tests.unit.store.conftest import gs_server

__all__ = ["gs_server"]

ADC = "GOOGLE_APPLICATION_CREDENTIALS"
ROOTS, BUNDLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE"
CALLER = "caller@demo.iam.gserviceaccount.com"
VIEWERS = ("roles/cloudtasks.viewer", "roles/logging.viewer")
EVERYTHING = ("roles/cloudtasks.admin", "roles/logging.viewer")
PERMISSIONS = tuple(f"cloudtasks.tasks.{verb}" for verb in ("create", "list", "get", "fullView", "delete", "run"))
PERMISSIONS += tuple(f"cloudtasks.{verb}" for verb in ("queues.get", "queues.update", "locations.list"))
_numbers = itertools.count(1)


@dataclass
class Setup:
    """A project in which all is well, and what a user does with it; a case breaks one thing."""

    google: StrictEmulator
    folder: Path
    patch: pytest.MonkeyPatch
    target: Target
    storage: str  #: URL of a Cloud Storage with the bucket `team`
    roles: tuple[str, ...] = EVERYTHING
    connection: dict[str, Any] = field(default_factory=lambda: {"project": "demo", "location": "us-central1"})
    arguments: dict[str, Any] = field(default_factory=dict)
    queue: str | None = "reports"

    def __post_init__(self) -> None:
        """Log in with the key of a new account, which has no roles yet."""
        self.email = self.google.email(f"analyst-{next(_numbers)}")
        self.key = self.google.service_account(self.email)
        self.patch.setenv(ADC, str(self.key))
        self.google.service_account(CALLER, key=False)

    def call_a_service(self, invoker: str = "caller", audience: str | None = None, **service: Any) -> None:
        """Ask for the target too: a service of Cloud Run, which one account may invoke."""
        url = f"https://report-{next(_numbers)}.us-central1.run.app"
        self.google.cloud_run(url, self.target.port, invokers=invoker, **service)
        self.google.grant(self.email, "roles/iam.serviceAccountUser", CALLER)
        self.arguments = {"url": f"{url}/run", "service_account": CALLER, "audience": audience}

    def doctor(self) -> pd.DataFrame:
        """Return the checks of a connection."""
        for role in self.roles:
            self.google.grant(self.email, role)
        with ct.connect(**self.connection) as tasks:
            if self.queue:
                tasks.queue(self.queue)
            return tasks.doctor(**self.arguments)


@pytest.fixture
def setup(
    emulator: StrictEmulator, target: Target, gs_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Setup:
    """Give a project in which all is well."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    emulator.set(projects=["demo"])
    emulator.seed("reports")
    return Setup(emulator, tmp_path, monkeypatch, target, gs_server)


def no_credentials(setup: Setup) -> None:
    """Nobody has logged in on this machine."""
    setup.patch.delenv(ADC)


def malformed_key(setup: Setup) -> None:
    """The private key was cut off."""
    content = json.loads(setup.key.read_text())
    setup.key.write_text(json.dumps({**content, "private_key": content["private_key"][:200]}))


def intercepted(setup: Setup, *variables: str) -> None:
    """A proxy shows certificates of an authority that this machine does not trust."""
    for name in variables:
        setup.patch.setenv(name, str(Authority(setup.folder / "other").ca))


def few_scopes(setup: Setup) -> None:
    """The credentials are for reading the log only."""
    scopes = ["https://www.googleapis.com/auth/logging.read"]
    setup.connection["credentials"] = Credentials.from_service_account_file(str(setup.key), scopes=scopes)


def without(setup: Setup, verb: str) -> None:
    """The user lacks one permission on tasks."""
    setup.roles = (*(one for one in PERMISSIONS if one != f"cloudtasks.tasks.{verb}"), "roles/logging.viewer")


def account(setup: Setup, email: str) -> None:
    """Tasks are signed by an account that the user may not act as."""
    setup.arguments = {"service_account": email}


def seed(setup: Setup, **settings: Any) -> None:
    """The queue is another one."""
    setup.google.seed({"reports": settings})


def call(setup: Setup, *statuses: int, agent: bool = True, **service: Any) -> None:
    """The service answers so, or does not let the task in, or the task gets no token."""
    setup.call_a_service(**service)
    setup.target.script(*statuses)
    setup.google.set(service_agent=agent)


def public(setup: Setup, *members: str, **service: Any) -> None:
    """Everybody may call the service."""
    setup.call_a_service(**service)
    setup.google.grant(setup.email, "roles/run.viewer")
    for member in members:
        setup.google.grant(member, "roles/run.invoker", setup.arguments["url"].removesuffix("/run"))


def redirecting(setup: Setup) -> None:
    """The target sends everybody on to a server that does not answer."""
    moved = Answer(status=302, headers={"Location": "http://127.0.0.1:9/gone"})
    setup.target.script(moved, moved)
    setup.arguments = {"url": setup.target.url}


def unusable(setup: Setup) -> None:
    """The store is below a file."""
    (setup.folder / "file").touch()
    setup.connection["store"] = setup.folder / "file/store"


def no_bucket(setup: Setup) -> None:
    """The store is in a bucket that nobody has made."""
    setup.patch.setenv("GOOGLE_BASE_URL", setup.storage)
    setup.connection["store"] = "gs://nobody/x"


def report(day: str) -> str:
    """Be deployed."""
    return day


def deployed(setup: Setup, store: str = "gs://team/tasks", role: str | None = None) -> None:
    """The function was deployed with a store, and the runner has a role on its bucket."""
    setup.patch.chdir(setup.folder)
    setup.patch.setenv("GOOGLE_BASE_URL", setup.storage)
    service = ct.deploy(report, project="demo", region="us-central1", store="gs://team/tasks")
    setup.google.service_account(service.service_account, key=False)
    setup.google.grant(setup.email, "roles/storage.admin", "gs://team")
    setup.google.grant(setup.email, "roles/iam.serviceAccountUser", service.service_account)
    url = "https://report-7.us-central1.run.app"
    setup.google.cloud_run(url, setup.target.port, invokers=service.service_account, audiences=[service.audience])
    setup.patch.setattr(ct.Deployment, "url", url)
    if role is not None:
        setup.google.grant(service.runner, role, "gs://team")
    setup.arguments, setup.connection["store"] = {"url": service}, store


RUNNER = "cloudtasks-handler@demo.iam.gserviceaccount.com"
HOW: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        no_credentials,
        malformed_key,
        intercepted,
        few_scopes,
        without,
        account,
        seed,
        call,
        public,
        redirecting,
    )
}
HOW |= {"unusable": unusable, "no_bucket": no_bucket, "deployed": deployed}
HOW |= {
    "grant": lambda setup, role, resource: setup.google.grant(setup.email, role, resource),
    "set": lambda setup, **conditions: setup.google.set(**conditions),
    "connect": lambda setup, **arguments: setup.connection.update(arguments),
    "has": lambda setup, **values: setup.__dict__.update(values),
}
TABLES = tomllib.loads(Path(__file__).with_name("broken_setups.toml").read_text(encoding="utf-8"))
CASES, OTHERS = TABLES["rows"], TABLES["others"]


def broken(setup: Setup, how: str | dict[str, Any]) -> None:
    """Break a set-up by functions, with their arguments."""
    for name, given in ({how: {}} if isinstance(how, str) else how).items():
        HOW[name](setup, *given) if isinstance(given, list) else HOW[name](setup, **given)


@pytest.mark.parametrize(("how", "check", "detail", "fix"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_the_cause_is_named(setup: Setup, how: str | dict[str, Any], check: str, detail: str, fix: str) -> None:
    """The first check that fails is that of the cause; its detail names it, and its fix has what mends it."""
    broken(setup, how)
    found = setup.doctor()
    assert wrong(found)[:1] == [check]
    assert detail.replace("{LOG_PRICE}", LOG_PRICE) in found.loc[check].detail
    assert fix.replace("{email}", setup.email) in found.loc[check].fix


@pytest.mark.parametrize(
    ("how", "failed", "details", "fixes"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS]
)
def test_what_is_told_beside_it(
    setup: Setup, how: dict[str, Any], failed: list[str], details: dict[str, str], fixes: dict[str, str]
) -> None:
    """Each check says what it could not find out, and why."""
    broken(setup, how)
    found = setup.doctor()
    assert wrong(found) == failed
    for column, patterns in ((found.detail, details), (found.fix, fixes)):
        assert [name for name, text in patterns.items() if not re.fullmatch(text, column[name], re.DOTALL)] == []


def test_all_is_well(setup: Setup) -> None:
    """With credentials, roles, a queue and a target that lets the account in, every check is ok."""
    setup.call_a_service()
    found = setup.doctor()
    assert wrong(found) == []
    assert "an entry can be read after" in found.detail["log"]
    assert "a task reached it after" in found.detail["target"]
    with ct.connect(**setup.connection) as tasks:
        assert len(tasks.queue("reports").tasks()) == 0  # the probes are gone


def test_the_runner_of_a_deployment(setup: Setup) -> None:
    """That it may write is seen in the bucket's policy; who may not read that policy learns that it is not known."""
    deployed(setup, role="roles/storage.objectCreator")
    found = setup.doctor()
    assert wrong(found) == []
    assert found.detail["store"].endswith(f"listed and cleared, and {RUNNER} may write")
    setup.google.revoke(setup.email, "roles/storage.admin", "gs://team")
    found = setup.doctor()
    assert wrong(found) == []
    assert f"whether {RUNNER} may write is not known: " in found.detail["store"]
    setup.google.grant(setup.email, "roles/storage.objectUser", "gs://team")
    setup.patch.setattr(setup.arguments["url"], "store", "")
    assert setup.doctor().detail["store"].endswith("listed and cleared")
    setup.patch.setattr(setup.arguments["url"], "store", "memory://runner")
    setup.connection["store"] = "memory://runner"
    assert setup.doctor().detail["store"] == "memory://runner can be written, read, listed and cleared"


@cases(("roles/storage.objectUser", None), ("roles/editor", "projectEditor:demo"), ("roles/editor", None))
def test_a_right_of_the_runner_on_the_project(setup: Setup, role: str, group: str | None) -> None:
    """It counts as well; a basic role lets write where the bucket's policy has its group, as new buckets have it."""
    deployed(setup)
    setup.google.grant(RUNNER, role)
    if group is not None:
        setup.google.grant(group, "roles/storage.objectUser", "gs://team")
    found = setup.doctor()
    assert "whether one on the project lets it is not known: " in found.detail["store"]
    setup.google.grant(setup.email, "roles/viewer")
    assert wrong(setup.doctor()) == (["store"] if role == "roles/editor" and group is None else [])


@cases(("tasks/results/", []), ("tasks/", []), ("other/results/", ["store"]))
def test_a_right_of_the_runner_that_has_a_condition(setup: Setup, folder: str, failed: list[str]) -> None:
    """It counts where results are stored; services with other folders share the runner."""
    expression = f'resource.name.startsWith("projects/_/buckets/team/objects/{folder}")'
    role = {"role": "roles/storage.objectCreator", "condition": {"title": "results", "expression": expression}}

    async def read(*_: object, **__: object) -> dict[str, Any]:
        return {"bindings": [{**role, "members": [f"serviceAccount:{RUNNER}"]}]}

    deployed(setup)
    setup.patch.setattr("cloudtasks_nb.service.google_apis.GoogleApis.read", read)
    assert wrong(setup.doctor()) == failed


def follow(google: StrictEmulator, fix: str) -> None:
    """Do what lines of gcloud would do that give roles on a queue or on a service account."""
    for line in fix.partition("   ")[0].split(" && "):
        words = shlex.split(line)
        given = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
        queue = f"projects/{given['project']}/locations/{given.get('location')}/queues/{words[4]}"
        google.grant(given["member"], given["role"], queue if words[1] == "tasks" else words[4])


@cases(
    ("ann@example.com", lambda google: google.user("ann@example.com", VIEWERS)),
    ("build 7", lambda google: google.workload("build 7", VIEWERS)),
)
def test_a_federated_identity_follows_the_fix(setup: Setup, subject: str, log_in: Callable[[Any], Path]) -> None:
    """A command grants to one person of the pool: as it is printed to nobody, and with the subject to who calls."""
    setup.patch.setenv(ADC, str(log_in(setup.google)))
    setup.arguments = {"service_account": CALLER}
    fixes = setup.doctor().fix[["permissions", "service_account"]]
    for fix in fixes:
        assert "principalSet" not in fix
        assert subprocess.run(["sh", "-nc", fix], capture_output=True, check=False).returncode == 2  # it is not run
        follow(setup.google, fix)
    assert wrong(setup.doctor()) == ["permissions", "service_account"]
    for fix in fixes:
        follow(setup.google, fix.replace("/SUBJECT'", f"/{subject}'"))
    assert wrong(setup.doctor()) == []


def test_all_is_well_at_googles_own_addresses(setup: Setup) -> None:
    """The same checks call Google's hosts: the log, IAM and the Resource Manager are services of their own."""
    setup.patch.delenv("CLOUD_TASKS_EMULATOR_HOST")
    for name, value in setup.google.google_environment.items():
        setup.patch.setenv(name, value)
    setup.call_a_service()
    found = setup.doctor()
    assert wrong(found) == []
    assert found.detail["api"] == "cloudtasks.googleapis.com answers"
    assert " s off" in found.detail["clock"]


def test_progress_of_slow_checks(setup: Setup) -> None:
    """While a slow service answers, a bar shows how many checks are done."""
    setup.google.set(latency_s=0.4)
    seen: list[tuple[str, int, int | None]] = []
    with redirect(Output(message=print, progress=lambda *step: seen.append(step))):
        assert wrong(setup.doctor()) == []
    assert {(what, total) for what, _, total in seen} == {("checking", 11)}
    assert len({done for _, done, _ in seen}) > 1
