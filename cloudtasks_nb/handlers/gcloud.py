"""The gcloud commands that deploy a service: as text to type, and run one after the other."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.secrets import MASK, mask_text
from cloudtasks_nb.errors import ConfigurationError, HandlerError
from cloudtasks_nb.handlers.literals import is_secret_value

__all__ = [
    "ACCOUNT",
    "CloudRunService",
    "Step",
    "account_member",
    "ask",
    "commands",
    "hide",
    "results_folder",
    "results_grant",
    "run",
    "run_steps",
    "secret_variables",
]

#: The member of the person who types the commands, as a shell finds it.
ACCOUNT = "user:$(gcloud config get-value account)"

_APIS = ("run", "cloudbuild", "artifactregistry", "cloudtasks", "iam", "iamcredentials")
_BIND = "add-iam-policy-binding"
#: gcloud asks for a condition if the policy has others, and fails where nobody can answer:
#: https://cloud.google.com/iam/docs/managing-conditional-role-bindings
_ALWAYS = "--condition=None"
_ROLE_ACT_AS, _ROLE_ID_TOKEN = "roles/iam.serviceAccountUser", "roles/iam.serviceAccountOpenIdTokenCreator"
_ROLE_STORE, _ROLE_RESULTS = "roles/storage.objectUser", "roles/storage.objectCreator"
_SHORT = 4  # characters: a text that short is also a part of words
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

    @property
    def shown(self) -> str:
        """The same with dots in place of secrets."""
        return replace(self, words=tuple(hide(word, self.words) for word in self.words)).text


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudRunService:
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
    store: str | None  #: ``gs://bucket/prefix``: where it stores results; None: not in a bucket of Google
    python: str  #: version of the kernel: ``3.12``
    options: tuple[str, ...] = ()  #: more options of ``gcloud run deploy``; they replace ours

    @property
    def place(self) -> tuple[str, ...]:
        """The options that say where it is."""
        return ("--project", self.project, "--region", self.region)

    @property
    def find_url(self) -> tuple[str, ...]:
        """The command that prints its URL."""
        return ("run", "services", "describe", self.name, *self.place, "--format=value(status.url)")


def commands(service: CloudRunService, member: str = ACCOUNT) -> list[Step]:
    """Return the commands that deploy a service, or deploy it again; each can be run twice.

    Parameters
    ----------
    member : str
        Who deploys it and creates tasks for it, as a member of an IAM policy.
    """
    project = ("--project", service.project)
    steps = [Step(words=("services", "enable", *(f"{api}.googleapis.com" for api in _APIS), *project))]
    for account in service.new_accounts:
        short = account.partition("@")[0]
        described = ("iam", "service-accounts", "describe", account, *project)
        steps.append(Step(words=("iam", "service-accounts", "create", short, *project), unless=described))
    # Who may act as the caller can have its tokens sent anywhere; to make one here shows when the service lets it in.
    rights = ((service.caller, _ROLE_ACT_AS), (service.caller, _ROLE_ID_TOKEN), (service.runner, _ROLE_ACT_AS))
    for account, role in dict.fromkeys(rights):  # both may be one account
        binding = ("iam", "service-accounts", _BIND, account, f"--member={member}", f"--role={role}")
        steps.append(Step(words=(*binding, _ALWAYS, *project)))
    if service.store is not None:
        steps.append(results_grant(service.store, service.runner, service.project))
        steps.append(Step(words=(*_bucket_binding(service.store, member, _ROLE_STORE), _ALWAYS, *project)))
    steps.append(Step(words=_deploy(service)))
    # After a rollback the service gives a new revision no traffic.
    steps.append(Step(words=("run", "services", "update-traffic", service.name, "--to-latest", *service.place)))
    invoker = f"--member=serviceAccount:{service.caller}"
    steps.append(
        Step(words=("run", "services", _BIND, service.name, invoker, "--role=roles/run.invoker", *service.place))
    )
    return [*steps, Step(words=service.find_url)]


def results_folder(store: str) -> str:
    """Return where a store in a bucket has its results, as conditions name objects.

    https://cloud.google.com/iam/docs/conditions-attribute-reference#resource-name
    """
    bucket, _, prefix = store.removeprefix("gs://").rstrip("/").partition("/")
    return f"projects/_/buckets/{bucket}/objects/{prefix and prefix + '/'}results/"


def results_grant(store: str, runner: str, project: str) -> Step:
    """Return the command that lets a service add results to a store in a bucket, and neither read nor replace anything.

    Conditions need uniform bucket-level access: https://cloud.google.com/storage/docs/access-control/iam#conditions
    """
    expression = f"expression=resource.name.startsWith({orjson.dumps(results_folder(store)).decode()})"
    binding = _bucket_binding(store, f"serviceAccount:{runner}", _ROLE_RESULTS)
    return Step(words=(*binding, f"--condition={_joined([expression, 'title=results'])}", "--project", project))


def _bucket_binding(store: str, member: str, role: str) -> tuple[str, ...]:
    bucket = store.removeprefix("gs://").partition("/")[0]
    return ("storage", "buckets", _BIND, f"gs://{bucket}", f"--member={member}", f"--role={role}")


def _joined(pairs: Sequence[str]) -> str:
    """Return a list as gcloud reads it, with another separator where a value has a comma.

    https://cloud.google.com/sdk/gcloud/reference/topic/escaping
    """
    separator = next(one for one in (",", ";", "|") if not any(one in pair for pair in pairs))
    return f"{'' if separator == ',' else f'^{separator}^'}{separator.join(pairs)}"


def _deploy(service: CloudRunService) -> tuple[str, ...]:
    """Return the command that builds and starts a service."""
    environment = f"--update-env-vars={_joined([f'{name}={value}' for name, value in service.environment.items()])}"
    options = (
        # Without it the builder of all languages is used, which lacks older Pythons:
        # https://cloud.google.com/run/docs/runtimes/python
        f"--base-image=python{service.python.replace('.', '')}",
        f"--service-account={service.runner}",
        f"--add-custom-audiences={service.audience}",
        environment,
        "--no-allow-unauthenticated",
        # Eight threads answer; Cloud Tasks waits for 30 minutes at most, Cloud Run by itself for five.
        "--concurrency=8",
        "--timeout=1800",
        "--quiet",
    )
    given = {option.partition("=")[0] for option in service.options} - {"--update-env-vars"}  # whose values add up
    ours = (option for option in options if option.partition("=")[0] not in given)
    return ("run", "deploy", service.name, f"--source={service.folder}", *service.place, *ours, *service.options)


def account_member() -> str:
    """Return the account that gcloud is logged in with, as a member of an IAM policy.

    Raises
    ------
    ConfigurationError
        If there is no gcloud, or nobody is logged in.
    """
    account = ask(("config", "get-value", "account"))
    # A workforce identity: https://cloud.google.com/iam/docs/principal-identifiers
    if account.startswith("principal://"):
        return account
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
        notify(f"{number}/{len(steps)} {step.shown}")
        if step.unless and run(step.unless).returncode == 0:
            continue
        done = run(step.words)
        while done.returncode and created and left and _BIND in step.words:
            pause = left.pop(0)
            notify(f"Google does not know the new account everywhere yet: the same again in {pause:g} s")
            time.sleep(pause)  # Google has no call that returns when an account is known
            done = run(step.words)
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
    done = run(words)
    return "" if done.returncode else done.stdout.strip()


def run(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run a command; nobody can answer its questions.

    Raises
    ------
    ConfigurationError
        If there is no gcloud.
    """
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise ConfigurationError("gcloud is not on the PATH of this kernel", resource="gcloud", hint=_INSTALL)
    return subprocess.run(  # noqa: S603 - no shell, and our own words
        [gcloud, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, encoding="utf-8"
    )


def _failure(step: Step, output: str) -> HandlerError:
    hint = "mend it and call ct.deploy(…, run=True) again: commands that were run before do no harm"
    if "active account" in output:
        hint = f"gcloud auth login; then {hint}"
    if step.words[:2] == ("run", "deploy"):
        project = step.words[step.words.index("--project") + 1]
        # https://cloud.google.com/run/docs/deploying-source-code#permissions_required_to_deploy
        hint += (
            "; if the build lacks permissions, an administrator gives them to the account that builds: "
            f"gcloud projects {_BIND} {project} --role=roles/run.builder {_ALWAYS} "
            f"--member=serviceAccount:$(gcloud projects describe {project} --format='value(projectNumber)')"
            "-compute@developer.gserviceaccount.com"
        )
    output = hide(output, step.words).strip()[-2000:]  # it may repeat what is wrong in the command
    return HandlerError(f"{replace(step, unless=()).shown} failed:\n{output}", resource=step.words[0], hint=hint)


def secret_variables(words: Sequence[str]) -> dict[str, str]:
    """Return the variables of a service that a command sets to what looks like a secret."""
    found: dict[str, str] = {}
    for word in words:
        option, _, value = word.partition("=")
        if option.endswith("-env-vars"):
            # https://cloud.google.com/sdk/gcloud/reference/topic/escaping
            _, separator, pairs = value.split("^", 2) if value.startswith("^") else ("", ",", value)
            variables = (pair.partition("=") for pair in pairs.split(separator))
            found |= {name: text for name, _, text in variables if is_secret_value(name, text)}
    return found


def hide(text: str, words: Sequence[str]) -> str:
    """Return a text about a command with dots in place of secrets, those of the command too."""
    for value in secret_variables(words).values():
        text = text.replace(value, MASK) if len(value) >= _SHORT else text
    return mask_text(text)


def _text(words: tuple[str, ...]) -> str:
    # The member stays open to the shell, which asks gcloud for the account.
    shown = (f'"{word}"' if word.endswith(ACCOUNT) else shlex.quote(word) for word in words)
    return " ".join(("gcloud", *shown))
