"""How a client goes about it: patience, memory, transport, security."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from loader_service.client.security import Security

Transport = Literal["auto", "grpc", "shm", "grpcio"]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How patient a client is and how far it reads ahead."""

    unavailable_timeout_s: float = 60.0
    """How long to go on without any replica before ServiceUnavailableError."""
    stall_timeout_s: float = 5.0
    """A replica that owes a message and sends none for this long is taken to be lost; others get its work."""
    prefetch_steps: int = 8
    """Steps in memory or on their way, at most: the client's memory is this many batches."""
    lease_steps: int = 2
    """Most steps asked of a replica in one request."""
    streams_per_replica: int = 2
    """Requests under way at each replica at once, so that one's end does not leave it idle."""
    resolve_interval_s: float = 10.0
    """How often ``dns:`` targets are looked up again, to find replicas that came or went."""
    transport: Transport = "auto"
    """``shm``: pixels through shared memory, with services on this machine only; ``grpc``: through the connection;
    ``auto``: shared memory with those services that are on this machine and of the same user; ``grpcio``: through
    grpcio's channel, for networks whose proxies need what our own connection does not speak."""
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        for name in ("unavailable_timeout_s", "stall_timeout_s", "resolve_interval_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0 seconds, found {getattr(self, name)}")
        if self.transport not in get_args(Transport):
            raise ValueError(f"transport: expected one of {', '.join(get_args(Transport))}, found {self.transport!r}")
        for name in ("prefetch_steps", "lease_steps", "streams_per_replica"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
