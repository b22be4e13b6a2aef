"""The server's edges: statuses, limits, damage, health."""

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader_service.client import ClientOptions, DataLossError, LoaderClient, ServiceUnavailableError, StreamSpec
from loader_service.pipeline.metrics import Metrics
from loader_service.pipeline.pipeline import Pipeline, pipeline_version
from loader_service.server.requests import step_range
from loader_service.server.server import LoaderServer
from loader_service.v1 import loader_pb2 as pb
from loader_service.v1 import loader_pb2_grpc
from preprocess.store import Store
from tests.conftest import LIMITS, serving
from tests.stores import make_store
from tests.stubs import channel_to
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def channel(loader_target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(loader_target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    """A client generated from the proto alone: none of our client code."""
    return loader_pb2_grpc.LoaderServiceStub(channel)


@pytest.fixture
def request_(tiny_store: Path) -> pb.StreamBatchesRequest:
    with Store(tiny_store) as store:
        return pb.StreamBatchesRequest(
            fingerprint=store.fingerprint,
            pipeline_version=pipeline_version("jpeg"),
            split="train",
            view=pb.VIEW_TRAIN,
            shuffle=True,
            batch_size=10,
            first_step=0,
            last_step=2,
        )


def test_generated_stub_is_served(stub: Any, request_: pb.StreamBatchesRequest) -> None:
    description = stub.Describe(pb.DescribeRequest(), timeout=60)
    assert description.fingerprint == request_.fingerprint
    assert [(s.name, s.num_images) for s in description.splits] == [("train", 100), ("val", 30)]
    assert len(description.mean_image) == 64 * 64 * 3 * 4
    parts = list(stub.StreamBatches(request_, timeout=60))
    assert sum(part.num_images for part in parts) == 20
    assert all(len(part.images) == part.num_images * 56 * 56 * 3 for part in parts)
    assert all(len(part.images) <= LIMITS.message_bytes for part in parts)


@pytest.mark.parametrize(
    ("field", "value", "code", "text"),
    [
        ("fingerprint", "f" * 64, grpc.StatusCode.FAILED_PRECONDITION, "fingerprint"),
        ("pipeline_version", "0", grpc.StatusCode.FAILED_PRECONDITION, "pipeline_version"),
        ("split", "test", grpc.StatusCode.INVALID_ARGUMENT, "split: expected one of train, val, found 'test'"),
        ("view", 0, grpc.StatusCode.INVALID_ARGUMENT, "view: expected one of train"),
        ("view", 77, grpc.StatusCode.INVALID_ARGUMENT, "view: expected one of train"),
        ("crop_size", 65, grpc.StatusCode.INVALID_ARGUMENT, "crop_size: expected 1 to 64, found 65"),
        ("batch_size", 0, grpc.StatusCode.INVALID_ARGUMENT, "batch_size: expected 1 to 1024, found 0"),
        ("batch_size", 5000, grpc.StatusCode.INVALID_ARGUMENT, "batch_size"),
        ("last_step", 11, grpc.StatusCode.INVALID_ARGUMENT, "last_step: expected 1 to 10, found 11"),
        ("first_step", 2, grpc.StatusCode.INVALID_ARGUMENT, "first_step"),
        ("slice_end", 11, grpc.StatusCode.INVALID_ARGUMENT, "slice_end"),
        ("slice_begin", 10, grpc.StatusCode.INVALID_ARGUMENT, "slice_begin"),
        ("colour_std", float("nan"), grpc.StatusCode.INVALID_ARGUMENT, "colour_std"),
        ("colour_std", -1.0, grpc.StatusCode.INVALID_ARGUMENT, "colour_std"),
        ("colour_scale", 5, grpc.StatusCode.INVALID_ARGUMENT, "colour_scale"),
        ("pixel_format", 5, grpc.StatusCode.INVALID_ARGUMENT, "pixel_format"),
    ],
)
def test_bad_requests(
    stub: Any, request_: pb.StreamBatchesRequest, field: str, value: Any, code: grpc.StatusCode, text: str
) -> None:
    setattr(request_, field, value)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.StreamBatches(request_, timeout=60))
    assert caught.value.code() == code
    assert text in str(caught.value.details())


KNOWN_STATUSES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {
            "split": st.sampled_from(["train", "val", "", "é" * 100]),
            "view": st.integers(-5, 9),
            "crop_size": st.integers(0, 2**32 - 1),
            "shuffle": st.booleans(),
            "seed": st.integers(0, 2**64 - 1),
            "epoch": st.integers(0, 2**32 - 1),
            "batch_size": st.one_of(st.integers(0, 120), st.integers(0, 2**32 - 1)),
            "first_step": st.one_of(st.integers(0, 12), st.integers(0, 2**64 - 1)),
            "last_step": st.one_of(st.integers(0, 12), st.integers(0, 2**64 - 1)),
            "slice_begin": st.integers(0, 2**32 - 1),
            "slice_end": st.integers(0, 2**32 - 1),
            "colour_std": st.floats(),
            "colour_scale": st.integers(-2, 4),
            "pixel_format": st.integers(-2, 4),
        }
    )
)
@settings(max_examples=2000)
def test_any_request_gets_a_status(channel: grpc.Channel, fields: dict[str, Any]) -> None:
    stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
    fingerprint = stub.Describe(pb.DescribeRequest(), timeout=60).fingerprint
    request = pb.StreamBatchesRequest(fingerprint=fingerprint, pipeline_version=pipeline_version("jpeg"), **fields)
    try:
        list(stub.StreamBatches(request, timeout=60))
        status = grpc.StatusCode.OK
    except grpc.RpcError as error:
        status = error.code()
    assert status in KNOWN_STATUSES


