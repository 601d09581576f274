"""`app`: make a WSGI application of a function, which accepts only requests with a token of Cloud Tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from cloudtasks_nb._settings import PRIVATE_VARIABLE, STORE_VARIABLE, named
from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.answer import LARGEST_BODY, NO_FUNCTION, Answer, method_refusal, refuse
from cloudtasks_nb.handlers.call import ReceivedRequest, TaskFunction, check_function
from cloudtasks_nb.handlers.convert import display_name
from cloudtasks_nb.handlers.failures import check_kinds
from cloudtasks_nb.handlers.verify import Verifier
from cloudtasks_nb.handlers.version import version_of
from cloudtasks_nb.handlers.workers import CoroutineRunner
from cloudtasks_nb.store.results import ResultWriter
from cloudtasks_nb.store.store import Store

__all__ = ["app"]

_TOO_LARGE = refuse(413, f"a body has at most {LARGEST_BODY:,} bytes")
_log = logging.getLogger("cloudtasks_nb.handlers")


@named
def app(
    fn: Callable[..., Any] | Mapping[str, Callable[..., Any]],
    *,
    audience: str | None = None,
    service_account: str | None = None,
    name: str | None = None,
    store: str | os.PathLike[str] | None = None,
    private: bool = False,
    give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
) -> WSGIApplication:
    """Make a WSGI application of functions, for Cloud Run or any other place that Cloud Tasks reaches.

    As with `serve`, the body gives the arguments, and an exception is answered with 500. A function is called
    only for tasks with an OIDC token that Google issued to `service_account` for `audience`. The logger
    ``cloudtasks_nb.handlers`` logs failures with the traceback. `ct.deploy` writes such an application.

    Parameters
    ----------
    fn : callable or mapping of str to callable
        A plain or an async function, which gets all requests; or functions by path: ``{"/run": report, "/done": end}``.
        A path also stands for those below it, ``/run/JFK``, unless a longer one of the mapping fits; so "/" stands for
        all. Other paths are answered with 404.
    audience : str
        The audience of the tasks' tokens: the ``audience=`` of the tasks, else the origin of their URL
        (``https://report-abc123.a.run.app``), or for a Cloud Function their URL without its query.
    service_account : str
        E-mail address of the only account whose tokens are accepted. Required as well as `audience`, because any
        Google account can get a token for any audience.
    name : str, optional
        The name in the log; the function's own name when left out.
    store : path or str, optional
        Where the results of batches are stored before the task is answered: ``gs://bucket/prefix``, the same as in
        ``ct.connect(..., store=...)``. By default ``CLOUDTASKS_NB_STORE``; without both, results are not stored,
        because a disk of Cloud Run ends with its instance. A server may load the application before it forks; a bucket
        that was used before the fork is refused after it.
    private : bool
        Set it if this is a service of Cloud Run that is not public; ``CLOUDTASKS_NB_PRIVATE=1`` in its environment does
        the same. Cloud Run checks the tokens of such a service, and then hands them over with
        ``SIGNATURE_REMOVED_BY_GOOGLE`` in place of the signature
        (https://cloud.google.com/run/docs/troubleshooting#signature-removed). Such a token is accepted then, if its
        audience, account, issuer and times are right, the variable ``K_SERVICE`` is set, and the request has no
        ``X-Serverless-Authorization``, which Cloud Run would have checked in its place. A token with a signature is
        verified as ever. Never set it for a public service: anybody could write such a token.
    give_up_on : class or several, optional
        As for `serve`. Without a store such exceptions are answered with 500, as all others: nobody could tell them
        from a success.

    Returns
    -------
    callable
        For gunicorn, wsgiref or Functions Framework: ``application = app(report, audience=..., service_account=...)``.

    Raises
    ------
    HandlerError
        If `audience` or `service_account` is missing, a function cannot be served, a path does not begin with "/",
        `private` or its variable says neither yes nor no, or `give_up_on` is no class of exceptions.
    InvalidInputError
        If `store` is not a folder or a bucket.

    Examples
    --------
    >>> from cloudtasks_nb.handlers import app
    >>> caller = "caller@my-project.iam.gserviceaccount.com"
    >>> application = app(report, audience="https://report-abc123.a.run.app", service_account=caller)
    >>> paths = {"/run": report, "/done": print}
    >>> application = app(paths, audience="https://report-abc123.a.run.app", service_account=caller)
    """
    functions = _by_path(fn)
    names = " and ".join(map(display_name, functions.values()))
    for argument, value in (("audience", audience), ("service_account", service_account)):
        if not (isinstance(value, str) and value):
            raise HandlerError(
                f"{argument}={value!r}: without it anybody could call {names}",
                resource=argument,
                hint='app(fn, audience="https://my-service.run.app", '
                'service_account="sa@my-project.iam.gserviceaccount.com")',
            )
    verifier = Verifier(
        service_account=str(service_account),
        audience=[str(audience)],
        certs_url=lambda: None,
        private=_is_private(private),
    )
    place = store if store is not None else os.environ.get(STORE_VARIABLE) or None
    results = None if place is None else ResultWriter(Store(place))
    revision = os.environ.get("K_REVISION")  # https://cloud.google.com/run/docs/container-contract
    kinds = check_kinds(give_up_on)
    called = {
        path: TaskFunction(
            fn=one, verifier=verifier, results=results, give_up_on=kinds, version=version_of(one), revision=revision
        )
        for path, one in functions.items()
    }
    return _App(name or names, called)


def _is_private(given: Any) -> bool:
    """Return whether the argument or the variable says that the service is private; do not guess."""
    variable = os.environ.get(PRIVATE_VARIABLE, "")
    if not isinstance(given, bool) or variable not in ("", "0", "1"):
        raise HandlerError(
            f"private={given!r} and {PRIVATE_VARIABLE}={variable!r} do not say whether the service is private",
            resource="private",
            hint=f"private=True or {PRIVATE_VARIABLE}=1 if it is, else neither",
        )
    return given or variable == "1"


def _by_path(fn: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions by their paths without a slash at the end; "" means all paths."""
    given = fn if isinstance(fn, Mapping) else {"/": fn}
    if not given:
        raise HandlerError("app({}) has no function", resource="fn", hint='app({"/run": report}, …)')
    for path, one in given.items():
        if not (isinstance(path, str) and path.startswith("/")):
            raise HandlerError(f"{path!r} is not a path", resource=str(path), hint='a path begins with "/": "/run"')
        check_function(one)
    return {path.rstrip("/"): one for path, one in given.items()}


class _App:
    def __init__(self, name: str, functions: Mapping[str, TaskFunction]) -> None:
        self._name = name
        self._functions = functions
        self._coroutines = CoroutineRunner(f"{name}-coroutines")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._refusal(environ) or self._answer(environ)
        content, kind = answer.content()
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            **answer.headers(),
        }
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(headers.items()))
        return [content]

    def _refusal(self, environ: WSGIEnvironment) -> Answer | None:
        """Refuse a method without a body, after a check of path and token if there is one: `doctor()` tests both so."""
        refusal, token = method_refusal(environ["REQUEST_METHOD"]), environ.get("HTTP_AUTHORIZATION")
        if refusal is None or token is None:
            return refusal
        function = self._function_at(environ.get("PATH_INFO", ""))
        if function is None:
            return NO_FUNCTION
        serverless = environ.get("HTTP_X_SERVERLESS_AUTHORIZATION")
        return (function.verifier and function.verifier.check(token, serverless)) or refusal

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        function = self._function_at(environ.get("PATH_INFO", ""))
        if function is None:
            return NO_FUNCTION
        body = _read(environ)
        if isinstance(body, Answer):
            return body
        request = ReceivedRequest.received(body, lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"))
        answer = function.answer(request, run=self._coroutines.run)
        if not answer.ok:
            _log.error("%s answered %d to task %r: %s", self._name, answer.status, request.task, answer.error)
        return answer

    def _function_at(self, path: str) -> TaskFunction | None:
        """Return the function whose path is the longest that the path of a request begins with, segment by segment."""
        segments = path.encode("latin-1").decode("utf-8", "replace").rstrip("/").split("/")  # as WSGI gives UTF-8
        beginnings = ("/".join(segments[:count]) for count in range(len(segments), 0, -1))
        return next((self._functions[start] for start in beginnings if start in self._functions), None)


def _read(environ: WSGIEnvironment) -> bytes | Answer:
    """Return the body of a request, or its refusal."""
    stream: InputStream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH") or ""
    if length and not (length.isascii() and length.isdigit()):
        return refuse(400, "Content-Length is not a number")
    if not length:
        # A chunked body has no length: reading it can block for ever unless the server marks its end.
        body = stream.read(LARGEST_BODY + 1) if environ.get("wsgi.input_terminated") else b""
        return _TOO_LARGE if len(body) > LARGEST_BODY else body
    if int(length) > LARGEST_BODY:
        return _TOO_LARGE
    body = stream.read(int(length))
    # A truncated body could still be a valid argument, so the function must not get it.
    return body if len(body) == int(length) else refuse(400, "the body ended early")
