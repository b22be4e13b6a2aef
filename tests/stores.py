"""Small real stores for tests: the format's own writer, pictures drawn by seeded random numbers."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import lmdb
import numpy as np
import numpy.typing as npt
import simplejpeg

from preprocess.store import (
    ClassInfo,
    Encoding,
    ImageSpec,
    Manifest,
    ShardInfo,
    ShardWriter,
    SplitInfo,
    Statistics,
    page_cache,
    write_manifest,
    write_statistics,
)
from preprocess.store.format import DIGESTS_KEY, MANIFEST_NAME


def draw_image(seed: int, side: int) -> npt.NDArray[np.uint8]:
    """A smooth random picture, uint8 [side, side, 3]: compresses like a photograph and no two are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def make_store(
    path: Path,
    *,
    num_train: int = 100,
    num_val: int = 30,
    num_classes: int = 10,
    side: int = 64,
    encoding: Encoding = "jpeg",
    images_per_shard: int = 32,
    seed: int = 0,
) -> Path:
    """Writes a store of random pictures and returns ``path``."""
    spec = ImageSpec(encoding=encoding, side=side)
    splits: dict[str, SplitInfo] = {}
    pixels: list[npt.NDArray[np.uint8]] = []
    for number, (split, num_images) in enumerate((("train", num_train), ("val", num_val))):
        shards = []
        for first in range(0, num_images, images_per_shard):
            name = f"shards/{split}-{first // images_per_shard:05d}.lmdb"
            with ShardWriter(path, name) as writer:
                for i in range(first, min(first + images_per_shard, num_images)):
                    image = draw_image(seed * 1_000_003 + number * 100_003 + i, side)
                    if split == "train":
                        pixels.append(image)
                    writer.add(i % num_classes, f"{split}/{i}.JPEG".encode(), encode(image, spec))
            shards.append(writer.info)
        splits[split] = SplitInfo(shards=tuple(shards))
    manifest = Manifest(
        image=spec,
        classes=tuple(ClassInfo(id=f"n{i:08d}", name=f"class {i}") for i in range(num_classes)),
        splits=splits,
        statistics_sha256=write_statistics(path, _statistics(np.stack(pixels))),
        source={"layout": "test"},
    )
    write_manifest(path, manifest)
    return path


def encode(image: npt.NDArray[np.uint8], spec: ImageSpec) -> bytes:
    """An image's bytes as ``spec`` stores them."""
    if spec.encoding == "raw":
        return image.tobytes()
    if spec.encoding == "yuv420":
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8).tobytes()
    return bytes(simplejpeg.encode_jpeg(image, quality=spec.quality, colorspace="RGB", colorsubsampling="420"))


def relabel(path: Path, encoding: Encoding) -> None:
    """Makes a store's manifest say that its images are of another encoding than they are."""
    manifest = Manifest.from_json((path / MANIFEST_NAME).read_text(), str(path))
    write_manifest(path, replace(manifest, image=replace(manifest.image, encoding=encoding)))


def without_digests(path: Path) -> Path:
    """Makes a store what an earlier release would have written: shards that do not say which they are."""
    manifest = Manifest.from_json((path / MANIFEST_NAME).read_text(), str(path))
    splits = {
        name: SplitInfo(shards=tuple(_without_digests(path, shard) for shard in split.shards))
        for name, split in manifest.splits.items()
    }
    write_manifest(path, replace(manifest, splits=splits))
    return path


def _without_digests(path: Path, shard: ShardInfo) -> ShardInfo:
    file, former = path / shard.file, path / "former.lmdb"
    file.rename(former)
    open_file = partial(lmdb.open, subdir=False, lock=False, lib_version=0)
    with open_file(str(former), readonly=True) as old, open_file(str(file), map_size=2**28) as new:
        with old.begin() as reading, new.begin(write=True) as writing:
            for key, value in reading.cursor():
                if key != DIGESTS_KEY:
                    writing.put(key, value, append=True)
    former.unlink()
    return replace(shard, size_bytes=file.stat().st_size)


def _statistics(pixels: npt.NDArray[np.uint8]) -> Statistics:
    flat = pixels.reshape(-1, 3).astype(np.float64)
    covariance = np.cov(flat.T, bias=True)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    return Statistics(
        num_images=len(pixels),
        mean_image=pixels.mean(0).astype(np.float32),
        covariance=covariance,
        eigenvalues=eigenvalues[::-1].copy(),
        eigenvectors=eigenvectors[:, ::-1].copy(),
    )


def forget(file: Path) -> int:
    """Has the kernel forget a file's pages, but those that a process has touched in a mapping: bytes that it keeps."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_bytes(file)


def resident_bytes(file: Path) -> int:
    """What of a file the kernel has in memory."""
    with file.open("rb") as opened:
        size_bytes = os.fstat(opened.fileno()).st_size
        return size_bytes - sum(min(n, size_bytes - at) for at, n in page_cache.absent(opened.fileno(), size_bytes))
