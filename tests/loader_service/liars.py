"""A replica that passes on what a sound one says, changed as a test wants it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from loader_service.client import ClientOptions, StreamSpec

SERVICE = "loader_service.v1.LoaderService"
SPEC = StreamSpec(batch_size=10, seed=3)
OPTIONS = ClientOptions(transport="grpc", unavailable_timeout_s=60.0, stall_timeout_s=5.0, lease_steps=2)

Field = tuple[int, "int | bytes"]
"""Number and value of a protobuf field: a number, or bytes with their length before them."""


@dataclass
class Liar:
    """What it makes of the sound one's answers; may be set at any time."""

    target: str = ""
    describe: Callable[[bytes], bytes] = field(default=lambda answer: answer)
    names: Callable[[bytes], bytes] = field(default=lambda answer: answer)
    stream: Callable[[list[bytes]], list[bytes]] = field(default=lambda messages: messages)
    trailers: tuple[tuple[str, str], ...] = ()
    """Sent with RESOURCE_EXHAUSTED at the end of a stream, if there are any."""
    num_streams: int = 0
    """How many were asked of it."""


@contextmanager
def lying(sound: str) -> Iterator[Liar]:
    """A liar beside the replica at ``sound``, which speaks the truth until it is told otherwise."""
    liar = Liar()
    with grpc.insecure_channel(sound) as channel:

        def ask(method: str, request: bytes) -> bytes:
            return bytes(channel.unary_unary(f"/{SERVICE}/{method}", bytes, bytes)(request, timeout=60))

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            liar.num_streams += 1
            answers: Any = channel.unary_stream(f"/{SERVICE}/StreamBatches", bytes, bytes)(request, timeout=60)
            yield from liar.stream(list(answers))
            if liar.trailers:
                context.set_trailing_metadata(liar.trailers)
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as it says")

        handlers = {
            "Describe": grpc.unary_unary_rpc_method_handler(lambda request, _: liar.describe(ask("Describe", request))),
            "Names": grpc.unary_unary_rpc_method_handler(lambda request, _: liar.names(ask("Names", request))),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(stream),
        }
        server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        liar.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield liar
        server.stop(0).wait()


def fields_of(message: bytes) -> list[Field]:
    """The fields of a message whose numbers are varints, and all else bytes."""
    found: list[Field] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag, value = varint(), varint()
        if tag & 7:
            found.append((tag >> 3, message[at : at + value]))
            at += value
        else:
            found.append((tag >> 3, value))
    return found


def message_of(fields: list[Field]) -> bytes:
    """The message of such fields, in this order."""
    message = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            message += _varint(number << 3) + _varint(value)
        else:
            message += _varint(number << 3 | 2) + _varint(len(value)) + value
    return bytes(message)


def with_field(message: bytes, number: int, value: "int | bytes") -> bytes:
    """The message with another value for a field, which keeps its place: the pixels come last."""
    fields = [each for each in fields_of(message) if each[0] != number]
    return message_of(sorted([*fields, (number, value)], key=lambda each: each[0]))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
