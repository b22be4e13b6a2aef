"""Limits on what one client may hold of the server: open calls, and a thread while its request is awaited."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from loader_service.wire.errors import OverloadedError

log = logging.getLogger(__name__)


class Admission:
    """Counts the calls of one kind that are open, of each identity and of all, and refuses those over the limits.

    ``what`` names them in errors. Thread-safe.
    """

    def __init__(self, what: str, *, total: int, per_identity: int) -> None:
        self.total = total
        self._what, self._per_identity = what, per_identity
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def admit(self, identity: str) -> ExitStack[None]:
        """Admits one call until what is returned is left or closed. Raises OverloadedError when a limit is reached."""
        with self._lock:
            total, own = sum(self._open.values()), self._open.get(identity, 0)
            if total >= self.total:
                raise OverloadedError(f"{self._what}: expected at most {self.total} open, found {total}")
            if own >= self._per_identity:
                raise OverloadedError(f"{self._what} of one client: expected at most {self._per_identity}, found {own}")
            self._open[identity] = own + 1
        place = ExitStack[None]()
        place.callback(self._leave, identity)
        return place

    @property
    def num_open(self) -> int:
        """Calls admitted now."""
        with self._lock:
            return sum(self._open.values())

    def _leave(self, identity: str) -> None:
        with self._lock:
            self._open[identity] -= 1
            if not self._open[identity]:
                del self._open[identity]


M = TypeVar("M", bound=Message)


class RequestReader:
    """Reads the one request message of a call, and cancels the call when that does not come within ``timeout_s``.

    For handlers of streamed requests, without a deserialiser: on the wire there is no difference, but for single ones
    gRPC itself waits on a thread of its pool, for ever and before any of our code has seen the call, so that a client
    that sends headers alone takes every thread.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadlines: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="requests", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread that watches the time."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def read(self, kind: type[M], requests: Iterator[bytes], context: grpc.ServicerContext) -> M:
        """The request. Raises grpc.RpcError when the call was cancelled, and ends it when there is none to read."""
        with self._lock:
            self._deadlines[context] = time.monotonic() + self._timeout_s
        try:
            body = next(requests, None)
        finally:
            with self._lock:
                self._deadlines.pop(context, None)
        if body is None:  # the status that gRPC's specification asks for
            refuse(context, grpc.StatusCode.UNIMPLEMENTED, "expected one request message, found none")
        try:
            return kind.FromString(body)
        except DecodeError:
            refuse(context, grpc.StatusCode.INTERNAL, "the request message cannot be parsed")

    def _watch(self) -> None:
        while not self._closed.wait(self._timeout_s / 5):
            now = time.monotonic()
            with self._lock:
                late = [context for context, deadline in self._deadlines.items() if deadline <= now]
            for context in late:
                log.warning("%s: call ended: no request in %g s", context.peer(), self._timeout_s)
                context.cancel()  # type: ignore[no-untyped-call]  # grpc's stubs say too little


def host_of(context: grpc.ServicerContext) -> str:
    """Where a call comes from, whatever its connection."""
    return str(context.peer()).rpartition(":")[0]


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> NoReturn:
    """Ends a call, and says in the log whose it was."""
    # A client that has left needs no answer, and its operator no warning.
    level = logging.WARNING if context.is_active() else logging.DEBUG
    peer = context.peer()
    log.log(level, "%s: call ended: %s: %s", peer, code.name, reason, extra={"peer": peer, "code": code.name})
    context.abort(code, reason)
