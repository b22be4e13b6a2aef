"""The same-host path: the same bytes, and nothing left behind by any death."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from loader_service.client import (
    ClientOptions,
    InvalidRequestError,
    LoaderClient,
    PixelFormat,
    Security,
    ServiceUnavailableError,
    StreamSpec,
    Transport,
    View,
)
from loader_service.client.fetch import Fetcher
from loader_service.client.replica import Replica
from loader_service.client.shared_memory import SharedMemorySession, SharedMemoryUnavailableError
from loader_service.commands.digest import StreamDigest
from loader_service.pipeline.slots import SlotPool
from loader_service.server.shared_memory import SharedMemoryServer, is_supported
from tests.loader_service.digests import epoch_digest
from tests.processes import LoaderProcess, loader_processes
from tests.stores import make_store
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not is_supported(), reason="shared memory needs Linux")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("shm") / "store", num_train=1200, images_per_shard=400)


def digest(targets: list[str], transport: Transport, spec: StreamSpec | None = None) -> str:
    options = ClientOptions(transport=transport, stall_timeout_s=1.0, unavailable_timeout_s=20.0)
    with LoaderClient(targets, options) as client:
        return epoch_digest(client, spec or StreamSpec(batch_size=32, drop_last=False), 1)


def memory_files(pid: int) -> int:
    """How many of our memfds a process has open or mapped."""
    count = Path(f"/proc/{pid}/maps").read_text().count("memfd:alexnet-loader")
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed since it was listed
            count += "memfd:alexnet-loader" in os.readlink(f"/proc/{pid}/fd/{descriptor}")
    return count


@pytest.mark.parametrize(
    ("view", "pixel_format"), [("train", "uint8"), ("train", "float32"), ("ten_crop", "uint8"), ("full", "uint8")]
)
def test_same_bytes_as_grpc(store: Path, view: View, pixel_format: PixelFormat) -> None:
    """Small messages, so that every slot is used many times over."""
    spec = StreamSpec(view=view, batch_size=100, pixel_format=pixel_format)
    with loader_processes(store, 2, "--message-bytes", "500KB") as replicas:
        targets = [replica.target for replica in replicas]
        assert digest(targets, "shm", spec) == digest(targets, "grpc", spec) == digest(targets, "auto", spec)


def test_message_larger_than_a_slot_goes_over_grpc(store: Path) -> None:
    spec = StreamSpec(view="ten_crop", batch_size=50, pixel_format="float32")
    with loader_processes(store, 1, "--message-bytes", "10KB") as replicas:
        assert digest([replicas[0].target], "shm", spec) == digest([replicas[0].target], "grpc", spec)


def test_server_is_killed(store: Path) -> None:
    before = memory_files(os.getpid())  # what reports of other tests may still hold
    with loader_processes(store, 2) as replicas:
        targets = [replica.target for replica in replicas]
        expected = digest(targets, "grpc")
        options = ClientOptions(transport="shm", stall_timeout_s=1.0)
        spec = StreamSpec(batch_size=32, drop_last=False)
        with LoaderClient(targets, options) as client, client.stream(spec, epoch=1) as stream:
            found = StreamDigest()
            for number, batch in enumerate(stream):
                found.add(batch)
                if number == 10:
                    replicas[0].send(signal.SIGKILL)
        assert found.hexdigest() == expected
        wait_until(lambda: memory_files(os.getpid()) <= before, "this process to have unmapped everything")


CLIENT = """
    import sys, time
    from loader_service.client import LoaderClient
    from loader_service.client import ClientOptions
    from loader_service.client import StreamSpec
    client = LoaderClient([sys.argv[1]], ClientOptions(transport="shm"))
    stream = client.stream(StreamSpec(batch_size=32), num_epochs=None)
    next(stream)
    print("reading", flush=True)
    if sys.argv[2] == "stall":
        time.sleep(600)
    for _ in stream:
        pass
