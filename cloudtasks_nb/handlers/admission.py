"""After a deployment: wait until the service lets its caller in, and look whether it lets everybody in."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.handlers import gcloud
from cloudtasks_nb.handlers.answer import Answer, refuse
from cloudtasks_nb.handlers.send import send

__all__ = ["closing", "opened_to", "public_because", "wait_until_admitted"]

#: Members of a policy that mean everybody, or everybody with a Google account.
_PUBLIC = frozenset({"allUsers", "allAuthenticatedUsers"})

#: Seconds before each new try: a new right works everywhere after two minutes, at times after seven or more
#: (https://cloud.google.com/iam/docs/access-change-propagation).
_PAUSES = (5.0, 10.0, 15.0, *(30.0,) * 14)
_TIMEOUT = 30.0  # seconds for one request, which may have to start an instance
#: https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken
_TOKENS = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{account}:generateIdToken"
_ASKED = HTTPStatus.METHOD_NOT_ALLOWED  # the application explains itself to a GET request whose token is right
#: While a right is new, or an instance starts.
_LATER = (
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
    *(HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE),
)
_NOT_CHECKED = "tasks.doctor(service) sends a signed task to it"


def wait_until_admitted(service: gcloud.CloudRunService, url: str, pauses: Sequence[float] = _PAUSES) -> None:
    """Send requests with a token of the caller until the service lets one in; print why if that cannot be seen.

    Parameters
    ----------
    url : str
        Of the service.
    pauses : sequence of float
        Seconds before each new try.

    Raises
    ------
    ConfigurationError
        If there is no gcloud.
    """
    refusal, notified = "", False
    for pause in (0.0, *pauses):
        if pause and not notified:
            notified = True
            notify(f"waiting until the service lets {service.caller} in: a new right takes some minutes")
        time.sleep(pause)  # Google has no call that returns when a right is valid
        answer = _request(service, url)
        let_in = _arrived(answer) or answer.status == _ASKED
        refusal = "" if let_in else f"{answer.status or 'no answer'}: {(answer.message or '').strip()}"
        if answer.status not in _LATER:
            break
    if refusal:
        notify(f"it was not seen that the service lets {service.caller} in ({refusal[:300]}); {_NOT_CHECKED}")


def _request(service: gcloud.CloudRunService, url: str) -> Answer:
    """Send a GET request with a token of the caller; return its answer, or that of IAM if it makes no token.

    gcloud can make such a token itself, but asks for a right to act as the account in everything.
    """
    made = gcloud.run(("auth", "print-access-token"))
    if made.returncode:
        return refuse(0, made.stderr.strip().splitlines()[-1] if made.stderr.strip() else "gcloud has no token")
    asked = orjson.dumps({"audience": service.audience, "includeEmail": True})
    headers = {"Authorization": f"Bearer {made.stdout.strip()}", "Content-Type": "application/json"}
    token = send("POST", _TOKENS.format(account=service.caller), headers, asked, _TIMEOUT)
    if not _arrived(token):
        return token
    found = orjson.loads(token.result or b"{}")["token"]
    return send("GET", url, {"Authorization": f"Bearer {found}"}, b"", _TIMEOUT)


def _arrived(answer: Answer) -> bool:
    return answer.ok and answer.status > 0  # 0: there was no answer


def opened_to(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the members of the policy of a service that mean everybody, each with its role."""
    return [
        (member, binding["role"])
        for binding in policy.get("bindings", ())
        for member in sorted(_PUBLIC.intersection(binding["members"]))
    ]


def closing(opened: Sequence[tuple[str, str]], service: str) -> str:
    """Return the commands after which not everybody may call a service.

    Parameters
    ----------
    opened : sequence of (str, str)
        What `opened_to` has found; if it is empty, the check of callers is switched off.
    service : str
        The service, as words of a command.
    """
    return (
        "; ".join(
            f"gcloud run services remove-iam-policy-binding {service} --member={member} --role={role}"
            for member, role in opened
        )
        or f"gcloud run services update {service} --invoker-iam-check"
    )


def public_because(service: gcloud.CloudRunService) -> tuple[str, str] | None:
    """Return why everybody may call a service, and what ends it; None if only some may, or gcloud may not say it.

    Raises
    ------
    ConfigurationError
        If there is no gcloud.
    """
    asked = ("run", "services", "get-iam-policy", service.name, *service.place, "--format=json")
    opened, named = opened_to(json.loads(gcloud.ask(asked) or "{}")), " ".join((service.name, *service.place))
    if opened:
        given = " and ".join(f"{role} to {member}" for member, role in opened)
        return f"its policy gives {given}", closing(opened, named)
    described = ("run", "services", "describe", service.name, *service.place, "--format=json")
    annotations = json.loads(gcloud.ask(described) or "{}").get("metadata", {}).get("annotations", {})
    # https://cloud.google.com/run/docs/securing/managing-access#invoker_check
    if annotations.get("run.googleapis.com/invoker-iam-disabled") == "true":
        return "its check of callers is switched off", closing((), named)
    return None
