"""What clients have that know nothing of ours but the proto: connections and requests."""

from typing import Any

import grpc

from loader_service.v1 import loader_pb2 as pb


def channel_to(target: str) -> grpc.Channel:
    """A channel that takes 64 KB ahead of a stream's reader, and never more: gRPC takes more and more, up to megabytes,
    the longer a reader is away, so that on a busy machine a whole stream would be through before its second message is
    asked for."""
    return grpc.insecure_channel(target, [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)])


def request_of(description: pb.DescribeResponse, **fields: Any) -> pb.StreamBatchesRequest:
    """A request to the service that describes itself so, for ``fields``."""
    return pb.StreamBatchesRequest(
        fingerprint=description.fingerprint, pipeline_version=description.pipeline_version, **fields
    )
