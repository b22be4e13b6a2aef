"""The service against clients that hypothesis makes up: bytes, frames, calls and shared memory that no sound one sends.

Each input gets an answer or the end of its connection, in its time; nothing is left of it, and an honest client beside
them gets what it should.
"""

import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import hpack
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from loader_service.v1 import loader_pb2 as pb
from loader_service.v1 import loader_pb2_grpc
from loader_service.wire.shared_memory import HELLO, RELEASE
from tests.loader_service.test_streaming_calls import DATA, END_STREAM, HEADERS, SETTINGS, frame, message
from tests.processes import LoaderProcess, loader_processes
from tests.stubs import channel_to, request_of
from tests.thoroughness import NUM_EXAMPLES
from tests.waiting import wait_until

TIMEOUT_S = 30.0
NUM_LINGERING, NUM_PLACES = 8, 24
NUM_UNNOTICED = 8
"""Sockets that gRPC may still hold when their clients have gone: it finds one or the other with its next ping, up to a
minute later, whoever the client was."""
SERVICE = "/loader_service.v1.LoaderService/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ESTABLISHED, CLOSE_WAIT = "01", "08"


def digest_of(target: str, transport: str) -> str:
    """Of an epoch, as a process of its own finds it."""
    command = [sys.executable, "-m", "loader_service", "digest", "--target", target, "--transport", transport]
    result = subprocess.run(
        [*command, "--seed", "7", "--batch-size", "10"], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@dataclass(frozen=True)
class Service:
    """A process that serves, and what it holds."""

    process: LoaderProcess
    description: pb.DescribeResponse
    digest: str
    told: Path
    """What it writes to stderr."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.process.target.rpartition(":")
        return host, int(port)

    def num_connections(self) -> int:
        """Over TCP, as the kernel counts them."""
        tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
        rows = [line.split() for line in tables.splitlines()]
        ours = f":{self.address[1]:04X}"
        return sum(row[1].endswith(ours) and row[3] in (ESTABLISHED, CLOSE_WAIT) for row in rows)

    def num_threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def descriptors(self) -> list[str]:
        found = []
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(entry))
        return found

    def num_sessions(self) -> int:
        """Shared-memory sessions that are open."""
        return sum(name.startswith("/memfd:") for name in self.descriptors())

    def is_at_rest(self) -> bool:
        """But for the connection of the channel that looks."""
        return self.num_connections() <= 1 and not self.num_sessions()


@contextmanager
def honest_client(service: Service) -> Iterator[None]:
    """Reads the same epoch again and again meanwhile, over gRPC and shared memory in turn; each must be right."""
    stopping = threading.Event()
    found: list[str | BaseException] = []

    def run() -> None:
        try:
            for transport in itertools.cycle(("grpc", "shm")):
                found.append(digest_of(service.process.target, transport))
                if stopping.is_set() and len(found) > 1:
                    return
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    assert set(found) == {service.digest}


@pytest.fixture(scope="module")
def running(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    told = tmp_path_factory.mktemp("hostile") / "stderr"
    options = ("--message-bytes", "100KB", "--max-streams-per-identity", str(NUM_PLACES))
    with told.open("wb") as stderr, loader_processes(tiny_store, 1, *options, stderr=stderr) as (process,):
        with channel_to(process.target) as channel:
            stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
            description = stub.Describe(pb.DescribeRequest(), timeout=TIMEOUT_S)
        yield Service(process, description, digest_of(process.target, "grpc"), told)


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """One that must be unharmed at the end."""
    with channel_to(running.process.target) as channel:
        wait_until(lambda: can_be_filled(running, channel), "as many streams as one client may have")
        wait_until(running.is_at_rest, "the first clients to be forgotten")
        num_descriptors, num_threads = len(running.descriptors()), running.num_threads()
        with honest_client(running):
            yield running
        wait_until(running.is_at_rest, "the hostile clients to be forgotten")
        most_descriptors = num_descriptors + NUM_UNNOTICED
        wait_until(lambda: len(running.descriptors()) <= most_descriptors, "their descriptors to be closed")
        wait_until(lambda: running.num_threads() <= num_threads, "their threads to end")
        wait_until(lambda: can_be_filled(running, channel), "their places to be free")
    assert "Traceback" not in running.told.read_text()


def can_be_filled(service: Service, channel: grpc.Channel) -> bool:
    """Whether one client gets as many streams at once as it may have: then all threads for them run."""
    stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
    request = request_of(service.description, split="train", view=pb.VIEW_FULL, batch_size=100, last_step=1)
    calls = [stub.StreamBatches(request, timeout=TIMEOUT_S) for _ in range(NUM_PLACES)]
    try:
        return all(next(call) for call in calls)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    finally:
        for call in calls:
            call.cancel()


def sound_request(service: Service) -> bytes:
    return request_of(
        service.description, split="train", view=pb.VIEW_TRAIN, batch_size=10, last_step=2
    ).SerializeToString()


def block(*extra: tuple[str, str], path: str = f"{SERVICE}StreamBatches") -> bytes:
    """The headers of a call, without the dynamic table."""
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    usual = [("te", "trailers"), ("content-type", "application/grpc")]
    found: bytes = hpack.Encoder().encode([(name, value, True) for name, value in (*headers, *usual, *extra)])
    return found


def sound_bytes(service: Service) -> bytes:
    """All that a sound client sends for one call."""
    return (
        PREFACE
        + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
        + frame(HEADERS, 4, 1, block())
        + frame(DATA, END_STREAM, 1, message(sound_request(service)))
    )


FUZZ = settings(max_examples=NUM_EXAMPLES, phases=[Phase.generate])
"""As they are found: to look for a smaller one, when each waits until its time is up, would take hours."""
ENDINGS = st.sampled_from(["half", "half", "close", "reset", "linger"])


class Visitor:
    """Sends bytes to a service and leaves in some way; the last few that linger stay connected meanwhile."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lingering: deque[socket.socket] = deque()

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._lingering:
            connection.close()

    def visit(self, sent: bytes, ending: str) -> None:
        """Fails when the service has not closed the connection in its time, where it is told that nothing follows."""
        connection = socket.create_connection(self._service.address, timeout=TIMEOUT_S)
        if ending == "linger":
            self._lingering.append(connection)
            if len(self._lingering) > NUM_LINGERING:
                self._lingering.popleft().close()
        try:
            connection.sendall(sent)
            if ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if ending == "half":
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
        except TimeoutError:
            raise
        except OSError:
            pass  # the service has closed it before
        finally:
            if ending != "linger":
                connection.close()


def test_bytes_that_no_client_would_send(service: Service) -> None:
    """A sound call with bytes changed, left out, put in or cut off; and any bytes at all."""
    sound = sound_bytes(service)
    with Visitor(service) as visitor:

        @given(data=st.data(), ending=ENDINGS, is_spoilt=st.sampled_from([True, True, False]))
        @FUZZ
        def send(data: st.DataObject, ending: str, is_spoilt: bool) -> None:
            sent = bytearray(sound if is_spoilt else data.draw(st.sampled_from([b"", PREFACE])))
            for _ in range(data.draw(st.integers(1, 4))):
                at = data.draw(st.integers(0, len(sent)))
                removed = data.draw(st.sampled_from([0, 1, 1, 1, 9, 1000]))
                sent[at : at + removed] = data.draw(st.binary(max_size=12 if is_spoilt else 4000))
            visitor.visit(bytes(sent), ending)

        send()


NUMBERS = st.sampled_from([0, 1, 2, 100, 16_384, 65_535, 2**24 - 1, 2**31 - 1, 2**32 - 1])
SETTING = st.builds(struct.pack, st.just(">HI"), st.integers(0, 8), NUMBERS)
WORDS = st.lists(st.builds(struct.pack, st.just(">I"), NUMBERS), max_size=3).map(b"".join)
ODD_HEADERS = st.sampled_from(
    [
        *[("grpc-timeout", text) for text in ("1n", "0S", "99999999H", "-1S", "x")],
        *[("grpc-encoding", text) for text in ("gzip", "identity", "nonsense")],
        *[("content-type", text) for text in ("text/html", "application/grpc+json")],
        *[("te", "gzip"), ("content-length", "5"), ("connection", "close"), (":path", "/"), (":status", "200")],
        *[("client-id", "x" * 9000), ("client-id", "\x00\xff"), ("Upper", "x"), ("", ""), ("key-bin", "!!!")],
        *[("shared-memory-session", "0" * 32), ("authorization", "Bearer x"), ("grpc-internal-encoding-request", "x")],
    ]
)
CALLS = st.sampled_from(
    [*[SERVICE + name for name in ("StreamBatches", "Describe", "Names", "Other")], "/grpc.health.v1.Health/Watch", "/"]
)
BLOCKS = st.builds(
    lambda path, extra: block(*extra, path=path), CALLS | st.sampled_from(["", "x"]), st.lists(ODD_HEADERS, max_size=4)
) | st.binary(max_size=60)
STREAM_NUMBERS = st.sampled_from([0, 1, 1, 1, 2, 3, 5, 7, 2**31 - 1])
FLAGS = st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF])


