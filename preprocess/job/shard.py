"""Makes one shard from its list of images: read, decode, resize, count, encode, write. Knows nothing of Ray."""

import resource
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from preprocess.errors import PreprocessError
from preprocess.images.decode import UnusableImageError, decode, decoder_versions
from preprocess.images.limits import largest_file_bytes
from preprocess.images.probe import images_digest
from preprocess.images.resize import centre_square, encode, planes_of
from preprocess.images.statistics import StatisticsAccumulator
from preprocess.sources import ImageList, Storage, open_storage
from preprocess.sources.reading import UnreadableImageError, read_images
from preprocess.store.format import FORMAT_VERSION, SHARDS_DIRECTORY, STATISTICS_SPLIT, ImageSpec, json_digest
from preprocess.store.sidecar import BadImage, Sidecar, file_digest, read_sidecar, write_partial, write_sidecar
from preprocess.store.writer import ShardWriter


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """All that a task must know to make one shard: some 70 bytes an image."""

    store: str
    root: str
    """The source's root: a path that the worker's machine has too, or a URL."""
    split: str
    stem: str
    images: ImageList
    image: ImageSpec
    max_pixels: int
    decoders: str
    """``decoder_versions()`` of the driver: others would not give the same bytes."""
    probe: str | None
    """``images_digest()`` of the driver, for the same reason; None for a store whose run did not record it."""

    def key(self) -> str:
        """Digest of all that decides the shard's bytes: a finished shard of the same key need not be made again."""
        content = {
            "format_version": FORMAT_VERSION,
            "split": self.split,
            "stem": self.stem,
            "images": self.images.digest(),
            "image": asdict(self.image),
            "max_pixels": self.max_pixels,
            "decoders": self.decoders,
        } | ({} if self.probe is None else {"probe": self.probe})
        return json_digest(content)


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Where the time of some shards went."""

    read: float = 0.0
    decode: float = 0.0
    resize: float = 0.0
    statistics: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """What a task tells the driver; the rest is in the sidecar."""

    num_images: int
    bad_images: tuple[BadImage, ...]
    seconds: Seconds
    peak_memory_bytes: int
    """Of the worker process, so far."""


def make_shard(work: ShardWork) -> ShardOutcome:
    """Makes one shard, its part of the statistics and its sidecar; does nothing when they are there already, with all
    images that could be read.

    So a retry after any failure is safe. Raises OSError when the store cannot be written or the source's storage
    fails, and PreprocessError when this machine has not what the driver's has.
    """
    store = Path(work.store)
    storage = open_storage(work.root)
    _check_machine(work, store, storage)
    key = work.key()
    finished = read_sidecar(store, work.stem)
    if finished is not None and finished.key == key and not finished.lacks_unreadable:
        return _outcome(finished, Seconds())
    statistics = StatisticsAccumulator(work.image.side) if work.split == STATISTICS_SPLIT else None
    bad_images: list[BadImage] = []
    label_counts: Counter[int] = Counter()
    source_bytes = 0
    clock = _Clock()
    try:
        with ShardWriter(store, f"{SHARDS_DIRECTORY}/{work.stem}.lmdb") as writer:
            for entry, content in read_images(storage, work.images, largest_file_bytes(work.max_pixels)):
                clock.lap("read")
                try:
                    if isinstance(content, UnreadableImageError):
                        raise UnusableImageError(str(content))
                    source_bytes += len(content)
                    decoded = decode(content, max_pixels=work.max_pixels, apply_exif=work.image.apply_exif)
                except UnusableImageError as error:
                    size_bytes = entry.size_bytes if isinstance(content, UnreadableImageError) else len(content)
                    name = entry.name.decode("utf-8", "surrogateescape")
                    bad = BadImage(split=work.split, name=name, size_bytes=size_bytes, reason=str(error))
                    bad_images.append(bad)
                    clock.lap("decode")
                    continue
                clock.lap("decode")
                square = centre_square(decoded, work.image.side)
                clock.lap("resize")
                if statistics is not None:
                    statistics.add(planes_of(square))
                    clock.lap("statistics")
                encoded = encode(square, work.image)
                clock.lap("encode")
                writer.add(entry.label, entry.name, encoded)
                label_counts[entry.label] += 1
                clock.lap("write")
    finally:
        storage.close()
    digest = None if statistics is None else write_partial(store, work.stem, statistics.result())
    sidecar = Sidecar(
        key=key,
        shard=writer.info,
        file_xxh3=file_digest(store / writer.info.file),
        label_counts=tuple(sorted(label_counts.items())),
        bad_images=tuple(bad_images),
        source_bytes=source_bytes,
        statistics_sha256=digest,
    )
    write_sidecar(store, work.stem, sidecar)
    clock.lap("write")
    return _outcome(sidecar, clock.seconds())


def _check_machine(work: ShardWork, store: Path, storage: Storage) -> None:
    """Raises PreprocessError when this machine has not what the driver's has: decoders, store, source."""
    here = socket.gethostname()
    if decoder_versions() != work.decoders:
        raise PreprocessError(
            f"{here}: expected the driver's {work.decoders}, found {decoder_versions()}, which gives other pixels "
            "and so another fingerprint"
        )
    if work.probe is not None and images_digest(work.image) != work.probe:
        raise PreprocessError(
            f"{here}: expected the driver's libraries, found the same versions built otherwise: of built-in pictures "
            f"they make {images_digest(work.image)}, where the driver's make {work.probe}"
        )
    if not (store / SHARDS_DIRECTORY).is_dir():
        raise PreprocessError(
            f"{here}: expected the store that the driver began at {store}, found none; share the folder"
        )
    if storage.is_local and not storage.is_folder(""):
        raise PreprocessError(f"{here}: expected the source at {work.root}, found no folder; share it, or give a URL")


def _outcome(sidecar: Sidecar, seconds: Seconds) -> ShardOutcome:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return ShardOutcome(
        num_images=sidecar.shard.num_images,
        bad_images=sidecar.bad_images,
        seconds=seconds,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    )


class _Clock:
    """Books the time since the last lap under a name."""

    def __init__(self) -> None:
        self._laps = dict.fromkeys((f.name for f in fields(Seconds)), 0.0)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] += now - self._last
        self._last = now

    def seconds(self) -> Seconds:
        return Seconds(**self._laps)