"""


@pytest.mark.parametrize("manner", ["read", "stall"])
def test_client_is_killed(store: Path, manner: str) -> None:
    """Many times, while it reads or while it stalls: the server's sessions end, and others are served."""
    with loader_processes(store, 1, "--message-bytes", "100KB") as replicas:
        expected = digest([replicas[0].target], "grpc")
        for _ in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(CLIENT), replicas[0].target, manner],
                stdout=subprocess.PIPE,
                text=True,
            ) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "reading\n"
                assert memory_files(replicas[0].pid) > 0
                client.kill()
            assert digest([replicas[0].target], "shm") == expected
        wait_until(lambda: memory_files(replicas[0].pid) == 0, "the server to have dropped dead clients' memory")


def test_server_stops_though_a_client_stalls(store: Path) -> None:
    with loader_processes(store, 1, "--message-bytes", "100KB", "--drain-s", "1") as replicas:
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLIENT), replicas[0].target, "stall"],
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdout is not None
            client.stdout.readline()
            client.send_signal(signal.SIGSTOP)
            replicas[0].send(signal.SIGTERM)
            assert replicas[0].wait(300) == 0
            client.kill()


def test_only_where_it_is_offered(store: Path) -> None:
    with loader_processes(store, 1, "--no-shared-memory") as replicas:
        target = [replicas[0].target]
        assert digest(target, "auto") == digest(target, "grpc")
        with pytest.raises(InvalidRequestError, match="expected shared memory with it"):
            digest(target, "shm")


def test_a_replica_that_dies_before_its_session_begins(store: Path) -> None:
    """Or was started again at its port: another's memory, or the new one's, does as well."""
    with loader_processes(store, 2) as replicas:
        connection = Replica(target=replicas[0].target, security=Security()).connect()
        with connection:
            found = connection.describe(60)
            attach = partial(Fetcher, spec=StreamSpec(), description=found, allocate=np.empty, copy=True)
            gone = replace(found, shared_memory_socket=found.shared_memory_socket + "gone")
            with pytest.raises(ServiceUnavailableError, match="was started again"):
                attach(connection, gone, transport="shm")
            replicas[0].send(signal.SIGKILL)
            replicas[0].wait(300)
            with pytest.raises(ServiceUnavailableError):
                attach(connection, found, transport="shm")
            assert attach(connection, found, transport="auto").session is None


def test_no_such_service() -> None:
    with pytest.raises(SharedMemoryUnavailableError):
        SharedMemorySession("alexnet-loader-nobody")


def test_a_client_that_breaks_the_protocol_is_dropped() -> None:
    server = SharedMemoryServer(num_slots=2, slot_bytes=4096, max_sessions=2)
    try:
        with SharedMemorySession(server.name) as session:
            pool = server.session(session.token)
            assert pool is not None
            slot = pool.acquire(lambda: True)
            assert slot is not None
            slot.pixels[:3] = (1, 2, 3)
            assert bytes(session.pixels(slot.number, slot.generation, 3)) == b"\1\2\3"
            with pytest.raises(ValueError, match="expected generation 7"):
                session.pixels(slot.number, 7, 3)
            with pytest.raises(ValueError, match="there is none such"):
                session.pixels(99, 1, 3)
            for _ in range(2):  # the second time it is not the client's to give
                session.release(slot.number, slot.generation)
            wait_until(lambda: server.session(session.token) is None, "the session to be ended")
            assert pool.acquire(lambda: True) is None
        with socket.socket(socket.AF_UNIX) as third, SharedMemorySession(server.name), SharedMemorySession(server.name):
            third.connect("\0" + server.name)
            assert third.recv(100) == b""  # one session too many
    finally:
        server.close()


