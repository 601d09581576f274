"""`deploy`: write a function as a service that Cloud Run builds from source, and the commands that deploy it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from cloudtasks_nb._settings import PRIVATE_VARIABLE, STORE_VARIABLE, check_text, make_folder, named, near_names
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.secrets import MASK, find_secrets
from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.admission import public_because, wait_until_admitted
from cloudtasks_nb.handlers.call import mismatch
from cloudtasks_nb.handlers.convert import display_name
from cloudtasks_nb.handlers.failures import Kinds, check_kinds
from cloudtasks_nb.handlers.gcloud import (
    CloudRunService,
    account_member,
    ask,
    commands,
    hide,
    run_steps,
    secret_variables,
)
from cloudtasks_nb.handlers.requirements import dependency_lines, requirement_lines, wheel_name, write_wheel
from cloudtasks_nb.handlers.source import ModuleSource, module_source
from cloudtasks_nb.handlers.version import GIVEN, Version, version_of
from cloudtasks_nb.service.endpoint import resolve

__all__ = ["Deployment", "deploy"]

_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")  # https://cloud.google.com/run/docs/reference/rest
_WRITTEN = "# Written by cloudtasks_nb: ct.deploy() writes it again."
_PROCFILE = "web: gunicorn --bind :$PORT --workers 1 --threads 8 --timeout 0 main:application\n"
#: Cloud Run is Google's, whatever emulator the environment names for tasks.
_GOOGLE = "https://cloudtasks.googleapis.com"
_ACCOUNT = re.compile(r"[^@:\s]+@[^@:\s]+\.gserviceaccount\.com")
_RUNNER, _CALLER = "cloudtasks-handler", "cloudtasks-caller"
_OPTION = re.compile(r"--[a-z0-9-]+(=\S.*)?")
#: Options of ``gcloud run deploy`` that cannot be given, and why.
_TAKEN = {
    **dict.fromkeys(
        ("--allow-unauthenticated", "--no-invoker-iam-check"),
        "the service would be public, and it accepts tokens whose signature Cloud Run has checked",
    ),
    **dict.fromkeys(
        ("--set-env-vars", "--env-vars-file", "--clear-env-vars", "--remove-env-vars"),
        'variables of the service would be lost: gcloud=["--update-env-vars=NAME=VALUE"] adds one',
    ),
    **dict.fromkeys(
        ("--source", "--image", "--project", "--region", "--service-account", "--add-custom-audiences", "--base-image"),
        "ct.deploy sets it: project=, region=, service= and service_account= are its own arguments",
    ),
    "--flags-file": "the options in a file are not checked: list them in gcloud=",
}


@near_names
class Deployment:
    """A function as a service on Cloud Run, made by `deploy`.

    Pass it as ``url=`` to methods that create tasks: they take the service's URL, and sign with its `service_account`
    for its `audience`.

    Attributes
    ----------
    name : str
        The name of the service.
    project, region : str
        Where it is.
    service_account : str
        E-mail address of the account that signs the tasks: the only one that the service accepts.
    runner : str
        E-mail address of the account that the service runs as.
    audience : str
        The audience of the tasks' tokens, which is known before the service has a URL.
    folder : Path
        The folder that Cloud Run builds the service from.
    commands : list of str
        The commands that deploy the service, for a shell; each may be run again.
    store : str
        The bucket where results are stored; empty if they are not stored.
    function : callable
        The function that the service calls.
    version : str
        The version of the function, as `Handler.version`; the service stores it with each result.
    uncovered : tuple of str
        What the version does not cover, as `Handler.uncovered`.

    Examples
    --------
    >>> service = ct.deploy(report, project="my-project", region="us-central1", store="gs://team/tasks")
    service report: wrote deploy/report; these commands deploy it, and so does run=True: ...
    >>> service.name, service.store
    ('report', 'gs://team/tasks')
    >>> service.service_account
    'cloudtasks-caller@my-project.iam.gserviceaccount.com'
    >>> service.audience
    'https://report.us-central1.my-project.internal'
    >>> sorted(path.name for path in service.folder.iterdir())
    ['.python-version', 'Procfile', 'cloudtasks_nb-...whl', 'main.py', 'requirements.txt']
    >>> service.commands[-1]
    "gcloud run services describe report ... '--format=value(status.url)'"
    """

    def __init__(self, service: CloudRunService, fn: Callable[..., Any], version: Version) -> None:
        self.name: Final = service.name
        self.project: Final = service.project
        self.region: Final = service.region
        self.service_account: Final = service.caller
        self.runner: Final = service.runner
        self.audience: Final = service.audience
        self.folder: Final = Path(service.folder)
        self.commands: Final = [step.text for step in commands(service)]
        self.store: Final = service.environment.get(STORE_VARIABLE, "")
        self.version: Final = version.digits
        self.uncovered: Final = version.uncovered
        self._service = service
        self.function: Final = fn
        self._url: str | None = None

    @property
    def url(self) -> str:
        """The URL of the service; gcloud is asked for it once.

        Raises
        ------
        HandlerError
            If the service is not deployed yet.
        ConfigurationError
            If there is no gcloud.
        """
        if self._url is None:
            self._url = ask(self._service.find_url) or None
        if self._url is None:
            raise HandlerError(
                f"the service {self.name} has no URL: it is not deployed in {self._service.project}, or gcloud may not "
                "read it",
                resource=self.name,
                hint=f"ct.deploy({display_name(self.function)}, …, run=True), or type what service.commands lists",
            )
        return self._url

    def mismatch(self, body: bytes) -> str | None:
        """Return why the function cannot be called with the names in a body; None if it can.

        Parameters
        ----------
        body : bytes
            The body of a request, JSON.

        Examples
        --------
        >>> service = ct.deploy(report, project="my-project", region="us-central1")
        service report: ...
        >>> print(service.mismatch(b'{"dayy": "2013-01-01", "origin": "JFK"}'))
        report(day, origin): missing a required argument: 'day'; the body gave the names dayy, origin
        """
        return mismatch(self.function, body)

    def _run(self) -> None:
        self._url = run_steps(commands(self._service, account_member())) or None
        if public := public_because(self._service):
            reason, cure = public
            notify(
                f"service {self.name} is public, because {reason}: anybody can call it with a token that they wrote "
                f"themselves, since CLOUDTASKS_NB_PRIVATE=1 lets Cloud Run check the signatures. End that: {cure}"
            )
        if self._url is not None:
            wait_until_admitted(self._service, self._url)

    def __repr__(self) -> str:
        where = self._url or "not known to be deployed"
        return f"<Deployment {self.name} in {self._service.project}, {self._service.region}: {where}>"


@named
def deploy(  # noqa: PLR0913 - the options of a service, keyword-only behind the first
    fn: Callable[..., Any],
    *,
    service: str | None = None,
    project: str | None = None,
    region: str | None = None,
    service_account: str | None = None,
    caller: str | None = None,
    requirements: Iterable[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    run: bool = False,
    gcloud: Iterable[str] = (),
    give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
    public: Iterable[str] = (),
) -> Deployment:
    """Write a function as a service for Cloud Run, and print or run the commands that deploy it.

    The folder ``deploy/SERVICE`` gets ``main.py`` with the source of the function and of what it uses: imports,
    functions and classes of the notebook, and constants whose source has up to 10,000 characters. Nothing is pickled,
    and anything else (a DataFrame, a client, an open file) is refused. So is a text that looks like a secret, because
    everybody who can read the source could read it. ``requirements.txt`` has what is imported, in the versions of this
    kernel. The same call again writes the folder again and updates the service.

    The service is not public: Cloud Run lets only `caller` call it, and the service itself checks the token of each
    task as `handlers.app` does with ``private=True``. Who deploys it gets the right to create tasks with such tokens.
    It is built with the Python of this kernel: https://cloud.google.com/run/docs/runtimes/python has those that can be.

    Without this function, in Terraform or a pipeline of your own, these must exist:

    1. A service account as `caller`, and one that the service runs as.
    2. A container that runs ``gunicorn main:application``, where ``application = handlers.app(fn, audience=URL,
       service_account=CALLER)``. `requirements.txt` in the folder lists what it needs.
    3. The Cloud Run service, without public access, with the second account, ``CLOUDTASKS_NB_STORE=gs://…`` and
       ``CLOUDTASKS_NB_PRIVATE=1`` in its environment, and a timeout as long as the longest task.
    4. ``roles/run.invoker`` on the service for `caller`.
    5. On the bucket, which has uniform bucket-level access, ``roles/storage.objectUser`` for the analysts, and
       ``roles/storage.objectCreator`` for the account that the service runs as, with the condition
       ``resource.name.startsWith("projects/_/buckets/BUCKET/objects/PREFIX/results/")``.
    6. ``roles/iam.serviceAccountUser`` on `caller` for the analysts, and ``roles/cloudtasks.enqueuer`` on the queue.
    7. The APIs run, cloudtasks and iam.
    8. Tasks with ``url=URL, service_account=CALLER``: their audience is then the origin of the URL.

    Parameters
    ----------
    fn : callable
        A function of the notebook, or of an installed package; no lambda, method or closure.
    service : str, optional
        Name of the service; by default that of the function, with hyphens.
    project, region : str, optional
        By default those of `ct.connect`: the environment's or gcloud's.
    service_account : str, optional
        E-mail address of the account that the service runs as: it needs the rights that the function uses. By default
        ``cloudtasks-handler@PROJECT.iam.gserviceaccount.com``, which the commands create.
    caller : str, optional
        E-mail address of the account that signs the tasks; by default ``cloudtasks-caller@…``, created as well.
    requirements : iterable of str, optional
        More lines for ``requirements.txt``, such as ``"pyarrow"`` or ``"pandas>=2"``; each replaces what was found for
        the same distribution.
    store : str, optional
        Where results are stored: ``gs://bucket/prefix``, the same as in ``ct.connect(..., store=...)``; by default
        ``CLOUDTASKS_NB_STORE``. Without both, results are not stored.
    run : bool
        Run the commands, which takes some minutes, instead of printing them, and wait until the service lets `caller`
        in.
    gcloud : iterable of str
        More options of ``gcloud run deploy``, such as ``"--memory=2Gi"``, ``"--max-instances=20"``
        or ``"--build-service-account=…"``; each replaces the one of its name
        (https://cloud.google.com/sdk/gcloud/reference/run/deploy). ``"--set-secrets=API_KEY=my-secret:latest"`` gives
        the service a secret: https://cloud.google.com/run/docs/configuring/services/secrets.
    public : iterable of str
        Names of variables, keys of dictionaries, parameters and attributes whose values look like secrets and are none:
        ``("MODEL_ID",)``.
    give_up_on : class or several, optional
        Exceptions after which a row has failed at once, as for `serve`; classes of the notebook are written along.
        Without a store they are tried again as all others.

    Returns
    -------
    Deployment
        For ``queue.fan_out(df, url=service)``, `enqueue`, `schedule` and `on_complete`.

    Raises
    ------
    HandlerError
        If the function, or something that it uses, cannot be deployed, or has what looks like a secret; if an option in
        `gcloud` is not one, or would make the service public; if `give_up_on` has what is no class of exceptions; or if
        a command fails.
    ConfigurationError
        If project or region are not known; with ``run=True`` also if there is no gcloud, or nobody is logged in.

    Examples
    --------
    >>> service = ct.deploy(report, project="my-project", region="us-central1", store="gs://team/tasks")
    service report: wrote deploy/report; these commands deploy it, and so does run=True: ...
    >>> print((service.folder / "main.py").read_text())
    # Written by cloudtasks_nb: ct.deploy() writes it again.
    ...
    def report(day: str, origin: str) -> dict[str, str]:
        return {"weekday": f"{dt.date.fromisoformat(day):%A}"}
    ...
    """
    name = _service_name(fn, service)
    found = resolve(project, region, _GOOGLE)
    for argument, value in (("service_account", service_account), ("caller", caller)):
        example = f'{argument}="name@my-project.iam.gserviceaccount.com"'
        check_text(value, argument, example)
        if value is not None and not _ACCOUNT.fullmatch(value):
            raise HandlerError(
                f"{argument}={value!r} is not the e-mail address of a service account", resource=value, hint=example
            )
    _, project, _, region = found.parent().split("/")  # its error says how to name what is missing
    place = _store(store)
    # https://cloud.google.com/iam/docs/service-accounts-create: example.com:my-project is my-project.example.com there
    domain = f"{'.'.join(reversed(project.split(':')))}.iam.gserviceaccount.com"
    runner, signer = service_account or f"{_RUNNER}@{domain}", caller or f"{_CALLER}@{domain}"
    new = tuple(made for given, made in ((caller, signer), (service_account, runner)) if given is None)
    about = CloudRunService(
        name=name,
        project=project,
        region=region,
        runner=runner,
        caller=signer,
        new_accounts=new,
        audience=f"https://{name}.{region}.{project.replace(':', '.')}.internal",
        folder=f"deploy/{name}",
        environment={PRIVATE_VARIABLE: "1", **({} if place is None else {STORE_VARIABLE: place})},
        store=place if place is not None and place.startswith("gs://") else None,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        options=_options(gcloud),
    )
    version = _write(fn, about, _requirements(requirements), _public_names(public), check_kinds(give_up_on))
    deployment = Deployment(about, fn, version)
    if run:
        deployment._run()  # noqa: SLF001 - the other half of this module
        notify(f"service {name}: deployed, {deployment.url}")
    else:
        lines = "\n".join(step.shown for step in commands(about))
        notify(f"service {name}: wrote {about.folder}; these commands deploy it, and so does run=True:\n{lines}")
    if place is None:
        notify('results are not stored: there is no store="gs://bucket/prefix", and a disk of Cloud Run is temporary')
    return deployment


def _listed(argument: str, given: Any, fits: Callable[[str], object], what: str, hint: str) -> list[str]:
    """Return the texts of a list, of which each must fit.

    Raises
    ------
    HandlerError
        If it is no list of such texts.
    """
    if isinstance(given, Iterable) and not isinstance(given, str):
        found: list[Any] = list(given)
        if all(isinstance(one, str) and fits(one) for one in found):
            return found
    raise HandlerError(f"{argument}={given!r} is not a list of {what}", resource=argument, hint=hint)


def _requirements(given: Iterable[str] | None) -> list[str]:
    lines = _listed("requirements", given or (), lambda _: True, "lines", 'requirements=["pandas>=2", "pyarrow"]')
    if any(map(find_secrets, lines)):
        raise HandlerError(
            "requirements= has what looks like a secret: it would be readable in requirements.txt, which is uploaded",
            resource="requirements",
            hint="Artifact Registry needs none: https://cloud.google.com/artifact-registry/docs/integrate-functions",
        )
    return lines


def _public_names(given: Iterable[str]) -> list[str]:
    hint = 'names of variables, keys, parameters or attributes: public=("MODEL_ID",)'
    return _listed("public", given, re.compile(r"[^\W\d][\w .-]*").fullmatch, "names", hint)


def _options(given: Iterable[str]) -> tuple[str, ...]:
    """Check more options of ``gcloud run deploy``."""
    hint = 'gcloud=["--memory=2Gi", "--max-instances=20"]'
    listed = isinstance(given, Iterable) and not isinstance(given, str)
    options: tuple[Any, ...] = tuple(given) if listed else (given,)
    for option in options:
        if not (listed and isinstance(option, str) and _OPTION.fullmatch(option)):
            wrong = hide(f"gcloud={option!r} is not a list of options", [str(option)])
            raise HandlerError(wrong, resource="gcloud", hint=hint)
        # gcloud may take the beginning of an option for the option.
        reasons = (why for taken, why in _TAKEN.items() if taken.startswith(option.partition("=")[0]))
        if reason := next(reasons, None):
            raise HandlerError(hide(f"{option} in gcloud= cannot be given", [option]), resource=option, hint=reason)
    if secrets := secret_variables(options):
        kept = ",".join(f"{name}={name.lower().replace('_', '-')}:latest" for name in secrets)
        notify(
            f"a command has a secret, which is shown as {MASK}; service.commands has it as it is. Who sees the "
            f'settings of the service can read it: better keep it in Secret Manager, gcloud=["--set-secrets={kept}"]'
        )
    return options


def _service_name(fn: Any, given: str | None) -> str:
    name = given or re.sub(r"[^a-z0-9]+", "-", display_name(fn).lower()).strip("-")
    if not (isinstance(name, str) and _SERVICE.fullmatch(name)):
        raise HandlerError(
            f"service={name!r} is not a name for a service of Cloud Run",
            resource=str(name),
            hint='at most 49 lower-case letters, digits and hyphens, a letter first: service="daily-report"',
        )
    return name


def _store(given: str | os.PathLike[str] | None) -> str | None:
    """Return the store of results; None if they are not stored."""
    place = given if given is not None else os.environ.get(STORE_VARIABLE) or None
    if place is None:
        return None
    text = str(place)  # also of what is neither a path nor a text
    scheme, found, rest = text.partition("://")
    if not found or scheme in ("file", "memory"):
        raise HandlerError(
            f"store={text!r} is on this machine: Cloud Run cannot reach it",
            resource=text,
            hint='store="gs://bucket/prefix", the same as in ct.connect(…, store=…)',
        )
    if not rest.partition("/")[0]:
        raise HandlerError(f"store={text!r} has no bucket", resource=text, hint='store="gs://bucket/prefix"')
    return text


def _write(fn: Any, about: CloudRunService, extra: Iterable[str], public: Iterable[str], kinds: Kinds) -> Version:
    """Write the folder of a service, and return the version of its function; other files are not overwritten."""
    source, version = module_source(fn, "application", "_app", public=public), version_of(fn)
    given = f", give_up_on=({', '.join(_written_kind(source, one) for one in kinds)},)" if kinds else ""
    if source.secrets.unknown:
        unknown = ", ".join(sorted(source.secrets.unknown))
        notify(f"public= names {unknown}, but no value in the source of {about.name} has such a name")
    lines = requirement_lines(source.modules, extra, wheel_name())
    lines += ["# What these need, in the versions of this kernel.", *dependency_lines(lines)]
    main = Path(about.folder, "main.py")
    if main.exists() and not main.read_bytes().startswith(_WRITTEN.encode()):
        raise HandlerError(
            f"{main} is not a file that ct.deploy wrote, so it is not overwritten",
            resource=str(main),
            hint='move it away, or name another service: ct.deploy(…, service="other")',
        )
    make_folder(main.parent, HandlerError, hint='move what is there away, or name another service: service="other"')
    application = (
        "from cloudtasks_nb.handlers import app as _app\n\n"
        f"{fn.__name__}.{GIVEN} = {version.digits!r}  # stored with each result\n"
        f"application = _app({fn.__name__}, audience={about.audience!r}, service_account={about.caller!r}{given})\n"
    )
    main.write_text(f"{_WRITTEN}\n{source.text}\n\n{application}", encoding="utf-8")
    main.with_name("requirements.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    main.with_name("Procfile").write_text(_PROCFILE, encoding="utf-8")
    main.with_name(".python-version").write_text(f"{about.python}\n", encoding="utf-8")
    write_wheel(main.parent)
    return version


def _written_kind(source: ModuleSource, kind: type[BaseException]) -> str:
    """Add a class of exceptions to a module, and return its name there."""
    name = kind.__qualname__
    root = name.partition(".")[0]
    if "<locals>" in name:
        raise HandlerError(
            f"give_up_on has {name}, which is made inside a function, so it cannot be deployed",
            resource=name,
            hint=f"define it at the top of a cell: class {kind.__name__}(Exception): …",
        )
    if kind.__module__ != "builtins":
        source.add(root, getattr(sys.modules[kind.__module__], root, kind), user="give_up_on")
    return name
