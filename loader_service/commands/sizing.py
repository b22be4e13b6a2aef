"""What a machine is worth: how many processes and threads, and whether a store fits in its memory."""

import math

from commandline import counted
from loader_service.client.machine import Processors
from preprocess.store import Manifest

_MOST_THREADS = 4
"""Of one process: more wait for each other's hold of the interpreter longer than they decode."""


def num_threads(found: Processors, processes: int) -> int:
    """Decode threads of each of so many processes."""
    return max(min(found.num_decode_threads // processes, _MOST_THREADS), 1)


def summary(found: Processors, processes: int, threads: int) -> str:
    """One line that says what was decided, and from what."""
    quota = "" if found.quota is None else f", of which {found.quota:g} may be used"
    machine = f"{counted(found.num_cores, 'core')}, {counted(found.num_threads, 'hardware thread')}{quota}"
    chosen = f"{counted(processes, 'process', 'es')} of {counted(threads, 'decode thread')}"
    best = found.num_decode_threads
    advice = f"; --processes auto would start {best}" if processes * threads < best else ""
    return f"{chosen}, on {machine}{advice}"


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


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
