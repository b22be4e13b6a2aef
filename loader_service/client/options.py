"""How a client goes about it: patience, memory, transport, security."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from loader_service.client.machine import available_bytes
from loader_service.client.security import Security
from loader_service.client.window import Window

Transport = Literal["auto", "grpc", "shm", "grpcio"]

_SHARE, _MOST_BYTES = 8, 4_000_000_000
"""Of available memory, one in so many bytes, and at most so many."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How patient a client is, how far it reads ahead, and how it receives."""

    unavailable_timeout_s: float = 60.0
    """How long to go on without any replica before ServiceUnavailableError."""
    stall_timeout_s: float = 5.0
    """A replica that owes a message and sends none for this long is taken to be lost; others get its work."""
    prefetch_steps: int | None = None
    """Steps in memory or on their way, at most: the client's memory is this many batches. None: as many as keep every
    replica at work, 8 for one or two of them, and at most ``prefetch_bytes`` of them."""
    prefetch_bytes: int | None = None
    """Images in memory or on their way, at most, unless ``prefetch_steps`` says how many; two steps there may be
    always. None: an eighth of the memory that is available when a stream begins, and at most 4 GB (500 MB where the
    system does not say)."""
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
    copy: bool = True
    """False: images that came through shared memory in one message a step stay in the slot they were written into, and
    are read-only. They are valid for as long as anyone refers to them. For that a service needs ``--message-bytes`` of
    a whole step. Images are copied all the same from a service that has lent all the slots it can spare, and into
    arrays that the caller allocates."""
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        for name in ("unavailable_timeout_s", "stall_timeout_s", "resolve_interval_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0 seconds, found {getattr(self, name)}")
        if self.transport not in get_args(Transport):
            raise ValueError(f"transport: expected one of {', '.join(get_args(Transport))}, found {self.transport!r}")
        for name in ("prefetch_steps", "prefetch_bytes", "lease_steps", "streams_per_replica"):
            found = getattr(self, name)
            if found is not None and found < 1:
                raise ValueError(f"{name}: expected at least 1, found {found}")

    def window(self, step_bytes: int) -> Window:
        """How far a stream of steps of that size may read ahead."""
        if self.prefetch_steps is not None:
            return Window(self.prefetch_steps, is_fixed=True)
        bound = self.prefetch_bytes
        if bound is None:
            bound = min((available_bytes() or _MOST_BYTES) // _SHARE, _MOST_BYTES)
        return Window(max(bound // max(step_bytes, 1), 2))
