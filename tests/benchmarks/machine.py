"""Facts about the machine, and the CPU and memory of processes. Linux only: everything is read from /proc."""

import importlib.metadata
import os
import platform
import sqlite3
import statistics
import time
from pathlib import Path

_PACKAGES = (
    *("cloudtasks-nb", "google-cloud-tasks", "google-api-core", "grpcio", "protobuf", "proto-plus", "pandas", "numpy"),
    *("pyarrow", "orjson", "aiohttp", "ipywidgets", "anywidget"),
)
_UTIME = 11  # place of utime in /proc/PID/stat behind the command's name; stime follows
_IDLE = 3  # place of idle and iowait in the first line of /proc/stat
_MB = 1024  # KiB
_SYNCS = 50


def facts(folder: Path) -> dict[str, str]:
    """Return facts about the machine for the reader; `folder` is where the measurements write."""
    memory = _fields("/proc/meminfo")
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    return {
        "cores": f"{len(os.sched_getaffinity(0))}",
        "CPU": _cpu_name(),
        "memory": f"{memory['MemTotal'] / _MB**2:.1f} GiB, {memory['MemAvailable'] / _MB**2:.1f} GiB free before",
        "system": f"{platform.system()} {platform.release()}",
        "file system": f"{_file_system(folder)}, append + fdatasync {1000 * _sync_seconds(folder):.2f} ms (median)",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "load before": f"{load} (1, 5, 15 min); {100 * busy_share(2.0):.0f} % of the cores busy in the last 2 s before",
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, all its threads together; in steps of 10 ms."""
    # The name of the command may hold spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB (2^20 bytes)."""
    return _fields(f"/proc/{pid}/status")["VmRSS"] / _MB


def peak_mb() -> float:
    """Return the peak of this process's resident memory, in MB (2^20 bytes).

    Not `getrusage`: its peak is inherited from the parent process.
    """
    return _fields("/proc/self/status")["VmHWM"] / _MB


def busy_share(seconds: float) -> float:
    """Return the share of the cores that is busy during the next seconds."""
    before = _ticks()
    time.sleep(seconds)  # the time that is measured
    used = [after - start for after, start in zip(_ticks(), before, strict=True)]
    return 1 - sum(used[_IDLE : _IDLE + 2]) / max(1, sum(used))


def _ticks() -> list[int]:
    return [int(one) for one in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]


def _fields(file: str) -> dict[str, int]:
    """Read `Name:  123 kB` lines; others are left out."""
    found = {}
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            found[name] = int(rest.split()[0])
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _sync_seconds(folder: Path) -> float:
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