def frames_of(request: bytes) -> st.SearchStrategy[bytes]:
    """Any frame, mostly one of a kind that there is, with a payload that is nearly one of its kind."""
    bodies = st.sampled_from([b"", request, request[:9], bytes(70_000)]) | st.binary(max_size=200)
    prefixed = st.builds(
        lambda flag, size, body: struct.pack(">BI", flag, len(body) if size is None else size) + body,
        st.sampled_from([0, 0, 0, 1, 255]),
        st.none() | NUMBERS,
        bodies,
    )
    payloads = {
        DATA: prefixed,
        HEADERS: BLOCKS,
        2: st.binary(min_size=5, max_size=5),
        3: WORDS,
        SETTINGS: st.lists(SETTING, max_size=6).map(b"".join) | st.binary(max_size=9),
        5: BLOCKS,
        6: st.binary(min_size=8, max_size=8),
        7: WORDS,
        8: WORDS,
        9: BLOCKS,
        250: st.binary(max_size=100),
    }
    return st.one_of(
        *(st.builds(frame, st.just(kind), FLAGS, STREAM_NUMBERS, payload) for kind, payload in payloads.items()),
        st.builds(lambda stream, body: frame(HEADERS, 4, stream, block()) + body, STREAM_NUMBERS, prefixed),
    )


