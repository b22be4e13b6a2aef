"""What a file's or folder's name says: image or not, a leftover of the system, which split."""

import re
from typing import Literal

Split = Literal["train", "val", "test"]

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif")
# A whole name that is one of these, in any case, is a split's.
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Folders and files that operating systems, archivers, notebooks and network drives leave behind.
_SYSTEM_NAMES = {
    "$recycle.bin",
    "#recycle",
    "#snapshot",
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "@tmp",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "lost.dir",
    "recycler",
    "system volume information",
    "thumbs.db",
}
# ImageNet's own tars are neither shards nor classes.
_DOWNLOAD = re.compile("ILSVRC20[0-9]{2}_(img|bbox|devkit)")
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")


def is_image(name: str) -> bool:
    """Whether a name ends as an image's."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_system(name: str) -> bool:
    """Whether a file or folder of this name (its own, without folders) is nobody's data.

    A hidden name is, unless it ends as an image's and is not macOS's ``._`` twin of one.
    """
    if name.lower() in _SYSTEM_NAMES or name.startswith("._"):
        return True
    return name.startswith(".") and not is_image(name)


def is_system_path(path: str) -> bool:
    """Whether any part of a path within an archive is."""
    return any(is_system(part) for part in path.split("/") if part not in ("", ".", ".."))


def exact_split(name: str) -> Split | None:
    """The split that a folder is called: ``Train``, ``validation``; None for any other name."""
    return SPLIT_WORDS.get(name.lower())


def splits_in(name: str) -> set[Split]:
    """The splits among a name's words: ``ILSVRC2012_img_train`` is one of train, ``retrieval-0`` of none."""
    words = {word.lower() for word in _WORD.findall(name)}
    found = {SPLIT_WORDS[word] for word in words & SPLIT_WORDS.keys()}
    return found | ({"train", "val"} if "trainval" in words else set())


def is_download(name: str) -> bool:
    """Whether a file is one of those that ImageNet is downloaded in."""
    return _DOWNLOAD.match(name) is not None
