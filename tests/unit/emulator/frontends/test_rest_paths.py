"""REST paths against those of Google's own client."""

import re
from typing import Any

import pytest
from google.cloud.tasks_v2.services.cloud_tasks.transports import rest_base as rest_v2
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import rest_base as rest_beta

from cloudtasks_nb.emulator.frontends import rest

BASES = {"v2": rest_v2._BaseCloudTasksRestTransport, "v2beta3": rest_beta._BaseCloudTasksRestTransport}


def snake(name: str) -> str:
    """Return the name of a field as messages have it."""
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


@pytest.mark.parametrize(("api", "base"), BASES.items(), ids=BASES)
def test_rest_paths_of_the_client(api: str, base: Any) -> None:
    """Every path that Google's client requests leads to the call of the same name, and has its resource and body."""
    calls = {
        name.removeprefix("_Base"): call for name, call in vars(base).items() if hasattr(call, "_get_http_options")
    }
    assert len(calls) > 15
    answered: set[str] = set()
    for name, call in calls.items():
        for option in call._get_http_options():
            [field] = re.findall(r"\{([\w.]+)=", option["uri"])
            resource = re.sub(r"\{[\w.]+=([^}]*)\}", r"\1", option["uri"]).removeprefix(f"/{api}/").replace("*", "x")
            found = rest.find_route(option["method"].upper(), api, resource)
            assert found is not None, (name, option)
            route, given = found
            assert (route.rpc.rpartition("/")[2], resource.startswith(given)) == (name, True)
            assert (snake(route.resource), route.body and snake(route.body)) == (field, option.get("body"))
            answered.add(route.rpc)
    own = {route.rpc for route in rest._ROUTES[api]} - {"/google.logging.v2.LoggingServiceV2/ListLogEntries"}
    assert own == answered
