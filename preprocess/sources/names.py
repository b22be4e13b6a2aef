"""Human-readable names of classes, from the files in which ImageNet's users keep them."""

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from preprocess.errors import SourceError
from preprocess.sources.listing import ImageList
from preprocess.sources.storage import Storage
from preprocess.store.format import ClassInfo

# A wnid in a file name: n01440764_10026.JPEG, ILSVRC2012_val_00000293_n01440764.JPEG.
_WNID = re.compile(rb"(?:^|[/_])(n[0-9]{8})(?=[/_.])")
# Each with a class id and its names a line: ``n01440764 tench, Tinca tinca``.
NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")


def read_class_names(storage: Storage) -> dict[str, str]:
    """Names by class id, from the first of NAME_FILES at the source's root; empty when there is none."""
    for path in NAME_FILES:
        if storage.size_of(path) is not None:
            return parse_class_names(storage.read(path).decode("utf-8", "replace"))
    return {}


def parse_class_names(text: str) -> dict[str, str]:
    """Class id, white space, then its names, on each line."""
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def class_infos(class_ids: Sequence[str], names: Mapping[str, str]) -> tuple[ClassInfo, ...]:
    """Classes in label order; one without a name is called by its id."""
    return tuple(ClassInfo(id=class_id, name=names.get(class_id, class_id)) for class_id in class_ids)


def numbered_classes(splits: Mapping[str, ImageList], where: str) -> tuple[str, ...]:
    """Ids of the classes of a layout that knows them by number alone, in label order.

    Where the training images are called after their wnids, as ImageNet's are, those are the ids; raises SourceError
    when the labels are then not the wnids' sorted order. Otherwise ids are the numbers, ``0007``.
    """
    num_classes = 1 + max(int(images.labels.max(initial=-1)) for images in splits.values())
    smallest = min(int(images.labels.min(initial=0)) for images in splits.values())
    if smallest < 0:
        raise SourceError(f"{where}: expected labels from 0, found {smallest}")
    wnids = _wnids(splits["train"], num_classes)
    if wnids is None:
        width = len(str(num_classes - 1))
        return tuple(f"{label:0{width}d}" for label in range(num_classes))
    for before, after in itertools.pairwise(wnids):
        if before >= after:
            raise SourceError(f"{where}: expected labels in the order of sorted wnids, found {after} after {before}")
    return wnids


def _wnids(images: ImageList, num_classes: int) -> tuple[str, ...] | None:
    """The wnid that every class's first image is called after; None when some are not, or two share one."""
    labels, first = np.unique(images.labels, return_index=True)
    if len(labels) != num_classes:
        return None
    matches = [_WNID.findall(images.name(int(index))) for index in first]
    wnids = [match[-1].decode() for match in matches if match]
    return tuple(wnids) if len(set(wnids)) == num_classes else None
