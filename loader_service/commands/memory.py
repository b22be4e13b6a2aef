"""Whether a store fits in this machine's memory, and what to expect where it does not."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from preprocess.store import Manifest


def expectation(manifest: Manifest, available: int) -> str:
    """What serving a store means for the disk, where ``available`` bytes of memory can hold it."""
    splits = manifest.splits.values()
    size_bytes = sum(shard.size_bytes for split in splits for shard in split.shards)
    image_bytes = size_bytes / max(sum(split.num_images for split in splits), 1)
    both = f"the store's {_gigabytes(size_bytes)}, memory for {_gigabytes(available)}"
    if size_bytes <= available:
        return f"{both}: each image is read from the disk once, and from memory after that"
    # Of a permutation and the next one, an image that comes after a share u of the one and a share v of the other has
    # 1 - u (1 - v) of all images between its two reads. The page cache, which forgets what was used least recently, has
    # it still if they fit. That they do not has the probability c - c ln(c), c being the share that does not fit.
    missing = 1 - available / size_bytes
    read_bytes = size_bytes * missing * (1 - math.log(missing))
    return (
        f"{both}: an epoch over all of it reads about {_gigabytes(read_bytes)} from the disk; "
        f"1,000 images/s need up to {1000 * image_bytes / 1e6:,.0f} MB/s in 1,000 random reads a second"
    )


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that the page cache and this process may take: what is free or can be freed, within the limits of the
    control groups (version 1 or 2) that the process is in. ``root`` is where /proc and /sys are."""
    return min([_free_bytes(root), *_limits(root)])


def _free_bytes(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo: expected MemAvailable, found none")


def _limits(root: Path) -> Iterator[int]:
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # The limits of the groups around it hold too. In a container its own path may be another's: then it is the top.
        inside = top / path.lstrip("/")
        for folder in (inside, *inside.parents):
            with suppress(OSError, ValueError):  # no such file; "max"
                yield int((folder / name).read_text())
            if folder == top:
                break


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
