"""`tasks.doctor()` on a strict emulator: each broken set-up is told apart, with the line that mends it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pytest
from google.oauth2.service_account import Credentials

import cloudtasks_nb as ct
from cloudtasks_nb.display.notify import Output, redirect
from cloudtasks_nb.testing import StrictEmulator
from tests.certificates import Authority
from tests.integration.conftest import Answer, Target
from tests.integration.toolkit.test_doctor import wrong
from tests.unit.store.conftest import gs_server

__all__ = ["gs_server"]

ADC = "GOOGLE_APPLICATION_CREDENTIALS"
ROOTS, BUNDLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE"
CALLER = "caller@demo.iam.gserviceaccount.com"
EVERYTHING = ("roles/cloudtasks.admin", "roles/logging.viewer")
QUEUE_PERMISSIONS = tuple(
    f"cloudtasks.{name}"
    for name in (
        *("tasks.create", "tasks.list", "tasks.get", "tasks.fullView", "tasks.delete", "tasks.run"),
        *("queues.get", "queues.update", "locations.list"),
    )
)
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
            if self.queue is not None:
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


def tls_interception(setup: Setup, *variables: str) -> None:
    """A proxy shows certificates of an authority that this machine does not trust."""
    for name in variables:
        setup.patch.setenv(name, str(Authority(setup.folder / "other").ca))


def few_scopes(setup: Setup) -> None:
    """The credentials are for reading the log only."""
    scopes = ["https://www.googleapis.com/auth/logging.read"]
    setup.connection["credentials"] = Credentials.from_service_account_file(str(setup.key), scopes=scopes)


def without(permission: str) -> Callable[[Setup], None]:
    """Return a set-up in which the user lacks one permission."""

    def breaks(setup: Setup) -> None:
        setup.roles = (*(one for one in QUEUE_PERMISSIONS if one != permission), "roles/logging.viewer")

    return breaks


def set_(**conditions: Any) -> Callable[[Setup], None]:
    """Return a set-up in which something is wrong with the project."""
    return lambda setup: setup.google.set(**conditions)


def connect(**arguments: Any) -> Callable[[Setup], None]:
    """Return a set-up in which the user connects with other arguments."""
    return lambda setup: setup.connection.update(arguments)


def use(queue: str) -> Callable[[Setup], None]:
    """Return a set-up in which the user names another queue."""
    return lambda setup: setattr(setup, "queue", queue)


def no_act_as(setup: Setup) -> None:
    """The user may not act as the account of the tasks."""
    setup.arguments = {"service_account": CALLER}


def call(conditions: Mapping[str, Any] = MappingProxyType({}), **service: Any) -> Callable[[Setup], None]:
    """Return a set-up in which the target does not let the task in, or the task gets no token."""

    def breaks(setup: Setup) -> None:
        setup.call_a_service(**service)
        setup.google.set(**conditions)

    return breaks


def answering(status: int) -> Callable[[Setup], None]:
    """Return a set-up in which the service answers with a status."""

    def breaks(setup: Setup) -> None:
        setup.call_a_service()
        setup.target.script(status)

    return breaks


def public(invoker: str = "caller", **service: Any) -> Callable[[Setup], None]:
    """Return a set-up in which everybody may call the service."""

    def breaks(setup: Setup) -> None:
        setup.call_a_service(**service)
        setup.google.grant(setup.email, "roles/run.viewer")
        if invoker != "caller":
            setup.google.grant(invoker, "roles/run.invoker", setup.arguments["url"].removesuffix("/run"))

    return breaks


def redirecting(setup: Setup) -> None:
    """The target sends everybody on to a server that does not answer."""
    moved = Answer(status=302, headers={"Location": "http://127.0.0.1:9/gone"})
    setup.target.script(moved, moved)
    setup.arguments = {"url": setup.target.url}


def blocked(folder: Path) -> Path:
    """Return a folder that cannot be made."""
    (folder / "file").touch()
    return folder / "file/store"


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


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is broken, and what the doctor says about it."""

    breaks: Callable[[Setup], Any]
    check: str
    detail: str
    fix: str


