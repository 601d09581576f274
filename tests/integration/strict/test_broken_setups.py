"""`tasks.doctor()` on a strict emulator: each broken set-up is told apart, with the line that mends it."""

import itertools
import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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
            if self.queue is not None:
                tasks.queue(self.queue)
            return tasks.doctor(**self.arguments)


Breaks = Callable[[Setup], Any]


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


def intercepted(*variables: str) -> Breaks:
    """Return a set-up in which a proxy shows certificates of an authority that this machine does not trust."""

    def breaks(setup: Setup) -> None:
        for name in variables:
            setup.patch.setenv(name, str(Authority(setup.folder / "other").ca))

    return breaks


def few_scopes(setup: Setup) -> None:
    """The credentials are for reading the log only."""
    scopes = ["https://www.googleapis.com/auth/logging.read"]
    setup.connection["credentials"] = Credentials.from_service_account_file(str(setup.key), scopes=scopes)


def without(verb: str) -> Breaks:
    """Return a set-up in which the user lacks one permission on tasks."""
    return has(roles=(*(one for one in PERMISSIONS if one != f"cloudtasks.tasks.{verb}"), "roles/logging.viewer"))


def set_(**conditions: Any) -> Breaks:
    """Return a set-up in which something is wrong with the project."""
    return lambda setup: setup.google.set(**conditions)


def connect(**arguments: Any) -> Breaks:
    """Return a set-up in which the user connects with other arguments."""
    return lambda setup: setup.connection.update(arguments)


def has(**values: Any) -> Breaks:
    """Return a set-up with another queue, other roles, or other arguments of the doctor."""
    return lambda setup: vars(setup).update(values)


def account(email: str) -> Breaks:
    """Return a set-up whose tasks are signed by an account that the user may not act as."""
    return has(arguments={"service_account": email})


def unsampled(setup: Setup) -> None:
    """The queue writes no log."""
    setup.google.seed({"reports": {"log_sampling_ratio": 0.0}})


def call(*statuses: int, agent: bool = True, **service: Any) -> Breaks:
    """Return a set-up in which the service answers so, or does not let the task in, or the task gets no token."""

    def breaks(setup: Setup) -> None:
        setup.call_a_service(**service)
        setup.target.script(*statuses)
        setup.google.set(service_agent=agent)

    return breaks


def public(*members: str, **service: Any) -> Breaks:
    """Return a set-up in which everybody may call the service."""

    def breaks(setup: Setup) -> None:
        setup.call_a_service(**service)
        setup.google.grant(setup.email, "roles/run.viewer")
        for member in members:
            setup.google.grant(member, "roles/run.invoker", setup.arguments["url"].removesuffix("/run"))

    return breaks


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


def paused(setup: Setup) -> None:
    """The queue dispatches nothing."""
    setup.google.seed({"reports": {"state": "PAUSED"}})


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


elsewhere = partial(deployed, store="gs://team/other")  # the connection reads results elsewhere


