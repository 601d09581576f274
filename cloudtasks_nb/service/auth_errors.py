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
    Form,
    adc_file,
    delegates_of,
    form_of,
    iam_member,
    pool_members,
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

_TYPES = {
    "authorized_user": "login",
    "service_account": "key of a service account",
    "external_account": "configuration of workload identity federation",
    "external_account_authorized_user": "login of workforce identity federation",
    "impersonated_service_account": "login that impersonates a service account",
    "gdch_service_account": "key of a service account",
}

_PAGE_HINT = "a proxy or a login page of this network may have answered: open a web page in a browser, then try again"

#: Words in the description of a refused key -> what mends it. The error's code is invalid_grant for each of them.
_KEY_HINTS = {
    "short-lived": "the clock of this machine is wrong: set it (timedatectl shows it)",
    "account not found": "the account was deleted: gcloud iam service-accounts list shows those that there are",
}


def login_hint() -> str:
    """Return the command that makes new default credentials: on Colab that of its own sign-in."""
    if "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ:
        return "run: from google.colab import auth; auth.authenticate_user()"
    return "run: gcloud auth application-default login"


def _given_hint() -> str:
    return f"{login_hint()}; then connect with new credentials: ct.connect(credentials=...)"


def load_error(error: Exception) -> CloudTasksError:
    """Return the error for default credentials that cannot be loaded."""
    file, named = adc_file(), bool(os.environ.get(ADC_VARIABLE))
    if file.lstrip().startswith("{"):  # the error is without it: it may have a key
        return CredentialsError(
            f"{ADC_VARIABLE} has the text of credentials, not the path of their file",
            resource=ADC_VARIABLE,
            hint=f"write the text into a file that only you can read, and set {ADC_VARIABLE} to its path",
        )
    path = Path(file)
    if not named and not path.exists():
        return CredentialsError(
            "no Google credentials were found", hint=f"{login_hint()}   (or work without an account: ct.local())"
        )
    subject = f'the credentials file "{file}"' + (f", which {ADC_VARIABLE} names," if named else "")
    hint = f"set {ADC_VARIABLE} to the path of a good one, or unset it and {login_hint()}" if named else login_hint()
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        fault = "does not exist" if isinstance(cause, FileNotFoundError) else f"cannot be read: {cause.strerror}"
    except ValueError as cause:
        fault = f"is not JSON: {cause}"
    else:
        fault, cure = _content_fault(info, file, error)
        hint = cure or hint
    return CredentialsError(f"{subject} {fault}", resource=file, hint=hint)


def _content_fault(info: Any, file: str, error: Exception) -> tuple[str, str | None]:
    """Return what is wrong with the JSON of a file of credentials, and what mends it if that is not another file."""
    if not isinstance(info, dict):
        return "is not a JSON object", None
    if "installed" in info or "web" in info:
        login = f'run: gcloud auth application-default login --client-id-file="{file}"'
        return "is an OAuth client, which has no credentials", login
    if str(info.get("type")) not in _TYPES:
        return f"has the type {json.dumps(info.get('type'))}; the types are {', '.join(_TYPES)}", None
    detail = error.args[1] if len(error.args) > 1 else error.__context__ or error
    cure = _new_key(info.get("client_email"), file) if info["type"] == "service_account" else None
    return f"is a damaged {_TYPES[info['type']]}: {detail}", cure


def refresh_error(error: Exception, credentials: Any, *, given: bool = False) -> CloudTasksError:
    """Return the error for credentials whose token cannot be renewed; `given` ones are those of an argument."""
    inner = error.args[0] if error.args and isinstance(error.args[0], google.auth.exceptions.TransportError) else error
    if isinstance(inner, google.auth.exceptions.TransportError):
        refused = len(inner.args) > 1  # with the response of the metadata server
        return _metadata_error(inner) if refused else _network_error(inner)
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
    hints = {
        requests.exceptions.SSLError: "does a proxy of this network inspect TLS? Set REQUESTS_CA_BUNDLE and "
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, and SSL_CERT_FILE for a gs:// store, to the file with its certificate",
        requests.exceptions.ProxyError: "check HTTPS_PROXY and NO_PROXY",
    }
    hint = next((hints[kind] for kind in hints if isinstance(error.__cause__, kind)), "check the network")
    return EndpointError(f"Google's sign-in does not answer: {error}", hint=f"{hint}; tasks.doctor() finds the cause")


