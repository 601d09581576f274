"""The packages from npm that the other tests of this folder use."""

from __future__ import annotations

import json

from tests.clients.conftest import HERE, Node

__all__: list[str] = []


def test_each_package_is_installed_with_its_listed_version(node: Node) -> None:
    """Scripts can import every package of `package.json`."""
    listed = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert node.run("packages.mjs", *listed) == listed
