"""The ``verify`` command: recomputes a store's digests, counts and statistics, and decodes images, in parallel."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from commandline import Progress, counted, print_line, write_line
from preprocess.config import VerifyConfig
from preprocess.errors import StoreError
from preprocess.images.statistics import StatisticsAccumulator, finish
from preprocess.images.stored import stored_pixels
from preprocess.store.digests import ContentDigest
from preprocess.store.format import STATISTICS_NAME, STATISTICS_SPLIT, ImageSpec, Statistics, shard_stem
from preprocess.store.page_cache import left_as_found
from preprocess.store.reader import Store
from preprocess.store.sidecar import PartialStatistics, file_digest, partial_path, read_partial, read_sidecar
from preprocess.store.split_reader import SplitReader, spread

_SAMPLED_PER_SHARD = 64
_MAX_LISTED = 20
_MEAN_TOLERANCE = 1.0


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was checked and what is wrong."""

    store: str
    fingerprint: str
    num_shards: int
    num_images: int
    num_decoded: int
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _ShardCheck:
    num_images: int
    num_decoded: int
    problems: tuple[str, ...]


def verify(config: VerifyConfig) -> int:
    """Checks a store and says what is wrong, where. Returns 1 when anything is; raises StoreError when no store is."""
    with Store(config.store) as store:
        manifest, fingerprint, statistics = store.manifest, store.fingerprint, store.statistics
    shards = [(split, number) for split, info in manifest.splits.items() for number in range(len(info.shards))]
    problems: list[str] = []
    num_images = num_decoded = 0
    total = sum(info.num_images for info in manifest.splits.values())
    with Progress("verify", total, "images") as progress:
        for split, number, check in _check_all(config, shards):
            num_images += check.num_images
            num_decoded += check.num_decoded
            problems += check.problems
            progress.advance(
                manifest.splits[split].shards[number].num_images,
                note=counted(len(problems), "problem") if problems else None,
            )
    problems += _check_statistics(config.store, len(manifest.splits[STATISTICS_SPLIT].shards), statistics)
    report = VerifyReport(
        store=str(config.store),
        fingerprint=fingerprint,
        num_shards=len(shards),
        num_images=num_images,
        num_decoded=num_decoded,
        problems=tuple(sorted(problems)),
    )
    _print(report, as_json=config.json)
    return 1 if problems else 0


def _print(report: VerifyReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report), indent=1))
    for problem in report.problems[:_MAX_LISTED]:
        write_line(f"problem: {problem}")
    if len(report.problems) > _MAX_LISTED:
        write_line(f"and {len(report.problems) - _MAX_LISTED:,} more")
    if not as_json:
        verdict = counted(len(report.problems), "problem") if report.problems else "everything is as it was written"
        print_line(
            f"{report.store}: {verdict}: {report.num_images:,} images in {report.num_shards:,} shards, "
            f"{report.num_decoded:,} decoded, fingerprint {report.fingerprint}"
        )


def _check_all(config: VerifyConfig, shards: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, _ShardCheck]]:
    """Each shard's check, as they are done."""
    workers = config.workers or os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=spawn) as pool:
        futures = {pool.submit(_check_shard, config.store, *shard, config.all): shard for shard in shards}
        for future in as_completed(futures):
            yield *futures[future], future.result()


@lru_cache(maxsize=1)
def _open_store(path: Path) -> Store:
    """A process's one store; its shards are closed after each check."""
    return Store(path)


def _check_shard(path: Path, split: str, number: int, decode_all: bool) -> _ShardCheck:
    """Checks one shard. Runs in a process of the pool."""
    store = _open_store(path)
    reader = store.split(split)
    with left_as_found(path / reader.info.shards[number].file):
        try:
            return _check_records(store, reader, number, decode_all)
        finally:
            reader.close()


