"""Run a program whose clients of Google find an emulator in place of Google: ``run -- COMMAND``."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import signal
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudtasks_nb._names import OPTION_VARIABLES
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.options import PROGRAM, read_options
from cloudtasks_nb.emulator.server import run

__all__ = ["run_program"]

#: What comes before the options of the command line: free ports, Google's addresses, and the queues of the program.
_DEFAULTS = ("--port", "0", "--proxy-port", "0", "--create-queues-on-demand")
_ROOTS = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_HERE = "localhost,127.0.0.1,::1"
_NOT_EXECUTABLE, _NOT_FOUND, _BY_SIGNAL = 126, 127, 128  # exit codes, as shells have them


def run_program(words: Sequence[str], environment: Mapping[str, str], umask: int) -> int:
    """Run a program beside an emulator until it ends, and return its exit code.

    Parameters
    ----------
    words : sequence of str
        Options of the emulator, ``--``, and the command line of the program.
    environment : mapping
        The variables of this process.
    umask : int
        That of the program.
    """
    options, command = words, list[str]()
    if "--" in words:
        at = words.index("--")
        options, command = words[:at], [*words[at + 1 :]]
    settings = read_options([*_DEFAULTS, *options], environment)
    if not command or settings.strict:
        why = "--strict refuses the program, which has no role" if command else "the command to run comes after --"
        sys.stderr.write(f"{PROGRAM} run: {why}: {PROGRAM} run -- python app.py\n")
        return 2
    return asyncio.run(_run(settings, command, environment, umask))


async def _run(settings: Settings, command: Sequence[str], environment: Mapping[str, str], umask: int) -> int:
    stop, abort = asyncio.Event(), asyncio.Event()
    ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    emulator = asyncio.create_task(run(settings, ready.set_result, stop, abort))
    await asyncio.wait((emulator, ready), return_when=asyncio.FIRST_COMPLETED)
    gc.enable()
    try:
        return await _wait_for_program(command, _variables(ready.result(), environment), umask) if ready.done() else 1
    finally:
        stop.set()
        abort.set()
        await emulator  # it raises why it did not start


async def _wait_for_program(command: Sequence[str], variables: Mapping[str, str], umask: int) -> int:
    try:
        program = await asyncio.create_subprocess_exec(*command, env=variables, umask=umask)
    except OSError as error:
        sys.stderr.write(f"{PROGRAM} run: {command[0]} cannot be started: {error.strerror}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    loop = asyncio.get_running_loop()

    def pass_on(number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            program.send_signal(number)

    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, pass_on, number)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal sends it to the program too
    code = await program.wait()
    return code if code >= 0 else _BY_SIGNAL - code


def _variables(endpoint: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the program: Google's addresses lead to the emulator, and all others where they did."""
    roots = Path(endpoint["data_dir"]) / "roots.pem"
    roots.write_bytes(Path(endpoint["ca"]).read_bytes() + _trusted(environment))
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(OPTION_VARIABLES) and name.lower() not in {"grpc_proxy", "no_grpc_proxy"}
    }
    return {
        "GOOGLE_CLOUD_PROJECT": "local",
        **kept,
        **dict.fromkeys(_ROOTS, str(roots)),
        **dict.fromkeys(("https_proxy", "HTTPS_PROXY"), endpoint["proxy"]),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), _HERE),
        "GOOGLE_APPLICATION_CREDENTIALS": endpoint["key"],
    }


def _trusted(environment: Mapping[str, str]) -> bytes:
    """Return the certificates that the program would trust without the emulator."""
    files = [environment.get(name) for name in _ROOTS]
    if found := importlib.util.find_spec("certifi"):
        files.append(str(Path(str(found.origin)).with_name("cacert.pem")))
    files.append(ssl.get_default_verify_paths().cafile)
    return next((Path(file).read_bytes() for file in files if file and Path(file).is_file()), b"")
