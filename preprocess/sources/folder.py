"""A folder tree: ``train/<class>/*`` and ``val/<class>/*``, a flat ``val/*`` with labels, or ``<class>/*`` alone."""

import os

from preprocess.errors import SourceError
from preprocess.sources.labels import read_val_labels
from preprocess.sources.listing import ImageList, ImageListBuilder, Source
from preprocess.sources.names import class_infos, read_class_names
from preprocess.sources.options import SourceOptions
from preprocess.sources.storage import FileInfo, Storage

LAYOUT = "folder"
EXPECTED = "train/<class>/* with val/<class>/* or val/* and its labels, or <class>/* alone"
# Names that people give to the two splits.
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif")
# Deeper than any data set; ends a walk into a link that leads back up.
_MAX_DEPTH = 8


def detect(storage: Storage) -> bool:
    """Whether there are folders: of the splits, or of classes."""
    return any(info.is_folder for info in storage.list(""))


def read(storage: Storage, options: SourceOptions, *, base: str = "") -> Source:
    """Lists the tree under ``base``. Labels are the sorted class folders of the training split; raises SourceError."""
    folders = _split_folders(storage, base)
    if "train" not in folders:
        found = ", ".join(folders.values())
        raise SourceError(f"{storage.root}: expected a folder 'train' beside {found}, found none")
    class_ids = [_name(info) for info in storage.list(folders["train"]) if info.is_folder]
    if not class_ids:
        raise SourceError(f"{storage.root}/{folders['train']}: expected a folder for each class, found none")
    splits: dict[str, ImageList] = {}
    num_ignored = 0
    for split, folder in folders.items():
        children = storage.list(folder)
        if any(info.is_folder for info in children):
            splits[split], ignored = _list_classes(storage, children, class_ids)
        else:
            splits[split], ignored = _list_flat(storage, options, children, class_ids)
        num_ignored += ignored
    return Source(
        layout=LAYOUT,
        root=storage.root,
        classes=class_infos(class_ids, read_class_names(storage)),
        splits={name: images for name, images in splits.items() if len(images)},
        num_ignored=num_ignored,
    )


def _split_folders(storage: Storage, base: str) -> dict[str, str]:
    """The folder of each split there is; the whole tree is the training split where no name says otherwise."""
    present = {_name(info): info.path for info in storage.list(base) if info.is_folder}
    found = {}
    for split, candidates in SPLIT_FOLDERS.items():
        match = next((name for name in candidates if name in present), None)
        if match is not None:
            found[split] = present[match]
    return found or {"train": base}


def _list_classes(storage: Storage, children: list[FileInfo], class_ids: list[str]) -> tuple[ImageList, int]:
    """A split with a folder for each class, and how many files were passed over for their names."""
    labels = {class_id: label for label, class_id in enumerate(class_ids)}
    builder = ImageListBuilder("file")
    num_ignored = 0
    for info in children:
        if not info.is_folder:
            num_ignored += 1
        elif _name(info) not in labels:
            raise SourceError(
                f"{storage.root}/{info.path}: expected one of the training split's {len(labels):,} classes, "
                f"found {_name(info)!r}"
            )
        else:
            num_ignored += _add_images(storage, info.path, labels[_name(info)], builder, _MAX_DEPTH)
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


def _list_flat(
    storage: Storage, options: SourceOptions, children: list[FileInfo], class_ids: list[str]
) -> tuple[ImageList, int]:
    """A split whose images lie in one folder, with labels from elsewhere."""
    images = [info for info in children if info.path.lower().endswith(IMAGE_SUFFIXES)]
    builder = ImageListBuilder("file")
    if images:
        labels = read_val_labels(storage, options, [_name(info) for info in images], class_ids)
        for info, label in zip(images, labels, strict=True):
            builder.add(os.fsencode(info.path), label, info.size_bytes)
    return builder.build(), len(children) - len(images)


def _name(info: FileInfo) -> str:
    return info.path.rsplit("/", 1)[-1]
