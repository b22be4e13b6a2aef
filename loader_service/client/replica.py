"""One replica as a client sees it: its address, connections to it, and gRPC's errors as ours."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError

from loader_service.client.grpcio import GrpcioCall, GrpcioConnection
from loader_service.client.http2.calls import StreamCall, StreamConnection
from loader_service.client.security import Security
from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.errors import (
    AccessError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    OverloadedError,
    ServiceUnavailableError,
)
from loader_service.wire.status import ERROR_OF_STATUS
from loader_service.wire.translate import description_from_response
from loader_service.wire.types import Description, View

_SERVICE = "/loader_service.v1.LoaderService/"
_HINT = re.compile("[0-9]{1,9}")
"""Milliseconds, as ``retry-after-ms`` has them."""
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One address that a store is served at, and how to reach it."""

    target: str
    """``host:port`` or ``unix:PATH``"""
    security: Security
    server_name: str | None = None
    """Name to expect in its certificate; None expects the host of ``target``."""
    client_id: str = ""
    """Tells the service which requests are one client's; two clients of one stream share its work."""
    uses_grpcio: bool = False
    """Whether all calls go through grpcio's channel."""

    def connect(self) -> "Connection":
        """A new connection, made when it is first used; the caller closes it. Raises AccessError when others could
        read the token on its way."""
        return Connection(self)


class Connection:
    """A way to one replica. For one thread, one call at a time.

    Once a call has failed because the replica was gone, close it and connect again: a gRPC channel in that state
    fails calls at once for seconds after the replica is back.
    """

    def __init__(self, replica: Replica) -> None:
        self.target = replica.target
        self._replica = replica
        security = replica.security
        security.check_reach(self.target)
        name = security.tls_server_name or replica.server_name
        self._calls: StreamConnection | GrpcioConnection
        with _files_may_come_back(self.target):
            if replica.uses_grpcio:
                self._calls = GrpcioConnection(self.target, security=security, server_name=name)
            else:
                self._calls = StreamConnection(self.target, tls=security.tls_context(), server_name=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, timeout_s: float) -> Description:
        """What the replica serves. Raises a LoaderError within ``timeout_s`` seconds if it does not say."""
        answer = self._ask(_SERVICE + "Describe", b"", timeout_s)  # an empty DescribeRequest
        try:
            return description_from_response(pb.DescribeResponse.FromString(answer))
        except (DecodeError, ValueError) as error:
            raise ServiceUnavailableError(f"{self.target}: expected a description, found another: {error}") from None

    def names(self, fingerprint: str, split: str, indices: Iterable[int], timeout_s: float) -> tuple[str, ...]:
        """Where images came from. Raises a LoaderError."""
        try:
            request = pb.NamesRequest(fingerprint=fingerprint, split=split, indices=indices)
        except ValueError as error:  # negative, for instance
            raise InvalidRequestError(f"indices: expected places in split {split!r}, found others: {error}") from None
        answer = self._ask(_SERVICE + "Names", request.SerializeToString(), timeout_s)
        try:
            names = pb.NamesResponse.FromString(answer).names
        except DecodeError as error:
            raise ServiceUnavailableError(f"{self.target}: expected names, found another answer: {error}") from None
        if len(names) != len(request.indices):
            raise ServiceUnavailableError(f"{self.target}: expected {len(request.indices)} names, found {len(names)}")
        return tuple(name.decode(errors="backslashreplace") for name in names)

    def check_health(self, timeout_s: float) -> None:
        """Returns if the replica reports SERVING (grpc.health.v1). Raises a LoaderError otherwise."""
        # An empty HealthCheckRequest asks for the server as a whole; field 1 of the answer is the status.
        if self._ask("/grpc.health.v1.Health/Check", b"", timeout_s) != _SERVING:
            raise ServiceUnavailableError(f"{self.target}: expected status SERVING, found another: it is draining")

    def stream_batches(
        self, request: pb.StreamBatchesRequest, session_token: str | None = None
    ) -> StreamCall | GrpcioCall:
        """A call, which starts when it is first iterated over; that raises grpc.RpcError, for ``translate``. Pixels are
        in the shared memory of a session if one is named. A message is valid until the next one is asked for."""
        session = () if session_token is None else (("shared-memory-session", session_token),)
        return self._calls.call(_SERVICE + "StreamBatches", request.SerializeToString(), (*self._metadata(), *session))

    def translate(self, error: grpc.RpcError) -> LoaderError:
        """gRPC's error as ours, naming this replica."""
        code, details = error.code(), error.details()
        kind = ERROR_OF_STATUS.get(code, ServiceUnavailableError)
        text = " ".join(str(details).split())
        label = "" if kind is not ServiceUnavailableError else f"{code.name}: "
        translated = kind(f"{self.target}: {label}{text}")
        if isinstance(translated, OverloadedError):
            trailers: Any = error.trailing_metadata() or ()
            hint = str(dict(trailers).get("retry-after-ms", ""))
            translated.retry_after_s = int(hint) / 1000 if _HINT.fullmatch(hint) else 0.0
        return translated

    def cancel(self) -> None:
        """Breaks a question or a stream that is under way off, from any thread."""
        self._calls.cancel()

    def close(self) -> None:
        self._calls.close()

    def _ask(self, path: str, request: bytes, timeout_s: float) -> bytes:
        try:
            return self._calls.ask(path, request, self._metadata(), timeout_s)
        except grpc.RpcError as error:
            raise self.translate(error) from None

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        with _files_may_come_back(self.target):
            token = self._replica.security.bearer_token()
        own = (("client-id", self._replica.client_id),)
        return own if token is None else (*own, ("authorization", f"Bearer {token}"))


@contextmanager
def _files_may_come_back(target: str) -> Iterator[None]:
    """Files that were in order when the client was made may be being renewed: a reason to try again, not to end."""
    try:
        yield
    except (AccessError, OSError) as error:
        raise ServiceUnavailableError(f"{target}: cannot be asked: {error}") from None


def expect_same_stream(
    target: str, found: Description, expected: Description, *, of: str = "", view: View = "train"
) -> None:
    """Raises MismatchError unless ``target`` serves the same bytes of ``view`` as ``expected``, which is the
    description ``of`` another."""
    for name, here, there in (
        ("fingerprint", found.fingerprint, expected.fingerprint),
        ("pipeline_version", found.version_for(view), expected.version_for(view)),
    ):
        if here != there:
            raise MismatchError(f"{target}: {name}: expected {there}{of and f', as {of} has'}, found {here}")
