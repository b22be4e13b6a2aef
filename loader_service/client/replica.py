"""One replica as a client sees it: its address, connections to it, and gRPC's errors as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc

from loader_service.client.http2.calls import StreamCall, StreamConnection
from loader_service.client.security import Security
from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.errors import (
    AccessError,
    DataLossError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    OverloadedError,
    ServiceUnavailableError,
)
from loader_service.wire.translate import description_from_response
from loader_service.wire.types import Description

_SERVICE = "/loader_service.v1.LoaderService/"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_ERRORS: dict[grpc.StatusCode, type[LoaderError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: MismatchError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
}


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

    def connect(self) -> "Connection":
        """A new connection, made when it is first used; the caller closes it."""
        return Connection(self)


class Connection:
    """A way to one replica: grpcio's channel for questions, a connection of our own for batches. For one thread.

    Once a call has failed because the replica was gone, close it and connect again: a gRPC channel in that state
    fails calls at once for seconds after the replica is back.
    """

    def __init__(self, replica: Replica) -> None:
        self.target = replica.target
        security = self._security = replica.security
        self._client_id = replica.client_id
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            # Notice a dead peer within 15 s also while it owes nothing; the server permits this.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_http_proxy", 0),
            # Channels to one address would share a connection, and with it a flow-control window and its back-off.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        name = security.tls_server_name or replica.server_name
        if name is not None:
            options.append(("grpc.ssl_target_name_override", name))
        with _files_may_come_back(self.target):
            tls = security.tls_context()
            credentials = _credentials(security)
        if credentials is None:
            self._channel = grpc.insecure_channel(self.target, options)
        else:
            self._channel = grpc.secure_channel(self.target, credentials, options)
        self._describe = self._channel.unary_unary(
            _SERVICE + "Describe",
            request_serializer=pb.DescribeRequest.SerializeToString,
            response_deserializer=pb.DescribeResponse.FromString,
        )
        self._streams = StreamConnection(self.target, tls=tls, server_name=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, timeout_s: float) -> Description:
        """What the replica serves. Raises a LoaderError within ``timeout_s`` seconds if it does not say."""
        try:
            response: pb.DescribeResponse = self._describe(
                pb.DescribeRequest(), timeout=timeout_s, metadata=self._metadata()
            )
        except grpc.RpcError as error:
            raise self.translate(error) from None
        return description_from_response(response)

    def check_health(self, timeout_s: float) -> None:
        """Returns if the replica reports SERVING (grpc.health.v1). Raises a LoaderError otherwise."""
        check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        try:
            # An empty HealthCheckRequest asks for the server as a whole; field 1 of the answer is the status.
            status = check(b"", timeout=timeout_s, metadata=self._metadata())
        except grpc.RpcError as error:
            raise self.translate(error) from None
        if status != _SERVING:
            raise ServiceUnavailableError(f"{self.target}: expected status SERVING, found another: it is draining")

    def stream_batches(self, request: pb.StreamBatchesRequest, session_token: str | None = None) -> StreamCall:
        """A call, which starts when it is first iterated over; that raises grpc.RpcError, for ``translate``. Pixels are
        in the shared memory of a session if one is named. A message is valid until the next one is asked for."""
        session = () if session_token is None else (("shared-memory-session", session_token),)
        return self._streams.call(
            _SERVICE + "StreamBatches", request.SerializeToString(), (*self._metadata(), *session)
        )

    def translate(self, error: grpc.RpcError) -> LoaderError:
        """gRPC's error as ours, naming this replica."""
        code, details = error.code(), error.details()
        kind = _ERRORS.get(code, ServiceUnavailableError)
        text = " ".join(str(details).split())
        label = "" if kind is not ServiceUnavailableError else f"{code.name}: "
        translated = kind(f"{self.target}: {label}{text}")
        if isinstance(translated, OverloadedError):
            trailers: Any = error.trailing_metadata() or ()
            hint = str(dict(trailers).get("retry-after-ms", ""))
            translated.retry_after_s = int(hint) / 1000 if hint.isdigit() else 0.0
        return translated

    def close(self) -> None:
        self._streams.close()
        self._channel.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        with _files_may_come_back(self.target):
            token = self._security.bearer_token()
        own = (("client-id", self._client_id),)
        return own if token is None else (*own, ("authorization", f"Bearer {token}"))


@contextmanager
def _files_may_come_back(target: str) -> Iterator[None]:
    """Files that were in order when the client was made may be being renewed: a reason to try again, not to end."""
    try:
        yield
    except (AccessError, OSError) as error:
        raise ServiceUnavailableError(f"{target}: cannot be asked: {error}") from None


def _credentials(security: Security) -> grpc.ChannelCredentials | None:
    if security.tls_ca is None:
        return None
    return grpc.ssl_channel_credentials(
        security.tls_ca.read_bytes(),
        security.tls_key.read_bytes() if security.tls_key else None,
        security.tls_cert.read_bytes() if security.tls_cert else None,
    )


def expect_same_stream(target: str, found: Description, expected: Description, *, of: str = "") -> None:
    """Raises MismatchError unless ``target`` serves the same bytes as ``expected``, which is the description ``of``
    another."""
    for name in ("fingerprint", "pipeline_version"):
        here, there = getattr(found, name), getattr(expected, name)
        if here != there:
            raise MismatchError(f"{target}: {name}: expected {there}{of and f', as {of} has'}, found {here}")
