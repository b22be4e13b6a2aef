"""Classes of the layouts that know them by number alone: what the numbers may be, and what the classes are called."""

import itertools
import re
from collections.abc import Mapping

import numpy as np

from commandline import plain
from preprocess.errors import SourceError
from preprocess.sources.listing import ImageList

# A wnid in a file name: n01440764_10026.JPEG, ILSVRC2012_val_00000293_n01440764.JPEG.
_WNID = re.compile(rb"(?:^|[/_])(n[0-9]{8})(?=[/_.])")
# More classes than in any data set, unless most of them have images: then one label is none.
_MANY_CLASSES = 32_768
_MOST_CLASSES_FOR_ONE_USED = 10


def numbered_classes(splits: Mapping[str, ImageList], where: str, *, num_named: int | None = None) -> tuple[str, ...]:
    """Ids of the classes, in label order. ``num_named``: how many the source itself says there are.

    Where the training images are called after their wnids, as ImageNet's are, those are the ids; raises SourceError
    when the labels are then not the wnids' sorted order. Otherwise ids are the numbers, ``0007``. Raises SourceError
    too, naming the image, for a label that is not one of those named, or so large that nearly all classes were empty.
    """
    largest = max(int(images.labels.max(initial=-1)) for images in splits.values())
    if num_named is not None and largest >= num_named:
        raise SourceError(
            f"{where}: {_first_with(splits, largest)}: expected a label below {num_named:,}, as many classes as the "
            f"source names, found {largest:,}"
        )
    num_used = len(np.unique(np.concatenate([np.unique(images.labels) for images in splits.values()])))
    if largest >= _MANY_CLASSES and largest > _MOST_CLASSES_FOR_ONE_USED * num_used:
        raise SourceError(
            f"{where}: {_first_with(splits, largest)}: expected labels of the {num_used:,} classes that occur, found "
            f"{largest:,}, which would leave nearly all classes empty"
        )
    num_classes = num_named if num_named is not None else 1 + largest
    wnids = _wnids(splits["train"], num_classes)
    if wnids is None:
        width = len(str(num_classes - 1))
        return tuple(f"{label:0{width}d}" for label in range(num_classes))
    for before, after in itertools.pairwise(wnids):
        if before >= after:
            raise SourceError(f"{where}: expected labels in the order of sorted wnids, found {after} after {before}")
    return wnids


def _first_with(splits: Mapping[str, ImageList], label: int) -> str:
    """Where the first image of a label is: file, row if it is one, and the column that says so."""
    for images in splits.values():
        (places,) = np.nonzero(images.labels == label)
        if len(places):
            entry = images.entry(int(places[0]))
            if images.access == "row":
                return f"{entry.container}: row {entry.offset:,}: column 'label'"
            return plain(entry.name.decode("utf-8", "surrogateescape"))
    raise AssertionError(f"no image has label {label}")


def _wnids(images: ImageList, num_classes: int) -> tuple[str, ...] | None:
    """The wnid that every class's first image is called after; None when some are not, or two share one."""
    labels, first = np.unique(images.labels, return_index=True)
    if len(labels) != num_classes:
        return None
    matches = [_WNID.findall(images.name(int(index))) for index in first]
    wnids = [match[-1].decode() for match in matches if match]
    return tuple(wnids) if len(set(wnids)) == num_classes else None
