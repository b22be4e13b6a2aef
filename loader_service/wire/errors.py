"""What can go wrong between a client and the service: one tree, translated once from gRPC's status codes."""


class LoaderError(Exception):
    """Root of the errors that the loader's client and server raise for the caller's mistakes and the world's."""


class InvalidRequestError(LoaderError):
    """A field of the request is out of range (INVALID_ARGUMENT); says what was expected."""


class MismatchError(LoaderError):
    """The store or the pipeline is not the one asked for (FAILED_PRECONDITION), or replicas differ."""


class AccessError(LoaderError):
    """The service does not know or does not admit this client (UNAUTHENTICATED, PERMISSION_DENIED)."""


class OverloadedError(LoaderError):
    """A limit of the service is reached (RESOURCE_EXHAUSTED); trying again later may help."""

    retry_after_s: float = 0.0
    """When the service suggests to try again, in seconds from now."""


class DataLossError(LoaderError):
    """A stored record is damaged (DATA_LOSS); names shard and key."""


class ServiceUnavailableError(LoaderError):
    """No replica answered for as long as the client may wait."""
