"""The gcloud commands that deploy a service: as text to type, and run one after the other."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import ConfigurationError, HandlerError

__all__ = ["ACCOUNT", "Service", "Step", "account_member", "ask", "commands", "run_steps"]

#: The member of the person who types the commands, as a shell finds it.
ACCOUNT = "user:$(gcloud config get-value account)"

_APIS = ("run", "cloudbuild", "artifactregistry", "cloudtasks", "iam")
_BIND = "add-iam-policy-binding"
_ROLE_ACT_AS = "roles/iam.serviceAccountUser"
_PAUSES = (5.0, 20.0, 40.0)  # seconds: a new account is not known everywhere for up to a minute
_INSTALL = "https://cloud.google.com/sdk/docs/install has gcloud; or type the commands in Cloud Shell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command."""

    words: tuple[str, ...]  #: behind ``gcloud``
    unless: tuple[str, ...] = ()  #: a command that succeeds if this one is not needed

    @property
    def text(self) -> str:
        """The command as a shell takes it."""
        command = _text(self.words)
        return f"{_text(self.unless)} >/dev/null 2>&1 || {command}" if self.unless else command


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service on Cloud Run and who may do what with it."""

    name: str
    project: str
    region: str
    runner: str  #: e-mail address of the account that the service runs as
    caller: str  #: e-mail address of the account whose tokens it accepts
    new_accounts: tuple[str, ...]  #: those of both that are created if they do not exist
    audience: str
    folder: str
    environment: dict[str, str]
    bucket: str | None  #: ``gs://name``: where it stores results

    @property
    def place(self) -> tuple[str, ...]:
        """The options that say where it is."""
        return ("--project", self.project, "--region", self.region)

    @property
    def find_url(self) -> tuple[str, ...]:
        """The command that prints its URL."""
        return ("run", "services", "describe", self.name, *self.place, "--format=value(status.url)")


def commands(service: Service, member: str = ACCOUNT) -> list[Step]:
    """Return the commands that deploy a service, or deploy it again; each can be run twice.

    Parameters
    ----------
    member : str
        Who deploys it and creates tasks for it, as a member of an IAM policy.
    """
    project = ("--project", service.project)
    binding: tuple[str, ...]
    steps = [Step(words=("services", "enable", *(f"{api}.googleapis.com" for api in _APIS), *project))]
    for account in service.new_accounts:
        short = account.partition("@")[0]
        described = ("iam", "service-accounts", "describe", account, *project)
        steps.append(Step(words=("iam", "service-accounts", "create", short, *project), unless=described))
    for account in dict.fromkeys((service.caller, service.runner)):
        binding = ("iam", "service-accounts", _BIND, account)
        steps.append(Step(words=(*binding, f"--member={member}", f"--role={_ROLE_ACT_AS}", *project)))
    if service.bucket is not None:
        binding = ("storage", "buckets", _BIND, service.bucket)
        runner = f"--member=serviceAccount:{service.runner}"
        steps.append(Step(words=(*binding, runner, "--role=roles/storage.objectUser", *project)))
    environment = [f"--update-env-vars={name}={value}" for name, value in service.environment.items()]
    deploy = ("run", "deploy", service.name, f"--source={service.folder}", *service.place)
    # Eight threads answer; Cloud Tasks waits for 30 minutes at most, Cloud Run by itself for five.
    options = ("--no-allow-unauthenticated", "--concurrency=8", "--timeout=1800", "--quiet")
    identity = (f"--service-account={service.runner}", f"--add-custom-audiences={service.audience}")
    steps.append(Step(words=(*deploy, *identity, *environment, *options)))
    binding = ("run", "services", _BIND, service.name, f"--member=serviceAccount:{service.caller}")
    steps.append(Step(words=(*binding, "--role=roles/run.invoker", *service.place)))
    return [*steps, Step(words=service.find_url)]


def account_member() -> str:
    """Return the account that gcloud is logged in with, as a member of an IAM policy.

    Raises
    ------
    ConfigurationError
        If there is no gcloud, or nobody is logged in.
    """
    account = ask(("config", "get-value", "account"))
    if "@" not in account:
        raise ConfigurationError("nobody is logged in to gcloud", resource="gcloud", hint="gcloud auth login")
    return f"{'serviceAccount' if account.endswith('.gserviceaccount.com') else 'user'}:{account}"


def run_steps(steps: Sequence[Step], pauses: Sequence[float] = _PAUSES) -> str:
    """Run commands one after the other, with a note about each, and return what the last one printed.

    Parameters
    ----------
    pauses : sequence of float
        Seconds before each new try of a grant that fails after an account was created. A build is not repeated.

    Raises
    ------
    HandlerError
        If one fails, with what it wrote; later ones are not run.
    """
    printed, created, left = "", False, list(pauses)
    for number, step in enumerate(steps, 1):
        notify(f"{number}/{len(steps)} {step.text}")
        if step.unless and _run(step.unless).returncode == 0:
            continue
        done = _run(step.words)
        while done.returncode and created and left and _BIND in step.words:
            pause = left.pop(0)
            notify(f"Google does not know the new account everywhere yet: the same again in {pause:g} s")
            time.sleep(pause)
            done = _run(step.words)
        if done.returncode:
            raise _failure(step, done.stderr)
        created = created or bool(step.unless)
        printed = done.stdout.strip()
    return printed


def ask(words: tuple[str, ...]) -> str:
    """Return what a command prints; nothing if it fails.

    Raises
    ------
    ConfigurationError
        If there is no gcloud.
    """
    done = _run(words)
    return "" if done.returncode else done.stdout.strip()


def _run(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise ConfigurationError("gcloud is not on the PATH of this kernel", resource="gcloud", hint=_INSTALL)
    return subprocess.run(  # noqa: S603 - no shell, and our own words
        [gcloud, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, encoding="utf-8"
    )


def _failure(step: Step, told: str) -> HandlerError:
    hint = "mend it and call ct.deploy(…, run=True) again: commands that were run before do no harm"
    if step.words[:2] == ("run", "deploy"):
        hint += (
            "; if the build lacks permissions, an administrator grants roles/run.builder to the account that builds: "
            "https://cloud.google.com/run/docs/deploying-source-code#permissions_required_to_deploy"
        )
    return HandlerError(f"{_text(step.words)} failed:\n{told.strip()[-2000:]}", resource=step.words[0], hint=hint)


def _text(words: tuple[str, ...]) -> str:
    # The member stays open to the shell, which asks gcloud for the account.
    shown = (f'"{word}"' if word.endswith(ACCOUNT) else shlex.quote(word) for word in words)
    return " ".join(("gcloud", *shown))
