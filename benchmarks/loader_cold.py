"""A store that is cold or larger than memory: ours, FFCV and tf.data in the same condition. Needs root and Linux.

    python -m benchmarks.loader_cold short --bench-dir bench-envs       # memory for 0.4 of the images, against warm
    python -m benchmarks.loader_cold short --latency-ms 1 ...           # on a disk of so much latency (slow_disk.py)
    python -m benchmarks.loader_cold short --disk-reads 1000 ...        # on a disk that gives no more than that
    python -m benchmarks.loader_cold cost --bench-dir bench-envs --before CHECKOUT
                                                                         # warm: processor time against another commit
    python -m benchmarks.loader_cold imagenet --bench-dir bench-envs --photos FOLDER
                                                                         # 1.28 million images, cold: 40 min, 35 GB

The images, and the peers' environments, are those of scripts/bench (benchmarks/peers/environments/build tensorflow
BENCH_DIR makes one alone; a peer without is left out). ``short`` runs each program twice a round, interleaved: with all
of its file in the page cache; and in a memory cgroup (version 1 or 2) that leaves it what it used then and 0.4 of the
file, with nothing of the file in memory at the start. What the disk itself gives, at random, is measured in each
round too, and what a read from it costs in processor time: the cores may be the limit before the disk is. A program
that does not live within the limit is left out of that round. Medians over the rounds, ratios of pairs within a
round. The machine must be idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison.images import make_images
from benchmarks.disk_and_memory import disk_rate, drop, files_in, limits, read
from benchmarks.peers.measure import tree_read_bytes
from benchmarks.slow_disk import slow_disk
from loader_service.client import ClientOptions, LoaderClient, StreamSpec
from preprocess.store import Store

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.4
_TIMEOUT_S = 300.0
_IMAGENET_TRAIN, _IMAGENET_VAL, _IMAGENET_CLASSES = 1_281_167, 50_000, 1000


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program of benchmarks.peers and the file or folder that it reads, below BENCH_DIR/data."""

    name: str
    module: str
    variant: str
    environment: str | None
    reads: str
    encoding: str


class ProgramError(ValueError):
    """A program ended with an error, as one does that the kernel kills for want of memory."""


PROGRAMS = (
    *(
        Program(
            name=f"ours, {encoding}",
            module="ours",
            variant=f"shm-{encoding}",
            environment=None,
            reads=f"stores/{encoding}/shards",
            encoding=encoding,
        )
        for encoding in ("jpeg", "yuv420", "raw")
    ),
    Program(
        name="tf.data, jpeg",
        module="tf_data",
        variant="",
        environment="tensorflow",
        reads="formats/tfrecord",
        encoding="jpeg",
    ),
    *(
        Program(
            name=f"FFCV, {encoding}",
            module="ffcv_loader",
            variant=encoding,
            environment="ffcv",
            reads=f"formats/ffcv-{encoding}.beton",
            encoding=encoding,
        )
        for encoding in ("jpeg", "raw")
    ),
)


