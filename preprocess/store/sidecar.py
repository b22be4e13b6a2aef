"""A shard's sidecar: its count, digest, bad images and part of the statistics. Written last: it is the commit point."""

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xxhash

from commandline.files import write_whole
from preprocess.store.format import SHARDS_DIRECTORY, ShardInfo, json_digest

_FORMAT = "alexnet-shard"
_VERSION = 1
_READ_BYTES = 1 << 20
UNREADABLE = "cannot be read: "
"""How the reason begins of an image whose bytes could not be had, which may pass. Other reasons are of the bytes."""


@dataclass(frozen=True, kw_only=True)
class PartialStatistics:
    """Sums over some images; the sums over two sets of images add up."""

    num_images: int
    sum_image: npt.NDArray[np.uint64]
    """uint64 [3, side, side]: sum of each pixel."""
    products: tuple[int, ...]
    """Sums over pixels of RR, RG, RB, GG, GB, BB."""

    @classmethod
    def empty(cls, side: int) -> Self:
        return cls(num_images=0, sum_image=np.zeros((3, side, side), np.uint64), products=(0,) * 6)

    def __add__(self, other: "PartialStatistics") -> "PartialStatistics":
        return PartialStatistics(
            num_images=self.num_images + other.num_images,
            sum_image=self.sum_image + other.sum_image,
            products=tuple(a + b for a, b in zip(self.products, other.products, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """One image that could not be used."""

    split: str
    name: str
    """Its path within the source; bytes that are not UTF-8 are surrogate-escaped."""
    size_bytes: int
    reason: str

    @property
    def is_unreadable(self) -> bool:
        """Whether another attempt may find it sound."""
        return self.reason.startswith(UNREADABLE)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What is known of a finished shard."""

    key: str
    """Digest of all that the shard was to be made of; see ``ShardWork.key``."""
    shard: ShardInfo
    file_xxh3: str
    """XXH3-128 of the LMDB file as written: also covers what is no part of any record."""
    label_counts: tuple[tuple[int, int], ...]
    """Each label that occurs and how often, by label."""
    bad_images: tuple[BadImage, ...]
    source_bytes: int
    """Bytes read from the source."""
    statistics_sha256: str | None
    """SHA-256 of the partial statistics' file; None outside the training split."""

    @property
    def lacks_unreadable(self) -> bool:
        """Whether images are missing that another attempt may find."""
        return any(bad.is_unreadable for bad in self.bad_images)


def sidecar_path(store: Path, stem: str) -> Path:
    return store / SHARDS_DIRECTORY / f"{stem}.json"


def partial_path(store: Path, stem: str) -> Path:
    return store / SHARDS_DIRECTORY / f"{stem}.npz"


def write_sidecar(store: Path, stem: str, sidecar: Sidecar) -> None:
    """Commits the shard; its LMDB file and partial statistics must be in place."""
    content = asdict(sidecar)
    document = {"format": _FORMAT, "format_version": _VERSION, **content, "digest": json_digest(content)}
    write_whole(sidecar_path(store, stem), json.dumps(document, indent=1) + "\n")


def read_sidecar(store: Path, stem: str) -> Sidecar | None:
    """The sidecar of a finished shard, or None: it is missing or damaged, or the files that it vouches for are not
    those beside it (checked by size, and the partial statistics by digest)."""
    try:
        document: dict[str, Any] = json.loads(sidecar_path(store, stem).read_text("ascii"))
        content = {name: document[name] for name in Sidecar.__dataclass_fields__}
        if (document["format"], document["format_version"]) != (_FORMAT, _VERSION):
            return None
        if document["digest"] != json_digest(content):
            return None
        sidecar = Sidecar(
            key=content["key"],
            shard=ShardInfo(**content["shard"]),
            file_xxh3=content["file_xxh3"],
            label_counts=tuple((label, count) for label, count in content["label_counts"]),
            bad_images=tuple(BadImage(**bad) for bad in content["bad_images"]),
            source_bytes=content["source_bytes"],
            statistics_sha256=content["statistics_sha256"],
        )
        if (store / sidecar.shard.file).stat().st_size != sidecar.shard.size_bytes:
            return None
        if sidecar.statistics_sha256 is not None:
            partial = partial_path(store, stem).read_bytes()
            if hashlib.sha256(partial).hexdigest() != sidecar.statistics_sha256:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return sidecar


def write_partial(store: Path, stem: str, partial: PartialStatistics) -> str:
    """Writes a shard's part of the statistics and returns its SHA-256."""
    buffer = io.BytesIO()
    # Half the bytes, wherever the sums of a shard's pixels fit, which is up to 16 million images.
    dtype = np.uint32 if partial.num_images < 1 << 24 else np.uint64
    np.savez(
        buffer,
        num_images=np.int64(partial.num_images),
        sum_image=partial.sum_image.astype(dtype),
        products=np.array(partial.products, np.int64),
    )
    write_whole(partial_path(store, stem), buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_partial(store: Path, stem: str) -> PartialStatistics:
    """A shard's part of the statistics. Raises OSError or ValueError when there is none that is sound."""
    try:
        with np.load(partial_path(store, stem), allow_pickle=False) as arrays:
            return PartialStatistics(
                num_images=int(arrays["num_images"]),
                sum_image=arrays["sum_image"].astype(np.uint64),
                products=tuple(int(product) for product in arrays["products"]),
            )
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"{partial_path(store, stem)}: damaged: {error}") from None


def file_digest(path: Path) -> str:
    """XXH3-128 of a file, hex."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()
