"""The gRPC server: translates requests and errors, admits streams within limits, drains. Computes nothing."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Self

import grpc
from prometheus_client import Counter

from commandline import one_line
from loader_service.pipeline.metrics import Metrics
from loader_service.pipeline.outgoing_message import OutgoingMessage
from loader_service.pipeline.pipeline import Pipeline
from loader_service.pipeline.slots import SlotPool
from loader_service.server.admission import Admission, RequestReader, host_of, refuse
from loader_service.server.health import SERVICE as HEALTH_SERVICE
from loader_service.server.health import Health
from loader_service.server.listening import check_address, most_connections
from loader_service.server.reflection import MAX_THREADS as REFLECTION_THREADS
from loader_service.server.reflection import reflection_handlers
from loader_service.server.requests import describe, names, step_range
from loader_service.server.shared_memory import SharedMemoryServer, is_supported
from loader_service.server.tokens import TokenFile, TokenInterceptor
from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.errors import LoaderError, OverloadedError, ServiceUnavailableError
from loader_service.wire.status import SYSTEM_ERRORS, status_of
from loader_service.wire.translate import description_to_response
from loader_service.wire.types import Limits

log = logging.getLogger(__name__)

SERVICE = "loader_service.v1.LoaderService"
_MAX_REQUEST_BYTES = 64 * 1024
_RETRY_AFTER_MS = 200
_MAX_DESCRIBES = 192
"""Answers of 0.8 MB, until their readers take them."""
_DRAIN_POLL_S = 0.05
_FLUSH_S = 0.2
"""For the last messages and the status of streams that have just ended to be written."""
_CANCEL_S = 1.0
"""For calls that were cancelled to end. One whose client reads nothing ends only when TCP gives the client up."""
_KEEPALIVE_INTERVAL_S, _KEEPALIVE_TIMEOUT_S = 60, 20
"""How often a client from which nothing comes is asked whether it is there, and how long it has to say so."""
_HANDSHAKE_TIMEOUT_S = 10
"""For a connection's TLS and HTTP/2 to begin."""
_IDLE_TIMEOUT_S = 120
"""A connection without calls is ended after this: clients make another."""