def main() -> int:
    """Runs one measurement and prints its table, and on the last line its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--bench-dir", type=Path, default=Path("bench-envs"))
    parser.add_argument("--images", type=int, default=8192, help="stored training images (default: 8192)")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="short: what each read of the disk takes longer")
    parser.add_argument("--disk-reads", type=int, help="short: reads a second that the disk is held to")
    parser.add_argument("--photos", type=Path, help="imagenet: a folder with train/CLASS/*, linked to again and again")
    parser.add_argument("--before", type=Path, help="cost: a checkout of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default="", help="programs whose names contain this")
    options = parser.parse_args()
    options.bench_dir = options.bench_dir.resolve()
    options.bench_dir.mkdir(parents=True, exist_ok=True)
    try:
        MEASUREMENTS[options.what](options)
    except (ValueError, OSError) as error:
        print(f"loader_cold: error: {error}", file=sys.stderr)
        return 1
    return 0


def short(options: argparse.Namespace) -> None:
    """Larger than memory against warm."""
    data = _images(options)
    programs = [program for program in PROGRAMS if options.only in program.name and _prepare(options, data, program)]
    with ExitStack() as stack:
        if options.latency_ms:
            mount = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(slow_disk(data, mount, options.latency_ms / 1000))
            data = mount
        _measure_short(options, data, programs)


def _measure_short(options: argparse.Namespace, data: Path, programs: list[Program]) -> None:
    found: dict[str, list[dict[str, float]]] = {program.name: [] for program in programs}
    for number in range(options.rounds):
        for program in programs[number % len(programs) :] + programs[: number % len(programs)]:
            try:
                found[program.name].append(_short_of_memory(options, data, program))
            except ProgramError as error:
                print(f"round {number + 1}: left out: {error}", flush=True)
            else:
                print(f"round {number + 1}: {program.name}: {_short(found[program.name][-1])}", flush=True)
    if not any(found.values()):
        raise ValueError("expected a program that runs here, found none")
    _print({name: _medians(rounds) for name, rounds in found.items() if rounds})


def _short_of_memory(options: argparse.Namespace, data: Path, program: Program) -> dict[str, float]:
    """One program's figures. Raises ProgramError when it fails, and ValueError where the condition cannot be made."""
    files = files_in(data / program.reads)
    image_bytes = sum(file.stat().st_size for file in files) / _num_stored(data, program)
    read(files)
    warm = _run(options, data, program)
    drop(files)
    with limits(disk_reads=options.disk_reads, disk=data) as prefix:
        command = [*prefix, sys.executable, "-m", "benchmarks.disk_and_memory", str(data / program.reads)]
        done = subprocess.run([*command, f"{round(image_bytes)}"], cwd=ROOT, check=True, capture_output=True, text=True)
    disk, disk_us = json.loads(done.stdout)
    drop(files)
    limit_bytes = round(warm["memory_mb"] * 1e6 + SHARE * sum(file.stat().st_size for file in files))
    with limits(memory_bytes=limit_bytes, disk_reads=options.disk_reads, disk=data) as prefix:
        tight = _run(options, data, program, prefix)
    read_share = tight["read_bytes"] / (tight["images"] * image_bytes)
    # Of a file system whose reads are not counted (slow_disk) every image is taken to be read.
    possible = min(warm["images_per_s"], disk / (read_share or 1.0))
    return {
        "warm": warm["images_per_s"],
        "short": tight["images_per_s"],
        "short / warm": tight["images_per_s"] / warm["images_per_s"],
        "disk": disk,
        "short / possible": tight["images_per_s"] / possible,
        "bytes read / bytes of records": read_share,
        "CPU us, warm": 1000 * warm["cpu_s_per_1000"],
        "CPU us, short": 1000 * tight["cpu_s_per_1000"],
        "CPU us of a read": disk_us,
        "first batch s, warm": warm["first_batch_s"],
        "first batch s, short": tight["first_batch_s"],
        "limit MB": limit_bytes / 1e6,
    }


def cost(options: argparse.Namespace) -> None:
    """Processor time an image, all in memory, of client and server, here and in another checkout by turns."""
    if options.before is None:
        raise ValueError("--before: expected a checkout of the commit to compare with")
    data = _images(options)
    programs = [program for program in PROGRAMS if program.module == "ours" and options.only in program.name]
    found: dict[str, list[dict[str, float]]] = {program.name: [] for program in programs}
    for _ in range(options.rounds):
        for program in programs:
            read(files_in(data / program.reads))
            now = _run(options, data, program)["cpu_s_per_1000"]
            before = _run(options, data, program, root=options.before.resolve())["cpu_s_per_1000"]
            again = _run(options, data, program)["cpu_s_per_1000"]
            figures = {"us an image": 500 * (now + again), "before": 1000 * before, "ratio": (now + again) / 2 / before}
            found[program.name].append(figures)
            print(f"{program.name}: {_short(figures)}", flush=True)
    _print({name: _medians(rounds) for name, rounds in found.items()})


