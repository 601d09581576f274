"""The table of the methods: against REST of Google's own client, and against the calls of the emulator."""

import re
from typing import Any

import pytest
from google.cloud.tasks_v2.services.cloud_tasks.transports import rest_base as rest_v2
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import rest_base as rest_beta

from cloudtasks_nb.emulator.model.methods import METHODS, find_method
from tests.unit.emulator.conftest import Service

BASES = {"v2": rest_v2._BaseCloudTasksRestTransport, "v2beta3": rest_beta._BaseCloudTasksRestTransport}


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
            found = find_method(option["method"].upper(), api, resource)
            assert found is not None, (name, option)
            method, given = found
            assert (method.name, resource.startswith(given)) == (name, True)
            assert (method.resource, method.body) == (field, option.get("body"))
            answered.add(method.path)
    own = {path for path in METHODS if ".tasks." not in path or f".{api}." in path}
    assert own - answered == {"/google.logging.v2.LoggingServiceV2/ListLogEntries"}


async def test_every_method_has_its_call(service: Service) -> None:
    """The emulator executes the methods of the table, and no others."""
    assert service.calls.keys() == METHODS.keys()
