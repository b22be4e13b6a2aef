"""Our errors as gRPC's status codes, and back: the one table that server and client translate by."""

import grpc

from loader_service.wire.errors import (
    AccessError,
    DataLossError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    OverloadedError,
    ServiceUnavailableError,
)

STATUS_OF_ERROR: dict[type[LoaderError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    MismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    AccessError: grpc.StatusCode.UNAUTHENTICATED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DataLossError: grpc.StatusCode.DATA_LOSS,
    ServiceUnavailableError: grpc.StatusCode.UNAVAILABLE,
}
SYSTEM_ERRORS = (OSError, MemoryError)
"""The system's troubles, wherever they come up: descriptors, memory, a disk. Another replica has others."""
ERROR_OF_STATUS: dict[grpc.StatusCode, type[LoaderError]] = {
    **{status: error for error, status in STATUS_OF_ERROR.items()},
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
}


def status_of(error: Exception) -> grpc.StatusCode:
    """What a client is told that asked for what failed with ``error``."""
    if isinstance(error, SYSTEM_ERRORS):
        return grpc.StatusCode.UNAVAILABLE
    return next((code for kind, code in STATUS_OF_ERROR.items() if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)
