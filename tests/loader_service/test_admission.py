"""Clients that open calls and do not go on with them: nobody else waits for them, and nothing piles up."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hpack import Encoder

from loader_service.client import Limits
from loader_service.pipeline.metrics import Metrics
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import SERVICE, LoaderServer
from loader_service.server.tokens import TokenFile
from loader_service.v1 import loader_pb2 as pb
from loader_service.v1 import loader_pb2_grpc
from preprocess.store import Store
from tests.conftest import LIMITS
from tests.stubs import request_of
from tests.waiting import wait_until

DESCRIBE = "/loader_service.v1.LoaderService/Describe"
STREAM = "/loader_service.v1.LoaderService/StreamBatches"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
FEW = replace(LIMITS, max_streams=4, max_streams_per_identity=2)


@contextmanager
def served(store_path: Path, limits: Limits = FEW, **options: Any) -> Iterator[LoaderServer]:
    with (
        Store(store_path) as store,
        Pipeline(store, num_threads=1, message_bytes=limits.message_bytes) as pipeline,
        LoaderServer(pipeline, "127.0.0.1:0", limits, **options) as server,
    ):
        yield server


def connect(server: LoaderServer) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(f"127.0.0.1:{server.port}", options)


@contextmanager
def calls_without_a_request(server: LoaderServer, method: str, count: int) -> Iterator[list[Any]]:
    """Calls of one connection whose headers are sent, and nothing else."""
    end = threading.Event()

    def nothing() -> Iterator[bytes]:
        end.wait()
        yield from ()

    with ExitStack() as stack:
        channel = stack.enter_context(connect(server))
        stack.callback(end.set)
        yield [channel.stream_stream(method, bytes, bytes)(nothing()) for _ in range(count)]


@contextmanager
def unread_calls(server: LoaderServer, method: str, count: int) -> Iterator[None]:
    """Calls of one connection, whose client has no room for any answer: it says so in its HTTP/2 settings."""
    encoder = Encoder()
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body

    no_window = struct.pack(">HI", 4, 0)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, no_window))
        for stream in range(1, 2 * count, 2):
            headers = frame(1, 0x4, stream, encoder.encode(fields))
            connection.sendall(headers + frame(0, 0x1, stream, b"\0\0\0\0\0"))
        yield


def code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def wait_for(code: grpc.StatusCode, call: Callable[[], Any]) -> None:
    """Until ``call`` ends with ``code``."""
    wait_until(lambda: code_of(call) == code, str(code))


def one_step(server: LoaderServer, channel: grpc.Channel) -> None:
    stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
    description = stub.Describe(pb.DescribeRequest(), timeout=60)
    request = request_of(description, split="train", view=pb.VIEW_CENTRE, batch_size=10, last_step=1)
    assert sum(part.num_images for part in stub.StreamBatches(request, timeout=60)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("method", [CHECK, WATCH, DESCRIBE, STREAM])
def test_calls_without_a_request_hold_nobody_up(tiny_store: Path, method: str) -> None:
    with (
        served(tiny_store, request_timeout_s=2.0) as server,
        calls_without_a_request(server, method, 60) as waiting,
        connect(server) as channel,
    ):
        check = channel.unary_unary(CHECK, bytes, bytes)
        assert check(b"", timeout=60) == b"\x08\x01"
        assert channel.unary_unary(DESCRIBE, bytes, bytes)(b"", timeout=60)
        # Each is ended: refused at once, told the status of the whole server, or cancelled after a while.
        codes = {code_of(lambda call=call: list(call)) for call in waiting}  # type: ignore[misc]
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
        assert grpc.StatusCode.CANCELLED in codes
        wait_for(grpc.StatusCode.OK, lambda: one_step(server, channel))


def test_a_wrong_token_is_refused_without_a_request(tiny_store: Path, tmp_path: Path) -> None:
    """However many such calls there are, those with a token are served."""
    (tmp_path / "tokens").write_text("right\n")
    with (
        served(tiny_store, tokens=TokenFile(tmp_path / "tokens")) as server,
        calls_without_a_request(server, STREAM, 40) as waiting,
        connect(server) as channel,
    ):
        assert {code_of(lambda call=call: list(call)) for call in waiting} == {  # type: ignore[misc]
            grpc.StatusCode.UNAUTHENTICATED
        }
        assert channel.unary_unary(DESCRIBE, bytes, bytes)(
            b"", timeout=60, metadata=(("authorization", "Bearer right"),)
        )


@pytest.mark.parametrize("method", [CHECK, WATCH, DESCRIBE, STREAM])
def test_a_call_that_ends_without_a_request(tiny_store: Path, method: str) -> None:
    with served(tiny_store) as server, connect(server) as channel:
        call = channel.stream_stream(method, bytes, bytes)
        assert code_of(lambda: list(call(iter(()), timeout=60))) == grpc.StatusCode.UNIMPLEMENTED
        too_large = code_of(lambda: list(call(iter((bytes(70_000),)), timeout=60)))
        assert too_large == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_descriptions_that_nobody_takes_are_bounded(tiny_store: Path) -> None:
    metrics = Metrics()
    refused = {"code": grpc.StatusCode.RESOURCE_EXHAUSTED.name}
    with (
        served(tiny_store, metrics=metrics, max_describes_per_identity=3) as server,
        connect(server) as channel,
    ):

        def describe() -> Any:
            return channel.unary_unary(DESCRIBE, bytes, bytes)(b"", timeout=60)

        with unread_calls(server, DESCRIBE, 5):
            name = "alexnet_loader_errors_total"
            wait_until(lambda: metrics.registry.get_sample_value(name, refused) == 2, "two to be refused")
            with pytest.raises(grpc.RpcError) as caught:
                describe()
            trailers: Any = caught.value.trailing_metadata()
            assert int(dict(trailers)["retry-after-ms"]) > 0
        wait_for(grpc.StatusCode.OK, describe)  # that client has left
        for _ in range(10):  # and those that take their answer leave nothing behind
            wait_for(grpc.StatusCode.OK, describe)


def test_watches_are_bounded(tiny_store: Path) -> None:
    with served(tiny_store) as server, connect(server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(40)]
        codes = [code_of(lambda watch=watch: next(watch)) for watch in watches]  # type: ignore[misc]
        assert codes.count(grpc.StatusCode.OK) == 32
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 8
        for watch in watches:
            watch.cancel()
        wait_for(grpc.StatusCode.OK, lambda: next(stub.Watch(health_pb2.HealthCheckRequest())))


def test_a_watch_is_told_of_the_end(tiny_store: Path) -> None:
    with served(tiny_store) as server, connect(server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="another"), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert code_of(lambda: stub.Check(health_pb2.HealthCheckRequest(service="another"))) == (
            grpc.StatusCode.NOT_FOUND
        )
        stopping = threading.Thread(target=server.stop, args=(0.5,))
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stopping.join(300)
        assert not stopping.is_alive()


def test_watches_that_nobody_reads_hold_nobody_up(tiny_store: Path) -> None:
    with served(tiny_store) as server, connect(server) as channel, unread_calls(server, WATCH, 3):
        for _ in range(10):
            assert channel.unary_unary(CHECK, bytes, bytes)(b"", timeout=60) == b"\x08\x01"
        stopping = threading.Thread(target=server.stop, args=(0.0,))
        stopping.start()
        stopping.join(300)
        assert not stopping.is_alive()
