"""Forms that images come in and that are not read: recognised, so that the error can say what to do."""

import re

from preprocess.sources.member_names import is_system
from preprocess.sources.storage import Storage
from preprocess.store.format import MANIFEST_NAME, SHARDS_DIRECTORY

# By a lower-case name. The first that fits is said.
_FORMS = (
    (r"\.(zip|7z|rar)$", "an archive", "unpack it, and give the folder"),
    (r"\.(tar\.bz2|tbz2|tar\.xz|txz|tar\.zst)$", "a tar that cannot be read in place", "expand it to a .tar"),
    # train-00000-of-01024, as ImageNet's usual conversion calls them, or with .tfrecord before the number.
    (
        r"\.(tfrecords?|tfrec)$|(^[a-z]+|\.tfrecords?)-[0-9]{5}-of-[0-9]{5}$",
        "TFRecord",
        "write its images to folders of classes, or parquet",
    ),
    (r"\.(mdb|lmdb)$", "an LMDB", "write its images to folders of classes, or give a store to the loader as it is"),
    (r"\.(rec|idx)$", "MXNet's RecordIO", "write its images to folders of classes"),
    (r"\.arrow$", "Arrow files of the datasets library", "save it with to_parquet"),
    (r"\.(h5|hdf5|npy|npz|mat|pkl|pickle)$", "arrays", "write them as images to folders of classes"),
    (r"\.beton$", "FFCV's", "take the images that it was made from"),
    (r"\.parquet$", "parquet files", "call them train-*.parquet, or put them into train/"),
    (r"-python\.tar\.gz$|^cifar-10-batches-py", "Python's pickles of CIFAR", "take cifar-10-binary.tar.gz"),
)


def recognise(storage: Storage) -> str | None:
    """What a source that is in no layout looks like, and what to do with it; None for what is not known."""
    if storage.size_of(MANIFEST_NAME) is not None and storage.is_folder(SHARDS_DIRECTORY):
        return "a store, which preprocess wrote: give it to the loader"
    names = []
    for info in storage.list(""):
        if is_system(info.name):
            continue
        names.append(info.path)
        if info.is_folder and len(names) < 64:
            names += [inner.path for inner in storage.list(info.path)[:64]]
    for name in names:
        found = of_name(name)
        if found is not None:
            return f"{name}: {found}"
    return None


def of_name(path: str) -> str | None:
    """What a file or folder is by its name, and what to do with it."""
    name = path.rsplit("/", 1)[-1].lower()
    for pattern, what, remedy in _FORMS:
        if re.search(pattern, name):
            return f"{what}, not read: {remedy}"
    return None