def _metadata_error(error: Exception) -> CloudTasksError:
    colab = login_hint() if "colab" in login_hint() else None
    return CredentialsError(
        f"this machine's metadata server has no token: {error.args[0]}",
        hint=colab
        or "give the machine a service account: gcloud compute instances set-service-account NAME "
        "--service-account=EMAIL --scopes=cloud-platform (while it is stopped)",
    )


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
    chain = sources(credentials)
    # The last that has no token was refused: those that it is impersonated by have theirs.
    refused = max((place for place, one in enumerate(chain) if not one.valid), default=0)
    target = principal_of(chain[refused])
    # The configuration of a federation may name the account itself.
    caller = principal_of(chain[refused + 1]) if refused + 1 < len(chain) else pool_members(chain[refused])
    status = facts.get("status")
    infos = [detail for detail in facts.get("details", ()) if isinstance(detail, dict) and "reason" in detail]
    disabled = next((info for info in infos if info["reason"] == "SERVICE_DISABLED"), None)
    if disabled is not None:
        project = str(disabled.get("metadata", {}).get("consumer", "")).removeprefix("projects/") or "PROJECT"
        hint = f"run: gcloud services enable iamcredentials.googleapis.com --project={project}"
    elif status == "NOT_FOUND":
        hint = "check the address: gcloud iam service-accounts list shows those that there are"
    else:
        accounts = [caller, *delegates_of(chain[refused]), target]  # each makes tokens of the next
        hint = "; ".join(
            f"gcloud iam service-accounts add-iam-policy-binding {account} --member={iam_member(by) or 'user:YOU'} "
            "--role=roles/iam.serviceAccountTokenCreator"
            for by, account in itertools.pairwise(accounts)
        )
        hint = f"run: {hint}   (it takes some minutes to work)"
    return CredentialsError(
        f"{caller or 'this login'} cannot impersonate {target}: {facts.get('message')}",
        resource=target,
        code=status,
        hint=hint,
    )


def _refusal(error: Exception, facts: dict[str, Any], source: Any, *, given: bool) -> CloudTasksError:
    """Return the error for a token that Google's sign-in, or the source of a federated token, has refused."""
    form, who = form_of(source), principal_of(source)
    text = error.args[0] if error.args else str(error)
    if form is Form.FEDERATION and isinstance(error, google.auth.exceptions.RefreshError):
        subject, hint = "this machine has no token of its identity provider", _federation_hint(source)
    elif "error" not in facts:
        return _unexplained(text, given=given)
    elif form is Form.FEDERATION:
        subject, hint = "workload identity federation refused the token of this machine", _federation_hint(source)
    elif form is Form.KEY:
        description = str(facts.get("error_description"))
        subject = f"the key of {who} was refused"
        hint = next((hint for words, hint in _KEY_HINTS.items() if words in description), _new_key(who, "key.json"))
    else:
        subject, hint = "the login has expired, or was revoked", _given_hint() if given else login_hint()
    return CredentialsError(f"{subject}: {text}", resource=who, hint=hint)


def _unexplained(text: Any, *, given: bool) -> CloudTasksError:
    """Return the error for a renewal that failed without an error of OAuth."""
    if str(text).startswith("Reauthentication is needed"):  # google-auth drops the answer, which has a code
        hint = _given_hint() if given else login_hint()
        return CredentialsError("the organization of this account requires a new login from time to time", hint=hint)
    if given:
        return CredentialsError(f"the credentials cannot be renewed: {text}", hint=_given_hint())
    return EndpointError(f"Google's sign-in gave an unexpected answer: {str(text)[:200]}", hint=_PAGE_HINT)


def _federation_hint(source: Any) -> str:
    """Return the command that shows the provider of a federated identity."""
    audience = str(source.info.get("audience", "")).removeprefix("//iam.googleapis.com/")
    pools = "workforce-pools" if "/workforcePools/" in audience else "workload-identity-pools"
    return (
        "check the identity provider, its attribute condition and the token's audience and age: "
        f"gcloud iam {pools} providers describe {audience}"
    )


def _new_key(email: str | None, file: str) -> str:
    account = email or "EMAIL"
    return f'make a new key: gcloud iam service-accounts keys create "{file}" --iam-account={account}'
