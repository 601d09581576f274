"""The connection to the embedded emulator, which starts while the rest of the toolkit is imported."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from cloudtasks_nb._settings import check_text, named, store_place
from cloudtasks_nb.client.emulator_process import attach
from cloudtasks_nb.service.endpoint import LOCAL_LOCATION, LOCAL_PROJECT, Endpoint
from cloudtasks_nb.store.store import Store

if TYPE_CHECKING:
    from cloudtasks_nb.client.client import Client

__all__ = ["local"]

_IMPORTER = "cloudtasks-nb-import"


@named
def local(
    folder: str | os.PathLike[str] | None = None,
    *,
    project: str = LOCAL_PROJECT,
    location: str = LOCAL_LOCATION,
    store: str | os.PathLike[str] | None = None,
) -> Client:
    """Connect to the embedded emulator, and start it if it does not run.

    Parameters
    ----------
    folder : path, optional
        Where it keeps queues and tasks; kernels that use the same folder share one emulator. A relative path begins at
        the working directory, so that a copy of the notebook elsewhere has a folder of its own: a line says where a new
        one is. Without a folder the emulator is temporary: when this kernel ends, its queues and tasks are lost, and so
        is what is known of its batches; the same cells then send their rows again. A second call connects to the same
        emulator. Each call makes its own connection: closing one leaves the others open.
    project, location : str
        Any names; they become part of the resource names.
    store : path or str, optional
        Where handlers store results, and `batch.results()` reads them: a folder, ``gs://bucket/prefix``,
        ``s3://bucket/prefix`` or ``az://…``. By default ``CLOUDTASKS_NB_STORE``, else a folder in the home of this
        package. Give the same to `serve`.

    Raises
    ------
    EmulatorError
        If it does not start; with its output.
    InvalidInputError
        If `folder` is not a path, a name is not a text, or `store` is not a folder or bucket.

    Examples
    --------
    >>> tasks = ct.local()
    >>> tasks
    <Cloud Tasks in local / us-central1 [LOCAL 127.0.0.1:..., temporary]>
    >>> queue = tasks.queue("reports", create=True, rate=50)
    made queue reports with log_sampling_ratio=1.0 ...
    """
    check_text(project, "project", 'project="local"')
    check_text(location, "location", 'location="us-central1"')
    place = Store(store_place(store)).url  # a bad one is refused before an emulator is started
    # In a thread, because an emulator ends that nobody holds ten seconds after its start.
    threading.Thread(target=_load, name=_IMPORTER).start()
    lease = attach(folder)
    kept = None if lease.folder is None else str(lease.folder)
    endpoint = Endpoint(
        project=project,
        location=location,
        target=lease.grpc,
        local=True,
        http=lease.http,
        folder=kept,
        token=lease.token,
    )
    try:
        return _load().connect_to(endpoint, place, lease)
    except BaseException:  # an interrupt of the import: nobody will close the lease
        lease.close()
        raise


def _load() -> Any:
    """Import the module of the connection, which takes longer than the emulator's start."""
    from cloudtasks_nb.client import client  # noqa: PLC0415 - while the emulator starts

    return client
