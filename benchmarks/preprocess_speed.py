"""Preprocessing's speed beside Ray Data's and beside two plain loops, interleaved in one run.

    python -m benchmarks.preprocess_speed --photos FOLDER [--rounds 3] [--copies 10]

FOLDER holds JPEG photographs (train/<class>/*.JPEG). Every contender turns the same files, each listed ``--copies``
times, into 256 x 256 JPEGs (quality 95, 4:2:0, optimised Huffman tables) on two processes. Times are of the job
as a whole, listing and manifest included, without starting Ray. Ray Data needs pandas beside this project's
dependencies: pip install 'ray[data]'.

Beside images/s it gives the processor time that an image took in all processes together, Ray's own among them, which
other programs on the machine disturb less.

    ours            preprocess run's tasks: statistics, LMDB shards, checksums and digests included
    plain           make_shard, the same code, in two processes without Ray
    kernel          read, decode, resize, statistics and encode in two processes; nothing is written
    kernel-bare     the same without statistics
    ray-data        read_binary_files, map(decode with PIL, resize, crop, encode), write_parquet; no statistics
    ray-data-images read_images, map(resize, crop, encode), write_parquet; no statistics
"""

import argparse
import io
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from preprocess.config import RunConfig
from preprocess.images.decode import decode, decoder_versions
from preprocess.images.limits import DEFAULT_MAX_PIXELS
from preprocess.images.resize import centre_square, encode, planes_of
from preprocess.images.statistics import StatisticsAccumulator
from preprocess.job.plan import plan_shards
from preprocess.job.run import run
from preprocess.job.shard import ShardWork, make_shard
from preprocess.sources import SourceOptions, read_source
from preprocess.store import ImageSpec

NUM_PROCESSES = 2
_IMAGES_PER_SHARD = 512
_SPEC = ImageSpec()


class Spent(NamedTuple):
    """What a contender took."""

    wall_s: float
    cpu_s: float


class _Clock:
    """Counts both from now on."""

    def __init__(self) -> None:
        self._cpu_s = _cpu_seconds()
        self._wall_s = time.monotonic()

    def read(self) -> Spent:
        return Spent(time.monotonic() - self._wall_s, _cpu_seconds() - self._cpu_s)


