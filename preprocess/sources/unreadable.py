"""Forms that images come in and that are not read: recognised, so that the error can say what to do."""

import re

from preprocess.sources.member_names import is_system
from preprocess.sources.storage import Storage

# By how a name ends or begins. The first that fits is said.
_ENDINGS = (
    ((".zip", ".7z", ".rar"), "an archive", "unpack it, and give the folder"),
    ((".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"), "a tar that cannot be read in place", "expand it to a .tar"),
    (("-python.tar.gz",), "Python's pickles of CIFAR", "take cifar-10-binary.tar.gz"),
    ((".tfrecord", ".tfrecords", ".tfrec"), "TFRecord", "write its images to folders of classes, or parquet"),
    ((".mdb", ".lmdb"), "an LMDB", "write its images to folders of classes, or give a store to the loader as it is"),
    ((".rec", ".idx"), "MXNet's RecordIO", "write its images to folders of classes"),
    ((".arrow",), "Arrow files of the datasets library", "save it with to_parquet"),
    (
        (".h5", ".hdf5", ".npy", ".npz", ".mat", ".pkl", ".pickle"),
        "arrays",
        "write them as images to folders of classes",
    ),
    ((".beton",), "FFCV's", "take the images that it was made from"),
    (
        (".parquet",),
        "parquet files",
        "call them train-*.parquet, or put them into train/",
    ),
)
_BEGINNINGS = (("cifar-10-batches-py", "Python's pickles of CIFAR", "take cifar-10-binary.tar.gz"),)
# train-00000-of-01024, as ImageNet's usual conversion calls them, or with .tfrecord before the number.
_TFRECORD = re.compile(r"(^[a-z]+|\.tfrecords?)-[0-9]{5}-of-[0-9]{5}$")
_STORE = "manifest.json"


def recognise(storage: Storage) -> str | None:
    """What a source that is in no layout looks like, and what to do with it; None for what is not known."""
    if storage.size_of(_STORE) is not None and storage.is_folder("shards"):
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
    for endings, what, remedy in _ENDINGS:
        if name.endswith(endings) or (what == "TFRecord" and _TFRECORD.search(name)):
            return f"{what}, not read: {remedy}"
    for beginning, what, remedy in _BEGINNINGS:
        if name.startswith(beginning):
            return f"{what}, not read: {remedy}"
    return None
