"""A shard that is cut short under a running service."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from loader_service.v1 import loader_pb2 as pb
from loader_service.v1 import loader_pb2_grpc
from tests.processes import loader_processes
from tests.stores import make_store
from tests.stubs import channel_to, request_of


def test_the_rest_is_served(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_train=128, images_per_shard=64)
    with loader_processes(store, 1, "--message-bytes", "12KB") as (replica,):
        with channel_to(replica.target) as channel:
            stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
            description = stub.Describe(pb.DescribeRequest(), timeout=60)

            def indices(split: str, first_step: int, last_step: int) -> Iterator[int]:
                """In stored order, of steps of 16 images. A message is an image of 12 KB; 64 KB are on their way."""
                request = request_of(
                    description,
                    split=split,
                    view=pb.VIEW_FULL,
                    batch_size=16,
                    first_step=first_step,
                    last_step=last_step,
                )
                for part in stub.StreamBatches(request, timeout=60):
                    yield from part.indices

            assert list(indices("train", 0, 8)) == list(range(128))  # all shards are open now
            stream = indices("train", 0, 8)
            received = [next(stream)]
            os.truncate(store / "shards/train-00001.lmdb", 4096)
            with pytest.raises(grpc.RpcError) as caught:
                received.extend(stream)
            assert caught.value.code() == grpc.StatusCode.DATA_LOSS
            assert "train-00001.lmdb: key 0: expected a shard of" in str(caught.value.details())
            assert received == list(range(64))
            assert list(indices("train", 0, 4)) == list(range(64))
            assert list(indices("val", 0, 2)) == list(range(30))
