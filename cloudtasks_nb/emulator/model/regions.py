"""The locations of Cloud Tasks, and the host names of App Engine in them."""

from __future__ import annotations

from typing import Any

__all__ = ["REGIONS", "app_engine_host"]

#: Locations of Cloud Tasks (https://cloud.google.com/tasks/docs/locations) and App Engine's region ids
#: (https://cloud.google.com/appengine/docs/standard/python3/how-requests-are-routed#region-id).
REGIONS = {
    "asia-east1": "de", "asia-east2": "df", "asia-northeast1": "an", "asia-northeast2": "dt", "asia-northeast3": "du",
    "asia-south1": "el", "asia-southeast1": "as", "asia-southeast2": "et", "australia-southeast1": "ts",
    "europe-central2": "lm", "europe-west1": "ew", "europe-west2": "nw", "europe-west3": "ey", "europe-west6": "oa",
    "northamerica-northeast1": "nn", "southamerica-east1": "rj", "us-central1": "uc", "us-east1": "ue",
    "us-east4": "uk", "us-west1": "uw", "us-west2": "wl", "us-west3": "wm", "us-west4": "wn",
}  # fmt: skip


def app_engine_host(routing: Any, queue: str) -> str:
    """Return the host of an `AppEngineRouting` for a queue's project and location."""
    _, project, _, location, *_ = queue.split("/")
    domain = f"{project}.{REGIONS.get(location, location)}.r.appspot.com"
    return ".".join([part for part in (routing.instance, routing.version, routing.service) if part] + [domain])
