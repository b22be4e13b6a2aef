"""Whether a store will fit, before it is begun; and what a disk means that cannot be written to."""

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocess.errors import StoreError
from preprocess.images.decode import UnusableImageError, decode
from preprocess.images.limits import largest_file_bytes
from preprocess.images.resize import centre_square, encode
from preprocess.job.shard import ShardWork
from preprocess.sources import open_storage
from preprocess.sources.reading import UnreadableImageError, read_images
from preprocess.store.format import ImageSpec

# Images that are encoded to learn their size; its mean is then within some 6 % of the data set's.
NUM_PROBED = 24
# Of a 256 x 256 photograph at quality 95: for a source whose first images are all unusable.
_TYPICAL_JPEG_BYTES = 31_000
_PAGE_BYTES = 4096
# LMDB's own header beside a record and at the head of its first page.
_RECORD_OVERHEAD_BYTES = 48


def mean_encoded_bytes(work: ShardWork) -> int:
    """Bytes that one of ``work``'s images takes once encoded, on average. Runs in a task."""
    if work.image.stored_size_bytes is not None:
        return work.image.stored_size_bytes
    sizes = []
    storage = open_storage(work.root)
    try:
        for _, content in read_images(storage, work.images, largest_file_bytes(work.max_pixels)):
            if isinstance(content, UnreadableImageError):
                continue
            try:
                image = decode(content, max_pixels=work.max_pixels, apply_exif=work.image.apply_exif)
            except UnusableImageError:
                continue
            sizes.append(len(encode(centre_square(image, work.image.side), work.image)))
    finally:
        storage.close()
    return sum(sizes) // len(sizes) if sizes else _TYPICAL_JPEG_BYTES * work.image.side**2 // 256**2


def check_free(store: Path, image: ImageSpec, *, num_images: int, image_bytes: int, num_partials: int) -> None:
    """Raises StoreError, with both figures, when the images that are to be written will not fit.

    ``num_partials`` shards will hold a part of the statistics: a uint32 for each value of an image.
    """
    # Records that do not fit into a page take whole pages; smaller ones share them, about three quarters full.
    record_bytes = image_bytes + _RECORD_OVERHEAD_BYTES
    if record_bytes > _PAGE_BYTES // 2:
        record_bytes = _PAGE_BYTES * math.ceil(record_bytes / _PAGE_BYTES)
    needed = num_images * record_bytes + num_partials * 4 * image.raw_size_bytes
    free = free_bytes(store)
    if needed > free:
        raise StoreError(
            f"{store}: expected about {_megabytes(needed)} free for {num_images:,} images of "
            f"{image_bytes / 1e3:,.1f} KB, found {_megabytes(free)}"
        )


def free_bytes(store: Path) -> int:
    """Bytes that may still be written where ``store`` is or will be."""
    folder = store.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


@contextmanager
def disk_errors(store: Path) -> Iterator[None]:
    """Turns the system's word for a full disk, a spent quota or a read-only disk into what it means for the run."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            raise StoreError(
                f"{store}: its file system is read-only, as Linux makes one after an error of its disk (see dmesg): "
                "mount it to be written, and the same command carries on"
            ) from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"{store}: no space is left ({_megabytes(free_bytes(store))} free): the finished shards are whole, and the "
            "same command carries on once there is room"
        ) from None
