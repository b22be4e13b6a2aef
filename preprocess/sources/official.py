"""The official tars, read where they are: a tar of a tar for each class, the flat validation tar, and the devkit."""

import os

from preprocess.errors import SourceError
from preprocess.sources.devkit import read_devkit
from preprocess.sources.labels import read_val_labels
from preprocess.sources.listing import ImageList, ImageListBuilder, Source
from preprocess.sources.names import class_infos, read_class_names
from preprocess.sources.options import MapTasks, SourceOptions
from preprocess.sources.storage import Storage
from preprocess.sources.tar_index import TarIndex, TarSection, index_tar, iterate_members

LAYOUT = "official"
EXPECTED = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz"
_TRAIN = "ILSVRC2012_img_train.tar"
_VAL = "ILSVRC2012_img_val.tar"


def detect(storage: Storage) -> bool:
    """Whether the training tar is there."""
    return storage.size_of(_TRAIN) is not None


def read(storage: Storage, options: SourceOptions, map_tasks: MapTasks) -> Source:
    """Indexes the tars, a task for each class, without unpacking anything. Raises SourceError."""
    sections = _class_sections(storage)
    class_ids = sorted(sections)
    val = _section(storage, _VAL)
    found: dict[str, TarIndex] = {}
    for index in map_tasks(index_tar, [*sections.values(), *([] if val is None else [val])]):
        found[index.section.name] = index
    splits = {"train": _train_list([found[sections[class_id].name] for class_id in class_ids])}
    devkit = read_devkit(storage, options.devkit)
    if val is not None:
        splits["val"] = _val_list(storage, options, found[_VAL], class_ids)
    names = read_class_names(storage) if devkit is None else devkit.names
    return Source(layout=LAYOUT, root=storage.root, classes=class_infos(class_ids, names), splits=splits)


def _section(storage: Storage, path: str) -> TarSection | None:
    """A whole tar, or None where there is none."""
    size_bytes = storage.size_of(path)
    if size_bytes is None:
        return None
    return TarSection(root=storage.root, path=path, offset=0, size_bytes=size_bytes, name=path)


def _class_sections(storage: Storage) -> dict[str, TarSection]:
    """By class, the part of the training tar that is the class's own tar: a thousand headers are read for it."""
    whole = _section(storage, _TRAIN)
    if whole is None:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found no {_TRAIN}")
    sections = {}
    with storage.open(_TRAIN) as file:
        for member, _ in iterate_members(file, whole):
            class_id, dot, suffix = member.name.rsplit("/", 1)[-1].partition(".")
            if dot + suffix != ".tar":
                raise SourceError(
                    f"{storage.root}/{_TRAIN}: expected a tar of one tar for each class, found {member.name!r} in it"
                )
            sections[class_id] = TarSection(
                root=storage.root,
                path=_TRAIN,
                offset=member.offset_data,
                size_bytes=member.size,
                name=f"{_TRAIN}/{class_id}.tar",
            )
    return sections


def _train_list(indices: list[TarIndex]) -> ImageList:
    builder = ImageListBuilder("range")
    builder.begin_container(_TRAIN)
    for label, index in enumerate(indices):
        prefix = f"{index.section.name}/".encode()
        for name, offset, size in index.members():
            builder.add(prefix + name, label, size, offset)
    return builder.build()


def _val_list(storage: Storage, options: SourceOptions, index: TarIndex, class_ids: list[str]) -> ImageList:
    # The tar is not in the order of names, and the devkit's labels are.
    members = sorted(index.members(), key=lambda member: member[0].rsplit(b"/", 1)[-1])
    file_names = [os.fsdecode(name.rsplit(b"/", 1)[-1]) for name, _, _ in members]
    labels = read_val_labels(storage, options, file_names, class_ids)
    builder = ImageListBuilder("range")
    builder.begin_container(_VAL)
    for (name, offset, size), label in zip(members, labels, strict=True):
        builder.add(f"{_VAL}/".encode() + name, label, size, offset)
    return builder.build()
