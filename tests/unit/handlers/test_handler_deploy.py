"""`deploy`: the folder of a service, and the commands that deploy it."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb import __version__
from cloudtasks_nb.errors import ConfigurationError, HandlerError
from cloudtasks_nb.handlers import gcloud as commands
from cloudtasks_nb.handlers.admission import wait_until_admitted
from cloudtasks_nb.handlers.deploy import Deployment, deploy
from cloudtasks_nb.handlers.gcloud import CloudRunService, account_member, run_steps
from cloudtasks_nb.handlers.version import version_of
from cloudtasks_nb.service.costs import CALLS
from tests import gcloud
from tests.cases import cases
from tests.raising import raises
from tests.unit.handlers.conftest import Notebook, report
from tests.web import Reply, Request, http_server

ACCOUNTS = "p.iam.gserviceaccount.com"
CALLER = "cloudtasks-caller@my-project.iam.gserviceaccount.com"
RUNNER = "cloudtasks-handler@my-project.iam.gserviceaccount.com"
DESCRIBE = ("iam", "service-accounts", "describe", "a@p.iam.gserviceaccount.com", "--project", "p")
EVERY, PLACE = "allAuthenticatedUsers", "--project my-project --region europe-west1"
#: A service without what `deploy` finds out.
FACTS: dict[str, Any] = {
    "name": "report",
    "project": "p",
    "region": "r",
    "runner": RUNNER,
    "caller": CALLER,
    "new_accounts": (),
    "audience": "https://a",
    "folder": "deploy/report",
    "environment": {"A": "1"},
    "store": None,
    "python": "3.12",
}
Stub = Callable[..., dict[str, Any]]


def with_a_secret() -> str:
    """Have what looks like a secret."""
    return (password := "swordfish") + password


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, in which gcloud is not on the PATH, for a project that the environment names."""
    monkeypatch.chdir(tmp_path)
    places = {"CLOUDTASKS_NB_LOCATION": "europe-west1", "CLOUDTASKS_NB_STORE": "gs://team/tasks"}
    for name, value in {"PATH": str(tmp_path / "bin"), "GOOGLE_CLOUD_PROJECT": "my-project", **places}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Give a function that puts a gcloud of this process in place, and returns its state."""

    def put(**state: Any) -> dict[str, Any]:
        made = gcloud.state_with(**state)
        monkeypatch.setattr(commands, "run", partial(gcloud.run, made))
        return made

    return put


def test_the_folder_of_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    """It has the source, the requirements, the command to start and this package; the commands are printed."""
    service = deploy(report)
    assert {path.name for path in service.folder.iterdir()} == {
        *("main.py", "requirements.txt", "Procfile", ".python-version", f"cloudtasks_nb-{__version__}-py3-none-any.whl")
    }
    assert (service.name, service.service_account) == ("report", CALLER)
    assert service.audience == "https://report.europe-west1.my-project.internal"
    main = (service.folder / "main.py").read_text()
    assert f"application = _app(report, audience='{service.audience}', service_account='{CALLER}')" in main
    assert service.version == version_of(report).digits
    assert f"report.__code_version__ = '{service.version}'" in main
    shown = capsys.readouterr().out
    assert [line for line in service.commands if line not in shown] == []
    assert "not known to be deployed" in repr(service)


EXCEPTIONS = """
import requests
class OwnError(Exception): pass
class Api:
    class Error(OwnError): pass
def local():
    class HiddenError(Exception): pass
    return HiddenError