LOGIN = "gcloud auth application-default login"
ACCOUNTS, SERVICES = "gcloud iam service-accounts", "gcloud run services"
ALWAYS, BIND = "--condition=None", "add-iam-policy-binding"  # else gcloud asks, if a policy has conditions
USER, ROLE = "--member=serviceAccount:{email}", "--role=roles/cloudtasks"
NO_QUEUE, NO_REGION = 'there is no queue "nowhere" in us-central1', "us-centrall is no location of Cloud Tasks"
ELSEWHERE = 'there is no queue "reports" in europe-west1, but one in us-central1'
UNTRUSTED, NO_PROJECT = "CERTIFICATE_VERIFY_FAILED", "Permission denied on resource project demmo"
API_OFF = "Cloud Tasks API has not been used in project demo"
API_ON = "gcloud services enable cloudtasks.googleapis.com --project=demo"
CONSUMER = f"gcloud projects {BIND} other {USER} --role=roles/serviceusage.serviceUsageConsumer {ALWAYS}"
PERIMETER = "VPC Service Controls do not allow the call from here"
CONNECT = 'ct.connect("demo", "us-central1")'
ACT_AS = f"{ACCOUNTS} {BIND} {CALLER} --project=demo {USER} --role=roles/iam.serviceAccountUser {ALWAYS}"
NO_ACCOUNT, CREATE_ACCOUNT = "there is no service account nobody@demo", f"{ACCOUNTS} create nobody --project=demo"
INVOKER = f"--project=demo --member=serviceAccount:{CALLER} --role=roles/run.invoker"
INVOKE = f"{SERVICES} add-iam-policy-binding report --region=us-central1 {INVOKER}"
AUDIENCE = "answers 401: the audience of the token, https://reports, is not the one that it expects"
SEE_AUDIENCE = f"{SERVICES} describe report --region=us-central1"
FOREIGN, CREATE_CALLER = "is of the project other", f"{ACCOUNTS} create caller --project=demo"
UPDATE, GONE = f"{SERVICES} update report --region=us-central1 --project=demo", "http://127.0.0.1:9/gone"
PRIVATE = f"{UPDATE} --update-env-vars=CLOUDTASKS_NB_PRIVATE=1"
ACCOUNT, UNCHECKED = "allAuthenticatedUsers", "its check of callers is switched off"
CLOSE = f"{SERVICES} remove-iam-policy-binding report --region=us-central1 --project=demo --member="
RUNNER = "cloudtasks-handler@demo.iam.gserviceaccount.com"
WRITE = f"buckets add-iam-policy-binding gs://team --member=serviceAccount:{RUNNER} --role=roles/storage.objectCreator"
READS = "report stores results in gs://team/tasks, and this connection reads gs://team/other"
NO_QUEUE_CREATE = "on projects/demo the caller lacks cloudtasks.tasks.create"
NO_CREATE = "lacks cloudtasks.tasks.create (fan_out, enqueue)"
NO_AGENT = "the service agent of Cloud Tasks cannot get a token"
EXCLUDED = "gcloud logging sinks update _Default --remove-exclusions=NAME --project=demo"
SAMPLE = 'tasks.queue("reports").update(log_sampling_ratio=1.0)'
#: What is wrong, how it comes about, the first check that fails, its detail, and what mends it.
CASES: list[tuple[str, Breaks, str, str, str]] = [
    ("no credentials", no_credentials, "credentials", "no Google credentials were found", LOGIN),
    ("malformed key", malformed_key, "credentials", "Failed to load service account", f"{ACCOUNTS} keys create"),
    ("TLS interception", intercepted(ROOTS, BUNDLE), "credentials", UNTRUSTED, f"Set {BUNDLE} and {ROOTS}"),
    ("TLS interception, known to requests only", intercepted(ROOTS), "api", UNTRUSTED, ROOTS),
    ("wrong project", connect(project="demmo"), "api", NO_PROJECT, "gcloud projects list"),
    ("API off", set_(api_disabled=True), "api", API_OFF, API_ON),
    ("billing off", set_(billing=False), "api", "requires billing to be enabled", "gcloud billing projects link demo"),
    ("quota project", connect(quota_project="other"), "api", "permission to use project other", CONSUMER),
    ("scopes", few_scopes, "api", "insufficient authentication scopes", LOGIN),
    ("VPC Service Controls", set_(vpc_sc=True), "api", "prohibited by organization's policy", PERIMETER),
    ("no such region", connect(location="us-centrall"), "location", NO_REGION, CONNECT),
    ("wrong region", connect(location="europe-west1"), "queues", ELSEWHERE, CONNECT),
    ("no queue", has(queue="nowhere"), "queues", NO_QUEUE, 'tasks.queue("nowhere", create=True)'),
    ("no queue yet", has(roles=VIEWERS, queue=None), "permissions", NO_QUEUE_CREATE, f"{ROLE}.editor"),
    ("no create", without("create"), "permissions", NO_CREATE, f"{USER} {ROLE}.enqueuer"),
    ("no list", without("list"), "permissions", "lacks cloudtasks.tasks.list", f"{ROLE}.viewer"),
    ("no fullView", without("fullView"), "permissions", "lacks cloudtasks.tasks.fullView", f"{ROLE}.viewer"),
    ("no run", without("run"), "permissions", "lacks cloudtasks.tasks.run", f"{ROLE}.taskRunner"),
    ("no right to act", account(CALLER), "service_account", f"lacks iam.serviceAccounts.actAs on {CALLER}", ACT_AS),
    ("no such account", account("nobody@demo.iam.gserviceaccount.com"), "service_account", NO_ACCOUNT, CREATE_ACCOUNT),
    ("foreign account", account("caller@other.iam.gserviceaccount.com"), "service_account", FOREIGN, CREATE_CALLER),
    ("a user", account("ann@example.com"), "service_account", "is not a service account", f"{ACCOUNTS} list"),
    ("no right to invoke", call(invoker="somebody"), "target", f"answers 403: {CALLER} may not invoke it", INVOKE),
    ("wrong audience", call(audience="https://reports"), "target", AUDIENCE, SEE_AUDIENCE),
    ("signature wanted", call(401), "target", "or it wants a signature, which Cloud Run has removed", PRIVATE),
    ("service gone", call(404), "target", "its ingress does not let Cloud Tasks in", f"{UPDATE} --ingress=all"),
    ("no free instance", call(429), "target", "answers 429: no instance is free", f"{UPDATE} --max-instances="),
    ("everybody may invoke", public("allUsers"), "target", "is public: allUsers may invoke", f"{CLOSE}allUsers --role"),
    ("all accounts may invoke", public(ACCOUNT), "target", f"public: {ACCOUNT} may", f"{CLOSE}{ACCOUNT} --role"),
    ("callers are not checked", public(unchecked=True), "target", UNCHECKED, f"{UPDATE} --invoker-iam-check"),
    ("redirect that fails", redirecting, "target", f"redirects to {GONE}, which fails", f'url="{GONE}"'),
    ("unusable store", unusable, "store", "cannot be written in", "check that the folder can be written"),
    ("no bucket", no_bucket, "store", "The bucket is missing", "check the name of the bucket"),
    ("no right of the runner", deployed, "store", f"{RUNNER}, as which the service runs, has no role", WRITE),
    ("another store", elsewhere, "store", READS, 'ct.connect(…, store="gs://team/tasks")'),
    ("paused queue", paused, "queues", "reports is paused", 'tasks.queue("reports").resume()'),
    ("no service agent", call(agent=False), "target", NO_AGENT, f"{ROLE}.serviceAgent"),
    ("no log", has(roles=EVERYTHING[:1]), "log", "logging.logEntries.list", f"{USER} --role=roles/logging.viewer"),
    ("log routed elsewhere", set_(log_excluded=True), "log", "the entry of a new task did not appear", EXCLUDED),
    ("sampling 0", unsampled, "log", f"write no log: reports ({LOG_PRICE})", SAMPLE),
    ("clock behind", set_(clock_offset_s=300), "clock", "clock is 5 min behind the service's", "timedatectl"),
    ("clock ahead", set_(clock_offset_s=-300), "credentials", "in a reasonable timeframe", "of this machine is wrong"),
]


