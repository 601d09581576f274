"""Check a connection from its credentials to the target of its tasks, and suggest a fix for each problem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import DOCTOR, frame
from cloudtasks_nb.client.checks.access import (
    check_api,
    check_location,
    check_permissions,
    check_queues,
    check_service_account,
)
from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.client.checks.log import check_log
from cloudtasks_nb.client.checks.sign_in import (
    check_clock,
    check_credentials,
    check_principal,
    check_project,
    check_versions,
)
from cloudtasks_nb.client.checks.store import check_store
from cloudtasks_nb.client.checks.target import check_target
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import CloudTasksError

__all__ = ["diagnose"]

_NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    run: Callable[[CheckContext], Awaitable[Finding]]
    after: tuple[str, ...] = ()  #: checks without whose success this one says nothing
    emulator: bool = True  #: whether an emulator needs it
    served: bool = False  #: whether a custom endpoint answers the question itself: then it must be found first


_CHECKS = {
    "credentials": _Check(run=check_credentials, emulator=False),
    "principal": _Check(run=check_principal, after=("credentials",), emulator=False),
    "project": _Check(run=check_project, after=("credentials",)),
    "api": _Check(run=check_api, after=("project",)),
    "location": _Check(run=check_location, after=("api",)),
    "queues": _Check(run=check_queues, after=("location",)),
    "permissions": _Check(run=check_permissions, after=("location",), emulator=False),
    "service_account": _Check(run=check_service_account, after=("credentials",), emulator=False, served=True),
    "log": _Check(run=check_log, after=("location",)),
    "store": _Check(run=check_store),
    "target": _Check(run=check_target, after=("queues",)),
    "clock": _Check(run=check_clock, served=True),
    "versions": _Check(run=check_versions),
}


def diagnose(context: CheckContext) -> pd.DataFrame:
    """Run the checks that apply, with a progress bar, and print what is wrong; never raises.

    Returns
    -------
    pandas.DataFrame
        Index `check`; columns `ok`, `detail` and `fix` (NA where there is nothing to fix).
    """
    asked = {"service_account": context.target.service_account, "target": context.target.url}
    names = [name for name in _CHECKS if asked.get(name, name) is not None]
    found: dict[str, Finding] = {}
    with Bar("checking", len(names), unit="checks") as bar:
        _loop.run(_run(context, names, found), meanwhile=lambda: bar.to(len(found)))
    for name, finding in found.items():  # in full: a notebook cuts long texts of a frame
        if not finding.ok and finding.detail != _NOT_CHECKED:
            notify(f"{name}: {finding.detail}" + (f"\n  → {finding.fix}" if finding.fix else ""))
    columns: dict[str, list[Any]] = {
        "check": list(found),
        "ok": [finding.ok for finding in found.values()],
        "detail": [finding.detail for finding in found.values()],
        "fix": [finding.fix for finding in found.values()],
    }
    return frame(DOCTOR, columns, index="check")


async def _run(context: CheckContext, names: list[str], found: dict[str, Finding]) -> None:
    """Add the finding of each check to `found`, in order."""
    causes: dict[str, str] = {}  # check that failed, or was left out -> the check to mend first
    for name in names:
        check = _CHECKS[name]
        if context.endpoint.local and not check.emulator:
            found[name] = Finding(ok=True, detail="not needed on an emulator")
            continue
        after = (*check.after, "api") if check.served and context.endpoint.universe is None else check.after
        cause = next((causes[one] for one in after if one in causes), None)
        if cause is not None:
            causes[name] = cause
            found[name] = Finding(ok=False, detail=_NOT_CHECKED, fix=f'mend "{cause}" first')
            continue
        found[name] = await _safely(check, context)
        if not found[name].ok and found[name].blocks:
            causes[name] = name


async def _safely(check: _Check, context: CheckContext) -> Finding:
    try:
        return await check.run(context)
    except CloudTasksError as error:
        return Finding(ok=False, detail=error.message, fix=_fix(error.hint))
    except Exception as error:  # noqa: BLE001 - a failed check is a finding, and must not stop the other checks
        return Finding(ok=False, detail=f"{type(error).__name__}: {error}", fix="please report this")


def _fix(hint: str | None) -> str | None:
    """Return a hint without the advice to run these checks."""
    return hint and "; ".join(part for part in hint.split("; ") if not part.startswith("tasks.doctor()"))
