"""Parquet files of the Hugging Face Hub (ILSVRC/imagenet-1k): an image struct with bytes and path, and a label."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.errors import SourceError
from preprocess.sources.listing import ImageEntry, ImageList, ImageListBuilder, Source
from preprocess.sources.names import class_infos, numbered_classes, read_class_names
from preprocess.sources.options import MapTasks
from preprocess.sources.storage import Storage, open_storage

LAYOUT = "parquet"
EXPECTED = "[data/]{train,validation}-*.parquet with columns image {bytes, path} and label"
_SPLITS = {"train": "train", "val": "val", "validation": "val"}
_FOLDERS = ("", "data")
# Rows decoded at once: some 4 MB of photographs, where a row group is a hundred rows and may be any number.
_ROWS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class _FileWork:
    root: str
    path: str


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What a file's small columns say of its rows."""

    path: str
    names: list[bytes]
    labels: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]
    """int64 [N]: the mean of the row group's."""
    group_sizes: tuple[int, ...]
    """Rows of each row group."""
    class_names: tuple[str, ...]
    """Those of the Hub's own metadata; empty where there is none."""


def detect(storage: Storage) -> bool:
    """Whether there are parquet files called after a split."""
    return "train" in _split_files(storage)


def read(storage: Storage, map_tasks: MapTasks) -> Source:
    """Reads labels and names, a file in each task, and no image. Raises SourceError."""
    files = _split_files(storage)
    if "train" not in files:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found no training files")
    works = [_FileWork(root=storage.root, path=path) for paths in files.values() for path in paths]
    found: dict[str, _Rows] = {}
    for rows in map_tasks(_read_rows_index, works):
        found[rows.path] = rows
    splits = {split: _build([found[path] for path in paths]) for split, paths in files.items()}
    class_ids = numbered_classes(splits, storage.root)
    names = read_class_names(storage)
    hub_names = next((rows.class_names for rows in found.values() if len(rows.class_names) == len(class_ids)), ())
    names = names or dict(zip(class_ids, hub_names, strict=False))
    return Source(layout=LAYOUT, root=storage.root, classes=class_infos(class_ids, names), splits=splits)


def read_rows(storage: Storage, images: ImageList) -> Iterator[tuple[ImageEntry, bytes | None]]:
    """Each image with its bytes, or None where the column is null. ``images`` are in the order of file and row.

    A row group is read once, and no more of it than up to the last row that is wanted.
    """
    from pyarrow.parquet import ParquetFile

    for path, entries in groupby(images, key=lambda entry: entry.container):
        assert path is not None
        with storage.open(path) as source, ParquetFile(source) as file:
            yield from _read_file_rows(file, list(entries))


def _read_file_rows(file: Any, entries: list[ImageEntry]) -> Iterator[tuple[ImageEntry, bytes | None]]:
    column = _image_column(file.schema_arrow)
    first_row = 0
    position = 0
    for group in range(file.metadata.num_row_groups):
        end_row = first_row + file.metadata.row_group(group).num_rows
        row = first_row
        if position < len(entries) and entries[position].offset < end_row:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[column]):
                values = batch.column(0)
                while position < len(entries) and entries[position].offset < row + len(values):
                    value = values[entries[position].offset - row].as_py()
                    yield entries[position], value["bytes"] if isinstance(value, dict) else value
                    position += 1
                row += len(values)
                if position == len(entries) or entries[position].offset >= end_row:
                    break
        first_row = end_row


def _split_files(storage: Storage) -> dict[str, list[str]]:
    """The files of each split, by name."""
    files: dict[str, list[str]] = {}
    for folder in _FOLDERS:
        if folder and not storage.is_folder(folder):
            continue
        for info in storage.list(folder):
            name = info.path.rsplit("/", 1)[-1]
            split = _SPLITS.get(name.removesuffix(".parquet").split("-")[0])
            if name.endswith(".parquet") and split is not None:
                files.setdefault(split, []).append(info.path)
    return dict(sorted(files.items()))


def _image_column(schema: Any) -> str:
    """The leaf column that holds the images' bytes."""
    import pyarrow

    if "image" not in schema.names:
        raise SourceError(f"expected a column 'image', found {', '.join(schema.names)}")
    kind = schema.field("image").type
    return "image.bytes" if pyarrow.types.is_struct(kind) else "image"


def _read_rows_index(work: _FileWork) -> _Rows:
    """Reads a file's labels and paths. Runs in a task."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    where = f"{work.root}/{work.path}"
    try:
        with open_storage(work.root).open(work.path) as source, ParquetFile(source) as file:
            schema = file.schema_arrow
            image = _image_column(schema)
            if "label" not in schema.names:
                raise SourceError(f"expected a column 'label', found {', '.join(schema.names)}")
            has_paths = image == "image.bytes" and "path" in [field.name for field in schema.field("image").type]
            table = file.read(columns=["label", "image.path"] if has_paths else ["label"])
            labels = table["label"].to_numpy()
            paths = [item["path"] for item in table["image"].to_pylist()] if has_paths else [None] * len(labels)
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            sizes = [np.full(group.num_rows, _mean_size(group, image)) for group in groups]
            class_names = _hub_class_names(schema.metadata)
    except (pyarrow.ArrowException, SourceError) as error:
        raise SourceError(f"{where}: {' '.join(str(error).split())}") from None
    if not np.issubdtype(labels.dtype, np.integer):
        raise SourceError(f"{where}: expected whole numbers as labels, found {labels.dtype}")
    return _Rows(
        path=work.path,
        names=[str(row if path is None else path).encode() for row, path in enumerate(paths)],
        labels=labels.astype(np.int32),
        sizes=np.concatenate(sizes) if sizes else np.zeros(0, np.int64),
        group_sizes=tuple(group.num_rows for group in groups),
        class_names=class_names,
    )


def _mean_size(group: Any, column: str) -> int:
    """Bytes of an image in a row group, from its metadata."""
    for index in range(group.num_columns):
        if group.column(index).path_in_schema == column:
            return int(group.column(index).total_uncompressed_size) // max(int(group.num_rows), 1)
    return 0


def _hub_class_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """The names of the classes in label order, from what the Hub writes into a schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def _build(files: list[_Rows]) -> ImageList:
    builder = ImageListBuilder("row")
    for rows in files:
        builder.begin_container(rows.path)
        prefix = f"{rows.path}/".encode()
        first_rows = set(np.cumsum((0, *rows.group_sizes)).tolist())
        for row, name in enumerate(rows.names):
            if row in first_rows:
                builder.begin_group()
            builder.add(prefix + name, int(rows.labels[row]), int(rows.sizes[row]), row)
    return builder.build()