CASES = {
    "no credentials": Case(
        breaks=no_credentials,
        check="credentials",
        detail="no Google credentials were found",
        fix="gcloud auth application-default login",
    ),
    "malformed key": Case(
        breaks=malformed_key,
        check="credentials",
        detail="is a damaged key of a service account",
        fix="gcloud iam service-accounts keys create",
    ),
    "TLS interception": Case(
        breaks=lambda setup: tls_interception(setup, ROOTS, BUNDLE),
        check="credentials",
        detail="CERTIFICATE_VERIFY_FAILED",
        fix=f"Set {BUNDLE} and {ROOTS}",
    ),
    "TLS interception, known to requests only": Case(
        breaks=lambda setup: tls_interception(setup, ROOTS),
        check="api",
        detail="CERTIFICATE_VERIFY_FAILED",
        fix=ROOTS,
    ),
    "wrong project": Case(
        breaks=connect(project="demmo"),
        check="api",
        detail="Permission denied on resource project demmo",
        fix="gcloud projects list",
    ),
    "API off": Case(
        breaks=set_(api_disabled=True),
        check="api",
        detail="Cloud Tasks API has not been used in project demo",
        fix="gcloud services enable cloudtasks.googleapis.com --project=demo",
    ),
    "billing off": Case(
        breaks=set_(billing=False),
        check="api",
        detail="requires billing to be enabled",
        fix="gcloud billing projects link demo",
    ),
    "quota project": Case(
        breaks=connect(quota_project="other"),
        check="api",
        detail="permission to use project other",
        fix="gcloud projects add-iam-policy-binding other --member=serviceAccount:{email} "
        "--role=roles/serviceusage.serviceUsageConsumer",
    ),
    "scopes": Case(
        breaks=few_scopes,
        check="api",
        detail="insufficient authentication scopes",
        fix="gcloud auth application-default login",
    ),
    "VPC Service Controls": Case(
        breaks=set_(vpc_sc=True),
        check="api",
        detail="prohibited by organization's policy",
        fix="VPC Service Controls do not allow the call from here",
    ),
    "no such region": Case(
        breaks=connect(location="us-centrall"),
        check="location",
        detail="us-centrall is no location of Cloud Tasks",
        fix='ct.connect("demo", "us-central1")',
    ),
    "wrong region": Case(
        breaks=connect(location="europe-west1"),
        check="queues",
        detail='there is no queue "reports" in europe-west1, but one in us-central1',
        fix='ct.connect("demo", "us-central1")',
    ),
    "no queue": Case(
        breaks=use("nowhere"),
        check="queues",
        detail='there is no queue "nowhere" in us-central1',
        fix='tasks.queue("nowhere", create=True)',
    ),
    "no create": Case(
        breaks=without("cloudtasks.tasks.create"),
        check="permissions",
        detail="lacks cloudtasks.tasks.create (fan_out, enqueue)",
        fix="--member=serviceAccount:{email} --role=roles/cloudtasks.enqueuer",
    ),
    "no list": Case(
        breaks=without("cloudtasks.tasks.list"),
        check="permissions",
        detail="lacks cloudtasks.tasks.list",
        fix="--role=roles/cloudtasks.viewer",
    ),
    "no fullView": Case(
        breaks=without("cloudtasks.tasks.fullView"),
        check="permissions",
        detail="lacks cloudtasks.tasks.fullView",
        fix="--role=roles/cloudtasks.viewer",
    ),
    "no run": Case(
        breaks=without("cloudtasks.tasks.run"),
        check="permissions",
        detail="lacks cloudtasks.tasks.run",
        fix="--role=roles/cloudtasks.taskRunner",
    ),
    "no right to act as the account": Case(
        breaks=no_act_as,
        check="service_account",
        detail=f"lacks iam.serviceAccounts.actAs on {CALLER}",
        fix=f"gcloud iam service-accounts add-iam-policy-binding {CALLER} --member=serviceAccount:{{email}} "
        "--role=roles/iam.serviceAccountUser",
    ),
    "no such account": Case(
        breaks=lambda setup: setup.arguments.update(service_account="nobody@demo.iam.gserviceaccount.com"),
        check="service_account",
        detail="there is no service account nobody@demo",
        fix="gcloud iam service-accounts create nobody --project=demo",
    ),
    "an account of another project": Case(
        breaks=lambda setup: setup.arguments.update(service_account="caller@other.iam.gserviceaccount.com"),
        check="service_account",
        detail="caller@other.iam.gserviceaccount.com is of the project other",
        fix="gcloud iam service-accounts create caller --project=demo",
    ),
    "a user as the account": Case(
        breaks=lambda setup: setup.arguments.update(service_account="ann@example.com"),
        check="service_account",
        detail="ann@example.com is not a service account",
        fix="gcloud iam service-accounts list --project=demo",
    ),
    "the queue is paused": Case(
        breaks=lambda setup: setup.google.seed({"reports": {"state": "PAUSED"}}),
        check="queues",
        detail="reports is paused",
        fix='tasks.queue("reports").resume()',
    ),
    "the service is gone": Case(
        breaks=answering(404),
        check="target",
        detail="the service was deleted, or its ingress does not let Cloud Tasks in",
        fix="gcloud run services update report --region=us-central1 --project=demo --ingress=all",
    ),
    "no free instance": Case(
        breaks=answering(429),
        check="target",
        detail="answers 429: no instance is free",
        fix="--max-instances=100",
    ),
    "a signature is wanted": Case(
        breaks=answering(401),
        check="target",
        detail="or it wants a signature, which Cloud Run has removed",
        fix="--update-env-vars=CLOUDTASKS_NB_PRIVATE=1",
    ),
    "everybody may invoke the service": Case(
        breaks=public("allUsers"),
        check="target",
        detail="is public: allUsers may invoke it",
        fix="remove-iam-policy-binding report --region=us-central1 --project=demo --member=allUsers",
    ),
    "everybody with an account may": Case(
        breaks=public("allAuthenticatedUsers"),
        check="target",
        detail="is public: allAuthenticatedUsers may invoke it",
        fix="--member=allUsers --role=roles/run.invoker; gcloud run services update",
    ),
    "nobody's right is checked": Case(
        breaks=public(unchecked=True),
        check="target",
        detail="is public: its check of callers is switched off",
        fix="--invoker-iam-check",
    ),
    "a redirect that fails": Case(
        breaks=redirecting,
        check="target",
        detail="redirects to http://127.0.0.1:9/gone, which fails",
        fix='url="http://127.0.0.1:9/gone"',
    ),
    "a store that cannot be used": Case(
        breaks=lambda setup: setup.connection.update(store=blocked(setup.folder)),
        check="store",
        detail="cannot be written in",
        fix="check that the folder can be written",
    ),
    "the runner may not write": Case(
        breaks=deployed,
        check="store",
        detail="cloudtasks-handler@demo.iam.gserviceaccount.com, as which the service runs, has no role on gs://team",
        fix="gcloud storage buckets add-iam-policy-binding gs://team "
        "--member=serviceAccount:cloudtasks-handler@demo.iam.gserviceaccount.com --role=roles/storage.objectUser",
    ),
    "the service stores elsewhere": Case(
        breaks=lambda setup: deployed(setup, store="gs://team/other"),
        check="store",
        detail="report stores results in gs://team/tasks, and this connection reads gs://team/other",
        fix='ct.connect(…, store="gs://team/tasks")',
    ),
    "no right to invoke the target": Case(
        breaks=call(invoker="somebody"),
        check="target",
        detail=f"answers 403: {CALLER} may not invoke it",
        fix="gcloud run services add-iam-policy-binding report --region=us-central1 "
        f"--project=demo --member=serviceAccount:{CALLER} --role=roles/run.invoker",
    ),
    "wrong audience": Case(
        breaks=call(audience="https://reports"),
        check="target",
        detail="answers 401: the audience of the token, https://reports, is not the one that it expects",
        fix="gcloud run services describe report --region=us-central1",
    ),
    "no service agent": Case(
        breaks=call({"service_agent": False}),
        check="target",
        detail="the service agent of Cloud Tasks cannot get a token",
        fix="--role=roles/cloudtasks.serviceAgent",
    ),
    "log unreadable": Case(
        breaks=lambda setup: setattr(setup, "roles", EVERYTHING[:1]),
        check="log",
        detail="logging.logEntries.list",
        fix="--member=serviceAccount:{email} --role=roles/logging.viewer",
    ),
    "log routed elsewhere": Case(
        breaks=set_(log_excluded=True),
        check="log",
        detail="the entry of a new task did not appear",
        fix="gcloud logging sinks update _Default --remove-exclusions=NAME --project=demo",
    ),
    "sampling 0": Case(
        breaks=lambda setup: setup.google.seed({"reports": {"log_sampling_ratio": 0.0}}),
        check="log",
        detail="write no log: reports",
        fix='tasks.queue("reports").update(log_sampling_ratio=1.0)',
    ),
    "clock 5 minutes behind": Case(
        breaks=set_(clock_offset_s=300),
        check="clock",
        detail="300 s behind the clock of the service",
        fix="timedatectl",
    ),
    "clock 5 minutes ahead": Case(
        breaks=set_(clock_offset_s=-300),
        check="credentials",
        detail="in a reasonable timeframe",
        fix="the clock of this machine is wrong",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_cause_is_named(setup: Setup, case: Case) -> None:
    """The first check that fails is that of the cause; its detail names it, and its fix has what mends it."""
    case.breaks(setup)
    found = setup.doctor()
    assert wrong(found)[:1] == [case.check]
    row = found.loc[case.check]
    assert case.detail in row.detail
    assert case.fix.format(email=setup.email) in row.fix


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
    runner = "cloudtasks-handler@demo.iam.gserviceaccount.com"
    assert found.detail["store"].endswith(f"listed and cleared, and {runner} may write")
    setup.google.revoke(setup.email, "roles/storage.admin", "gs://team")
    found = setup.doctor()
    assert wrong(found) == []
    assert f"whether {runner} may write is not known: " in found.detail["store"]


def test_apis_that_only_the_doctor_needs(setup: Setup) -> None:
    """That the IAM and the Resource Manager API are disabled is no fault; what they answer is not checked."""
    setup.google.set(api_disabled=["iam.googleapis.com", "cloudresourcemanager.googleapis.com"])
    setup.arguments, setup.queue = {"service_account": CALLER}, None
    found = setup.doctor()
    assert wrong(found) == []
    assert found.detail["permissions"].startswith("queues can be listed")
    assert found.detail["service_account"].startswith("not checked")
    assert "gcloud services enable iam.googleapis.com" in found.fix["service_account"]


def test_permissions_without_a_queue(setup: Setup) -> None:
    """While there is no queue, the permissions are those on the project."""
    setup.roles, setup.queue = ("roles/cloudtasks.viewer", "roles/logging.viewer"), None
    found = setup.doctor()
    assert wrong(found) == ["permissions"]
    assert found.detail["permissions"].startswith("on projects/demo the caller lacks cloudtasks.tasks.create")
    assert "--role=roles/cloudtasks.editor" in found.fix["permissions"]


def test_a_probe_that_cannot_be_deleted(setup: Setup) -> None:
    """Who may create but not delete a task learns its name."""
    without("cloudtasks.tasks.delete")(setup)
    found = setup.doctor()
    assert wrong(found) == ["permissions"]
    assert "the probe, task doctor-" in found.detail["log"]
    assert "is still in queue reports" in found.detail["log"]


def test_permissions_on_a_queue_that_cannot_be_read(setup: Setup) -> None:
    """Who has a role on the queue alone is not told to ask for it on the project."""
    queue = "projects/demo/locations/us-central1/queues/reports"
    setup.google.grant(setup.email, "roles/cloudtasks.enqueuer", queue)
    setup.roles = ("roles/logging.viewer",)
    found = setup.doctor()
    assert wrong(found) == ["queues", "permissions"]
    assert found.detail["permissions"].startswith("on reports the caller lacks cloudtasks.tasks.list")
    assert "tasks.create" not in found.detail["permissions"]


def test_a_probe_that_cannot_be_looked_at(setup: Setup) -> None:
    """A task that the doctor cannot look at or delete is named, and both reasons are told."""
    setup.call_a_service()
    setup.roles = ("cloudtasks.tasks.create", "cloudtasks.queues.get", "cloudtasks.locations.list")
    found = setup.doctor()
    assert found.detail["target"].count("lacks IAM permission") == 2
    assert "is still in queue reports" in found.detail["target"]


def test_a_log_without_a_probe(setup: Setup) -> None:
    """Who may create no task learns what the log has, and that the delay was not tested."""
    setup.roles = ("roles/cloudtasks.viewer", "roles/logging.viewer")
    found = setup.doctor()
    assert wrong(found) == ["permissions"]
    assert "it has no entry of the last hour; how soon an entry appears was not tested" in found.detail["log"]


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
