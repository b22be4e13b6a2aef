"""grpcio's own channel in place of our connection: slower, and the way out of networks that ours cannot get through.

It goes through ``http_proxy`` and its kin, and does all else of HTTP/2 that gRPC's authors have met.
"""

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import grpc

from loader_service.client.http2.message import MAX_MESSAGE_BYTES, IncomingMessage
from loader_service.client.security import Security
from loader_service.wire.errors import InvalidRequestError

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Notice a dead peer within 15 s also while it owes nothing; the server permits this.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Channels to one address would share a connection, and with it a flow-control window and its back-off.
    ("grpc.use_local_subchannel_pool", 1),
]
_first_process: int | None = None
"""The process that made the first channel: gRPC does not survive a fork."""


class GrpcioConnection:
    """What ``StreamConnection`` is, over a channel of grpcio's. Raises OSError for files that cannot be read, and
    InvalidRequestError in a process that was forked from one that had used gRPC."""

    def __init__(self, target: str, *, security: Security, server_name: str | None) -> None:
        global _first_process
        _first_process = _first_process or os.getpid()
        if _first_process != os.getpid():
            raise InvalidRequestError(
                "--transport grpcio: expected a process that was started after gRPC or without a fork, found a fork: "
                "start workers with spawn, or use another transport"
            )
        options = _OPTIONS if server_name is None else [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
        if security.tls_ca is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            credentials = grpc.ssl_channel_credentials(
                security.tls_ca.read_bytes(),
                security.tls_key.read_bytes() if security.tls_key else None,
                security.tls_cert.read_bytes() if security.tls_cert else None,
            )
            self._channel = grpc.secure_channel(target, credentials, options)

    def call(self, path: str, request: bytes, metadata: Sequence[tuple[str, str]]) -> "GrpcioCall":
        """A call, which starts when it is first iterated over."""
        return GrpcioCall(lambda: self._channel.unary_stream(path, bytes, bytes)(request, metadata=tuple(metadata)))

    def ask(self, path: str, request: bytes, metadata: Sequence[tuple[str, str]], timeout_s: float) -> bytes:
        """The one message that answers ``request``. Raises grpc.RpcError."""
        ask = self._channel.unary_unary(path, bytes, bytes)
        return bytes(ask(request, timeout=timeout_s, metadata=tuple(metadata)))

    def cancel(self) -> None:
        """Breaks a call that is under way off, from any thread."""
        self._channel.close()

    def close(self) -> None:
        self._channel.close()


class GrpcioCall(Iterator[IncomingMessage]):
    """What ``StreamCall`` is; each message has come whole when it is handed out."""

    def __init__(self, start: Any) -> None:
        self._start = start
        self._answers: Any = None
        self.num_received = 0
        self._is_cancelled = False

    def __next__(self) -> IncomingMessage:
        if self._answers is None:
            self._answers = self._start()
            if self._is_cancelled:
                self._answers.cancel()
        content = next(self._answers)
        self.num_received += len(content)
        return IncomingMessage(len(content), lambda size: memoryview(bytearray(size)), BytesIO(content).readinto)

    def cancel(self) -> None:
        """Breaks the call off, from any thread."""
        self._is_cancelled = True
        if self._answers is not None:
            self._answers.cancel()