def test_health(channel: grpc.Channel) -> None:
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
    assert check(b"", timeout=60) == b"\x08\x01"


def test_streams_over_the_limit(tiny_store: Path) -> None:
    """The second stream of a client is refused with a hint, and admitted once the first has ended."""
    limits = replace(LIMITS, max_streams_per_identity=1, message_bytes=1)
    with serving(tiny_store, limits=limits) as target, channel_to(target) as channel:
        stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
        with Store(tiny_store) as store:
            request = pb.StreamBatchesRequest(
                fingerprint=store.fingerprint,
                pipeline_version=pipeline_version("jpeg"),
                split="train",
                view=pb.VIEW_FULL,
                batch_size=100,
                last_step=1,
            )
        first = stub.StreamBatches(request, timeout=60)
        next(first)
        second = stub.StreamBatches(request, timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            next(second)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers: Any = caught.value.trailing_metadata()
        assert int(dict(trailers)["retry-after-ms"]) > 0
        assert len(list(first)) == 99
        assert len(list(stub.StreamBatches(request, timeout=60))) == 100


@pytest.mark.slow
@pytest.mark.parametrize("grace_s", [0.0, 1.0])
def test_a_stream_ends_while_its_service_stops(tiny_store: Path, grace_s: float) -> None:
    """In one process, where nothing but gRPC itself breaks the connection: no thread may be left waiting for it."""
    for _ in range(3):
        with Store(tiny_store) as store, Pipeline(store, num_threads=2, message_bytes=20_000) as pipeline:
            server = LoaderServer(pipeline, "127.0.0.1:0", LIMITS)
            server.start()
            options = ClientOptions(unavailable_timeout_s=2.0, transport="grpc")
            with LoaderClient([f"127.0.0.1:{server.port}"], options) as client:
                stream = client.stream(StreamSpec(batch_size=20), num_epochs=None)
                next(stream)
                stopping = threading.Thread(target=server.stop, args=(grace_s,))
                stopping.start()
                with pytest.raises(ServiceUnavailableError):
                    for _ in stream:
                        pass
                stream.close()
                stopping.join(300)
                assert not stopping.is_alive()
                wait_until(lambda: "loader-" not in str(threading.enumerate()), "the client's threads to end")


def test_client_waits_its_turn(tiny_store: Path) -> None:
    """A client whose own streams exceed the limit backs off and still gets every batch."""
    limits = replace(LIMITS, max_streams_per_identity=1)
    with serving(tiny_store, limits=limits) as target, LoaderClient([target]) as client:
        with client.stream(StreamSpec(batch_size=10)) as stream:
            assert [batch.step for batch in stream] == list(range(10))


def test_damaged_record_is_data_loss_and_others_are_served(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", num_train=64, images_per_shard=32)
    damaged = path / "shards" / "train-00001.lmdb"
    content = bytearray(damaged.read_bytes())
    with Store(path) as store:
        record = bytes(store.split("train").read(32 + 7)[1])
    at = content.index(record) + len(record) // 2
    content[at] ^= 1
    damaged.write_bytes(content)
    with serving(path) as target, LoaderClient([target]) as client:
        spec = StreamSpec(batch_size=32, shuffle=False, view="centre")
        with client.stream(spec) as stream:
            assert next(stream).num_images == 32
            with pytest.raises(DataLossError, match=r"train-00001\.lmdb: key 7: expected checksum"):
                next(stream)


def test_sound_replica_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    """Each replica has its own copy of the store; a shard vanished from one of them."""
    sound = make_store(tmp_path / "sound", num_train=64)
    damaged = make_store(tmp_path / "damaged", num_train=64)
    with serving(sound) as a, serving(damaged) as b:
        (damaged / "shards" / "train-00001.lmdb").unlink()
        with LoaderClient([b, a], ClientOptions(lease_steps=1)) as client:
            with client.stream(StreamSpec(batch_size=8)) as stream:
                assert [batch.step for batch in stream] == list(range(8))


def test_both_zeros_are_one_stream(tiny_store: Path) -> None:
    """They are equal, so clients of the two would share messages; as factors they give other bits."""
    with Store(tiny_store) as store, Pipeline(store, num_threads=1, message_bytes=1000) as pipeline:
        request = pb.StreamBatchesRequest(
            fingerprint=store.fingerprint,
            pipeline_version=pipeline.version,
            split="train",
            view=pb.VIEW_TRAIN,
            batch_size=10,
            last_step=1,
            colour_std=-0.0,
        )
        assert math.copysign(1.0, step_range(request, pipeline, LIMITS).spec.colour_std) == 1.0


def test_what_only_grows_is_a_counter(tiny_store: Path) -> None:
    metrics = Metrics()
    with Store(tiny_store) as store:
        with Pipeline(store, num_threads=1, message_bytes=1000, cache_bytes=10**6, metrics=metrics):
            found = {metric.name: metric for metric in metrics.registry.collect()}
    for name in ("cache_hits", "cache_misses", "shared_messages"):
        metric = found[f"alexnet_loader_{name}"]
        assert (metric.type, metric.samples[0].name) == ("counter", f"alexnet_loader_{name}_total")
    assert found["alexnet_loader_cache_bytes"].type == "gauge"
