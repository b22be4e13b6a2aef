"""Whose shared memory a client maps, and that it stays: what a neighbour or the other side does kills nobody."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loader_service.client.shared_memory import SharedMemorySession, SharedMemoryUnavailableError
from loader_service.pipeline.slots import SlotPool
from loader_service.server.shared_memory import is_supported
from loader_service.wire.shared_memory import HELLO, SLOT_HEADER_BYTES

pytestmark = pytest.mark.skipif(not is_supported(), reason="shared memory needs Linux")


def test_nobody_changes_the_size_of_what_others_have_mapped() -> None:
    """Neither a client nor the service: whoever touched what is gone would die of SIGBUS."""
    pool = SlotPool(2, 4096)
    slot = pool.acquire(lambda: True)
    assert slot is not None
    for size_bytes in (0, 2 * (4096 + SLOT_HEADER_BYTES) + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(pool.descriptor, size_bytes)
    slot.pixels[:] = 7
    pool.close()


@contextmanager
def offered(descriptor: int, *, num_slots: int = 2, slot_bytes: int = 4096) -> Iterator[str]:
    """The name of a socket at which somebody offers a file as shared memory."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel finds an abstract name
        listener.listen()
        name = listener.getsockname().decode().removeprefix("\0")

        def offer() -> None:
            connection, _ = listener.accept()
            with connection:
                socket.send_fds(connection, [HELLO.pack(bytes(16), num_slots, slot_bytes)], [descriptor])
                connection.recv(1)

        thread = threading.Thread(target=offer)
        thread.start()
        yield name
        thread.join(60)


@pytest.mark.parametrize(
    ("flags", "size_bytes", "reason"),
    [
        (
            os.MFD_ALLOW_SEALING,
            2 * (4096 + SLOT_HEADER_BYTES) - 1,
            "expected 8,320 bytes of shared memory, found 8,319",
        ),
        (os.MFD_ALLOW_SEALING, 0, "found 0"),
        (0, 2 * (4096 + SLOT_HEADER_BYTES), "Operation not permitted"),
    ],
)
def test_memory_that_could_go_away_is_not_mapped(flags: int, size_bytes: int, reason: str) -> None:
    descriptor = os.memfd_create("test", flags)
    os.ftruncate(descriptor, size_bytes)
    num_open = len(os.listdir("/proc/self/fd"))
    with offered(descriptor) as name, pytest.raises(SharedMemoryUnavailableError, match=reason):
        SharedMemorySession(name)
    assert len(os.listdir("/proc/self/fd")) == num_open
    os.close(descriptor)


def test_memory_of_a_service_that_does_not_seal_is_sealed(tmp_path: Path) -> None:
    """Services of earlier releases do not."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 2 * (4096 + SLOT_HEADER_BYTES))
    with offered(descriptor) as name, SharedMemorySession(name):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    os.close(descriptor)
    with (tmp_path / "file").open("w+b") as file:  # a file of a disk has no seals
        file.truncate(2 * (4096 + SLOT_HEADER_BYTES))
        with offered(file.fileno()) as name, pytest.raises(SharedMemoryUnavailableError):
            SharedMemorySession(name)


STRANGER = """
    import os, socket, sys
    os.setuid(12345)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\\0" + sys.argv[1])
    listener.listen()
    print("listening", flush=True)
    listener.accept()[0].recv(1)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_name_that_another_user_holds() -> None:
    name = f"alexnet-loader-test-{os.getpid()}"
    command = [sys.executable, "-c", textwrap.dedent(STRANGER), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "listening\n"
        with pytest.raises(SharedMemoryUnavailableError, match="of this user, found one of the user 12345"):
            SharedMemorySession(name)
        assert stranger.wait(60) == 0