def report(day): return day
"""


def test_exceptions_after_which_a_service_gives_up(notebook: Notebook) -> None:
    """`main.py` has those of the notebook and of libraries; the version of the function is the same."""
    made = notebook(EXCEPTIONS)
    given = (KeyError, made.requests.HTTPError, made.OwnError, made.Api.Error)
    service = deploy(made.report, give_up_on=given)
    assert service.version == deploy(made.report, service="other").version
    main = notebook((service.folder / "main.py").read_text())
    assert issubclass(main.Api.Error, main.OwnError)
    expected = (KeyError, made.requests.HTTPError, main.OwnError, main.Api.Error)
    assert main.application._functions[""].give_up_on[-4:] == expected
    with raises(HandlerError, "give_up_on has local.<locals>.HiddenError, which is made inside", hint="the top"):
        deploy(made.report, give_up_on=made.local())


def test_the_commands_are_those_of_gcloud() -> None:
    """Each is a command that gcloud has, and grants what Cloud Run and Cloud Tasks check."""
    lines = [shlex.split(part) for line in deploy(report).commands for part in line.split(" >/dev/null 2>&1 || ")]
    found = [gcloud.parse(words[1:]) for words in lines]
    assert {tuple(words[:1]) for words in lines} == {("gcloud",)}
    person = "user:$(gcloud config get-value account)"
    grants = [(one[1][0], one[2]["--member"], one[2]["--role"]) for one in found if "binding" in one[0]]
    assert grants == [
        (CALLER, person, "roles/iam.serviceAccountUser"),
        (CALLER, person, "roles/iam.serviceAccountOpenIdTokenCreator"),
        (RUNNER, person, "roles/iam.serviceAccountUser"),
        ("gs://team", f"serviceAccount:{RUNNER}", "roles/storage.objectCreator"),
        ("gs://team", person, "roles/storage.objectUser"),
        ("report", f"serviceAccount:{CALLER}", "roles/run.invoker"),
    ]
    # Who may add results of one store may not touch the batches beside them, nor those of another store.
    objects = '"projects/_/buckets/team/objects/tasks/results/"'
    conditions = [one[2].get("--condition") for one in found if "binding" in one[0]]
    expected = f"expression=resource.name.startsWith({objects}),title=results"
    assert conditions == [*["None"] * 3, expected, "None", None]
    ((_, positional, options),) = [one for one in found if one[0] == "run deploy"]
    variables = {"--update-env-vars": "CLOUDTASKS_NB_PRIVATE=1,CLOUDTASKS_NB_STORE=gs://team/tasks"}
    wanted = {"--source": "deploy/report", "--service-account": RUNNER, **variables}
    wanted |= {"--base-image": f"python3{sys.version_info.minor}", "--concurrency": str(CALLS)}
    assert (positional, wanted.items() <= options.items()) == (["report"], True)
    assert "--no-allow-unauthenticated" in options
    assert {one[2].get("--project") for one in found} == {"my-project"}
    assert {one[2]["--region"] for one in found if one[0].startswith("run ")} == {"europe-west1"}


def test_run_deploys_it(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands run in order, the accounts are created once, and the URL is known; again updates the service."""
    (place / "bin").mkdir()
    state = gcloud.install(place / "bin")
    monkeypatch.setenv("GCLOUD_STATE", str(state))
    service = deploy(report, run=True)
    assert service.url == "https://report-1.run.app"
    first = json.loads(state.read_text())
    assert first["accounts"] == [CALLER, RUNNER]
    members = [call[2]["--member"] for call in first["calls"] if "service-accounts add" in call[0]]
    assert members == ["user:ann@example.com"] * 3
    assert "12/12 gcloud run services describe report" in capsys.readouterr().out
    assert deploy(report, run=True).url == service.url
    calls = [call[0] for call in json.loads(state.read_text())["calls"][len(first["calls"]) :]]
    assert (calls.count("iam service-accounts create"), calls.count("run deploy")) == (0, 1)


@cases(("gs://team", "results", ","), ("gs://team/a/", "a/results", ","), ("gs://team/a,b", "a,b/results", ";"))
def test_a_service_may_add_results_only(store: str, folder: str, separator: str) -> None:
    """The condition of its role names the folder of results, whatever the prefix."""
    _, positional, options = gcloud.parse(list(commands.results_grant(store, RUNNER, "p").words))
    assert positional == ["gs://team"]
    expression, title = options["--condition"].removeprefix("^;^").split(separator + "title=")
    assert expression == f'expression=resource.name.startsWith("projects/_/buckets/team/objects/{folder}/")'
    assert title == "results"