def _cpu_seconds() -> float:
    """Processor time of this process and everything it has started, so far (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(process.name)] = int(words[1])
        ticks[int(process.name)] = sum(map(int, words[11:15]))  # own and reaped children's, in user and system
    total = 0
    for pid, count in ticks.items():
        ancestor = pid
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        total += count if ancestor else 0
    return total / os.sysconf("SC_CLK_TCK")


def _copies(photos: Path, copies: int, folder: Path) -> Path:
    """A source of ``copies`` times the photographs, as hard links where the file system allows."""
    files = sorted(photos.rglob("*.JPEG"))
    for copy in range(copies):
        for number, file in enumerate(files):
            target = folder / "train" / f"class{number % 10}" / f"{copy}_{number}.JPEG"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
    return folder


def _works(source_path: Path, store: Path) -> list[ShardWork]:
    source = read_source(str(source_path), SourceOptions(), map)
    return [
        ShardWork(
            probe=None,
            store=str(store),
            root=str(source_path),
            split=shard.split,
            stem=shard.stem,
            images=source.splits[shard.split].take(shard.indices),
            image=_SPEC,
            max_pixels=DEFAULT_MAX_PIXELS,
            decoders=decoder_versions(),
        )
        for shard in plan_shards(source, images_per_shard=_IMAGES_PER_SHARD, seed=0)
    ]


def time_ours(source: Path, out: Path) -> Spent:
    clock = _Clock()
    run(RunConfig(source=str(source), out=out, images_per_shard=_IMAGES_PER_SHARD, json=True))
    return clock.read()


def time_plain(source: Path, out: Path) -> Spent:
    (out / "shards").mkdir(parents=True)
    return _time_pool(make_shard, _works(source, out))


def time_kernel(source: Path, out: Path) -> Spent:
    return _time_pool(_kernel_with_statistics, _works(source, out))


def time_kernel_bare(source: Path, out: Path) -> Spent:
    return _time_pool(_kernel_bare, _works(source, out))


def _kernel_with_statistics(work: ShardWork) -> int:
    return _kernel(work, StatisticsAccumulator(work.image.side))


def _kernel_bare(work: ShardWork) -> int:
    return _kernel(work, None)


def _kernel(work: ShardWork, accumulator: StatisticsAccumulator | None) -> int:
    size_bytes = 0
    for entry in work.images:
        square = centre_square(decode(Path(work.root, os.fsdecode(entry.name)).read_bytes()), work.image.side)
        if accumulator is not None:
            accumulator.add(planes_of(square))
        size_bytes += len(encode(square, work.image))
    return size_bytes


def _time_pool(function: Callable[[ShardWork], object], works: list[ShardWork]) -> Spent:
    with multiprocessing.get_context("spawn").Pool(NUM_PROCESSES) as pool:
        pool.map(_imported, range(100), chunksize=1)  # the processes are up
        clock = _Clock()
        for _ in pool.imap_unordered(function, works):
            pass
        return clock.read()


def _imported(number: int) -> str:
    return decoder_versions()


def _resize_and_encode(image: Image.Image) -> bytes:
    """The plain way: scale the shorter side, cut out the centre, encode."""
    side = _SPEC.side
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    buffer = io.BytesIO()
    cropped = image.crop((left, top, left + side, top + side))
    cropped.save(buffer, "JPEG", quality=_SPEC.quality, subsampling=_SPEC.subsampling, optimize=True)
    return buffer.getvalue()


def _row_from_bytes(row: dict[str, Any]) -> dict[str, Any]:
    return {"image": _resize_and_encode(Image.open(io.BytesIO(row["bytes"])).convert("RGB"))}


def _row_from_pixels(row: dict[str, Any]) -> dict[str, Any]:
    return {"image": _resize_and_encode(Image.fromarray(np.asarray(row["image"])))}


def time_ray_data(source: Path, out: Path) -> Spent:
    import ray.data

    dataset = ray.data.read_binary_files(str(source / "train")).map(_row_from_bytes)
    return _time_dataset(dataset, out)


def time_ray_data_images(source: Path, out: Path) -> Spent:
    import ray.data

    dataset = ray.data.read_images(str(source / "train"), mode="RGB").map(_row_from_pixels)
    return _time_dataset(dataset, out)


def _time_dataset(dataset: Any, out: Path) -> Spent:
    clock = _Clock()
    dataset.write_parquet(str(out))
    return clock.read()


CONTENDERS: dict[str, Callable[[Path, Path], Spent]] = {
    "ours": time_ours,
    "plain": time_plain,
    "kernel": time_kernel,
    "kernel-bare": time_kernel_bare,
    "ray-data": time_ray_data,
    "ray-data-images": time_ray_data_images,
}


def main() -> None:
    """Runs every contender in turn, round after round, and prints images/s and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--copies", type=int, default=10, help="how often each is listed (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each contender runs (default: 3)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which of them (default: all)")
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(
        address="local", num_cpus=NUM_PROCESSES, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    names = options.contenders.split(",")
    spent: dict[str, list[Spent]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        source = _copies(options.photos, options.copies, Path(scratch) / "source")
        num_images = len(list(source.rglob("*.JPEG")))
        # Once unmeasured: the files are then in memory and Ray's workers have started.
        time_ours(source, Path(scratch) / "warm")
        for round_number in range(options.rounds):
            for name in names:
                out = Path(scratch) / f"{name}-{round_number}"
                spent[name].append(CONTENDERS[name](source, out))
                shutil.rmtree(out, ignore_errors=True)
                rate, cost = num_images / spent[name][-1].wall_s, spent[name][-1].cpu_s / num_images
                print(f"round {round_number}: {name} {rate:,.0f} images/s, {cost * 1e6:,.0f} us", flush=True)
    ray.shutdown()
    rates = {name: num_images / statistics.median(one.wall_s for one in all_) for name, all_ in spent.items()}
    costs = {name: statistics.median(one.cpu_s for one in all_) / num_images for name, all_ in spent.items()}
    report = {
        "num_images": num_images,
        "images_per_s": {name: round(rate) for name, rate in rates.items()},
        "cpu_us_per_image": {name: round(cost * 1e6) for name, cost in costs.items()},
        "ratio_of_rates": {f"{names[0]} / {name}": round(rates[names[0]] / rates[name], 3) for name in names[1:]},
        "ratio_of_cpu": {f"{name} / {names[0]}": round(costs[name] / costs[names[0]], 3) for name in names[1:]},
        "load": os.getloadavg(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