class LoaderServer:
    """Serves one pipeline on one address until ``stop``.

    ``address`` is ``host:port`` (port 0 takes a free one; see ``port``) or ``unix:PATH``. Clients are asked to connect
    anew after about ``max_connection_age_s`` (None: never), so that behind a balancer new replicas get some of them.
    A call's request must follow its headers within ``request_timeout_s``. A client asks for a description whenever it
    connects, and a host has many clients: ``max_describes_per_identity`` of one are answered at once.
    The pipeline stays the caller's to close, after ``stop``.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        address: str,
        limits: Limits,
        *,
        credentials: grpc.ServerCredentials | None = None,
        tokens: TokenFile | None = None,
        metrics: Metrics | None = None,
        reflection: bool = False,
        shared_memory: bool = True,
        max_connection_age_s: float | None = None,
        request_timeout_s: float = 5.0,
        max_describes_per_identity: int = 128,
    ) -> None:
        check_address(address)
        self._pipeline = pipeline
        self._limits = limits
        self._streams = Admission("streams", total=limits.max_streams, per_identity=limits.max_streams_per_identity)
        self._describes = Admission("descriptions", total=_MAX_DESCRIBES, per_identity=max_describes_per_identity)
        self._reader = RequestReader(request_timeout_s)
        self._health = Health(self._reader, [SERVICE])
        self._tokens = tokens
        self._metrics = metrics or Metrics()
        self._draining = threading.Event()
        interceptors: list[Any] = [] if tokens is None else [TokenInterceptor(tokens, self._count_refusal)]
        # Threads for all that may be admitted, and some that are free to refuse the rest. They start when needed.
        num_threads = limits.max_streams + _MAX_DESCRIBES + REFLECTION_THREADS + self._health.max_threads + 8
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="rpc")
        options = [
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a silent share
            ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", -1),
            # Accept the client's keepalive pings (every 10 s, also between streams), and send some.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", _KEEPALIVE_INTERVAL_S * 1000),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_S * 1000),
            ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_S * 1000),  # of the two, this one counts
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_allowed_incoming_connections", most_connections(limits.max_streams)),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_S * 1000),
            ("grpc.max_connection_idle_ms", _IDLE_TIMEOUT_S * 1000),
        ]
        if max_connection_age_s is not None:
            # No grace: calls under way are finished, the client's next ones come over a new connection.
            options.append(("grpc.max_connection_age_ms", int(max_connection_age_s * 1000)))
        self._server = grpc.server(self._executor, interceptors=interceptors, options=options)
        self._server.add_generic_rpc_handlers((self._health.handlers(), self._handlers()))
        if reflection:
            self._server.add_generic_rpc_handlers((reflection_handlers((SERVICE, HEALTH_SERVICE)),))
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise ServiceUnavailableError(f"{address}: cannot listen there (in use, or not an address)") from None
        # Last, since it has a thread and sockets that must be closed.
        self._shared_memory: SharedMemoryServer | None = None
        if shared_memory and is_supported():
            self._shared_memory = SharedMemoryServer(
                num_slots=pipeline.num_slots, slot_bytes=pipeline.message_bytes, max_sessions=limits.max_streams
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(grace_s=0)

    def start(self) -> None:
        """Begins to serve, and reports SERVING to health checks."""
        self._reader.start()
        self._server.start()
        self._health.set(is_serving=True)

    def stop(self, grace_s: float) -> None:
        """Refuses new work with UNAVAILABLE, lets streams finish for up to ``grace_s`` seconds, then ends them:
        at once when an exception (Ctrl-C) interrupts the wait. The thread of one whose client does not read stays
        behind in gRPC, without touching the pipeline, until TCP gives that client up.
        """
        self._health.set(is_serving=False)
        self._draining.set()
        try:
            ended = self._server.stop(grace_s)
            self._wait_for_streams(ended, grace_s)
            ended.wait(min(grace_s, _FLUSH_S))
        finally:
            if self._shared_memory is not None:
                self._shared_memory.close()  # ends the waits for slots that clients will not give back any more
            ended = self._server.stop(0)
            self._wait_for_streams(ended, _CANCEL_S)
            threading.Thread(target=_end_after, args=(ended, self._executor), daemon=True).start()
            self._reader.close()

    def _wait_for_streams(self, ended: threading.Event, timeout_s: float) -> None:
        """Returns when no stream is open, or after ``timeout_s``. gRPC's own event may come seconds after that."""
        deadline = time.monotonic() + timeout_s
        while self._streams.num_open and time.monotonic() < deadline:
            ended.wait(_DRAIN_POLL_S)

    def _handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Describe": grpc.stream_unary_rpc_method_handler(
                    self._describe, response_serializer=pb.DescribeResponse.SerializeToString
                ),
                "Names": grpc.stream_unary_rpc_method_handler(
                    self._names, response_serializer=pb.NamesResponse.SerializeToString
                ),
                # The pipeline's messages are already bytes: no serializer.
                "StreamBatches": grpc.stream_stream_rpc_method_handler(self._stream_batches),
            },
        )

    def _admit_question(self, context: grpc.ServicerContext) -> None:
        """Admits a call with one answer, which gRPC keeps until its client takes it: then its place is free again."""
        try:
            place = self._describes.admit(self._identity(context, dict(context.invocation_metadata())))
        except LoaderError as error:
            self._refuse(error, context)
        if not context.add_callback(place.close):
            place.close()

    def _names(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> pb.NamesResponse:
        self._admit_question(context)
        request = self._reader.read(pb.NamesRequest, requests, context)
        try:
            return pb.NamesResponse(names=names(request, self._pipeline, self._limits))
        except (LoaderError, *SYSTEM_ERRORS) as error:
            self._refuse(error, context)

    def _describe(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> pb.DescribeResponse:
        self._admit_question(context)
        self._reader.read(pb.DescribeRequest, requests, context)
        name = "" if self._shared_memory is None else self._shared_memory.name
        return description_to_response(describe(self._pipeline, self._limits, name))

    def _stream_batches(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            if self._draining.is_set():
                raise ServiceUnavailableError("this replica is shutting down; ask another")
            metadata = dict(context.invocation_metadata())
            with self._streams.admit(self._identity(context, metadata)):
                request = self._reader.read(pb.StreamBatchesRequest, requests, context)
                steps = step_range(request, self._pipeline, self._limits)
                client = str(metadata.get("client-id", context.peer()))[:64]
                messages = self._pipeline.messages(
                    steps, client, slots=self._slots(metadata), is_wanted=context.is_active
                )
                with self._metrics.active_streams.track_inprogress():
                    yield from self._counted(
                        messages, self._metrics.images.labels(steps.spec.split, steps.spec.view), context
                    )
            log.debug("served %d steps", steps.last_step - steps.first_step, extra={"client": client})
        except (LoaderError, *SYSTEM_ERRORS) as error:
            self._refuse(error, context)

    def _refuse(self, error: Exception, context: grpc.ServicerContext) -> NoReturn:
        """Ends a call with the status that ``error`` stands for."""
        code = status_of(error)
        self._metrics.errors.labels(code.name).inc()
        if isinstance(error, OverloadedError):
            context.set_trailing_metadata((("retry-after-ms", str(_RETRY_AFTER_MS)),))
        refuse(context, code, one_line(error))

    def _slots(self, metadata: dict[str, str | bytes]) -> SlotPool | None:
        """The slots of the session that a request names. None, and so pixels in the messages, for one that is not known
        here: it has ended, or behind a balancer it is another replica's."""
        token = metadata.get("shared-memory-session")
        return None if token is None or self._shared_memory is None else self._shared_memory.session(str(token))

    def _counted(
        self, messages: Iterator[OutgoingMessage], images: Counter, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Passes messages on; counts them, the time they were waited for and the time their reader took."""
        metrics = self._metrics
        asked_at = time.perf_counter()
        for message in messages:
            ready_at = time.perf_counter()
            metrics.wait_seconds.observe(ready_at - asked_at)
            if not context.is_active():
                return
            # Before the message goes: a client that has its last one ends the call, and nothing runs here after that.
            images.inc(message.num_images)
            metrics.sent_bytes.inc(len(message.body))
            yield message.body
            asked_at = time.perf_counter()
            metrics.send_seconds.observe(asked_at - ready_at)

    def _identity(self, context: grpc.ServicerContext, metadata: dict[str, str | bytes]) -> str:
        """Who is asking, as limits count them: the token's holder, or the host whatever its connections."""
        if self._tokens is not None:
            return self._tokens.identify(str(metadata.get("authorization"))) or ""
        return host_of(context)

    def _count_refusal(self) -> None:
        self._metrics.errors.labels(grpc.StatusCode.UNAUTHENTICATED.name).inc()


def _end_after(ended: threading.Event, executor: ThreadPoolExecutor) -> None:
    """Ends the threads of calls. Not before gRPC's own end: it may still have a call to hand out that came just before,
    and its thread dies when it cannot."""
    ended.wait()
    executor.shutdown(wait=False)
