"""What a URL field offers: functions that are served, services that were deployed, and URLs of recent batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.handlers import Handler
from cloudtasks_nb.handlers.serving import serve, served_as
from cloudtasks_nb.panels.forms.notebook import deployments, functions, handlers

__all__ = ["Target", "find_targets", "named_targets", "recent_urls", "served"]

_RECENT = 8  # most URLs of earlier batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One choice of a URL field."""

    text: str  #: what stands in the field: the name of a variable, or a URL, which may have secrets
    kind: str  #: what it is

    @property
    def label(self) -> str:
        """The choice as it is offered, without secrets."""
        return f"{mask_text(self.text)}  ({self.kind})"


def named_targets(*, local: bool) -> dict[str, Any]:
    """Return what a URL field can name: functions that are served, services, and on this machine plain functions."""
    return {**(functions() if local else {}), **handlers(), **deployments()}


def served(function: Callable[..., Any]) -> Handler:
    """Return the handler of a function, which is served now if it is not yet."""
    return served_as(function) or serve(function)


def find_targets(recent: Iterable[Target], *, local: bool) -> dict[str, Target]:
    """Return the choices by their labels: the notebook's variables, then `recent`."""
    known, code = handlers(), functions() if local else {}
    named = [name for name, function in code.items() if served_as(function) not in known.values()]
    plain = [Target(text=name, kind="a function of this notebook") for name in named]
    served = [Target(text=name, kind="a function served in this kernel") for name in known]
    services = [Target(text=name, kind=f"the service {service.name}") for name, service in deployments().items()]
    return {target.label: target for target in (*plain, *served, *services, *recent)}


def recent_urls(records: Iterable[BatchRecord]) -> list[Target]:
    """Return the different URLs of batches, newest batch first, without those of functions of a kernel."""
    found: dict[str, Target] = {}
    for record in records:
        url = str(record.description.get("url") or "")
        if url.startswith(("http://", "https://")) and url not in found:
            found[url] = Target(text=url, kind=f"used by the batch {record.name or record.id}")
        if len(found) == _RECENT:
            break
    return list(found.values())