def test_accounts_of_the_user(stub: Stub) -> None:
    """Accounts that are named exist already; a service account may deploy, too; without a store there is no bucket."""
    state = stub(account=f"ci@{ACCOUNTS}")
    accounts: dict[str, Any] = {"service_account": f"runner@{ACCOUNTS}", "caller": f"caller@{ACCOUNTS}"}
    service = deploy(report, service="daily", project="p", region="r", store="s3://bucket/tasks", run=True, **accounts)
    assert (service.service_account, service.name) == (f"caller@{ACCOUNTS}", "daily")
    calls = state["calls"]
    unneeded = {"iam service-accounts create", "storage buckets add-iam-policy-binding"}
    assert {call[0] for call in calls}.isdisjoint(unneeded)
    members = {call[2]["--member"] for call in calls if call[0] == "iam service-accounts add-iam-policy-binding"}
    assert members == {f"serviceAccount:ci@{ACCOUNTS}"}


def test_one_account_for_both() -> None:
    """Who deploys it gets each right on the account once, also that to make its tokens."""
    account = f"both@{ACCOUNTS}"
    lines = deploy(report, service_account=account, caller=account).commands
    roles = [re.findall(r"--role=roles/iam\.(\w+)", line) for line in lines if f"binding {account}" in line]
    assert roles == [["serviceAccountUser"], ["serviceAccountOpenIdTokenCreator"]]


def test_a_step_that_fails(stub: Stub) -> None:
    """The error has the command and what gcloud told; a build is not repeated, and later commands are not run."""
    state = stub(fails="run deploy")
    with raises(HandlerError, r"gcloud run deploy report (?s:.*) it is broken today", hint="roles/run.builder"):
        deploy(report, run=True)
    assert [call[0] for call in state["calls"]].index("run deploy") == len(state["calls"]) - 1


@pytest.mark.parametrize("failures", [2, 3])
def test_a_new_account_is_not_known_everywhere_at_once(stub: Stub, failures: int) -> None:
    """A command that fails after an account was created is tried again for a while."""
    stub(fails="iam service-accounts add-iam-policy-binding", failures=failures)
    create = commands.Step(words=("iam", "service-accounts", "create", "a", "--project", "p"), unless=DESCRIBE)
    words = ("iam", "service-accounts", "add-iam-policy-binding", "a", "--member=b", "--role=c", "--condition=None")
    grant = commands.Step(words=words)
    with nullcontext() if failures == 2 else pytest.raises(HandlerError, match="it is broken today"):
        assert commands.run_steps([create, grant], pauses=(0.0, 0.0)) == ""


def test_the_url_is_asked_for(stub: Stub) -> None:
    """A service that was deployed by hand, or by an earlier kernel, is found; one that is not there is an error."""
    stub()
    with raises(HandlerError, "the service daily has no URL", hint="ct.deploy(report, …, run=True)"):
        _ = deploy(report, service="daily").url
    stub(url="")
    with raises(HandlerError, "the service report has no URL"):
        deploy(report, run=True)
    service = deploy(report)
    stub(deployed=True)
    assert (service.url, str(service)) == ("https://report-1.run.app", repr(service))


def test_without_gcloud() -> None:
    """The folder and the commands can be had; what needs gcloud says so."""
    service = deploy(report)
    for use in (lambda: service.url, lambda: deploy(report, run=True)):
        with raises(ConfigurationError, "gcloud is not on the PATH", hint="Cloud Shell"):
            use()


def test_a_workforce_identity_may_deploy(stub: Stub) -> None:
    """Its name in gcloud is that in policies."""
    ann = "principal://iam.googleapis.com/locations/global/workforcePools/team/subject/ann"
    stub(account=ann)
    assert account_member() == ann