def imagenet(options: argparse.Namespace) -> None:
    """ImageNet's number of images and shards, nothing of them in memory, two processes and the default client."""
    store = options.bench_dir / "imagenet" / "store"
    if not (store / "manifest.json").exists():
        if options.photos is None:
            raise ValueError("--photos: expected a folder with train/CLASS/*, found none given")
        links = options.bench_dir / "imagenet" / "links"
        _link(options.photos.resolve(), links)
        command = [sys.executable, "-m", "preprocess", "run", "--source", str(links), "--follow-links"]
        subprocess.run([*command, "--out", str(store)], check=True)
    files = sorted((store / "shards").glob("*.lmdb"))
    with Store(store) as opened:
        splits = opened.manifest.splits.values()
        image_bytes = sum(file.stat().st_size for file in files) / sum(split.num_images for split in splits)
    found = []
    for _ in range(options.rounds):
        drop(files_in(store))
        disk, _ = disk_rate(files, round(image_bytes))
        drop(files_in(store))
        command = [sys.executable, "-m", "loader_service", "serve", "--store", str(store), "--listen", "127.0.0.1:0"]
        server = subprocess.Popen(
            [*command, "--processes", "2", "--log-level", "error"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            targets = [server.stdout.readline().split()[-1] for _ in range(2)]
            found.append(_read_cold(targets, image_bytes, options.seconds) | {"disk": disk})
            print(_short(found[-1]), flush=True)
        finally:
            server.terminate()
            server.wait(30)
    _print({f"cold, {len(files):,} shards": _medians(found)})


def _read_cold(targets: list[str], image_bytes: float, seconds: float) -> dict[str, float]:
    with LoaderClient(targets, ClientOptions()) as client:
        started = time.monotonic()
        num_images = 0
        with client.stream(StreamSpec(seed=time.time_ns()), num_epochs=None) as stream:
            next(stream)
            first_batch_s = time.monotonic() - started
            from_bytes, begin = tree_read_bytes(), time.monotonic()
            while time.monotonic() - begin < seconds:
                num_images += next(stream).num_images
            elapsed_s = time.monotonic() - begin
            num_bytes = tree_read_bytes() - from_bytes
    return {
        "images/s": num_images / elapsed_s,
        "first batch s": first_batch_s,
        "bytes read / bytes of records": num_bytes / (num_images * image_bytes),
    }


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], None]] = {"short": short, "cost": cost, "imagenet": imagenet}


def _images(options: argparse.Namespace) -> Path:
    data: Path = options.bench_dir / "data"
    photos = os.environ.get("ALEXNET_TEST_DATA")
    print(f"images: {make_images(data, options.images, Path(photos) if photos else None)}", flush=True)
    return data


def _num_stored(data: Path, program: Program) -> int:
    with Store(data / "stores" / program.encoding) as store:
        train, val = (store.split(name).num_images for name in ("train", "val"))
    return train + val if program.module == "ours" else train


def _prepare(options: argparse.Namespace, data: Path, program: Program) -> bool:
    """Whether a program can run here; makes its own form of the images if it is a peer's."""
    if program.environment is None:
        return True
    if not (options.bench_dir / "envs" / program.environment / ".built").exists():
        print(f"{program.name}: left out: benchmarks/peers/environments/build {program.environment} makes it")
        return False
    if not (data / program.reads).exists():
        _command(options, data, program, ["prepare"])
    return True


def _run(
    options: argparse.Namespace, data: Path, program: Program, prefix: Sequence[str] = (), root: Path = ROOT
) -> dict[str, float]:
    times = ["--workers", "1", "--seconds", f"{options.seconds}", "--warmup-s", "2"]
    figures: dict[str, float] = json.loads(_command(options, data, program, ["run", *times], prefix, root))
    return figures


def _command(
    options: argparse.Namespace,
    data: Path,
    program: Program,
    arguments: Sequence[str],
    prefix: Sequence[str] = (),
    root: Path = ROOT,
) -> str:
    """Runs a program of benchmarks.peers; its last line."""
    python, environment = sys.executable, dict(os.environ, PYTHONPATH=str(root))
    if program.environment is not None:
        python = str(options.bench_dir / "envs" / program.environment / "bin" / "python")
        libraries = options.bench_dir / "debs" / "root" / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
        environment |= {"LD_LIBRARY_PATH": str(libraries)} if libraries.exists() else {}
    command = [*prefix, python, "-m", f"benchmarks.peers.{program.module}", *arguments]
    command += ["--data", str(data), "--variant", program.variant]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise ProgramError(f"{program.name}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def _link(photos: Path, links: Path) -> None:
    """ImageNet's tree: a thousand class folders of links to the photographs that there are, again and again."""
    found = sorted((photos / "train").glob("*/*"))
    if not found:
        raise ValueError(f"--photos: expected images in {photos}/train/CLASS/, found none")
    for split, num_images in (("train", _IMAGENET_TRAIN), ("val", _IMAGENET_VAL)):
        for number in range(num_images):
            folder = links / split / f"n{number % _IMAGENET_CLASSES:08d}"
            if number < _IMAGENET_CLASSES:
                folder.mkdir(parents=True, exist_ok=True)
            link = folder / f"{number:07d}.JPEG"
            if not link.is_symlink():
                link.symlink_to(found[number % len(found)])


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def _short(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())


def _print(rows: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(rows.values())))
    print("| |" + "|".join(f" {name} " for name in names) + "|\n|---|" + "---|" * len(names))
    for title, figures in rows.items():
        print(f"| {title} |" + "|".join(f" {figures[name]:,.2f} " for name in names) + "|")
    print(json.dumps(rows))


if __name__ == "__main__":
    sys.exit(main())
