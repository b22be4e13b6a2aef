"""Labels of a flat validation folder, from any of the files in which they are handed around."""

import csv
from collections.abc import Mapping, Sequence

from preprocess.errors import SourceError
from preprocess.sources.devkit import read_devkit
from preprocess.sources.options import SourceOptions
from preprocess.sources.storage import Storage, open_storage, split_path

# Looked for beside the images, in this order, before the devkit.
LABEL_FILES = ("LOC_val_solution.csv", "val_labels.txt", "val.txt", "imagenet_2012_validation_synset_labels.txt")


def read_val_labels(
    storage: Storage, options: SourceOptions, file_names: Sequence[str], class_ids: Sequence[str]
) -> list[int]:
    """The label of each of ``file_names``, which are the validation images sorted by name.

    From ``--val-labels``, else from a file of LABEL_FILES, else from the devkit. Raises SourceError when there are
    none, or when they do not fit the images.
    """
    labels = {class_id: label for label, class_id in enumerate(class_ids)}
    found = _find_file(storage, options)
    if found is not None:
        text, where = found
        return _parse(text, where, file_names, labels)
    devkit = read_devkit(storage, options.devkit)
    if devkit is None:
        raise SourceError(
            f"{storage.root}: expected the labels of {len(file_names):,} validation images in --val-labels, --devkit, "
            f"{', '.join(LABEL_FILES)} or ILSVRC2012_devkit_t12.tar.gz, found none of them"
        )
    return by_position(devkit.val_wnids, f"{storage.root}: the devkit", file_names, labels)


def by_position(
    class_ids: Sequence[str], where: str, file_names: Sequence[str], labels: Mapping[str, int]
) -> list[int]:
    """Labels listed in the order of the sorted file names."""
    if len(class_ids) != len(file_names):
        raise SourceError(f"{where}: expected {len(file_names):,} labels, one an image, found {len(class_ids):,}")
    return [_label(class_id, where, labels) for class_id in class_ids]


def _find_file(storage: Storage, options: SourceOptions) -> tuple[str, str] | None:
    """The text of the label file and where it is."""
    if options.val_labels is not None:
        root, name = split_path(options.val_labels)
        try:
            return open_storage(root).read(name).decode("utf-8", "replace"), options.val_labels
        except OSError as error:
            raise SourceError(f"--val-labels {options.val_labels}: cannot be read: {error}") from None
    if options.devkit is None:
        for path in LABEL_FILES:
            if storage.size_of(path) is not None:
                return storage.read(path).decode("utf-8", "replace"), f"{storage.root}/{path}"
    return None


def _parse(text: str, where: str, file_names: Sequence[str], labels: Mapping[str, int]) -> list[int]:
    """``ImageId,wnid x y x y`` with a header (Kaggle), ``name label`` lines, or a class a line by sorted name."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("ImageId,"):
        rows = [(row[0], (row[1].split() or [""])[0]) for row in csv.reader(lines[1:]) if len(row) >= 2]
    else:
        words = [line.replace(",", " ").split() for line in lines]
        if all(len(row) == 1 for row in words):
            return by_position([row[0] for row in words], where, file_names, labels)
        rows = [(row[0].rsplit("/", 1)[-1], row[1]) for row in words if len(row) >= 2]
    by_stem = {_stem(name): class_id for name, class_id in rows}
    missing = [name for name in file_names if _stem(name) not in by_stem]
    if missing:
        raise SourceError(f"{where}: expected a label for each image, found none for {missing[0]!r}")
    return [_label(by_stem[_stem(name)], where, labels) for name in file_names]


def _label(class_id: str, where: str, labels: Mapping[str, int]) -> int:
    if class_id in labels:
        return labels[class_id]
    # A number is an index into the sorted classes, as Caffe's val.txt has it.
    if class_id.isdecimal() and int(class_id) < len(labels):
        return int(class_id)
    raise SourceError(f"{where}: expected one of the training split's {len(labels):,} classes, found {class_id!r}")


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and len(suffix) <= 4 else name