def test_nobody_is_logged_in(stub: Stub) -> None:
    """Before anything is run."""
    state = stub(account=None)
    with pytest.raises(ConfigurationError, match="nobody is logged in"):
        deploy(report, run=True)
    assert [call[0] for call in state["calls"]] == ["config get-value"]


def test_files_of_others_are_kept(place: Path) -> None:
    """A main.py that is not one of these is not overwritten; one of these is written again."""
    (place / "deploy/report").mkdir(parents=True)
    main = place / "deploy/report/main.py"
    main.write_bytes(b"print('\xff')\n")
    with pytest.raises(HandlerError, match=r"is not a file that ct\.deploy wrote"):
        deploy(report)
    main.unlink()
    (main.parent / "cloudtasks_nb-0.0.1-py3-none-any.whl").touch()
    deploy(report, caller="old@p.iam.gserviceaccount.com")
    deploy(report)
    assert "old@p" not in main.read_text()
    assert len(list(main.parent.glob("*.whl"))) == 1
    (place / "deploy/other").touch()
    with pytest.raises(HandlerError, match="the folder deploy/other cannot be created"):
        deploy(report, service="other")


def test_more_options() -> None:
    """They replace ours of the same name, and a comma in a value separates no variables."""
    service = deploy(report, gcloud=["--memory=2Gi", "--concurrency=1", "--update-env-vars=A=1"], store="gs://team/a,b")
    (line,) = [line for line in service.commands if line.startswith("gcloud run deploy")]
    words = shlex.split(line)
    assert [word for word in words if "concurrency" in word or "memory" in word] == ["--memory=2Gi", "--concurrency=1"]
    assert [word for word in words if "env-vars" in word] == [
        "--update-env-vars=^;^CLOUDTASKS_NB_PRIVATE=1;CLOUDTASKS_NB_STORE=gs://team/a,b",
        "--update-env-vars=A=1",
    ]


def test_what_is_public_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """A name of what is no secret is enough; one that nothing has is told."""
    assert "swordfish" in (deploy(with_a_secret, public=("password",)).folder / "main.py").read_text()
    assert "public=" not in capsys.readouterr().out
    deploy(report, public=["MODEL_ID", "X-Key"])
    assert (
        "public= names MODEL_ID, X-Key, but no value in the source of report has such a name" in capsys.readouterr().out
    )


SECRETS = "--update-env-vars=^;^API_KEY=sk-live-51Hxyz;DB_PASSWORD=hunter2, 'x';SHOPS=3"


@pytest.mark.parametrize("run", [False, True])
def test_secrets_of_options_are_shown_nowhere(stub: Stub, capsys: pytest.CaptureFixture[str], *, run: bool) -> None:
    """Notes, printed commands, and the error of a command with what gcloud wrote have dots, and say what to do."""
    stub(fails="run deploy", says="invalid value hunter2, 'x' of DB_PASSWORD; sk-live-51Hxyz")
    with (
        raises(HandlerError, r"(?s)API_KEY=•••;DB_PASSWORD=•••;SHOPS=3.* failed:.*of DB_PASS")
        if run
        else nullcontext() as caught
    ):
        service = deploy(report, gcloud=[SECRETS], run=run)
    shown = capsys.readouterr().out + str(caught and caught.value)
    assert [secret for secret in ("sk-live", "hunter2") if secret in shown] == []
    assert "shown as •••; service.commands has it as it is" in shown
    assert 'gcloud=["--set-secrets=API_KEY=api-key:latest,DB_PASSWORD=db-password:latest"]' in shown
    assert run or SECRETS in shlex.split(" ".join(service.commands))


#: What the service answers, IAM before it, the access token, and what is said.
WAITS: dict[str, tuple[list[int], int, str, list[str]]] = {
    "let in": ([403, 401, 503, 405], 200, "t", []),
    "never": ([403] * 4, 200, "t", ["waiting until", "not seen that the service lets", "403: no"]),
    "not there": ([404], 200, "t", ["not seen that the service lets", "404: no"]),
    "no ID token": ([], 403, "t", ["waiting until", "not seen that the service lets", "403: no"]),
    "no token": ([], 200, "", ["not seen that the service lets", "no such account"]),
}


