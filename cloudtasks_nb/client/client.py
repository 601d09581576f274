"""A connection to Google or to the embedded emulator, with the queues and batches of one project and location."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import QUEUES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, QueueKeywords, check_names, named, near_names
from cloudtasks_nb.client.checks.context import CheckContext, Target
from cloudtasks_nb.client.clock import Clock
from cloudtasks_nb.client.doctor import diagnose
from cloudtasks_nb.client.emulator_process import Lease, attach, call_admin
from cloudtasks_nb.client.queue import Queue
from cloudtasks_nb.client.queue_settings import create_or_change, new_settings, shows_settings
from cloudtasks_nb.display.card import card
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.plan.recipe import token_options
from cloudtasks_nb.service import open_clients
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import queue_values
from cloudtasks_nb.service.endpoint import Endpoint, resolve
from cloudtasks_nb.service.rpcs import STATS_MASK

__all__ = ["Client", "connect", "connect_to"]


@near_names
class Client:
    """A connection to the queues of one project and location. Made by `connect()` or `local()`.

    Attributes
    ----------
    endpoint : str
        ``host:port`` of the service.
    client : google.cloud.tasks_v2.CloudTasksClient
        Google's own client for the same endpoint with the same credentials.

    Examples
    --------
    >>> with ct.local() as tasks:
    ...     queue = tasks.queue("reports", create=True)
    ...     task = queue.enqueue("https://svc.example/run", {"day": "2013-01-01"}, delay="1h")
    ...     tasks.queues()[["state", "tasks"]]
               state  tasks
    queue
    reports  RUNNING      1
    """

    def __init__(self, connection: Connection, lease: Lease | None = None) -> None:
        self._connection = connection
        self._lease = lease
        if lease is not None and lease.folder is not None:
            connection.restart = self._restart
        self._catalog = Catalog(connection, self._batch_panel)
        self._named: dict[QueueName, None] = {}
        open_clients.add(self)

    @property
    def endpoint(self) -> str:
        """``host:port`` of the service.

        Examples
        --------
        >>> ct.connect("my-project", "us-central1").endpoint
        'cloudtasks.googleapis.com'
        """
        return self._connection.endpoint.target

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What calls of other clients to this endpoint must come with; empty for Google and where none is needed.

        An emulator of `ct.local` answers only the user who has started it: these are metadata of gRPC, and with the
        same names headers of REST. `client` sends them by itself.

        Examples
        --------
        >>> dict(tasks.metadata).keys()
        dict_keys(['x-cloudtasks-emulator-token'])
        """
        return list(self._connection.endpoint.metadata)

    @property
    def client(self) -> Any:
        """Google's own client for the same endpoint with the same credentials.

        Examples
        --------
        >>> tasks.client.get_queue(name=queue.name).rate_limits.max_dispatches_per_second
        500.0
        """
        return self._connection.transport.client()

    @property
    def clock(self) -> Clock:
        """The clock of the service; that of an emulator can be moved.

        Examples
        --------
        >>> task = queue.enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="1 day")
        >>> tasks.clock.run_until_idle()
        moved 1 d: 1 attempt
        """

        def settle(waiting: Collection[str] | None, seconds: float) -> bool:
            return _loop.run(self._catalog.settle(waiting, seconds))

        return Clock(self._emulator, moved=self._connection.clock.move, settle=settle, now=self._connection.clock.now)

    def _emulator(self) -> dict[str, Any] | None:
        """Return the address of an emulator of ours, None for another service."""
        http = _loop.run(self._connection.transport.http())
        token = self._connection.endpoint.token
        return None if http is None else {"http": http, "token": token, "ca": os.environ.get("REQUESTS_CA_BUNDLE")}

    @property
    def certs_url(self) -> str | None:
        """URL of the certificates with which the endpoint's OIDC tokens are verified; None: Google's.

        Examples
        --------
        >>> tasks.certs_url  # of the emulator
        'http://127.0.0.1:.../oauth2/v1/certs'
        """
        return self._connection.certs_url

    @property
    def store(self) -> str:
        """The folder or bucket where `batch.results()` reads what handlers have stored.

        Examples
        --------
        >>> ct.local(store="results").store
        '...results'
        """
        return self._connection.store.url

    @shows_settings
    def queue(self, name: str | Queue, *, create: bool = False, **settings: Unpack[QueueKeywords]) -> Queue:
        """Return a queue by its short (or full) name.

        Without `create` no call is made; using a queue that does not exist raises `QueueNotFoundError`.

        Parameters
        ----------
        name : str or Queue
            Letters, digits and hyphens; or a Queue, for its full name.
        create : bool
            Create the queue if it does not exist, with ``log_sampling_ratio=1.0`` and ``max_attempts=5`` as defaults;
            on Google with ``max_attempts=7, min_backoff="10s", max_backoff="600s", max_doublings=6``, so that a task is
            tried for ten minutes. Change the given settings if it exists. A printed line shows what was done.
        rate, max_concurrent, log_sampling_ratio : number, optional
            Dispatches a second, attempts at a time, and the share of attempts that the log has.
        max_attempts, max_retry_duration, min_backoff, max_backoff, max_doublings : optional
            How often and when a task that fails is tried again; durations as ``"10min"``, timedelta or seconds.
        **settings
            There are no others; these need `create`.

        Raises
        ------
        InvalidInputError
            For a bad name, an unknown setting, or settings without `create`.

        Examples
        --------
        >>> queue = tasks.queue("reports", create=True, rate=50, max_concurrent=8)
        made queue reports with log_sampling_ratio=1.0 ...
        >>> tasks.queue("reports").name  # makes no call
        'projects/local/locations/us-central1/queues/reports'
        """
        full = self._full_name(name)
        self._named[full] = None
        if create:
            create_or_change(self._connection, full, settings)
        elif settings:
            check_names(settings, ("create", *QUEUE_SETTINGS), "queue setting")
            raise InvalidInputError(
                f"{next(iter(settings))}= changes nothing without create=True",
                hint=f'tasks.queue("{full.queue}", create=True, …) or tasks.queue("{full.queue}").update(…)',
            )
        return self._open_queue(full)

    def queues(self) -> pd.DataFrame:
        """List the queues with their state, depth, limits and retry settings.

        Returns
        -------
        pandas.DataFrame
            One row a queue, index `queue`. Depth and rates come from the service's estimates
            (v2beta3 ``QueueStats``) and are NA where the endpoint has none.

        Examples
        --------
        >>> queue = tasks.queue("reports", create=True, rate=50)
        made queue reports with log_sampling_ratio=1.0 ...
        >>> tasks.queues()[["state", "tasks", "rate"]]
                   state  tasks  rate
        queue
        reports  RUNNING      0  50.0
        """
        rows = [queue_values(queue) for queue in _loop.run(self._list(self._parent()))]
        columns = {name: [row.get(name) for row in rows] for name in QUEUES}
        return frame(QUEUES, columns, index="queue")

    async def _list(self, parent: str) -> list[Any]:
        transport = self._connection.transport
        found: list[Any] = []
        try:
            async for page in transport.pages(
                "ListQueueStats", "queues", limit=None, page_size=1000, parent=parent, read_mask={"paths": STATS_MASK}
            ):
                found += page
        except CloudTasksError as error:
            if error.code != "UNIMPLEMENTED":
                raise
            async for page in transport.pages("ListQueues", "queues", limit=None, page_size=1000, parent=parent):
                found += page
        return found

    def batches(self) -> pd.DataFrame:
        """List the batches that were sent from here to this endpoint, and those in a shared store, newest first.

        Returns
        -------
        pandas.DataFrame
            Index `batch`; `name, state, reason, queue, url, who, where, created, seen, total`, a column for each state
            of rows, `done, bytes`. `state` and `reason` are those of `Progress`. `who` is the user@host that made it.
            `where` is the store that it was found in, missing for batches of this home; those in a store have a state
            once `batch(id)` has opened them. `bytes` is about the disk use here. Calls no service but a store that is
            not the home's own.

        Examples
        --------
        >>> batch = queue.fan_out(df, url=handler)
        >>> batch.wait()
        3 rows: 2 succeeded, 1 failed
        >>> tasks.batches()[["queue", "total", "succeeded", "failed"]]
                    queue  total  succeeded  failed
        batch
        ...       reports      3          2       1
        """
        return self._catalog.frame(shared=True)

    def delete_batches(self, older_than: Any, *, dry_run: bool = False) -> pd.DataFrame:
        """Delete the batches of `batches()` that did not change for a time, with their results.

        Batches that are being sent, or have tasks in the queue, are left; a printed line names them. What a shared
        store has of batches that others have made is left, too.

        Parameters
        ----------
        older_than : duration
            ``"7d"``, a Timedelta or seconds: since the last change of the batch.
        dry_run : bool
            Delete nothing, and return what would be deleted.

        Returns
        -------
        pandas.DataFrame
            The deleted batches, with the columns of `batches()`.

        Examples
        --------
        >>> old = tasks.delete_batches(older_than="7d", dry_run=True)
        would delete 0 batches: 0 rows, and their results
        """
        return self._catalog.delete_old(older_than, dry_run=dry_run)

    def batch(self, id: str | None = None) -> Batch:  # noqa: A002 - the name of the column and the attribute
        """Return a batch, also one of an earlier kernel, and watch it; sends nothing.

        A batch that another home has written to the store of this connection is brought here, and the log is read for
        what became of its rows.

        Parameters
        ----------
        id : str, optional
            Its id, the beginning of it, or its name; the newest batch when left out. Of several batches with a name, as
            in several queues, the newest is returned, and a printed line says so.

        Raises
        ------
        BatchNotFoundError
            If no batch matches, or several ids begin with `id`.

        Examples
        --------
        >>> tasks.batch(batch.id).wait()
        3 rows: 2 succeeded, 1 failed
        >>> tasks.batch() == batch  # the newest one
        True
        """
        return self._catalog.get(id)

    def doctor(
        self, url: Any = None, service_account: str | None = None, *, audience: str | None = None
    ) -> pd.DataFrame:
        """Check the way from the credentials to the log, and to the target of tasks, and suggest fixes.

        Looks only at queues that this toolkit uses: those named by `queue()`, and those of batches. On Google a task
        that is due in an hour is created in one of them and deleted again, to see how soon the log has an entry.

        Parameters
        ----------
        url : str or Handler, optional
            Also send one task to this target, with a GET request, and explain its answer. The task is deleted.
        service_account, audience : str, optional
            As for `Queue.enqueue`; whether the caller may use the account is checked too.

        Returns
        -------
        pandas.DataFrame
            Index `check`; columns `ok`, `detail`, `fix`. Never raises. A check that says nothing before another one
            succeeds is not made, and names that one. What is wrong is also printed, with what mends it.

        Examples
        --------
        >>> checks = tasks.doctor()
        >>> checks[~checks["ok"]].index.tolist()  # what is not in order
        []
        >>> queue = tasks.queue("reports", create=True)
        made queue reports ...
        >>> tasks.doctor(handler).loc["target", "detail"]
        'is reached, and answers 405 to a GET request'
        """
        account, audience = token_options(url, service_account, audience)
        target = Target(url=url, service_account=account, audience=audience)
        return diagnose(CheckContext(self._connection, self._used_queues, target))

    def _used_queues(self) -> dict[QueueName, bool]:
        """Return the queues that were named here and those of batches; those that must exist have True."""
        return {**self._catalog.queues(), **dict.fromkeys(self._named, True)}

    def panel(self, *, read_only: bool = False, tz: Any = None) -> Any:
        """Return a live widget with all queues, their tasks and their attempts.

        Parameters
        ----------
        read_only : bool
            Leave out all buttons that change something.
        tz : str, optional
            The zone in which times are shown; that of the browser when left out. The user may choose another one.

        Returns
        -------
        cloudtasks_nb.panels.Dashboard

        Examples
        --------
        >>> tasks.panel(read_only=True)
        <Dashboard Cloud Tasks in local / us-central1 [LOCAL]>
        """
        from cloudtasks_nb import panels  # noqa: PLC0415 - ipywidgets is loaded with the first panel

        context = panels.PanelContext(
            connection=self._connection,
            catalog=self._catalog,
            open_queue=self._open_queue,
            queues=self.queues,
            read_only=read_only,
            tz=tz,
            create=lambda name: self.queue(name, create=True),
            new_settings=new_settings(local=self._connection.endpoint.local),
        )
        return panels.Dashboard(context)

    def close(self) -> None:
        """Stop sending and watching, and close the channels; the embedded emulator ends after its last connection.

        Batches that are being cancelled have ten seconds to end before. At the end of the process, what is to be sent
        has them too. A line says what stays undone.

        Examples
        --------
        >>> tasks = ct.local()
        >>> tasks.close()
        >>> tasks.queues()
        Traceback (most recent call last):
            ...
        cloudtasks_nb.errors.PreconditionError: this connection is closed
          → make a new one: ct.connect() or ct.local()
        """
        with ExitStack() as stack:  # each part is closed, also if another one fails
            stack.callback(open_clients.remove, self)
            if self._lease is not None:
                stack.callback(self._lease.close)
                self._lease = None
            stack.callback(self._connection.close)
            stack.callback(lambda: _loop.run(self._catalog.close()))
            stack.callback(self._connection.transport.refuse)  # a thread that waits for a batch gets an error
            self._catalog.finish_jobs(cancels=True)

    def _restart(self) -> None:
        """Start the emulator of the folder again; the connection finds it there, whatever its address is."""
        lease = self._lease
        if lease is not None:  # else the connection was closed
            self._lease = attach(lease.folder)
            lease.close()

    def _open_queue(self, name: QueueName) -> Queue:
        return Queue(self._connection, self._catalog, name)

    def _batch_panel(self, batch: Batch, **options: Any) -> Any:
        from cloudtasks_nb import panels  # noqa: PLC0415 - ipywidgets is loaded with the first panel

        name = QueueName.parse(f"{self._connection.endpoint.parent()}/queues/{batch.queue}")
        context = panels.PanelContext.of_queue(
            name, connection=self._connection, catalog=self._catalog, open_queue=self._open_queue, **options
        )
        return panels.BatchPanel(context, batch)

    def _full_name(self, name: Any) -> QueueName:
        if isinstance(name, Queue):
            return QueueName.parse(name.name)
        if not isinstance(name, str):
            raise InvalidInputError(f"{name!r} is not a queue name", resource="name", hint='tasks.queue("reports")')
        return QueueName.parse(name if "/" in name else f"{self._parent()}/queues/{name}")

    def _parent(self) -> str:
        endpoint = self._connection.endpoint
        if endpoint.project is None and not endpoint.local:
            endpoint = replace(endpoint, project=self._connection.auth.project())  # of the default credentials
            self._connection.transport.endpoint = endpoint
        return endpoint.parent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client belongs to its process: make another one there, with ct.connect or ct.local")

    def _title(self) -> tuple[str, str]:
        endpoint = self._connection.endpoint
        place = f"{endpoint.project or '(project not known)'} / {endpoint.location or '(location not known)'}"
        local = f"LOCAL {endpoint.target}" + (", temporary" if endpoint.temporary else "")
        google = f"GOOGLE {endpoint.project or ''}".rstrip()
        badge = local if endpoint.local else endpoint.target if endpoint.universe is None else google
        return f"Cloud Tasks in {place}", badge

    def __repr__(self) -> str:
        title, badge = self._title()
        return f"<{title} [{badge}]>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        title, badge = self._title()
        notes = []
        if self._lease is not None:
            folder = self._lease.folder
            notes.append(
                "temporary: when this kernel ends, queues, tasks and what is known of batches are lost, and the same "
                'cells send their rows again; ct.local("folder") keeps them'
                if folder is None
                else f"stored in {folder}"
            )
        try:
            queues = self.queues()
            link = None if self._lease is None else ("console", self._console())
        except CloudTasksError as error:
            return card(title, badge=badge, notes=[str(error), *notes])
        shown = queues[["state", "tasks", "running", "rate", "max_concurrent", "max_attempts"]]
        notes += [] if len(queues) else ['no queues yet: tasks.queue("reports", create=True) makes one']
        return card(title, badge=badge, frame=shown, notes=notes, link=link)

    def _console(self) -> str:
        """Return a link to the console of the embedded emulator, which works once."""
        facts = self._emulator() or {}
        return f"{facts['http']}{call_admin(facts, 'POST', 'console', {})['path']}"


