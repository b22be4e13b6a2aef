"""``grpc.health.v1``: whether the service is serving, for probes and balancers. Open to all, so it is bounded.

grpcio's own servicer keeps every ``Watch`` that is asked for, and sends under the lock that ``Check`` needs: one client
that reads nothing would stop all probes.
"""

import threading
from collections.abc import Collection, Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb

from loader_service.server.admission import Admission, RequestReader, host_of, refuse
from loader_service.wire.errors import OverloadedError

SERVICE = "grpc.health.v1.Health"
_LOOK_INTERVAL_S = 60.0
"""How often a watch looks whether its client is there, should gRPC not say that it has left."""


class Health:
    """One status for the server as a whole and each of ``services``; NOT_SERVING until it is set."""

    def __init__(self, reader: RequestReader, services: Collection[str]) -> None:
        self._reader = reader
        self._services = frozenset(("", *services))
        self._status: int = pb.HealthCheckResponse.NOT_SERVING
        self._changed = threading.Condition()
        self._unread_checks = Admission("health checks", total=32, per_identity=16)
        self._watches = Admission("health watches", total=128, per_identity=32)

    @property
    def max_threads(self) -> int:
        """Threads that health calls can hold at once."""
        return self._unread_checks.total + self._watches.total

    def set(self, *, is_serving: bool) -> None:
        """Changes the status, and tells those who watch it; does not wait for them."""
        with self._changed:
            self._status = pb.HealthCheckResponse.SERVING if is_serving else pb.HealthCheckResponse.NOT_SERVING
            self._changed.notify_all()

    def handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        to_bytes = pb.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.stream_unary_rpc_method_handler(self._check, response_serializer=to_bytes),
                "Watch": grpc.stream_stream_rpc_method_handler(self._watch, response_serializer=to_bytes),
            },
        )

    def _check(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        try:
            with self._unread_checks.admit(host_of(context)):
                service = self._reader.read(pb.HealthCheckRequest, requests, context).service
        except OverloadedError:
            # Many calls are held up before they say which service they mean. A probe must not fail for that: it is
            # told of the server as a whole, which is what nearly all of them ask for.
            service = ""
        if service not in self._services:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"expected one of {sorted(self._services)}")
        return pb.HealthCheckResponse(status=self._status)

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            with self._watches.admit(host_of(context)):
                service = self._reader.read(pb.HealthCheckRequest, requests, context).service
                context.add_callback(self._wake)
                sent = None
                while (status := self._next_status(service, sent, context)) is not None:
                    yield pb.HealthCheckResponse(status=status)
                    sent = status
        except OverloadedError as error:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    def _next_status(self, service: str, sent: int | None, context: grpc.ServicerContext) -> int | None:
        """Waits for another status than the one that was ``sent``; None when the call has ended."""
        with self._changed:
            while context.is_active():
                status = self._status if service in self._services else pb.HealthCheckResponse.SERVICE_UNKNOWN
                if status != sent:
                    return status
                self._changed.wait(_LOOK_INTERVAL_S)
        return None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
