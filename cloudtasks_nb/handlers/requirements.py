"""Which distributions a deployed module needs, in the versions that are installed here, and this package as a wheel."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cloudtasks_nb.errors import HandlerError

__all__ = ["dependency_lines", "distributions", "is_installed", "requirement_lines", "wheel_name", "write_wheel"]

_OURS = "cloudtasks_nb"
#: What of this package needs no more than `handlers.app`.
_LIGHT = (f"{_OURS}.GiveUp", f"{_OURS}.TryLater", f"{_OURS}.handlers.failures")
#: What `handlers.app` imports; the rest of what the package depends on is not installed in a deployed service.
_HANDLERS = ("cryptography", "google-auth", "obstore", "orjson", "requests")
_SERVER = "gunicorn==27.0.1"
#: Where the service runs, for the markers of requirements.
_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}


def is_installed(module: str) -> bool:
    """Return whether a module is of Python itself or of an installed distribution: other machines can install it."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == _OURS:
        return top != "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    places = {Path(str(metadata.distribution(name).locate_file(""))) for name in distributions().get(top, ())}
    return any(file is None or Path(file).is_relative_to(place) for place in places)


def requirement_lines(modules: Mapping[str, Any], extra: Iterable[str], wheel: str) -> list[str]:
    """Return the lines of ``requirements.txt`` for a service whose functions import these modules.

    Parameters
    ----------
    modules : mapping of str to module
        By dotted name; None for one that is not imported here.
    extra : iterable of str
        Requirements of the user, each in place of what was found for the same distribution.
    wheel : str
        The file of this package.

    Raises
    ------
    HandlerError
        If no distribution is known for a module.
    """
    own = {_name(line): line for line in extra}
    names = set(_HANDLERS)
    for module, loaded in modules.items():
        if module in _LIGHT:
            continue
        if module.partition(".")[0] == _OURS:
            names |= {_name(line) for line in metadata.requires("cloudtasks-nb") or () if "extra ==" not in line}
        elif module.partition(".")[0] not in sys.stdlib_module_names:
            names.add(_distribution(module, loaded, own))
    found = {_name(name): _pin(name) for name in names if _name(name) not in own}
    return sorted({f"./{wheel}", own.get("gunicorn", _SERVER), *found.values(), *own.values()})


def dependency_lines(lines: Iterable[str]) -> list[str]:
    """Return pins for what the distributions of ``requirements.txt`` need, in the versions that fit together here.

    What is not installed here, or from a folder, is left to the build.
    """
    given = {_name(line): line for line in lines if not line.startswith("./")}
    waiting = [name for name, line in given.items() if _is_here(line)]
    for name in waiting:
        for requirement in _requirements_of(name):
            other = canonicalize_name(requirement.name)
            if other not in {*waiting, *given} and (requirement.marker is None or requirement.marker.evaluate(_LINUX)):
                waiting.append(other)
    pins = []
    for name in waiting:
        if name in given:
            continue
        with suppress(metadata.PackageNotFoundError, HandlerError):
            pins.append(_pin(name))
    return sorted(pins)


def _is_here(line: str) -> bool:
    """Return whether the version that is installed here is one that a requirement allows."""
    try:
        requirement = Requirement(line)
        return requirement.url is None and requirement.specifier.contains(metadata.version(requirement.name), True)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


def _requirements_of(name: str) -> Iterator[Requirement]:
    """Yield what a distribution needs; metadata of old ones may have lines that are none."""
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires(name) or ():
            with suppress(InvalidRequirement):
                yield Requirement(line)


def _distribution(module: str, loaded: Any, own: Mapping[str, str]) -> str:
    """Return the distribution that a module is of; several can share a namespace, such as `google`."""
    top = module.partition(".")[0]
    found = sorted(set(distributions().get(top, ())))
    if len(found) > 1 and (file := getattr(loaded, "__file__", None) or _file(module)):
        found = [name for name in found if _has(name, Path(file))] or found
    if len(found) == 1:
        return found[0]
    for name in found:
        if _name(name) in own:
            return name
    if found:
        raise HandlerError(
            f"the module {module} can be of {', '.join(found)}, so requirements.txt cannot name it",
            resource=module,
            hint=f'import it before; or name it: ct.deploy(…, requirements=["{found[0]}"])',
        )
    if _name(top) in own:
        return _name(top)
    if _file(top):
        raise HandlerError(
            f"the module {top} is not installed: it is a file of this machine",
            resource=top,
            hint=f"from {top} import …, at the top of a cell: the functions that are used are then written along",
        )
    raise HandlerError(
        f"the module {top} is of no installed distribution, so requirements.txt cannot name it",
        resource=top,
        hint=f'install it here; or name it: ct.deploy(…, requirements=["{top}"])',
    )


def _file(module: str) -> str | None:
    """Return the file of a module that may not be loaded; the name can go on with what is imported from it."""
    while module:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        if spec is not None:
            return spec.origin
        module = module.rpartition(".")[0]
    return None


def _pin(name: str) -> str:
    """Return a requirement for the version that is installed here."""
    distribution = metadata.distribution(name)
    if "dir_info" in (distribution.read_text("direct_url.json") or ""):
        raise HandlerError(
            f"{name} is installed here from a folder, which Cloud Run cannot do",
            resource=name,
            hint=f'name where it can be had: ct.deploy(…, requirements=["{name} @ git+https://…"])',
        )
    return f"{name}=={distribution.version.partition('+')[0]}"


def _has(name: str, file: Path) -> bool:
    distribution = metadata.distribution(name)
    return any(Path(str(distribution.locate_file(path))) == file for path in distribution.files or ())


def _name(requirement: str) -> str:
    """Return the name of a requirement as the package index compares it."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower().rstrip("-") if found else requirement


def distributions() -> Mapping[str, list[str]]:
    """Return the installed distributions by the top-level module that they have."""
    return _distributions(tuple((place, _changed(place)) for place in sys.path))


@functools.lru_cache(maxsize=1)
def _distributions(_places: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    """Read them: it takes a second, so it is done again only after a folder of `sys.path` has changed."""
    return metadata.packages_distributions()


def _changed(place: str) -> int:
    """Return when a folder was changed in nanoseconds; an installation makes an entry in it."""
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


_FOLDER = Path(__file__).parents[1]
_NAME = "cloudtasks-nb"
_TIME = (2020, 1, 1, 0, 0, 0)  # the same package gives the same bytes, so that a build can be cached


def wheel_name() -> str:
    """Return the name of the wheel's file."""
    return f"cloudtasks_nb-{metadata.version(_NAME)}-py3-none-any.whl"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into a folder, in place of other versions, and return its path.

    Its metadata name no dependencies: a deployed handler needs few of them, and ``requirements.txt`` lists these
    (https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
    """
    for other in folder.glob("cloudtasks_nb-*.whl"):
        other.unlink()
    version, requires = metadata.version(_NAME), metadata.metadata(_NAME)["Requires-Python"]
    about = f"cloudtasks_nb-{version}.dist-info"
    files = {f"cloudtasks_nb/{path.relative_to(_FOLDER).as_posix()}": path.read_bytes() for path in _package_files()}
    files[f"{about}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {version}\n"
        f"Summary: The handlers of cloudtasks_nb\nRequires-Python: {requires}\n"
    ).encode()
    kind = "Wheel-Version: 1.0\nGenerator: cloudtasks_nb\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/WHEEL"] = kind.encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    wheel = folder / wheel_name()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
    return wheel


def _package_files() -> list[Path]:
    files = (path for path in _FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(files)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
