"""After a deployment: wait until the service lets its caller in, and look whether it lets everybody in."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http import HTTPStatus

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.handlers import gcloud
from cloudtasks_nb.handlers.send import send

__all__ = ["PUBLIC", "public_because", "wait_until_admitted"]

#: Members of a policy that stand for everybody, or for everybody with a Google account.
PUBLIC = frozenset({"allUsers", "allAuthenticatedUsers"})

#: Seconds before each new try: a new right works everywhere after two minutes, at times after seven or more
#: (https://cloud.google.com/iam/docs/access-change-propagation).
_PAUSES = (5.0, 10.0, 15.0, *(30.0,) * 14)
_TIMEOUT = 30.0  # seconds for one request, which may have to start an instance
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_NOT_CHECKED = "tasks.doctor(service) sends a signed task to it"


def wait_until_admitted(service: gcloud.Service, url: str, pauses: Sequence[float] = _PAUSES) -> None:
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
    words = ("auth", "print-identity-token", f"--impersonate-service-account={service.caller}")
    refusal, notified = "", False
    for pause in (0.0, *pauses):
        if pause and not notified:
            notified = True
            notify(f"waiting until the service lets {service.caller} in: a new right takes some minutes")
        time.sleep(pause)
        made = gcloud.run((*words, f"--audiences={service.audience}", "--include-email"))
        refusal = made.stderr.strip()
        if made.returncode and "PERMISSION_DENIED" not in refusal:
            break
        if not made.returncode:
            answer = send("GET", url, {"Authorization": f"Bearer {made.stdout.strip()}"}, b"", _TIMEOUT)
            refusal = answer.message or ""
            if answer.status not in _REFUSED:
                refusal = "" if answer.status else refusal
                break
            refusal = f"it answers {answer.status}: {refusal}"
    if refusal:
        lines = refusal.splitlines()
        notify(f"it was not seen that the service lets {service.caller} in ({lines[0][:300]}); {_NOT_CHECKED}")


def public_because(service: gcloud.Service) -> str | None:
    """Return why everybody may call a service; None if only some may, or gcloud may not say it.

    Raises
    ------
    ConfigurationError
        If there is no gcloud.
    """
    asked = ("run", "services", "get-iam-policy", service.name, *service.place, "--format=json")
    policy = json.loads(gcloud.ask(asked) or "{}")
    for binding in policy.get("bindings", ()):
        if everybody := sorted(PUBLIC.intersection(binding["members"])):
            return f"its policy gives {binding['role']} to {' and '.join(everybody)}"
    described = ("run", "services", "describe", service.name, *service.place, "--format=json")
    annotations = json.loads(gcloud.ask(described) or "{}").get("metadata", {}).get("annotations", {})
    # https://cloud.google.com/run/docs/securing/managing-access#invoker_check
    if annotations.get("run.googleapis.com/invoker-iam-disabled") == "true":
        return "its check of callers is switched off (gcloud run services update … --invoker-iam-check)"
    return None