@pytest.mark.parametrize(("answers", "iam", "token", "words"), WAITS.values(), ids=WAITS)
def test_it_waits_until_the_caller_is_let_in(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[int],
    iam: int,
    token: str,
    words: list[str],
) -> None:
    """Requests with a token of the caller are sent until one is let in; without that, it is said and nothing fails."""
    seen: list[str] = []

    def answer(request: Request) -> Reply:
        if request.method == "POST":
            assert (request.headers["authorization"], json.loads(request.body)["audience"]) == ("Bearer t", "https://a")
            assert request.url.path == f"/{CALLER}"
            return Reply(body=b'{"token": "id"}' if iam == 200 else b"no", status=iam)
        seen.append(request.headers["authorization"])
        return Reply(body=b"no", status=answers[len(seen) - 1])

    with http_server(answer) as port:
        monkeypatch.setattr("cloudtasks_nb.handlers.admission._TOKENS", f"http://127.0.0.1:{port}/{{account}}")
        stub(token=token)
        wait_until_admitted(CloudRunService(**FACTS), f"http://127.0.0.1:{port}", pauses=(0.0, 0.001, 0.0))
    assert seen == ["Bearer id"] * len(answers)
    out = capsys.readouterr().out
    assert [one for one in words if one not in out] == []
    assert ("not seen" in out) == bool(words)


@cases(
    ({"invokers": ["allUsers"]}, "its policy gives roles/run.invoker to allUsers", "--member=allUsers --role="),
    ({"invokers": ["user:a@b.c", EVERY]}, f"to {EVERY}", f"remove-iam-policy-binding report {PLACE} --member={EVERY}"),
    ({"unchecked": True}, "its check of callers is switched off", f"update report {PLACE} --invoker-iam-check"),
    ({"invokers": ["user:a@b.c"]}, None, ""),
)
def test_a_public_service_is_reported(
    stub: Stub, capsys: pytest.CaptureFixture[str], state: dict[str, Any], words: str | None, cure: str
) -> None:
    """Who deploys it learns that anybody could write a token for it, and how to close it."""
    stub(**state)
    deploy(report, run=True)
    out = capsys.readouterr().out
    assert ("is public" in out) == (words is not None)
    assert words is None or words in out
    assert cure in out


def test_a_login_that_ended(stub: Stub) -> None:
    """Is told with the command that makes another one."""
    state = stub()
    account_member()
    state["account"] = None
    with raises(HandlerError, "do not currently have an active account", hint="gcloud auth login"):
        run_steps(commands.commands(CloudRunService(**FACTS))[:1])


def test_no_store_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a store the service keeps no results; an empty variable is none, as elsewhere."""
    monkeypatch.setenv("CLOUDTASKS_NB_STORE", "")
    assert "--update-env-vars=CLOUDTASKS_NB_PRIVATE=1 " in "".join(deploy(report).commands)
    assert "results are not stored" in capsys.readouterr().out


def test_a_misspelt_name_is_corrected() -> None:
    """As with the other objects of the package, also if it is one of an attribute of the object alone."""
    for name, meant in (("comands", "commands"), ("mismatches", "mismatch")):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean \"{meant}\""):
            getattr(deploy(report), name)


def test_a_project_is_needed(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """It is that of the argument, the environment or gcloud; without it the error says how to name it."""
    assert deploy(report, project="example.com:p").service_account.endswith("@p.example.com.iam.gserviceaccount.com")
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(place))
    with pytest.raises(ConfigurationError, match="the project is not known"):
        deploy(report)


def test_bodies_are_compared_with_the_parameters() -> None:
    """A fan-out refuses bodies that the function could not take."""
    service: Deployment = deploy(report)
    assert service.mismatch(b'{"day": "mon"}') is None
    assert "missing a required argument: 'day'" in (service.mismatch(b"{}") or "")
