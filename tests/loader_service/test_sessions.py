"""Shared memory's edges on the server's side: sessions that end early, and a process out of descriptors or memory."""

import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from loader_service.client.shared_memory import SharedMemorySession
from loader_service.pipeline.slots import SlotPool
from loader_service.server.shared_memory import is_supported
from loader_service.v1 import loader_pb2 as pb
from loader_service.v1 import loader_pb2_grpc
from tests.conftest import serving
from tests.stubs import request_of

pytestmark = pytest.mark.skipif(not is_supported(), reason="shared memory needs Linux")


def test_a_stream_whose_session_ends_does_not_end_with_ok(tiny_store: Path) -> None:
    with serving(tiny_store) as target, grpc.insecure_channel(target) as channel:
        stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
        description = stub.Describe(pb.DescribeRequest(), timeout=60)
        request = request_of(description, split="train", view=pb.VIEW_CENTRE, batch_size=1, last_step=64)
        with SharedMemorySession(description.shared_memory_socket) as session:
            stream = stub.StreamBatches(request, timeout=60, metadata=(("shared-memory-session", session.token),))
            assert next(stream).slot
        # No slot was given back: the service waited for one, and not all was sent.
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "session has ended" in str(caught.value.details())


def test_a_service_that_does_not_know_a_session_sends_pixels(tiny_store: Path) -> None:
    """Behind a balancer the session may be another replica's, and one that has ended is nobody's."""
    with serving(tiny_store) as target, grpc.insecure_channel(target) as channel:
        stub: Any = loader_pb2_grpc.LoaderServiceStub(channel)
        description = stub.Describe(pb.DescribeRequest(), timeout=20)
        request = request_of(description, split="train", view=pb.VIEW_CENTRE, batch_size=10, last_step=10)
        with SharedMemorySession(description.shared_memory_socket) as session:
            ended = session.token
        for token in (ended, "f" * 32, "no token"):
            answer = list(stub.StreamBatches(request, timeout=60, metadata=(("shared-memory-session", token),)))
            assert [(part.slot, len(part.images)) for part in answer] == [(0, 10 * 56 * 56 * 3)] * 10


def memory_files() -> int:
    """How many of our memfds this process has open."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed since it was listed
            count += "memfd:alexnet-loader" in os.readlink(f"/proc/self/fd/{descriptor}")
    return count


def test_memory_that_cannot_be_had_leaves_no_descriptor() -> None:
    before = memory_files()
    for slot_bytes in (1 << 50, 1 << 62):
        with pytest.raises(OSError, match=r"."):
            SlotPool(1, slot_bytes)
    assert memory_files() <= before  # those of other tests may go meanwhile


def test_out_of_descriptors() -> None:
    """Whoever connects meanwhile waits, without the processor's being busy, and is let in later."""
    script = """
        import os, resource, socket, time
        from loader_service.client.shared_memory import SharedMemorySession
        from loader_service.server.shared_memory import SharedMemoryServer
        server = SharedMemoryServer(num_slots=3, slot_bytes=4096, max_sessions=10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        client = socket.socket(socket.AF_UNIX)
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        client.connect("\\0" + server.name)
        used = time.process_time()
        time.sleep(1.5)
        used = time.process_time() - used
        assert used < 0.5, f"{used} s of processor time in 1.5 s"
        for descriptor in taken:
            os.close(descriptor)
        client.settimeout(20)
        assert client.recv(24)
        SharedMemorySession(server.name).close()
        server.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)