@cases(*(row[1:] for row in CASES), ids=[row[0] for row in CASES])
def test_the_cause_is_named(setup: Setup, breaks: Breaks, check: str, detail: str, fix: str) -> None:
    """The first check that fails is that of the cause; its detail names it, and its fix has what mends it."""
    breaks(setup)
    found = setup.doctor()
    assert wrong(found)[:1] == [check]
    assert detail in found.loc[check].detail
    assert fix.format(email=setup.email) in found.loc[check].fix


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


def test_apis_that_only_the_doctor_needs(setup: Setup) -> None:
    """That the IAM and the Resource Manager API are disabled is no fault; what they answer is not checked."""
    setup.google.set(api_disabled=["iam.googleapis.com", "cloudresourcemanager.googleapis.com"])
    setup.arguments, setup.queue = {"service_account": CALLER}, None
    found = setup.doctor()
    assert wrong(found) == []
    assert found.detail["permissions"].startswith("queues can be listed")
    assert found.detail["service_account"].startswith("not checked")
    assert "gcloud services enable iam.googleapis.com" in found.fix["service_account"]


def test_a_probe_that_cannot_be_deleted(setup: Setup) -> None:
    """Who may create but not delete a task learns its name."""
    without("delete")(setup)
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


def test_a_log_without_a_probe(setup: Setup) -> None:
    """Who may create no task learns what the log has, and that the delay was not tested."""
    setup.roles = VIEWERS
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
