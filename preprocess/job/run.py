"""The ``run`` command from source to manifest: read this file first."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from commandline import Progress, plain, print_line, write_line
from commandline.folder_lock import FolderLock
from preprocess.config import RunConfig
from preprocess.errors import BadImagesError, StoreError
from preprocess.images.decode import decoder_versions
from preprocess.images.probe import images_digest
from preprocess.images.statistics import finish
from preprocess.job.cluster import Cluster
from preprocess.job.disk import NUM_PROBED, check_free, disk_errors, mean_encoded_bytes
from preprocess.job.plan import PlannedShard, plan_shards
from preprocess.job.report import RunReport, write_quarantine, write_report
from preprocess.job.resume import (
    PROBE_TERM,
    REPORT_NAME,
    begin_or_resume,
    is_complete,
    make_folder,
    remove_temporary_files,
)
from preprocess.job.shard import Seconds, ShardOutcome, ShardWork, make_shard
from preprocess.sources import Source, read_source
from preprocess.store.format import QUARANTINE_NAME, STATISTICS_SPLIT, Manifest, SplitInfo
from preprocess.store.reader import Store
from preprocess.store.sidecar import BadImage, PartialStatistics, Sidecar, read_partial, read_sidecar
from preprocess.store.writer import write_manifest, write_statistics

_NUM_LISTED_BAD = 10

WorkOf = Callable[[PlannedShard], ShardWork]
"""What a shard's task must know."""


def run(config: RunConfig) -> int:
    """Makes the store, or as much of it as is missing. Raises PreprocessError or OSError."""
    _check_apart(config)
    memory_bytes = config.task_memory_bytes
    with Cluster(address=config.ray_address, workers=config.workers, memory_bytes=memory_bytes) as cluster:
        source = read_source(config.source, config.source_options, cluster.map, layout=config.layout)
        write_line(f"{config.source}: {source.describe()}")
        for note in source.notes:
            write_line(f"{config.source}: note: {note}")
        shards = plan_shards(source, images_per_shard=config.images_per_shard, seed=config.shuffle_seed)
        with disk_errors(config.out):
            make_folder(config.out)
            with FolderLock(config.out, partial(_taken, config.out)):
                probe = begin_or_resume(config.out, _terms(config, source)).get(PROBE_TERM)
                work_of = partial(_work, config, source, probe)
                finished = _finished_shards(config.out, shards, work_of)
                if len(finished) == len(shards) and is_complete(config.out):
                    return _report_complete(config)
                report = _complete(config, source, shards, work_of, finished, cluster)
    if config.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        for line in report.lines():
            print_line(line)
    return 0


def _taken(store: Path, owner: str) -> StoreError:
    return StoreError(f"{store}: is being written by {owner}: wait for it, or give another --out")


def _check_apart(config: RunConfig) -> None:
    """Raises StoreError for a store within its source, where the next listing would find it."""
    source = config.source.removeprefix("file://")
    if "://" in source:
        return
    store, source = os.path.realpath(config.out), os.path.realpath(source)
    if os.path.commonpath([store, source]) == source:
        raise StoreError(f"--out {config.out}: expected a folder outside --source {config.source}, found one within it")


def _complete(
    config: RunConfig,
    source: Source,
    shards: Sequence[PlannedShard],
    work_of: WorkOf,
    finished: dict[str, Sidecar],
    cluster: Cluster,
) -> RunReport:
    """Makes the missing shards and the manifest; leaves nothing half-written, however it ends."""
    num_workers = cluster.num_cpus if len(finished) < len(shards) else 0
    started = time.monotonic()
    try:
        outcomes = _make_shards(config, shards, work_of, finished, cluster) if num_workers else []
    finally:
        remove_temporary_files(config.out)
    elapsed_s = time.monotonic() - started
    return _finish_store(config, source, shards, finished, outcomes, elapsed_s, num_workers)


def _report_complete(config: RunConfig) -> int:
    with Store(config.out) as store:
        write_line(f"{config.out}: complete already, fingerprint {store.fingerprint}; nothing to do")
    if config.json:
        print((config.out / REPORT_NAME).read_text("ascii"), end="")
    return 0


