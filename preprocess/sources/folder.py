"""A folder tree: ``train/<class>/*`` and ``val/<class>/*``, or ``<class>/*`` alone; any labelled image folder."""

import os

from preprocess.errors import SourceError
from preprocess.sources.listing import ImageList, ImageListBuilder, Source
from preprocess.sources.names import class_infos, read_class_names
from preprocess.sources.storage import Storage

LAYOUT = "folder"
# Names that people give to the two splits.
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif")
# Deeper than any data set; ends a walk into a link that leads back up.
_MAX_DEPTH = 8


def detect(storage: Storage) -> bool:
    """Whether there are folders of classes: at the root, or in a folder called train."""
    folders = _split_folders(storage) or {"train": ""}
    return any(info.is_folder for info in storage.list(folders.get("train", "")))


def read(storage: Storage) -> Source:
    """Lists the tree. Labels are the sorted class folders of the training split; raises SourceError."""
    folders = _split_folders(storage) or {"train": ""}
    where = f"{storage.root}/{folders['train']}".rstrip("/") if "train" in folders else storage.root
    if "train" not in folders:
        raise SourceError(f"{where}: expected a folder 'train' beside {', '.join(folders.values())}, found none")
    class_ids = _class_folders(storage, folders["train"])
    if not class_ids:
        raise SourceError(f"{where}: expected a folder for each class, found none")
    labels = {class_id: label for label, class_id in enumerate(class_ids)}
    splits: dict[str, ImageList] = {}
    num_ignored = 0
    for split, folder in folders.items():
        splits[split], ignored = _list_split(storage, folder, labels)
        num_ignored += ignored
    return Source(
        layout=LAYOUT,
        root=storage.root,
        classes=class_infos(class_ids, read_class_names(storage)),
        splits={name: images for name, images in splits.items() if len(images)},
        num_ignored=num_ignored,
    )


def _split_folders(storage: Storage) -> dict[str, str]:
    """The folder of each split there is."""
    present = {info.path for info in storage.list("") if info.is_folder}
    found = {}
    for split, candidates in SPLIT_FOLDERS.items():
        match = next((name for name in candidates if name in present), None)
        if match is not None:
            found[split] = match
    return found


def _class_folders(storage: Storage, folder: str) -> list[str]:
    """Class folders in label order: sorted by name, byte by byte."""
    return [info.path.rsplit("/", 1)[-1] for info in storage.list(folder) if info.is_folder]


def _list_split(storage: Storage, folder: str, labels: dict[str, int]) -> tuple[ImageList, int]:
    builder = ImageListBuilder("file")
    num_ignored = 0
    for class_id in _class_folders(storage, folder):
        path = f"{folder}/{class_id}" if folder else class_id
        if class_id not in labels:
            raise SourceError(
                f"{storage.root}/{path}: expected one of the training split's classes, found {class_id!r}"
            )
        num_ignored += _add_images(storage, path, labels[class_id], builder, _MAX_DEPTH)
    return builder.build(), num_ignored


def _add_images(storage: Storage, folder: str, label: int, builder: ImageListBuilder, depth: int) -> int:
    """Adds the images below ``folder``; returns how many files were passed over for their names."""
    num_ignored = 0
    for info in storage.list(folder):
        if info.is_folder:
            if depth:
                num_ignored += _add_images(storage, info.path, label, builder, depth - 1)
        elif info.path.lower().endswith(IMAGE_SUFFIXES):
            builder.add(os.fsencode(info.path), label, info.size_bytes)
        else:
            num_ignored += 1
    return num_ignored
