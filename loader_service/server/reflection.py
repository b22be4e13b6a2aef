"""``grpc.reflection``: what the service offers, for tools such as grpcurl. Off unless asked for."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from loader_service.server.admission import Admission, host_of, refuse
from loader_service.wire.errors import OverloadedError

MAX_THREADS = 16
"""Threads that reflection calls can hold at once: each has one until its client ends it."""


def reflection_handlers(services: Sequence[str]) -> "grpc.GenericRpcHandler[Any, Any]":
    """Handlers that describe ``services``, and themselves."""
    from grpc_reflection.v1alpha import reflection, reflection_pb2  # an optional part of the installation

    servicer: Any = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME))
    calls = Admission("reflections", total=MAX_THREADS, per_identity=MAX_THREADS // 4)

    def answers(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            with calls.admit(host_of(context)):
                yield from servicer.ServerReflectionInfo(requests, context)
        except OverloadedError as error:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    handler = grpc.stream_stream_rpc_method_handler(
        answers,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": handler})
