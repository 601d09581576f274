"""Google Cloud Tasks for data analysts in Jupyter.

>>> import cloudtasks_nb as ct
>>> tasks = ct.local()  # the embedded emulator; ct.connect("my-project", "us-central1") talks to Google
>>> queue = tasks.queue("reports", create=True, rate=50, max_concurrent=8)
made queue reports with log_sampling_ratio=1.0 ...
>>> batch = queue.fan_out(df, url=handler, body=["origin", "day"])  # or url="https://svc.example/run/{origin}"
>>> batch.wait()
3 rows: 2 succeeded, 1 failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtasks_nb import errors
from cloudtasks_nb.handlers.lazy import lazy_names

if TYPE_CHECKING:
    from cloudtasks_nb.client.client import Client, connect
    from cloudtasks_nb.client.local import local
    from cloudtasks_nb.client.queue import Queue
    from cloudtasks_nb.fanout.batch.batch import Batch
    from cloudtasks_nb.fanout.batch.progress import Progress
    from cloudtasks_nb.fanout.plan.plan import Plan
    from cloudtasks_nb.fanout.plan.recipe import ROW
    from cloudtasks_nb.fanout.plan.simulation import Simulation
    from cloudtasks_nb.fanout.plan.url import url
    from cloudtasks_nb.handlers import Handler, serve
    from cloudtasks_nb.handlers.deploy import Deployment, deploy
    from cloudtasks_nb.handlers.failures import GiveUp, TryLater

__all__ = [
    "ROW",
    "Batch",
    "Client",
    "Deployment",
    "GiveUp",
    "Handler",
    "Plan",
    "Progress",
    "Queue",
    "Simulation",
    "TryLater",
    "connect",
    "deploy",
    "errors",
    "local",
    "serve",
    "url",
]

__version__ = "0.2.0"

# The module of each public name.
_MODULES = {
    "ROW": "fanout.plan.recipe",
    "Batch": "fanout.batch.batch",
    "Client": "client.client",
    "Deployment": "handlers.deploy",
    "GiveUp": "handlers.failures",
    "Handler": "handlers",
    "Plan": "fanout.plan.plan",
    "Progress": "fanout.batch.progress",
    "Queue": "client.queue",
    "Simulation": "fanout.plan.simulation",
    "TryLater": "handlers.failures",
    "connect": "client.client",
    "deploy": "handlers.deploy",
    "load_ipython_extension": "magics",
    "local": "client.local",
    "serve": "handlers",
    "url": "fanout.plan.url",
}

__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