def _check_records(store: Store, reader: SplitReader, number: int, decode_all: bool) -> _ShardCheck:
    info = reader.info.shards[number]
    spec = store.manifest.image
    num_classes = len(store.manifest.classes)
    first = sum(shard.num_images for shard in reader.info.shards[:number])
    decoded = set(range(info.num_images) if decode_all else spread(info.num_images, _SAMPLED_PER_SHARD))
    problems: list[str] = []
    digest = ContentDigest()
    accumulator = StatisticsAccumulator(spec.side)
    for position in range(info.num_images):
        try:
            label, image = reader.read(first + position)
        except StoreError as error:
            problems.append(str(error))
            continue
        digest.add_image(label, image)
        where = f"{store.path / info.file}: key {position}"
        if not 0 <= label < num_classes:
            problems.append(f"{where}: expected a label in [0, {num_classes}), found {label}")
        if position in decoded:
            try:
                accumulator.add(tuple(stored_pixels(bytes(image), spec).transpose(2, 0, 1)))
            except ValueError as error:
                problems.append(f"{where}: {error}")
    problems += _check_whole(store.path, reader, number, digest, bool(problems))
    if decode_all and reader.name == STATISTICS_SPLIT and not problems:
        problems += _check_partial(store.path, Path(info.file).stem, accumulator.result(), spec)
    return _ShardCheck(num_images=info.num_images, num_decoded=len(decoded), problems=tuple(problems))


def _check_partial(path: Path, stem: str, found: PartialStatistics, spec: ImageSpec) -> list[str]:
    """A shard's part of the statistics against its pixels: exactly for raw images, nearly for others."""
    expected = read_partial(path, stem)
    where = partial_path(path, stem)
    if found.num_images != expected.num_images:
        return [f"{where}: expected sums over {found.num_images:,} images, found {expected.num_images:,}"]
    if spec.encoding == "raw":
        same = np.array_equal(found.sum_image, expected.sum_image) and found.products == expected.products
        return [] if same else [f"{where}: the sums are not those of the shard's pixels"]
    # Statistics are of the images before encoding; JPEG and YUV move their mean colour by a small part of a level.
    num_pixels = max(found.num_images, 1) * spec.side**2
    found_sums, expected_sums = (part.sum_image.sum(axis=(1, 2)).astype(np.float64) for part in (found, expected))
    difference = np.abs(found_sums - expected_sums).max() / num_pixels
    if difference > _MEAN_TOLERANCE:
        return [f"{where}: the mean colour differs from the shard's pixels by {difference:.1f} levels"]
    return []


def _check_whole(path: Path, reader: SplitReader, number: int, digest: ContentDigest, already_bad: bool) -> list[str]:
    """The shard's own digests and its sidecar."""
    info = reader.info.shards[number]
    stem = Path(info.file).stem
    where = path / info.file
    try:
        digest.add_names(reader.names(number))
    except StoreError as error:
        return [str(error)]
    problems = []
    if not already_bad and digest.hexdigest() != info.content_sha256:
        problems.append(f"{where}: expected content SHA-256 {info.content_sha256}, found {digest.hexdigest()}")
    sidecar = read_sidecar(path, stem)
    if sidecar is None:
        problems.append(f"{where}: expected a sound sidecar {stem}.json and what it vouches for, found none")
    elif sidecar.shard != info:
        problems.append(f"{where}: expected the sidecar to say what the manifest says, found another shard's")
    elif not already_bad and not problems and file_digest(where) != sidecar.file_xxh3:
        problems.append(f"{where}: bytes outside all records differ from those written; its images are whole")
    return problems


def _check_statistics(path: Path, num_shards: int, statistics: Statistics) -> list[str]:
    """The store's statistics against the sum of its shards' parts."""
    where = path / STATISTICS_NAME
    try:
        parts = (read_partial(path, shard_stem(STATISTICS_SPLIT, number)) for number in range(num_shards))
        expected = finish(sum(parts, PartialStatistics.empty(statistics.mean_image.shape[0])))
    except (OSError, ValueError) as error:
        return [f"{where}: expected to sum the shards' statistics, found: {error}"]
    return [
        f"{where}: {name} is not what the shards' sums give"
        for name in (field.name for field in fields(Statistics))
        if not np.array_equal(getattr(expected, name), getattr(statistics, name))
    ]
