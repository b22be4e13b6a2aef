"""WebDataset tars (timm/imagenet-1k-wds): ``*train*.tar`` and ``*val*.tar`` with ``<key>.jpg`` and ``<key>.cls``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.errors import SourceError
from preprocess.sources.listing import ImageList, ImageListBuilder, Source
from preprocess.sources.names import class_infos, numbered_classes, read_class_names
from preprocess.sources.options import MapTasks
from preprocess.sources.storage import Storage, open_storage
from preprocess.sources.tar_index import TarSection, index_tar

LAYOUT = "webdataset"
EXPECTED = "*train*.tar (and *val*.tar) with members <key>.jpg and <key>.cls"
_IMAGE_SUFFIXES = (b"jpg", b"jpeg", b"png", b"webp")
_LABEL_SUFFIX = b"cls"
_MAX_LABEL_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """The samples of one tar, in its order."""

    path: str
    names: list[bytes]
    labels: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def detect(storage: Storage) -> bool:
    """Whether there are tars called after a split."""
    return "train" in _split_tars(storage)


def read(storage: Storage, map_tasks: MapTasks) -> Source:
    """Indexes the tars, one in each task. Raises SourceError, for a sample without image or label among others."""
    tars = _split_tars(storage)
    if "train" not in tars:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found no training tars")
    found: dict[str, _Samples] = {}
    for samples in map_tasks(_index_samples, [section for sections in tars.values() for section in sections]):
        found[samples.path] = samples
    splits = {split: _build([found[section.path] for section in sections]) for split, sections in tars.items()}
    class_ids = numbered_classes(splits, storage.root)
    return Source(
        layout=LAYOUT,
        root=storage.root,
        classes=class_infos(class_ids, read_class_names(storage)),
        splits=splits,
    )


def _split_tars(storage: Storage) -> dict[str, list[TarSection]]:
    """The tars of each split, by name."""
    tars: dict[str, list[TarSection]] = {"train": [], "val": []}
    for info in storage.list(""):
        if info.is_folder or not info.path.endswith(".tar"):
            continue
        for split, sections in tars.items():
            if split in info.path:
                section = TarSection(
                    root=storage.root, path=info.path, offset=0, size_bytes=info.size_bytes, name=info.path
                )
                sections.append(section)
    return {split: sections for split, sections in tars.items() if sections}


def _index_samples(section: TarSection) -> _Samples:
    """Pairs each image with its label, wherever in the tar the two are. Runs in a task."""
    index = index_tar(section)
    images: dict[bytes, tuple[bytes, int, int]] = {}
    label_places: dict[bytes, tuple[int, int]] = {}
    for name, offset, size in index.members():
        folder, slash, file = name.rpartition(b"/")
        key, _, suffix = file.partition(b".")
        if suffix.lower() in _IMAGE_SUFFIXES:
            images.setdefault(folder + slash + key, (name, offset, size))
        elif suffix.lower() == _LABEL_SUFFIX:
            label_places[folder + slash + key] = (offset, size)
    labels = _read_labels(section, images, label_places)
    return _Samples(
        path=section.path,
        names=[name for name, _, _ in images.values()],
        labels=np.array(labels, np.int32),
        offsets=np.array([offset for _, offset, _ in images.values()], np.int64),
        sizes=np.array([size for _, _, size in images.values()], np.int64),
    )


def _read_labels(
    section: TarSection,
    keys: Sequence[bytes] | dict[bytes, tuple[bytes, int, int]],
    places: dict[bytes, tuple[int, int]],
) -> list[int]:
    storage = open_storage(section.root)
    labels = []
    with storage.open(section.path) as file:
        for key in keys:
            where = f"{section.root}/{section.path}: sample {key!r}"
            if key not in places:
                raise SourceError(f"{where}: expected a label in {key!r}.cls, found none")
            offset, size = places[key]
            file.seek(offset)
            text = file.read(min(size, _MAX_LABEL_BYTES)).strip()
            if not text.isdigit():
                raise SourceError(f"{where}: expected a whole number as label, found {text!r}")
            labels.append(int(text))
    return labels


def _build(tars: list[_Samples]) -> ImageList:
    builder = ImageListBuilder("range")
    for samples in tars:
        builder.begin_container(samples.path)
        prefix = f"{samples.path}/".encode()
        columns = zip(samples.names, samples.labels, samples.offsets, samples.sizes, strict=True)
        for name, label, offset, size in columns:
            builder.add(prefix + name, int(label), int(size), int(offset))
    return builder.build()