def test_frames_that_no_client_would_send(service: Service) -> None:
    request = sound_request(service)
    greeting = PREFACE + frame(SETTINGS, 0, 0)
    starts = st.sampled_from([greeting, greeting + frame(HEADERS, 4, 1, block()), sound_bytes(service)])
    frames = st.lists(frames_of(request), min_size=1, max_size=8)
    with Visitor(service) as visitor:

        @given(data=st.data(), ending=ENDINGS)
        @FUZZ
        def send(data: st.DataObject, ending: str) -> None:
            visitor.visit(data.draw(starts) + b"".join(data.draw(frames)), ending)

        send()


ODD_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "fingerprint": st.text(max_size=70),
        "pipeline_version": st.text(max_size=20),
        "split": st.sampled_from(["train", "val", "", "é" * 100]),
        "view": st.integers(-5, 9),
        "crop_size": st.integers(0, 70) | st.integers(0, 2**32 - 1),
        "batch_size": st.integers(0, 120) | st.integers(0, 2**32 - 1),
        "first_step": st.integers(0, 12) | st.integers(0, 2**64 - 1),
        "last_step": st.integers(0, 12) | st.integers(0, 2**64 - 1),
        "slice_begin": st.integers(0, 12) | st.integers(0, 2**32 - 1),
        "slice_end": st.integers(0, 12) | st.integers(0, 2**32 - 1),
        "colour_std": st.floats(),
        "least_scale": st.floats(),
        "most_scale": st.floats(),
        "least_ratio": st.floats(),
        "most_ratio": st.floats(),
    },
)
INDICES = st.lists(st.integers(0, 110) | st.integers(0, 2**64 - 1), max_size=20)
METADATA = st.lists(
    st.tuples(
        st.sampled_from(["client-id", "shared-memory-session", "authorization", "grpc-retry-pushback-ms", "key"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
    ),
    max_size=3,
)
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,  # by us
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INTERNAL,  # gRPC's own word for a message that cannot be parsed
}


def messages_of(service: Service) -> st.SearchStrategy[bytes]:
    """Requests with odd fields, for any of the calls, whole or spoilt."""
    about = service.description
    fields = ODD_FIELDS.map(lambda odd: {"split": "train", "view": 1, "batch_size": 10, "last_step": 3} | odd)
    own: dict[str, Any] = {"fingerprint": about.fingerprint, "pipeline_version": about.pipeline_version}
    batches = fields.map(lambda odd: pb.StreamBatchesRequest(**(own | odd)).SerializeToString())
    names = st.builds(pb.NamesRequest, fingerprint=st.just(about.fingerprint), split=st.just("val"), indices=INDICES)
    sound = batches | names.map(lambda request: request.SerializeToString())
    cut = st.builds(lambda content, at: content[:at], sound, st.integers(0, 200))
    return sound | sound | cut | st.binary(max_size=300) | st.sampled_from([b"", bytes(70_000)])


def test_calls_that_no_client_would_make(service: Service) -> None:
    """Well-formed gRPC: any of the calls, with any messages, left when a few answers have come or read to the end."""
    with grpc.insecure_channel(service.process.target) as channel:

        @given(data=st.data(), metadata=METADATA, num_taken=st.none() | st.integers(0, 4))
        @FUZZ
        def ask(data: st.DataObject, metadata: Any, num_taken: int | None) -> None:
            path = data.draw(CALLS)
            if path.endswith("Watch"):
                num_taken = min(num_taken or 0, 1)  # it goes on for ever, as it should
            requests = data.draw(st.lists(messages_of(service), max_size=3))
            compression = data.draw(st.sampled_from([grpc.Compression.NoCompression, grpc.Compression.Gzip]))
            call = channel.stream_stream(path, bytes, bytes)(
                iter(requests), metadata=metadata, timeout=TIMEOUT_S, compression=compression
            )
            with suppress(grpc.RpcError):
                deque(itertools.islice(call, num_taken), maxlen=0)
            if num_taken is not None:
                call.cancel()
            assert call.code() in ANSWERS, call.details()

        ask()


def test_shared_memory_that_no_client_would_use(service: Service) -> None:
    """Slots given back that nobody had, bytes at random, and clients that leave at any moment."""
    name = "\0" + service.description.shared_memory_socket
    releases = st.builds(RELEASE.pack, st.integers(0, 70) | NUMBERS, st.integers(0, 5) | NUMBERS)

    @given(st.lists(releases | st.binary(max_size=40), max_size=6), st.booleans(), ENDINGS)
    @FUZZ
    def attach(sent: list[bytes], has_call: bool, ending: str) -> None:
        with ExitStack() as stack:
            connection = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            connection.settimeout(TIMEOUT_S)
            connection.connect(name)
            hello, descriptors, _, _ = socket.recv_fds(connection, HELLO.size, 1)
            for descriptor in descriptors:
                os.close(descriptor)
            if has_call:
                visitor = stack.enter_context(Visitor(service))
                token = HELLO.unpack(hello)[0].hex()
                call = frame(HEADERS, 4, 1, block(("shared-memory-session", token)))
                body = frame(DATA, END_STREAM, 1, message(sound_request(service)))
                visitor.visit(PREFACE + frame(SETTINGS, 0, 0) + call + body, "linger")
            with suppress(ConnectionError):
                for each in sent:
                    connection.sendall(each)
                if ending == "half":
                    connection.shutdown(socket.SHUT_WR)
                    assert connection.recv(1) == b""

    attach()
