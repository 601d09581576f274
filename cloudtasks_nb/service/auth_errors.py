"""Explain why credentials cannot be loaded or renewed: errors of google-auth become errors of this package."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import google.auth.exceptions
import requests.exceptions

from cloudtasks_nb.errors import CloudTasksError, CredentialsError, EndpointError
from cloudtasks_nb.service.principal import (
    ADC_VARIABLE,
    FEDERATION,
    KEY,
    adc_file,
    delegates_of,
    explained,
    federated_identity,
    form_of,
    iam_member,
    principal_of,
    sources,
)

__all__ = ["FOREIGN", "load_error", "login_hint", "refresh_error"]

#: What google-auth raises for bad files and bad answers: not each of its errors is one of its own.
FOREIGN = (
    google.auth.exceptions.GoogleAuthError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)

_PAGE_HINT = "a proxy or a login page of this network may have answered: open a web page in a browser, then try again"

#: Words in the description of a refused key -> what mends it. The error's code is invalid_grant for each of them.
_KEY_HINTS = {
    "short-lived": "the clock of this machine is wrong: set it (timedatectl shows it)",
    "account not found": "the account was deleted: gcloud iam service-accounts list shows those that there are",
}


def _on_colab() -> bool:
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def login_hint() -> str:
    """Return the command that makes new default credentials: on Colab that of its own sign-in."""
    if _on_colab():
        return "run: from google.colab import auth; auth.authenticate_user()"
    return "run: gcloud auth application-default login"


def load_error(error: Exception) -> CloudTasksError:
    """Return the error for default credentials that cannot be loaded."""
    file, named = adc_file(), bool(os.environ.get(ADC_VARIABLE))
    if file.lstrip().startswith("{"):  # the error is without it: it may have a key
        return CredentialsError(
            f"{ADC_VARIABLE} has the text of credentials, not the path of their file",
            resource=ADC_VARIABLE,
            hint=f"write the text into a file that only you can read, and set {ADC_VARIABLE} to its path",
        )
    if not named and not Path(file).exists():
        return CredentialsError(
            "no Google credentials were found", hint=f"{login_hint()}   (or work without an account: ct.local())"
        )
    subject = f'the credentials file "{file}"' + (f", which {ADC_VARIABLE} names," if named else "")
    better = f"set {ADC_VARIABLE} to the path of a good one ({_new_key('EMAIL')}), or unset it and "
    # What google-auth raises itself has the cause as another argument.
    faults = error.args if isinstance(error, google.auth.exceptions.GoogleAuthError) else (error,)
    return CredentialsError(
        f"{subject} cannot be used: {': '.join(map(str, faults))}",
        resource=file,
        hint=(better if named else "") + login_hint(),
    )


def refresh_error(error: Exception, credentials: Any, *, given: bool = False) -> CloudTasksError:
    """Return the error for credentials whose token cannot be renewed; `given` ones are those of an argument."""
    inner = error.args[0] if error.args and isinstance(error.args[0], google.auth.exceptions.TransportError) else error
    if isinstance(inner, google.auth.exceptions.TransportError):
        return _network_error(inner)
    if not isinstance(error, google.auth.exceptions.GoogleAuthError):
        return EndpointError(f"Google's sign-in gave an unexpected answer: {error}", hint=_PAGE_HINT)
    if getattr(error, "retryable", False):
        return EndpointError(f"Google's sign-in does not work for the moment: {error.args[0]}", hint="try again")
    facts = _facts(error)
    if isinstance(facts.get("error"), dict):
        return _impersonation_error(facts["error"], credentials)
    return _refusal(error, facts, sources(credentials)[-1], given=given)


def _network_error(error: Exception) -> CloudTasksError:
    """Return the error for a sign-in that cannot be reached, by what requests says of it."""
    if len(error.args) > 1:  # with the response of the metadata server
        on_vm = (
            "give the machine a service account: gcloud compute instances set-service-account NAME "
            "--service-account=EMAIL --scopes=cloud-platform (while it is stopped)"
        )
        hint = login_hint() if _on_colab() else on_vm
        return CredentialsError(f"this machine's metadata server has no token: {error.args[0]}", hint=hint)
    if isinstance(error.__cause__, requests.exceptions.SSLError):
        hint = (
            "does a proxy of this network inspect TLS? Set REQUESTS_CA_BUNDLE and "
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, and SSL_CERT_FILE for a gs:// store, to the file with its certificate"
        )
    else:
        hint = "check the network, HTTPS_PROXY and NO_PROXY"
    return EndpointError(f"Google's sign-in does not answer: {error}", hint=f"{hint}; tasks.doctor() finds the cause")


def _facts(error: Exception) -> dict[str, Any]:
    """Return the JSON of the answer behind an error; empty if there is none."""
    facts = error.args[1] if len(error.args) > 1 else None
    if isinstance(facts, str | bytes):
        try:
            facts = json.loads(facts)
        except ValueError:
            return {}
    return facts if isinstance(facts, dict) else {}


def _impersonation_error(facts: dict[str, Any], credentials: Any) -> CloudTasksError:
    """Return the error for an answer of the IAM Credentials API."""
    first, *others = reversed(sources(credentials))
    chain = [federated_identity(first), principal_of(first) or "user:YOU"]  # each makes tokens of the next
    for one in others:
        chain += [*delegates_of(one), principal_of(one)]
    accounts = list(dict.fromkeys(filter(None, chain)))
    status = facts.get("status")
    disabled = next((info for info in facts.get("details", ()) if info.get("reason") == "SERVICE_DISABLED"), None)
    if disabled is not None:
        project = str(disabled.get("metadata", {}).get("consumer", "PROJECT")).removeprefix("projects/")
        hint = f"run: gcloud services enable iamcredentials.googleapis.com --project={project}"
    elif status == "NOT_FOUND":
        hint = "check the address: gcloud iam service-accounts list shows those that there are"
    else:
        hint = "; ".join(
            f"gcloud iam service-accounts add-iam-policy-binding {account} --member={iam_member(by)} "
            "--role=roles/iam.serviceAccountTokenCreator --condition=None"
            for by, account in itertools.pairwise(accounts)
        )
        hint = explained(f"run: {hint}   (it takes some minutes to work)")
    return CredentialsError(
        f"{accounts[0]} cannot impersonate {accounts[-1]}: {facts.get('message')}",
        resource=accounts[-1],
        code=status,
        hint=hint,
    )


def _refusal(error: Exception, facts: dict[str, Any], source: Any, *, given: bool) -> CloudTasksError:
    """Return the error for a token that Google's sign-in, or the source of a federated token, has refused."""
    form, who = form_of(source), principal_of(source)
    text = str(error.args[0] if error.args else error)
    login = f"{login_hint()}; then connect with new credentials: ct.connect(credentials=...)" if given else login_hint()
    if text.startswith("Reauthentication is needed"):  # google-auth drops the answer, which has a code
        return CredentialsError("the organization of this account requires a new login from time to time", hint=login)
    if form == FEDERATION and ("error" in facts or isinstance(error, google.auth.exceptions.RefreshError)):
        subject = "workload identity federation gave no token to this machine"
        audience = str(source.info.get("audience", "")).removeprefix("//iam.googleapis.com/")
        hint = f"check the provider {audience}: its attribute condition, and audience and age of the machine's token"
    elif "error" not in facts:
        if not given:
            return EndpointError(f"Google's sign-in gave an unexpected answer: {text[:200]}", hint=_PAGE_HINT)
        subject, hint = "the credentials cannot be renewed", login
    elif form == KEY:
        description = str(facts.get("error_description"))
        subject = f"the key of {who} was refused"
        hint = next((hint for words, hint in _KEY_HINTS.items() if words in description), _new_key(who or "EMAIL"))
    else:
        subject, hint = "the login has expired, or was revoked", login
    return CredentialsError(f"{subject}: {text}", resource=who, hint=hint)


def _new_key(email: str) -> str:
    return f"make a new key: gcloud iam service-accounts keys create key.json --iam-account={email}"
