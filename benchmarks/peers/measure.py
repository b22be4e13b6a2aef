"""What each peer's process does: run its batches for a while, measure, leave a sample to be checked. NumPy only.

    python -m benchmarks.peers.PEER prepare --data DATA
    python -m benchmarks.peers.PEER run --data DATA --workers N --seconds S --warmup-s S --sample FILE.npz [--variant V]

DATA holds the stored images: ``images.bin`` (JPEGs, one behind the other), ``offsets.npy`` (int64 [N + 1]), ``files/``
(one file an image, named by its index) and ``formats/``, where ``prepare`` writes the peer's own format. ``run`` prints
one line of JSON on stdout.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BATCH_SIZE = 128
SIDE = 256
CROP = 224
NUM_SAMPLED_BATCHES = 2

Stream = Iterator[tuple[np.ndarray, np.ndarray]]
"""Batches: images, uint8 [128, 224, 224, 3] RGB, and the index of each image, integers [128]."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement as the command line asked for it."""

    data: Path
    workers: int
    """Threads or processes that decode; what it means is the peer's affair. 0: let the peer choose."""
    variant: str
    seconds: float
    warmup_s: float
    sample: Path


def main(
    batches: Callable[[Run], AbstractContextManager[Stream]], prepare: Callable[[Path, str], None] | None = None
) -> None:
    """The peer's command line. ``prepare(data, variant)`` makes its format, once."""
    command, run = arguments()
    if command == "prepare":
        if prepare is not None:
            prepare(run.data, run.variant)
        return
    started = time.perf_counter()
    with batches(run) as stream:
        report(measure(stream, run, started))


def arguments() -> tuple[str, Run]:
    """The command (``prepare`` or ``run``) and its options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("prepare", "run"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--variant", default="")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--sample", type=Path, default=Path(os.devnull))
    options = vars(parser.parse_args())
    command = options.pop("command")
    return command, Run(**options)


def measure(stream: Stream, run: Run, started: float) -> dict[str, float]:
    """Takes batches as fast as they come; the first ones are sampled, and what comes before the warm-up ends is not
    counted. ``started``: when the peer began to set up, of time.perf_counter."""
    sampled = []
    first_batch_s = 0.0
    for _ in range(NUM_SAMPLED_BATCHES):
        images, indices = next(stream)
        first_batch_s = first_batch_s or time.perf_counter() - started
        sampled.append((images.copy(), indices.copy()))
    warm_at = time.perf_counter() + run.warmup_s
    while time.perf_counter() < warm_at:
        next(stream)
    own_cpu_from, all_cpu_from, read_from = time.process_time(), tree_cpu_s(), tree_read_bytes()
    begin = now = time.perf_counter()
    num_images = 0
    while now - begin < run.seconds:
        images, _ = next(stream)
        assert images.shape == (BATCH_SIZE, CROP, CROP, 3), f"expected [128, 224, 224, 3], found {images.shape}"
        assert images.dtype == np.uint8, f"expected uint8, found {images.dtype}"
        num_images += len(images)
        now = time.perf_counter()
    own_cpu_s, all_cpu_s = time.process_time() - own_cpu_from, tree_cpu_s() - all_cpu_from
    memory_mb, read_bytes = tree_memory_mb(), tree_read_bytes() - read_from
    if run.sample != Path(os.devnull):
        np.savez(
            run.sample, images=np.concatenate([i for i, _ in sampled]), indices=np.concatenate([i for _, i in sampled])
        )
    return {
        "images": num_images,
        "seconds": now - begin,
        "images_per_s": num_images / (now - begin),
        "first_batch_s": first_batch_s,
        "consumer_cpu_s_per_1000": own_cpu_s / num_images * 1000,
        "cpu_s_per_1000": all_cpu_s / num_images * 1000,
        "memory_mb": memory_mb,
        "read_bytes": read_bytes,
    }


def report(result: dict[str, float]) -> None:
    print(json.dumps(result), flush=True)


def shuffled_indices(num_images: int) -> Iterator[np.ndarray]:
    """Index batches, int64 [128], of endless shuffled epochs; what is left of an epoch is dropped."""
    generator = np.random.default_rng()
    while True:
        order = generator.permutation(num_images)
        for first in range(0, num_images - BATCH_SIZE + 1, BATCH_SIZE):
            yield order[first : first + BATCH_SIZE]


def stored(data: Path) -> Iterator[bytes]:
    """The stored JPEGs, in order of index."""
    offsets = np.load(data / "offsets.npy")
    with (data / "images.bin").open("rb") as file:
        for size in np.diff(offsets):
            yield file.read(int(size))


def num_stored(data: Path) -> int:
    return len(np.load(data / "offsets.npy", mmap_mode="r")) - 1


def tree_cpu_s() -> float:
    """User and system time of this process and all its descendants, those that have ended included."""
    ticks = 0
    for pid in tree():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(fields[place]) for place in (11, 12, 13, 14))
    return ticks / os.sysconf("SC_CLK_TCK")


def tree_memory_mb() -> float:
    """Memory of this process and its descendants, shared pages counted once, mapped files not at all."""
    size_kb = 0
    for pid in tree():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        size_kb += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return size_kb / 1e3


def tree_read_bytes() -> int:
    """Bytes that this process and its descendants have had read from disks."""
    size = 0
    for pid in tree():
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except OSError:
            continue
        size += sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    return size


def tree() -> list[int]:
    """This process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [os.getpid()]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found
