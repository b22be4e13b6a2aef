"""The client: batches in order, byte for byte the same, from any number of replicas.

    from loader_service.client import LoaderClient, StreamSpec

    with LoaderClient(["10.0.0.1:7000", "10.0.0.2:7000"]) as client:
        for batch in client.stream(StreamSpec(batch_size=128, seed=1), num_epochs=90):
            ...

What is named here is for users, and nothing else of this package is.
"""

from loader_service.client.client import LoaderClient
from loader_service.client.options import ClientOptions, Transport
from loader_service.client.security import Security
from loader_service.client.stream import BatchStream
from loader_service.wire.errors import (
    AccessError,
    DataLossError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    OverloadedError,
    ServiceUnavailableError,
)
from loader_service.wire.types import Batch, ColourScale, Description, Limits, PixelFormat, StreamSpec, View

__all__ = [
    "AccessError",
    "Batch",
    "BatchStream",
    "ClientOptions",
    "ColourScale",
    "DataLossError",
    "Description",
    "InvalidRequestError",
    "Limits",
    "LoaderClient",
    "LoaderError",
    "MismatchError",
    "OverloadedError",
    "PixelFormat",
    "Security",
    "ServiceUnavailableError",
    "StreamSpec",
    "Transport",
    "View",
]
