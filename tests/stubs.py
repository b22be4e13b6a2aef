"""Requests as clients make them that have nothing of ours but the proto."""

from typing import Any

from loader_service.v1 import loader_pb2 as pb


def request_of(description: pb.DescribeResponse, **fields: Any) -> pb.StreamBatchesRequest:
    """A request to the service that describes itself so, for ``fields``."""
    return pb.StreamBatchesRequest(
        fingerprint=description.fingerprint, pipeline_version=description.pipeline_version, **fields
    )
