"""CIFAR's binary batches, in ``cifar-10-binary.tar.gz`` as downloaded or in the folder that it unpacks to; 100 too."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.errors import SourceError
from preprocess.sources.class_names import class_infos
from preprocess.sources.ledger import OUTSIDE
from preprocess.sources.listing import ImageList, ImageListBuilder, Source
from preprocess.sources.numbered import numbered_classes
from preprocess.sources.options import Reading
from preprocess.sources.shards import account
from preprocess.sources.storage import Storage, client_errors, open_storage
from preprocess.sources.tar_index import index_tar
from preprocess.sources.tar_reader import open_container, whole_tar

LAYOUT = "cifar"
EXPECTED = "cifar-10-binary.tar.gz or cifar-10-batches-bin, or those of CIFAR-100"
IMAGE_BYTES = 3 * 32 * 32
_SIDE = 32
# A bitmap of 32 x 32 pixels of three bytes: file header, then image header. Rows begin at the bottom.
_BITMAP_HEADER = bytes.fromhex(
    "424d360c000000000000360000002800000020000000200000000100180000000000000c000000000000000000000000000000000000"
)


@dataclass(frozen=True, kw_only=True)
class _Edition:
    """CIFAR-10 or CIFAR-100."""

    archive: str
    folder: str
    train: tuple[str, ...]
    val: str
    names: str
    label_bytes: int
    """Before each image; the last of them is the label."""


_EDITIONS = (
    _Edition(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        val="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
    ),
    _Edition(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        val="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
    ),
)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a file of the data set is."""

    path: str
    """Of itself, or of the archive."""
    offset: int
    size: int
    name: str


@dataclass(frozen=True, kw_only=True)
class _Work:
    root: str
    files: Mapping[str, _Place]
    edition: _Edition


def detect(storage: Storage) -> bool:
    """Whether an archive, its folder, or what is in the folder is there."""
    return _find(storage) is not None


def read(reading: Reading) -> Source:
    """Reads all labels, in one task; the test images are the validation split, since there is no other."""
    storage, ledger = reading.storage, reading.ledger
    found = _find(storage)
    if found is None:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found neither")
    edition, place = found
    files = _files_in_archive(reading, place) if place.endswith(".gz") else _files_in_folder(reading, place)
    needed = (*edition.train, edition.val, edition.names)
    missing = next((name for name in needed if name not in files), None)
    if missing is not None:
        raise SourceError(f"{storage.root}: expected {', '.join(needed)}, found no {missing}")
    for name, file in files.items():
        if name in needed:
            ledger.num_read += 1
        else:
            ledger.pass_over(OUTSIDE, file.name)
    if place:
        account(storage, ledger, [place])
    work = _Work(root=storage.root, files={name: files[name] for name in needed}, edition=edition)
    (columns,) = reading.map_tasks(_read_labels, [work])
    names, labels = columns
    ledger.num_found += sum(len(column) for column in labels.values())
    splits = {
        "train": _build(work, edition.train, labels),
        "val": _build(work, (edition.val,), labels),
    }
    class_ids = numbered_classes(splits, storage.root, num_named=len(names))
    classes = class_infos(class_ids, dict(zip(class_ids, names, strict=True)))
    return Source(layout=LAYOUT, root=storage.root, classes=classes, splits=splits)


def bitmap(pixels: bytes) -> bytes:
    """CIFAR's red, green and blue, 32 x 32 each, as the bytes of an image file."""
    planes = np.frombuffer(pixels, np.uint8).reshape(3, _SIDE, _SIDE)
    return _BITMAP_HEADER + np.ascontiguousarray(planes[::-1, ::-1].transpose(1, 2, 0)).tobytes()


def _find(storage: Storage) -> tuple[_Edition, str] | None:
    """The edition, and the archive or the folder, "" when the folder is the source itself."""
    for edition in _EDITIONS:
        for path in (edition.folder, edition.archive):
            if storage.is_folder(path) or storage.size_of(path) is not None:
                return edition, path
        if all(storage.size_of(name) is not None for name in (edition.val, edition.names)):
            return edition, ""
    return None


def _files_in_archive(reading: Reading, path: str) -> dict[str, _Place]:
    (index,) = reading.map_tasks(index_tar, [whole_tar(reading.storage, path)])
    reading.ledger.add(index.ledger)
    files: dict[str, _Place] = {}
    for raw_name, offset, size in index.members():
        name = raw_name.decode("utf-8", "surrogateescape")
        files[name.rsplit("/", 1)[-1]] = _Place(path=path, offset=offset, size=size, name=f"{path}/{name}")
    return files


def _files_in_folder(reading: Reading, folder: str) -> dict[str, _Place]:
    files = {}
    for info in reading.ledger.list(reading.storage, folder):
        if info.is_folder:
            reading.ledger.pass_over(OUTSIDE, info.path, found=True)
        else:
            files[info.name] = _Place(path=info.path, offset=0, size=info.size_bytes, name=info.path)
    return files


def _read_labels(work: _Work) -> tuple[list[str], dict[str, npt.NDArray[np.uint8]]]:
    """The classes' names, and the labels of each batch. Runs in a task."""
    storage = open_storage(work.root)
    names: list[str] = []
    labels: dict[str, npt.NDArray[np.uint8]] = {}
    record_bytes = work.edition.label_bytes + IMAGE_BYTES
    for file_name, place in sorted(work.files.items(), key=lambda item: (item[1].path, item[1].offset)):
        with client_errors(storage, place.path), open_container(storage, place.path) as file:
            file.seek(place.offset)
            content = file.read(place.size)
        if file_name == work.edition.names:
            names = content.decode("utf-8", "replace").split()
            continue
        if not content or len(content) % record_bytes or len(content) != place.size:
            raise SourceError(
                f"{work.root}/{place.name}: expected records of {record_bytes:,} bytes, found {len(content):,} bytes"
            )
        labels[file_name] = np.frombuffer(content, np.uint8)[work.edition.label_bytes - 1 :: record_bytes].copy()
    for file_name, column in labels.items():
        wrong = np.flatnonzero(column >= len(names))
        if len(wrong):
            raise SourceError(
                f"{work.root}/{work.files[file_name].name}: record {wrong[0]:,}: expected a label below {len(names)}, "
                f"found {column[wrong[0]]}"
            )
    return names, labels


def _build(work: _Work, file_names: tuple[str, ...], labels: Mapping[str, npt.NDArray[np.uint8]]) -> ImageList:
    builder = ImageListBuilder("cifar")
    record_bytes = work.edition.label_bytes + IMAGE_BYTES
    for file_name in file_names:
        place = work.files[file_name]
        builder.begin_container(place.path)
        for number, label in enumerate(labels[file_name]):
            offset = place.offset + number * record_bytes + work.edition.label_bytes
            builder.add(os.fsencode(f"{place.name}/{number:05d}"), int(label), IMAGE_BYTES, offset)
    return builder.build()
