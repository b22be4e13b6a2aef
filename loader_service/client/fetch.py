"""One replica's part in a stream: a connection, shared memory if there is any, and ranges of steps as batches."""

from collections.abc import Iterator
from typing import Self

import numpy as np

from loader_service.client.assembly import Allocate, Assembly
from loader_service.client.expected import Expected
from loader_service.client.grpcio import GrpcioCall
from loader_service.client.http2.calls import StreamCall
from loader_service.client.http2.message import IncomingMessage
from loader_service.client.options import Transport
from loader_service.client.replica import Connection, expect_same_stream
from loader_service.client.shared_memory import SharedMemorySession, SharedMemoryUnavailableError
from loader_service.client.stall_clock import StallClock
from loader_service.wire.codec import PartHeader, unpack_header
from loader_service.wire.errors import InvalidRequestError, MismatchError, ServiceUnavailableError
from loader_service.wire.translate import range_to_request
from loader_service.wire.types import Batch, Description, StreamSpec

_ANSWER_S = 5.0
"""For a replica that gave no shared memory to say whether it is there."""


class Fetcher:
    """Fetches from one replica, which described itself as ``found``, over one connection; one request at a time, for
    one thread.

    Making one raises MismatchError when ``found`` is not what ``description`` says, InvalidRequestError when
    ``transport`` is ``shm`` and a replica that answers has none, and another LoaderError when it does not answer. The
    connection stays the caller's.
    """

    def __init__(
        self,
        connection: Connection,
        found: Description,
        *,
        spec: StreamSpec,
        description: Description,
        allocate: Allocate,
        transport: Transport,
        copy: bool,
    ) -> None:
        self._connection, self._spec, self._description, self._allocate = connection, spec, description, allocate
        self._copy = copy
        expect_same_stream(connection.target, found, description, view=spec.view)
        self._is_needed = transport == "shm"
        self.session = None if transport in ("grpc", "grpcio") else self._attach(found)
        """The shared memory that pixels come through; None: through the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.session is not None:
            self.session.close()

    def fetch(self, *, epoch: int, first_step: int, last_step: int) -> "Fetch":
        """Steps [first_step, last_step) of ``epoch``; the request is sent when iteration begins.

        Raises ServiceUnavailableError when the token's file cannot be read."""
        steps = self._spec.steps(first_step, last_step, epoch=epoch)
        request = range_to_request(steps, self._description)
        call = self._connection.stream_batches(request, None if self.session is None else self.session.token)
        return Fetch(
            call,
            Expected(steps, self._description),
            Assembly(self._allocate),
            self.session,
            self._connection.target,
            copy=self._copy,
        )

    def leave_unused_session(self, fetch: "Fetch") -> None:
        """Ends the session if ``fetch``, which has ended well, got its pixels in messages: behind a balancer, whoever
        answers need not be the replica whose session it is."""
        if self.session is not None and not self._is_needed and fetch.num_messages and not fetch.num_slots:
            self.session.close()
            self.session = None

    def _attach(self, found: Description) -> SharedMemorySession | None:
        try:
            if not found.shared_memory_socket:
                raise SharedMemoryUnavailableError("it offers none")
            return SharedMemorySession(found.shared_memory_socket)
        except SharedMemoryUnavailableError as error:
            if not self._is_needed:
                return None
            # A replica that died, or was started again, since it described itself gives none for that.
            if self._connection.describe(_ANSWER_S).shared_memory_socket != found.shared_memory_socket:
                raise ServiceUnavailableError(f"{self._connection.target}: was started again") from None
            raise InvalidRequestError(
                f"{self._connection.target}: expected shared memory with it (--transport shm), found: {error}"
            ) from None


class Fetch(Iterator[Batch]):
    """The batches of one request, in order, and for how long nothing has come.

    Iterating starts the call. It raises grpc.RpcError when that fails, MismatchError for what cannot be an answer to
    the request, ServiceUnavailableError when shared memory is lost or does not hold what was said, and TypeError when
    ``allocate`` made another array than it was asked for.
    """

    def __init__(
        self,
        call: StreamCall | GrpcioCall,
        expected: Expected,
        assembly: Assembly,
        session: SharedMemorySession | None,
        target: str,
        *,
        copy: bool,
    ) -> None:
        self._call, self._assembly, self._session, self._target = call, assembly, session, target
        self._copies = copy
        self._expected = expected
        self._steps = iter(range(expected.steps.first_step, expected.steps.last_step))
        self._num_before = 0
        self.num_batches = 0
        """Whole ones that have come."""
        self.num_messages = self.num_slots = 0
        """Messages that have come, and those of them whose pixels were in shared memory."""
        self._stall_clock = StallClock()

    def __next__(self) -> Batch:
        step = next(self._steps, None)
        batch = None
        while batch is None:
            message = next(self._call, None)
            if message is None and step is None:
                raise StopIteration
            if message is None or step is None:
                raise MismatchError(f"{self._target}: sent fewer or more steps than were asked for")
            batch = self._take(message, step)
        self.num_batches += 1
        self._num_before = self._call.num_received
        return batch

    @property
    def num_received(self) -> int:
        """Bytes that have come of the batch after the whole ones."""
        return self._call.num_received - self._num_before

    @property
    def is_stalled(self) -> bool:
        """Whether the replica was silent for too long."""
        return self._stall_clock.is_stalled

    def pass_time(self, seconds: float, stall_timeout_s: float) -> bool:
        """Advances the stall clock by ``seconds``. Returns whether bytes came since the last time. For one watcher."""
        return self._stall_clock.advance(seconds, self._call.num_received, stall_timeout_s)

    def cancel(self) -> None:
        """Breaks the call off, from any thread."""
        self._call.cancel()

    def _take(self, message: IncomingMessage, step: int) -> Batch | None:
        """Puts a message's images into the batch of ``step``; the batch, when that completes it."""
        part = self._header_of(message, step)
        try:
            self.num_messages += 1
            self.num_slots += bool(part.slot)
            if self._session is not None and not self._copies and part.is_whole_step:
                lent = self._session.lend(part.slot, part.generation, part.num_pixel_bytes) if part.slot else None
                if lent is not None:
                    return self._assembly.adopt(part, lent)
            pixels = self._assembly.room_for(part)
            if not part.slot:
                message.read_into(pixels, part.pixels_at)
            else:
                assert self._session is not None
                shared = self._session.pixels(part.slot, part.generation, len(pixels))
                # NumPy's copy, unlike a memoryview's, is made without the interpreter's lock.
                np.copyto(np.frombuffer(pixels, np.uint8), np.frombuffer(shared, np.uint8))
                self._session.release(part.slot, part.generation)
            return self._assembly.add(part)
        except (OSError, ValueError) as error:
            raise ServiceUnavailableError(f"{self._target}: its images cannot be received: {error}") from None

    def _header_of(self, message: IncomingMessage, step: int) -> PartHeader:
        """All of a part of ``step`` but its pixels. Raises MismatchError for what cannot be one."""
        try:
            while (header := unpack_header(message.head, message.size)) is None:
                if len(message.head) > self._expected.most_header_bytes:
                    raise ValueError(f"expected pixels after {self._expected.most_header_bytes} bytes, found none")
                message.read_more()
            self._expected.check(header, step)
            if header.slot and self._session is None:
                raise ValueError("expected pixels in the message, found a slot of shared memory")
            self._assembly.expect(header)
        except ValueError as error:
            raise MismatchError(f"{self._target}: sent what cannot be: {error}") from None
        return header
