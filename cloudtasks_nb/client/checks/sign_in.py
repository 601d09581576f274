"""Check what comes before the first call: credentials, principal, project, clock and installed versions."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
from dataclasses import replace

from cloudtasks_nb.client.checks.context import CheckContext, Finding

__all__ = ["check_clock", "check_credentials", "check_principal", "check_project", "check_versions"]

_PACKAGES = ("cloudtasks-nb", "google-cloud-tasks", "pandas", "ipywidgets", "grpcio")


async def check_credentials(context: CheckContext) -> Finding:
    """Find credentials, and get a token with them."""
    credentials = await asyncio.to_thread(context.auth.credentials)
    if not credentials.valid:
        await asyncio.to_thread(context.auth.renew)
    return Finding(ok=True, detail=context.auth.form())


async def check_principal(context: CheckContext) -> Finding:
    """Tell who calls."""
    return Finding(ok=True, detail=context.auth.principal() or "the credentials do not name it")


async def check_project(context: CheckContext) -> Finding:
    """Find the project, in the credentials too."""
    project = context.endpoint.project
    if project is None:
        project = await asyncio.to_thread(context.auth.project)
        context.endpoint = replace(context.endpoint, project=project)
    if project is None:
        fix = 'ct.connect("my-project", …) or: gcloud config set project MY-PROJECT'
        return Finding(ok=False, detail="not known", fix=fix)
    return Finding(ok=True, detail=project)


async def check_clock(context: CheckContext) -> Finding:
    """Compare the clock of this machine with the date in an answer of the service."""
    transport, clock = context.connection.transport, context.connection.clock
    await (context.google.ask_time() if transport.google else transport.ask())
    if clock.warning is not None:
        return Finding(ok=False, detail=clock.warning, fix="set this machine's clock: sudo timedatectl set-ntp true")
    return Finding(ok=True, detail=f"{abs(clock.known.skew) / 1e6:.0f} s off")


async def check_versions(_: CheckContext) -> Finding:
    """Name the versions of what calls the service."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return Finding(ok=True, detail=", ".join([f"Python {platform.python_version()}", *versions]))
