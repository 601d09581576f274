"""A folder or a bucket: put, get, list and delete objects by path."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import if_files_open, is_in_home
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, StoreError
from cloudtasks_nb.store.folder import Folder, Found, OddFileError

__all__ = ["Children", "Dated", "Found", "Range", "Store", "Token", "answer_of"]

Token: TypeAlias = Callable[[], tuple[str, datetime | None]]
T = TypeVar("T")

_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", flags=re.IGNORECASE | re.DOTALL)
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")  # in the answers of all three
_BUCKETS = ("gs", "s3", "az")
_PAGE = 1000  # objects
_PATIENCE = 30  # seconds for a call of the library
_CONCURRENT = 64  # reads of a bucket at a time

# One call takes about 20 s at most: no retry begins after 10 s, and one request takes 10 s at most.
_CLIENT_OPTIONS = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=10)}
_RETRIES = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}

#: Environment variables by which the library takes another server than the cloud's.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")

#: Environment variables with credentials for the library alone.
_OWN_CREDENTIALS = (
    *("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT_PATH"),
    "GOOGLE_SKIP_SIGNATURE",
)
_ASKED_AGAIN = timedelta(minutes=1)  # after which the library asks for a token again

#: `pid` of the process that has used a bucket; a forked process inherits it.
_used_in: dict[str, int] = {}

#: The objects of ``memory://`` stores, by URL, so that all stores of this process with one URL have the same objects.
_in_memory: dict[str, Any] = {}
#: Before 0.12 the library waits for its lock on these objects while it holds Python's lock (to list them), and for
#: Python's lock while it holds its own (to drop one): so that neither waits for ever, one thread uses them at a time.
_memory_lock = threading.RLock()


class Range(NamedTuple):
    """A part of an object."""

    path: str
    start: int
    end: int | None  #: bytes from the start of the object; None: up to its end


class Dated(NamedTuple):
    """The content of an object, and when it was modified."""

    data: bytes
    modified: float  #: seconds since 1970, by the clock of the store


class Children(NamedTuple):
    """What is directly below a prefix."""

    folders: Sequence[str]  #: their names
    objects: Mapping[str, float]  #: by their names, when they were modified, in seconds since 1970


class Store:
    """Objects in a folder or a bucket, each with a path such as ``results/1a2b3c4d/x.json``.

    Making one does not touch the folder or the bucket. It is safe to use from several threads. A call takes about 20
    seconds at most if a bucket does not answer: requests are repeated for 10 s, and one request takes 10 s at most. If
    the library does not end it, it is left behind after 30 s; an interrupt leaves it behind at once.

    An object that was put in a folder is complete, and survives the end of the process (also by SIGKILL). The system
    writes it to the disk later, as with every file: a power loss within the next seconds can lose it. A bucket has
    stored it when `put` returns.

    Parameters
    ----------
    place : path or str
        A folder, ``file:///folder``, ``gs://bucket/prefix``, ``s3://bucket/prefix``, ``az://container/prefix``, or
        ``memory://name``, which ends with the process.
    token : callable, optional
        Returns a valid access token for Cloud Storage, and the time when it expires; it may raise a `CloudTasksError`.
        Without it `obstore` looks for credentials.

    Raises
    ------
    InvalidInputError
        If it is none of these.

    Notes
    -----
    Credentials for ``gs://`` are those of the connection, of whatever form; a deployed service has those of the account
    that it runs as. For ``s3://`` and ``az://`` they are what `obstore` finds: the environment variables ``AWS_*`` and
    ``AZURE_STORAGE_*``, or the role of the machine; not ``~/.aws/credentials``. Its variables
    ``GOOGLE_SERVICE_ACCOUNT``, ``…_KEY``, ``…_PATH`` and ``GOOGLE_SKIP_SIGNATURE`` come before a connection.

    Examples
    --------
    >>> store = Store("memory://example")
    >>> store.put("notes/a.txt", b"first")
    >>> store.get("notes/a.txt")
    b'first'
    """

    def __init__(self, place: str | os.PathLike[str], token: Token | None = None) -> None:
        self._scheme, self.url = _normalise(place)
        self._folder = Folder(self.url, private=is_in_home(self.url)) if self._scheme == "file" else None
        own = any(os.environ.get(name) for name in _OWN_CREDENTIALS)
        self._token = token if self._scheme == "gs" and not own else None

    def put(self, path: str, data: bytes) -> None:
        """Write an object, in place of one with the same path; readers see the old or the new one, never a part."""
        if self._folder is not None:
            self._ask("written", path, self._folder.put, path, data)
        else:
            self._ask("written", path, self._library.put, self._client, path, data, use_multipart=False)

    def create(self, path: str, data: bytes) -> None:
        """Write an object under a path that nobody else uses; a repeated request that finds it has succeeded.

        In a folder readers see a part of it while it is written, and it can be appended to.
        """
        if self._folder is None:
            self.claim(path, data)
        else:
            self._ask("written", path, self._folder.create, path, data)

    def claim(self, path: str, data: bytes) -> bool:
        """Write an object if there is none with this path; return whether there was none."""
        if self._folder is not None:
            return bool(self._ask("written", path, self._folder.put, path, data, new=True))
        words = {"mode": "create", "use_multipart": False, "unless": self._exceptions.AlreadyExistsError}
        return self._ask("written", path, self._library.put, self._client, path, data, **words) is not None

    def exclusive(self, path: str, data: bytes) -> bool:
        """Write an object as `claim` does; a folder needs no links for it, and shows a part while it is written.

        An answer that was lost on the way makes it False for an object that this call has written.
        """
        if self._folder is None:
            return self.claim(path, data)
        create = self._folder.create
        return self._ask("written", path, lambda: create(path, data) or True, unless=FileExistsError) is not None

    @property
    def appends(self) -> bool:
        """Whether objects can be appended to."""
        return self._folder is not None

    def append(self, path: str, data: bytes) -> bool:
        """Append to an object; return False if there is none, or it is in no folder.

        An error may leave a part of the data.
        """
        return self._folder is not None and bool(self._ask("written", path, self._folder.append, path, data))

    def get(self, path: str) -> bytes | None:
        """Return the content of an object; None if there is no such object."""
        if self._folder is not None:
            return self._ask("read", path, self._folder.read, path, 0, None)
        get = self._library.get
        return self._ask("read", path, lambda: get(self._client, path).bytes().to_bytes(), unless=self._missing)

    def dated(self, path: str) -> Dated | None:
        """Return an object with the time of its modification; None if there is no such object."""
        if self._folder is not None:
            found = self._ask("read", path, self._folder.dated, path)
            return None if found is None else Dated(*found)

        def get() -> Dated:
            answer = self._library.get(self._client, path)
            return Dated(answer.bytes().to_bytes(), answer.meta["last_modified"].timestamp())

        return self._ask("read", path, get, unless=self._missing)

    def children(self, prefix: str) -> Children:
        """Return what is directly below a prefix that ends with a slash: names of folders, and of objects with times.

        However much is in these folders, nothing of it is listed.
        """
        if self._folder is not None:
            return Children(*(self._ask("listed", prefix, self._folder.children, prefix) or ((), {})))
        found: Any = self._ask("listed", prefix, self._library.list_with_delimiter, self._client, prefix)
        folders = [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]
        times = {each["path"].rpartition("/")[2]: each["last_modified"].timestamp() for each in found["objects"]}
        return Children(folders, times)

    def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the contents of many objects, in the order of their paths; None for those that do not exist."""
        found = self.get_ranges([Range(path, 0, None) for path in paths])
        for one in found:
            if isinstance(one, StoreError):
                raise one
        return [one for one in found if not isinstance(one, StoreError)]

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        """Return parts of objects: None if there is no such object, and the error if it cannot be read."""
        if self._folder is not None:
            return [self._read_file(self._folder, *one) for one in ranges]
        self._ask("read", ranges[0].path if ranges else "", str)
        return _loop.run(self._get_ranges(ranges))

    def _read_file(self, folder: Folder, path: str, start: int, end: int | None) -> bytes | StoreError | None:
        try:
            return folder.read(path, start, end)
        except OSError as error:
            return self._error("read", path, error)

    async def _read_object(self, path: str, start: int, end: int | None) -> bytes | None:
        with self._errors("read", path):
            try:
                async with asyncio.timeout(_PATIENCE):
                    if end is None:
                        found = await self._library.get_async(self._client, path)
                        return bytes(await found.bytes_async())[start:]
                    return bytes(await self._library.get_range_async(self._client, path, start=start, end=end))
            except self._missing as error:
                if _is_bucket_missing(error):
                    raise
                return None

    async def _get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        free, failed = asyncio.Semaphore(_CONCURRENT), list[StoreError]()

        async def get(one: Range) -> bytes | StoreError | None:
            async with free:
                if len(failed) >= _CONCURRENT:  # the bucket does not answer: the rest would take minutes
                    return failed[0]
                try:
                    return await self._read_object(*one)
                except StoreError as error:
                    failed.append(error)
                    return error

        return await asyncio.gather(*map(get, ranges))

    def pages(self, prefix: str) -> Iterator[list[str]]:
        """Yield the paths that begin with a prefix, such as ``results/1a2b3c4d/``, page by page.

        Buckets list them in order, folders in no order. Memory is needed for one page only.
        """
        for page in self.found(prefix):
            yield [path for path, _ in page]

    def found(self, prefix: str) -> Iterator[list[Found]]:
        """Yield what `pages` yields, with the sizes of the objects."""
        listed = self._ask("listed", prefix, self._listed, prefix)
        while (page := self._ask("listed", prefix, next, listed, None)) is not None:
            yield page

    def _listed(self, prefix: str) -> Iterator[list[Found]]:
        if self._folder is None:
            listed = self._library.list(self._client, prefix, chunk_size=_PAGE)
            return ([Found(each["path"], each["size"]) for each in page] for page in listed)
        files = self._folder.found(prefix)
        return iter(lambda: list(islice(files, _PAGE)), [])

    def delete_all(self, prefix: str) -> None:
        """Delete the objects whose paths begin with a prefix that ends with a slash; in a folder all that is there."""
        if self._folder is not None:
            self._ask("deleted", prefix, self._folder.delete_all, prefix)
            return
        for page in self.pages(prefix):
            self.delete(page)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that do not exist are ignored."""
        if self._folder is not None:
            for path in paths:
                self._ask("deleted", path, self._folder.delete, path)
            return
        delete = partial(self._library.delete, self._client)
        for at in range(0, len(paths), _PAGE):
            page = list(paths[at : at + _PAGE])
            if self._ask("deleted", page[0], lambda page=page: delete(page) or True, unless=self._missing) is None:
                for path in page:  # the library stopped at the first one that did not exist
                    self._ask("deleted", path, delete, path, unless=self._missing)

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    @cached_property
    def _library(self) -> Any:
        import obstore  # noqa: PLC0415 - it takes 20 ms, which only those pay who read or write objects

        return obstore

    @property
    def _exceptions(self) -> Any:
        return self._library.exceptions

    @property
    def _foreign(self) -> tuple[type[Exception], ...]:
        return OSError, ValueError, *(() if self._folder is not None else (self._exceptions.BaseError,))

    @property
    def _missing(self) -> tuple[type[Exception], ...]:
        """Errors of an object that does not exist; which of them is raised depends on the release of the library."""
        return FileNotFoundError, self._exceptions.NotFoundError

    @cached_property
    def _client(self) -> Any:
        from obstore import store  # noqa: PLC0415 - as above

        if self._scheme == "memory":
            return _in_memory.setdefault(self.url, store.MemoryStore())
        # A server of one's own may have no TLS; the clouds have it.
        plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        options: Any = {"client_options": {**_CLIENT_OPTIONS, "allow_http": plain}, "retry_config": _RETRIES}
        if self._token is not None:
            options["credential_provider"] = _provider(self._token)
        return store.from_url(self.url, **options)

    def _ask(
        self, done: str, path: str, function: Callable[..., T], *args: Any, unless: Any = (), **words: Any
    ) -> T | None:
        """Return what a function of the folder or the library returns, None for some exceptions; others become ours.

        Before the library asks for a token one is got, as its own error would hide why there is none.
        """

        def answer() -> T | None:
            self._prepare()
            try:
                with _memory_lock if self._scheme == "memory" else nullcontext():
                    return function(*args, **words)
            except unless as error:
                if _is_bucket_missing(error):
                    raise
                return None

        with self._errors(done, path):
            return answer() if self._folder is not None else _loop.in_time(_PATIENCE, answer)

    @contextmanager
    def _errors(self, done: str, path: str) -> Iterator[None]:
        """Turn errors of the system and of the library into `StoreError`."""
        try:
            yield
        except self._foreign as error:
            raise self._error(done, path, error) from error

    def _prepare(self) -> None:
        """Refuse a process in which the library would hang for ever; get a token before the library asks for one."""
        process = os.getpid()
        if self._scheme in _BUCKETS and _used_in.setdefault("pid", process) != process:
            raise StoreError(
                f"process {process} was forked from one that had used a bucket, and its connections do not work in it",
                resource=self.url,
                hint='fork before the first use of the bucket, or start it anew: multiprocessing.get_context("spawn")',
            )
        try:
            if self._token is not None:
                self._token()
        except CloudTasksError as error:
            raise StoreError(error.message, resource=self.url, hint=error.hint) from error

    def _error(self, done: str, path: str, error: Exception) -> StoreError:
        if isinstance(error, OddFileError):
            hint = _ODD
        elif self._scheme not in _BUCKETS:
            hint = _DISK
        else:
            hint = (
                "check the name of the bucket, the network, and that the credentials may read, write and list its "
                "objects" + _CREDENTIALS[self._scheme]
            )
        text = f"{path} cannot be {done} in {self.url}: {_problem(error)}"
        return StoreError(text, resource=self.url, hint=if_files_open(hint))


_ODD = "a store follows no link below its folder: delete it, and look who can write to the folder"
_DISK = (
    "check that the folder can be written and that its disk has space; store= or CLOUDTASKS_NB_STORE names another "
    "place"
)
_CREDENTIALS = {
    "gs": " (gcloud auth application-default login; roles/storage.objectUser; if a proxy inspects TLS: SSL_CERT_FILE)",
    "s3": " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION)",
    "az": " (AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY)",
}


async def answer_of(store: Store, seconds: float, function: Callable[..., T], *args: Any) -> T:
    """Return what a function returns that uses a store, and runs in a thread meanwhile.

    Raises
    ------
    StoreError
        If it takes longer than some seconds; the function goes on. Else whatever the function raises.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _loop.to_thread(function, *args)
    except TimeoutError:
        raise StoreError(f"{store.url} did not answer in {seconds:.0f} s", resource=store.url) from None


