"""The official validation tar: flat, in no order of names, and without labels."""

import itertools
import os
from collections.abc import Sequence

from preprocess.errors import SourceError
from preprocess.sources.labels import read_val_labels
from preprocess.sources.listing import ImageList, ImageListBuilder
from preprocess.sources.options import Reading
from preprocess.sources.tar_index import index_images
from preprocess.sources.tar_reader import whole_tar

VAL_TAR = "ILSVRC2012_img_val.tar"


def list_val_tar(reading: Reading, class_ids: Sequence[str]) -> ImageList:
    """The validation split in the flat official tar, with labels from elsewhere. Raises SourceError."""
    (index,) = reading.map_tasks(index_images, [whole_tar(reading.storage, VAL_TAR)])
    reading.ledger.add(index.ledger)
    # The tar is not in the order of names, and the devkit's labels are.
    members = sorted(index.members(), key=lambda member: _own_name(member[0]))
    file_names = [os.fsdecode(_own_name(name)) for name, _, _ in members]
    for before, after in itertools.pairwise(members):
        if _own_name(before[0]) == _own_name(after[0]):
            raise SourceError(
                f"{reading.storage.root}/{VAL_TAR}: expected each name once, found {before[0]!r} and {after[0]!r}"
            )
    labels = read_val_labels(reading.storage, reading.options, file_names, class_ids, reading.ledger)
    builder = ImageListBuilder("range")
    builder.begin_container(VAL_TAR)
    for (name, offset, size), label in zip(members, labels, strict=True):
        builder.add(f"{VAL_TAR}/".encode() + name, label, size, offset)
    return builder.build()


def _own_name(path: bytes) -> bytes:
    return path.rsplit(b"/", 1)[-1]