def _terms(config: RunConfig, source: Source) -> dict[str, Any]:
    """What must not change between the runs that make one store: the options that decide its bytes, the source."""
    return {
        "layout": source.layout,
        "classes": len(source.classes),
        **{f"{name} images": len(images) for name, images in source.splits.items()},
        "digest of the source's names, labels and sizes": source.digest(),
        **asdict(config.image),
        "images-per-shard": config.images_per_shard,
        "shuffle-seed": config.shuffle_seed,
        "max-pixels": config.max_pixels,
        "decoders": decoder_versions(),
        PROBE_TERM: images_digest(config.image),
    }


def _work(config: RunConfig, source: Source, probe: str | None, shard: PlannedShard) -> ShardWork:
    return ShardWork(
        store=str(config.out.absolute()),
        root=source.root if "://" in source.root else str(Path(source.root).absolute()),
        split=shard.split,
        stem=shard.stem,
        images=source.splits[shard.split].take(shard.indices),
        image=config.image,
        max_pixels=config.max_pixels,
        decoders=decoder_versions(),
        probe=probe,
    )


def _finished_shards(store: Path, shards: Sequence[PlannedShard], work_of: WorkOf) -> dict[str, Sidecar]:
    """The sidecars of shards that an earlier run has made, by stem; not of those that lack what could not be read then,
    unless the store is complete: its images stay what they are.
    """
    finished = {}
    is_final = is_complete(store)
    for shard in shards:
        sidecar = read_sidecar(store, shard.stem)
        if sidecar is None or sidecar.key != work_of(shard).key():
            continue
        if is_final or not sidecar.lacks_unreadable:
            finished[shard.stem] = sidecar
    return finished


def _make_shards(
    config: RunConfig,
    shards: Sequence[PlannedShard],
    work_of: WorkOf,
    finished: dict[str, Sidecar],
    cluster: Cluster,
) -> list[ShardOutcome]:
    """Makes the missing shards. Raises BadImagesError as soon as too many images are unusable."""
    missing = [shard for shard in shards if shard.stem not in finished]
    bad_images = [bad for sidecar in finished.values() for bad in sidecar.bad_images]
    _check_bad_images(config, bad_images, len(finished), len(shards))
    _check_disk(config, missing, work_of, cluster)
    outcomes = []
    total = sum(len(shard.indices) for shard in shards)
    done = total - sum(len(shard.indices) for shard in missing)
    with Progress("preprocess", total, "images", done=done) as progress:
        for outcome in cluster.map(make_shard, map(work_of, missing)):
            outcomes.append(outcome)
            bad_images += outcome.bad_images
            num_done = len(finished) + len(outcomes)
            note = f"{num_done:,}/{len(shards):,} shards"
            if bad_images:
                note += f", {len(bad_images):,} bad"
            progress.advance(outcome.num_images + len(outcome.bad_images), note=note)
            _check_bad_images(config, bad_images, num_done, len(shards))
    return outcomes


def _check_bad_images(config: RunConfig, bad_images: Sequence[BadImage], num_done: int, num_shards: int) -> None:
    if len(bad_images) <= config.max_bad_images:
        return
    write_quarantine(config.out, bad_images)
    listed = "; ".join(
        f"{plain(bad.name)} ({bad.size_bytes:,} bytes): {bad.reason}" for bad in bad_images[:_NUM_LISTED_BAD]
    )
    more = f"; and {len(bad_images) - _NUM_LISTED_BAD:,} more" if len(bad_images) > _NUM_LISTED_BAD else ""
    raise BadImagesError(
        f"expected at most {config.max_bad_images:,} unusable images (--max-bad-images), found {len(bad_images):,} in "
        f"{num_done:,} of {num_shards:,} shards, all listed in {config.out / QUARANTINE_NAME}: {listed}{more}. The "
        "finished shards are kept; the same command tries again what could not be read, and with a larger "
        "--max-bad-images carries on without these images"
    )