def _provider(token: Token) -> Callable[[], dict[str, Any]]:
    """Return what the library calls for a token."""

    def provide() -> dict[str, Any]:
        value, expires = token()
        soon = datetime.now(UTC) + _ASKED_AGAIN  # a new login is used without a restart
        return {"token": value, "expires_at": soon if expires is None else min(soon, expires)}

    return provide


def _normalise(place: Any) -> tuple[str, str]:
    """Return the kind of a store and its URL, or the absolute path of its folder."""
    wrong = InvalidInputError(
        f"store={place!r} is not a folder or a bucket",
        resource="store",
        hint='use a folder, "gs://bucket/prefix", "s3://bucket/prefix" or "az://container/prefix"',
    )
    if not isinstance(place, str | os.PathLike) or not (text := os.fspath(place)) or not isinstance(text, str):
        raise wrong
    match = _SCHEME.fullmatch(text) if isinstance(place, str) else None
    if match is None:
        return "file", str(Path(text).expanduser().absolute())
    scheme, rest = match["scheme"].lower(), match["rest"].rstrip("/")
    if scheme == "file":
        folder = unquote(urlsplit(text).path)
        if urlsplit(text).netloc not in {"", "localhost"} or not folder:
            raise wrong
        return "file", str(Path(folder).absolute())
    if scheme not in {*_BUCKETS, "memory"} or (scheme != "memory" and not rest.partition("/")[0]):
        raise wrong
    return scheme, f"{scheme}://{rest}"


def _is_bucket_missing(error: Exception) -> bool:
    """Return whether an answer "not found" is about the bucket, not about an object in it."""
    text = str(error)
    return any(words in text for words in ("NoSuchBucket", "bucket does not exist", "ContainerNotFound"))


def _problem(error: Exception) -> str:
    """Return the message of the server, else the library's without its debug output, which is many lines long."""
    text = str(error).strip() or type(error).__name__
    found = _MESSAGE.search(text)
    return (found[1] if found else text.split("\n", 1)[0])[:500]
