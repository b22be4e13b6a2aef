"""A machine with less memory or a slower disk than this one, for what runs in it, and what its disk gives.

    python -m benchmarks.disk_and_memory FOLDER BYTES      # reads of so many bytes a second that the disk gives

Control groups make it, of version 1 or 2: Linux, as root.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

_GROUPS = Path("/sys/fs/cgroup")
_DISK_DEPTH, _DISK_S = 16, 2.0


@contextmanager
def limits(
    *, memory_bytes: int | None = None, disk_reads: int | None = None, disk: Path = Path()
) -> Iterator[list[str]]:
    """Memory, page cache included, and reads a second from the disk that ``disk`` lies on: yields what a command must
    begin with to run within. None limits nothing.

    Raises ValueError, saying what is missing, where this process may not make them.
    """
    wanted = []  # of each limit the controller, its file and the value, in version 1 and in version 2
    if memory_bytes is not None:
        value = str(memory_bytes)
        wanted.append((("memory", "memory.limit_in_bytes", value), ("memory", "memory.max", value)))
    if disk_reads is not None:
        number = _device_number(disk)
        first = ("blkio", "blkio.throttle.read_iops_device", f"{number} {disk_reads}")
        wanted.append((first, ("io", "io.max", f"{number} riops={disk_reads}")))
    with ExitStack() as stack:
        groups = dict.fromkeys(stack.enter_context(_group(*each)) for each in wanted)
        enter = "".join(f"echo $$ > {group}/cgroup.procs && " for group in groups)
        yield ["sh", "-c", f'{enter}exec "$@"', "sh"]


@contextmanager
def _group(first: tuple[str, str, str], second: tuple[str, str, str]) -> Iterator[Path]:
    if (_GROUPS / first[0] / first[1]).exists():
        top, (_, file, value) = _GROUPS / first[0], first
    elif second[0] in _text(_GROUPS / "cgroup.subtree_control").split():
        top, (_, file, value) = _GROUPS, second
    else:
        raise ValueError(f"{_GROUPS}: expected the controller {first[0]} (version 1) or {second[0]} (2), found neither")
    group = top / f"benchmark-{os.getpid()}"
    try:
        group.mkdir(exist_ok=True)
        (group / file).write_text(value)
    except OSError as error:
        raise ValueError(f"{group}: a control group cannot be made here ({error.strerror}): run this as root") from None
    try:
        yield group
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except FileNotFoundError:  # one group for both, of version 2
                break
            except OSError:  # its processes are still ending
                time.sleep(0.1)


def _device_number(path: Path) -> str:
    """MAJOR:MINOR of the disk that a path lies on, which a limit is set for as a whole."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    block = Path("/sys/dev/block") / number
    return _text(block / "../dev").strip() if (block / "partition").exists() else number


def files_in(path: Path) -> list[Path]:
    """The files below a folder, or the file itself."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def read(files: Sequence[Path]) -> None:
    """Brings files into memory."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 22):
                pass


def drop(files: Sequence[Path]) -> None:
    """Has the kernel forget what it has of files."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(files: Sequence[Path], size_bytes: int) -> tuple[float, float]:
    """Reads of so many bytes a second that the disk gives at random places of files, 16 at a time, and microseconds of
    processor time for each."""
    size_bytes = -(-size_bytes // 4096) * 4096
    descriptors = [os.open(file, os.O_RDONLY) for file in files if file.stat().st_size > 2 * size_bytes]
    for descriptor in descriptors:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    counts = [0] * _DISK_DEPTH
    stop, from_cpu_s = time.monotonic() + _DISK_S, time.process_time()

    def work(number: int) -> None:
        draw = np.random.default_rng([number, time.time_ns()])
        buffer = bytearray(size_bytes)
        while time.monotonic() < stop:
            descriptor = descriptors[draw.integers(len(descriptors))]
            last = (os.fstat(descriptor).st_size - size_bytes) // 4096
            place = int(draw.integers(last)) * 4096
            os.preadv(descriptor, [buffer], place)
            os.posix_fadvise(descriptor, place, size_bytes, os.POSIX_FADV_DONTNEED)
            counts[number] += 1

    readers = [threading.Thread(target=work, args=(number,)) for number in range(_DISK_DEPTH)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for descriptor in descriptors:
        os.close(descriptor)
    return sum(counts) / _DISK_S, (time.process_time() - from_cpu_s) / max(sum(counts), 1) * 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    print(json.dumps(disk_rate(files_in(Path(sys.argv[1])), int(sys.argv[2]))))
