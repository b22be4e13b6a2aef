"""A folder seen through a disk of some latency, such as a network block device: reads only, and each takes longer.

    python -m benchmarks.slow_disk FOLDER MOUNT --latency-ms 1      # until Ctrl-C; needs root, Linux and /dev/fuse

It speaks the kernel's FUSE protocol (linux/fuse.h, 7.31), so what reads it has a page cache, read-ahead and many
requests at once as on a disk. The latency is paced per request, not for all of them together.
"""

import argparse
import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_IN_HEADER = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_OUT_HEADER = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_ATTRIBUTES = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<QQQQII")
_READ_IN = struct.Struct("<QQI")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH, _INIT = 1, 2, 3, 14, 15, 18, 25, 26
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _DESTROY, _BATCH_FORGET = 27, 28, 29, 36, 38, 42
_ASYNC_READ, _MAX_PAGES = 1 << 0, 1 << 22
_KEEP_CACHE = 1 << 1
_REQUESTS, _PAGES, _READAHEAD_BYTES, _BUFFER_BYTES = 256, 256, 1 << 17, 1 << 21
_VALID_S = 3600
_READ_ONLY, _DETACH = 1 | 2 | 4, 2  # MS_RDONLY, MS_NOSUID, MS_NODEV; MNT_DETACH


@contextmanager
def slow_disk(folder: Path, mount: Path, latency_s: float) -> Iterator[None]:
    """``folder`` at ``mount``, each read of a file taking ``latency_s`` longer. Raises OSError where it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={channel},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"slow", os.fsencode(mount), b"fuse", _READ_ONLY, options.encode()):
        os.close(channel)
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(mount))
    server = threading.Thread(target=_Server(channel, folder, latency_s).serve, daemon=True)
    server.start()
    try:
        yield
    finally:
        libc.umount2(os.fsencode(mount), _DETACH)
        server.join(10)
        os.close(channel)


class _Server:
    """Answers the kernel. Nodes are numbers of paths, files keep their descriptor."""

    def __init__(self, channel: int, folder: Path, latency_s: float) -> None:
        self._channel, self._latency_s = channel, latency_s
        self._paths = {1: os.fsencode(folder)}
        self._nodes = {self._paths[1]: 1}

    def serve(self) -> None:
        """Until the file system is unmounted."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            while True:
                try:
                    request = os.read(self._channel, _BUFFER_BYTES)
                except OSError as error:
                    if error.errno in (errno.EINTR, errno.ENOENT):
                        continue
                    return
                _, opcode, unique, node, *_ = _IN_HEADER.unpack_from(request)
                body = request[_IN_HEADER.size :]
                if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                    continue
                if opcode == _READ:
                    pool.submit(self._answer, opcode, unique, node, body)
                else:
                    self._answer(opcode, unique, node, body)
                if opcode == _DESTROY:
                    return

    def _answer(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        error, content = 0, b""
        try:
            content = self._content(opcode, node, body)
        except OSError as failure:
            error = failure.errno or errno.EIO
        os.writev(self._channel, [_OUT_HEADER.pack(_OUT_HEADER.size + len(content), -error, unique), content])

    def _content(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == _INIT:
            flags = (_ASYNC_READ | _MAX_PAGES) & struct.unpack_from("<4I", body)[3]
            return _INIT_OUT.pack(7, 31, _READAHEAD_BYTES, flags, _REQUESTS, _REQUESTS, 1 << 17, 1, _PAGES, 0, 0, 0)
        if opcode == _LOOKUP:
            path = os.path.join(self._paths[node], body.rstrip(b"\0"))
            attributes = self._attributes(path)
            return _ENTRY.pack(self._node(path), 0, _VALID_S, _VALID_S, 0, 0) + attributes
        if opcode == _GETATTR:
            return struct.pack("<QII", _VALID_S, 0, 0) + self._attributes(self._paths[node])
        if opcode == _OPEN:
            return struct.pack("<QII", os.open(self._paths[node], os.O_RDONLY), _KEEP_CACHE, 0)
        if opcode == _READ:
            handle, offset, size_bytes = _READ_IN.unpack_from(body)
            time.sleep(self._latency_s)
            return os.pread(handle, size_bytes, offset)
        if opcode == _RELEASE:
            os.close(struct.unpack_from("<Q", body)[0])
        elif opcode == _OPENDIR:
            return struct.pack("<QII", 0, 0, 0)
        elif opcode == _READDIR:
            return self._names(self._paths[node], *_READ_IN.unpack_from(body)[1:])
        elif opcode not in (_FLUSH, _RELEASEDIR, _DESTROY):
            raise OSError(errno.ENOSYS, "not here")
        return b""

    def _node(self, path: bytes) -> int:
        node = self._nodes.setdefault(path, len(self._nodes) + 1)
        self._paths[node] = path
        return node

    def _attributes(self, path: bytes) -> bytes:
        found = os.stat(path)
        times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
        return _ATTRIBUTES.pack(
            *(found.st_ino, found.st_size, found.st_blocks, *times, 0, 0, 0),
            *(found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0),
        )

    def _names(self, path: bytes, first: int, size_bytes: int) -> bytes:
        content = b""
        for number, name in enumerate(sorted(os.listdir(path))[first:], first + 1):
            kind = stat.S_IFMT(os.stat(os.path.join(path, name)).st_mode) >> 12
            entry = struct.pack("<QQII", number, number, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(content) + len(entry) > size_bytes:
                break
            content += entry
        return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("mount", type=Path)
    parser.add_argument("--latency-ms", type=float, default=1.0)
    options = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads: they are waited for, and end nothing
    with slow_disk(options.folder.resolve(), options.mount, options.latency_ms / 1000):
        print(f"{options.folder} at {options.mount}, {options.latency_ms:g} ms more a read", flush=True)
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
