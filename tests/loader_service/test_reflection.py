"""What tools such as grpcurl are told, where the service is asked to tell it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import Store
from tests.conftest import LIMITS


def test_services_are_named_and_open_calls_are_bounded(tiny_store: Path) -> None:
    end = threading.Event()

    def open_question() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        end.wait()

    with (
        Store(tiny_store) as store,
        Pipeline(store, num_threads=1, message_bytes=1000) as pipeline,
        LoaderServer(pipeline, "127.0.0.1:0", LIMITS, reflection=True) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        calls: list[Any] = []  # one that nobody refers to is cancelled
        found: list[Any] = []
        for _ in range(6):
            calls.append(stub.ServerReflectionInfo(open_question(), timeout=60))
            try:
                answer = next(calls[-1])
                found.append(sorted(service.name for service in answer.list_services_response.service))
            except grpc.RpcError as error:
                found.append(error.code())
        end.set()
    named = ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "loader_service.v1.LoaderService"]
    assert found == [named] * 4 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