@named
def connect(
    project: str | None = None,
    location: str | None = None,
    *,
    endpoint: str | None = None,
    credentials: Any = None,
    impersonate: str | None = None,
    quota_project: str | None = None,
    store: str | os.PathLike[str] | None = None,
    transport: str | None = None,
) -> Client:
    """Connect to Cloud Tasks with Application Default Credentials, or to an emulator.

    Makes no call. Without credentials the first call fails, and the error shows the command that gets them.
    ``CLOUD_TASKS_EMULATOR_HOST`` is used unless `endpoint` is given.

    Parameters
    ----------
    project : str, optional
        By default ``GOOGLE_CLOUD_PROJECT``, the project of gcloud's configuration or that of the credentials; on an
        emulator ``local``.
    location : str, optional
        By default ``CLOUDTASKS_NB_LOCATION``, ``GOOGLE_CLOUD_LOCATION`` or the location of gcloud's configuration; on
        an emulator ``us-central1``.
    endpoint : str, optional
        ``host:port``; a host that is not Google's is taken for an emulator and called without TLS and credentials.
        With ``https://host:port`` any server is called as Google is. Its certificate must be of an authority that
        ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`` (calls) and ``REQUESTS_CA_BUNDLE`` (tokens) name, or of a public one. It
        serves the log too. By default ``cloudtasks.googleapis.com``, or the host in the universe domain of the
        credentials or of ``GOOGLE_CLOUD_UNIVERSE_DOMAIN``.
    credentials : google.auth.credentials.Credentials, optional
    impersonate : str, optional
        E-mail of a service account to act as. Of several, separated by commas, each acts as the next.
    quota_project : str, optional
        The project that pays for the calls. By default ``GOOGLE_CLOUD_QUOTA_PROJECT``, else the one that the
        credentials' file names.
    store : path or str, optional
        Where handlers store results, and `batch.results()` reads them: a folder, ``gs://bucket/prefix``,
        ``s3://bucket/prefix`` or ``az://…``. By default ``CLOUDTASKS_NB_STORE``, else a folder in the home of this
        package. Give the same to `serve`.
    transport : str, optional
        ``"rest"`` makes every call over HTTP/1.1, for networks that do not let gRPC through; ``"grpc"`` is the default,
        and quicker. `endpoint` is the address of the REST interface then: that of the emulator's ``http``. Trusted are
        the authorities that ``REQUESTS_CA_BUNDLE`` names, and ``HTTPS_PROXY`` is used.

    Examples
    --------
    >>> tasks = ct.connect("my-project", "us-central1")  # makes no call
    >>> tasks
    <Cloud Tasks in my-project / us-central1 [GOOGLE my-project]>
    >>> tasks.queue("reports").name
    'projects/my-project/locations/us-central1/queues/reports'
    """
    target = resolve(project, location, endpoint, transport)
    auth = Auth(credentials, impersonate=impersonate, quota_project=quota_project, project=target.project)
    return Client(Connection(target, auth, store=store))


def connect_to(endpoint: Endpoint, store: str | os.PathLike[str] | None, lease: Lease) -> Client:
    """Connect to an emulator that runs for this process."""
    return Client(Connection(endpoint, Auth(), store=store), lease)