def _check_disk(config: RunConfig, missing: Sequence[PlannedShard], work_of: WorkOf, cluster: Cluster) -> None:
    """Refuses a run that cannot fit. Raises StoreError with both figures."""
    some = next((shard for shard in missing if shard.split == STATISTICS_SPLIT), missing[0])
    probe = replace(some, indices=some.indices[:NUM_PROBED])
    (image_bytes,) = cluster.map(mean_encoded_bytes, [work_of(probe)])
    num_images = sum(len(shard.indices) for shard in missing)
    num_partials = sum(shard.split == STATISTICS_SPLIT for shard in missing)
    check_free(config.out, config.image, num_images=num_images, image_bytes=image_bytes, num_partials=num_partials)


def _check_every_image(
    config: RunConfig, source: Source, splits: dict[str, SplitInfo], bad_images: Sequence[BadImage]
) -> None:
    """Raises StoreError unless every image that was listed is in the store or in quarantine, and once."""
    for split, images in source.splits.items():
        num_bad = sum(bad.split == split for bad in bad_images)
        if splits[split].num_images + num_bad != len(images):
            raise StoreError(
                f"{config.out}: {split}: {len(images):,} images were listed, {splits[split].num_images:,} are stored "
                f"and {num_bad:,} in quarantine: a fault of this program; please report it"
            )


def _finish_store(
    config: RunConfig,
    source: Source,
    shards: Sequence[PlannedShard],
    finished: dict[str, Sidecar],
    outcomes: Sequence[ShardOutcome],
    elapsed_s: float,
    num_workers: int,
) -> RunReport:
    """Merges what the shards' sidecars say, and writes the manifest last: only then is it a store."""
    sidecars: dict[str, Sidecar] = {}
    total = PartialStatistics.empty(config.image.side)
    for shard in shards:
        sidecar = read_sidecar(config.out, shard.stem)
        if sidecar is None:
            raise StoreError(f"{config.out}: shard {shard.stem} was made and is gone or damaged; run again")
        sidecars[shard.stem] = sidecar
        if shard.split == STATISTICS_SPLIT:
            total += read_partial(config.out, shard.stem)
    if total.num_images == 0:
        raise StoreError(f"{config.source}: expected usable images in the training split, found none")
    statistics_sha256 = write_statistics(config.out, finish(total))
    bad_images = [bad for sidecar in sidecars.values() for bad in sidecar.bad_images]
    write_quarantine(config.out, bad_images)
    splits = {
        split: SplitInfo(shards=tuple(sidecars[shard.stem].shard for shard in shards if shard.split == split))
        for split in source.splits
    }
    _check_every_image(config, source, splits, bad_images)
    manifest = Manifest(
        image=config.image,
        classes=source.classes,
        splits=splits,
        statistics_sha256=statistics_sha256,
        source={
            "layout": source.layout,
            "root": source.root,
            "digest": source.digest(),
            "decoders": decoder_versions(),
            "probe": images_digest(config.image),
        },
    )
    made = sum(outcome.num_images for outcome in outcomes)
    report = RunReport(
        store=str(config.out),
        fingerprint=manifest.fingerprint,
        source=config.source,
        layout=source.layout,
        num_classes=len(source.classes),
        num_images={split: info.num_images for split, info in splits.items()},
        num_bad_images=len(bad_images),
        num_members=source.num_members,
        num_ignored_files=sum(entry.count for entry in source.passed_over),
        passed_over=source.passed_over,
        notes=source.notes,
        num_shards=len(shards),
        num_shards_resumed=len(finished),
        source_bytes=sum(sidecar.source_bytes for sidecar in sidecars.values()),
        store_bytes=sum(shard.size_bytes for split in splits.values() for shard in split.shards),
        elapsed_s=elapsed_s,
        images_per_s=made / max(elapsed_s, 1e-9),
        num_workers=num_workers,
        worker_seconds=sum((outcome.seconds for outcome in outcomes), Seconds()),
        peak_worker_memory_bytes=max((outcome.peak_memory_bytes for outcome in outcomes), default=0),
    )
    write_report(config.out, report)
    write_manifest(config.out, manifest)
    return report
