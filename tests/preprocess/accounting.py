"""Pictures that say which they are, and what becomes of each when a source that holds them is read."""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.images.decode import decoder_versions
from preprocess.job.shard import ShardWork, make_shard
from preprocess.sources import Source, SourceOptions, read_source
from preprocess.store import ImageSpec, Manifest, SplitInfo
from preprocess.store.folder import StoreFolder
from preprocess.store.sidecar import read_sidecar
from preprocess.store.split_reader import Reads, SplitReader

_SIDE = 8


def picture(identity: int, format: str = "PNG") -> bytes:
    """An image file of one colour, which is its number: up to 16 million of them, whatever they are called."""
    colour = identity >> 16 & 255, identity >> 8 & 255, identity & 255
    buffer = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), colour).save(buffer, format)
    return buffer.getvalue()


@dataclass(frozen=True)
class Outcome:
    """What became of a source's members."""

    stored: dict[str, Counter[tuple[int, str]]]
    """By split: how often a picture, whose pixels say its number, is in the store with a class."""
    quarantined: dict[str, str]
    """Reasons by name."""
    passed_over: dict[str, int]
    num_read: int
    num_members: int
    notes: tuple[str, ...]

    @property
    def num_stored(self) -> int:
        return sum(pictures.total() for pictures in self.stored.values())

    def check(self) -> None:
        """The law: each member once."""
        accounted = self.num_stored + len(self.quarantined) + sum(self.passed_over.values()) + self.num_read
        assert accounted == self.num_members


def outcome_of(root: Path, store: Path, **options: str) -> Outcome:
    """Reads a source and makes its shards, here and without Ray. Raises SourceError."""
    source = read_source(str(root), SourceOptions(**options), map)
    stored: dict[str, Counter[tuple[int, str]]] = {}
    quarantined: dict[str, str] = {}
    (store / "shards").mkdir(parents=True)
    for split in source.splits:
        pictures, bad = _make(root, store, source, split)
        stored[split] = pictures
        quarantined |= bad
    passed_over = {entry.reason: entry.count for entry in source.passed_over}
    num_images = sum(len(images) for images in source.splits.values())
    return Outcome(
        stored=stored,
        quarantined=quarantined,
        passed_over=passed_over,
        num_read=source.num_members - num_images - sum(passed_over.values()),
        num_members=source.num_members,
        notes=source.notes,
    )


def _make(root: Path, store: Path, source: Source, split: str) -> tuple[Counter[tuple[int, str]], Mapping[str, str]]:
    stem = f"{split}-00000"
    work = ShardWork(
        store=str(store),
        root=str(root),
        split=split,
        stem=stem,
        images=source.splits[split].take(np.arange(len(source.splits[split]))),
        image=ImageSpec(encoding="raw", side=_SIDE),
        max_pixels=10**6,
        decoders=decoder_versions(),
    )
    outcome = make_shard(work)
    sidecar = read_sidecar(store, stem)
    assert sidecar is not None
    manifest = Manifest(
        image=work.image,
        classes=tuple(source.classes),
        splits={split: SplitInfo(shards=(sidecar.shard,))},
        statistics_sha256="",
        source={},
    )
    folder = StoreFolder(store)
    reader = SplitReader(folder, split, manifest, Reads())
    pictures: Counter[tuple[int, str]] = Counter()
    try:
        for index in range(reader.num_images):
            label, image = reader.read(index)
            pictures[int.from_bytes(bytes(image[:3]), "big"), source.classes[label].id] += 1
    finally:
        reader.close()
        folder.close()
    return pictures, {bad.name: bad.reason for bad in outcome.bad_images}
