"""What this process may use of its machine: processors and memory, as the kernel and its control groups say."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_CORES_PER_CLIENT = 8
"""Of so many cores one is left to whoever reads the images, where no core has a second hardware thread for that."""
_NO_LIMIT = 2**60
"""What version 1 of control groups says instead of "no limit" is larger than this."""


@dataclass(frozen=True, kw_only=True)
class Processors:
    """Those that this process may run on."""

    num_threads: int
    """Hardware threads: what an operating system calls a processor."""
    num_cores: int
    """Cores that these are of; as many where the system does not say."""
    quota: float | None = None
    """Seconds of processor time a second that the control group allows; None: no limit."""

    @property
    def num_decode_threads(self) -> int:
        """What a loader should have: the cores, and half of the further hardware threads, which clients need too."""
        if self.num_threads > self.num_cores:
            count = self.num_cores + (self.num_threads - self.num_cores) // 2
        else:
            count = self.num_cores - self.num_cores // _CORES_PER_CLIENT
        usable = self.num_threads if self.quota is None else int(self.quota)
        return max(min(count, usable), 1)


def processors(root: Path = _ROOT, allowed: Collection[int] | None = None) -> Processors:
    """The processors that its affinity (``allowed``) and its control group leave this process; ``root`` is where /proc
    and /sys are."""
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    folder = root / "sys/devices/system/cpu"
    cores = {_read(folder / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in allowed}
    return Processors(num_threads=len(allowed), num_cores=len(cores), quota=_cpu_quota(root))


def available_bytes(root: Path = _ROOT) -> int | None:
    """Memory that this process could still take without others losing theirs; None where the system does not say."""
    lines = _read(root / "proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for group in _groups(root, "memory"):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, usage = _number(group / most), _number(group / used)
            if limit is not None and usage is not None and limit < _NO_LIMIT:
                found.append(max(limit - usage + _cached_bytes(group), 0))
    return min(found, default=None)


def _cpu_quota(root: Path) -> float | None:
    found = []
    for group in _groups(root, "cpu"):
        quota, period = [*_read(group / "cpu.max").split(), "", ""][:2]
        if not period:
            quota, period = (_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # not "max", nor -1
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, inner and outer, of both versions."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / path.strip("/")
        # In a container the path may be the host's; what is mounted at the top is then the group itself.
        yield from (folder for folder in (inner, *inner.parents) if folder == top or top in folder.parents)


def _cached_bytes(group: Path) -> int:
    """What a group's files take of the page cache: it counts as used, and is given up when needed."""
    values = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    total = "total_" if "total_inactive_file" in values else ""  # version 1: of the groups inside it too
    return sum(int(values.get(f"{total}{state}_file", 0)) for state in ("inactive", "active"))


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    """What a file says; nothing if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