ASKING = """
import os, socket, sys
os.setuid(12345)
client = socket.socket(socket.AF_UNIX)
client.connect("\\0" + sys.argv[1])
print(socket.recv_fds(client, 100, 1)[:2])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_memory() -> None:
    """The abstract name is open to all users of the machine; the kernel says who has come."""
    server = SharedMemoryServer(num_slots=2, slot_bytes=4096, max_sessions=2)
    try:
        command = [sys.executable, "-c", ASKING, server.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        assert done.stdout == "(b'', [])\n"
        with SharedMemorySession(server.name):
            pass
    finally:
        server.close()


def test_slots() -> None:
    pool = SlotPool(2, 100)
    first, second = pool.acquire(lambda: True), pool.acquire(lambda: True)
    assert first is not None
    assert second is not None
    assert pool.acquire(lambda: False) is None
    pool.release(first.number, first.generation)
    with pytest.raises(ValueError, match="is not out"):
        pool.release(first.number, first.generation)
    again = pool.acquire(lambda: True)
    assert again is not None
    assert (again.number, again.generation) == (first.number, first.generation + 1)
    pool.close()


def test_digest_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from loader_service.__main__ import main

    replica = LoaderProcess(store)
    try:
        found = set()
        for transport in ("grpc", "shm"):
            assert main(["digest", "--target", replica.target, "--transport", transport]) == 0
            found.add(capsys.readouterr().out)
        assert len(found) == 1
    finally:
        replica.end()


def test_batches_that_are_slots(store: Path) -> None:
    """Without a copy: the same bytes, which stay what they are for as long as anyone has them, though the service goes
    on, and ends; and the service has the slots back that nobody refers to any more."""
    spec = StreamSpec(batch_size=32, drop_last=False)
    before = memory_files(os.getpid())
    options = ClientOptions(transport="shm", copy=False)
    with loader_processes(store, 1) as replicas:
        expected = digest([replicas[0].target], "grpc", spec)
        with LoaderClient([replicas[0].target], options) as client:
            with client.stream(spec, epoch=1) as stream:
                held = [next(stream) for _ in range(30)]  # more than there are slots
                is_lent = [not batch.images.flags.writeable for batch in held]
                assert any(is_lent), "some are slots"
                assert not all(is_lent), "and some were copied, or the service could not have gone on"
                rest = list(stream)
        replicas[0].send(signal.SIGKILL)
        replicas[0].wait()
        found = StreamDigest()
        for batch in [*held, *rest]:
            found.add(batch)
        assert found.hexdigest() == expected
        lent = next(batch.images for batch in held if not batch.images.flags.writeable)
        with pytest.raises(ValueError, match="read-only"):
            lent[:] = 0
    del held, rest, batch, lent
    wait_until(lambda: memory_files(os.getpid()) <= before, "this process to have unmapped everything")


def test_slots_that_are_dropped_are_used_again(store: Path) -> None:
    """A consumer that keeps nothing has every batch of four epochs without a copy."""
    options = ClientOptions(transport="shm", copy=False, prefetch_steps=2, streams_per_replica=1, lease_steps=1)
    with (
        loader_processes(store, 1, "--threads", "4") as replicas,
        LoaderClient([replicas[0].target], options) as client,
    ):
        with client.stream(StreamSpec(batch_size=32), num_epochs=4) as stream:
            assert sum(not batch.images.flags.writeable for batch in stream) == 4 * 37


@pytest.mark.parametrize("reason", ["a step is several messages", "the caller allocates"])
def test_when_images_are_copied_all_the_same(store: Path, reason: str) -> None:
    options = ClientOptions(transport="shm", copy=False)
    message_bytes = "100KB" if reason == "a step is several messages" else "4.9MB"
    allocate = np.empty if reason == "the caller allocates" else None
    with loader_processes(store, 1, "--message-bytes", message_bytes) as replicas:
        with LoaderClient([replicas[0].target], options) as client:
            with client.stream(StreamSpec(batch_size=32), allocate=allocate) as stream:
                assert all(batch.images.flags.writeable for batch in stream)
