"""Parquet files of the Hugging Face Hub (ILSVRC/imagenet-1k): an image struct with bytes and path, and a label."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.errors import SourceError
from preprocess.sources.class_names import class_infos, read_class_names
from preprocess.sources.listing import MAX_LABEL, ImageList, ImageListBuilder, Source
from preprocess.sources.member_names import Split, exact_split, splits_in
from preprocess.sources.numbered import numbered_classes
from preprocess.sources.options import Reading
from preprocess.sources.parquet_rows import LABEL_COLUMN, Columns, find_columns, parquet_errors
from preprocess.sources.shards import account, by_split, find_shards
from preprocess.sources.storage import Storage, client_errors, open_storage

LAYOUT = "parquet"
EXPECTED = "[data/]{train,validation}-*.parquet with columns image {bytes, path} and label"


@dataclass(frozen=True, kw_only=True)
class _FileWork:
    root: str
    path: str


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What a file's small columns say of its rows."""

    path: str
    columns: Columns
    names: list[bytes]
    labels: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]
    """int64 [N]: the mean of the row group's."""
    group_sizes: tuple[int, ...]
    """Rows of each row group."""
    class_names: tuple[str, ...]
    """Those of the Hub's own metadata; empty where there is none."""


def detect(storage: Storage) -> bool:
    """Whether there are parquet files called after a split, or in a folder that is."""
    paths = find_shards(storage, _is_parquet)
    return any(splits_in(part) == {"train"} for path in paths for part in path.split("/"))


def read(reading: Reading) -> Source:
    """Reads labels and names, a file in each task, and no image. Raises SourceError."""
    storage, ledger = reading.storage, reading.ledger
    files = by_split(storage.root, find_shards(storage, _is_parquet))
    if "train" not in files:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found no training files")
    _check_one_place(storage.root, files)
    used = {str(split): paths for split, paths in files.items() if split in ("train", "val")}
    found = _index(reading, itertools.chain(*used.values()))
    if "val" not in used and "test" in files and found[used["train"][0]].columns.image.startswith("img"):
        # CIFAR's images are of two splits, and its test images have labels.
        used["val"] = files.pop("test")
        ledger.notes.append("the validation split is the test files")
        found |= _index(reading, used["val"])
    file_names = read_class_names(storage, ledger)
    account(storage, ledger, itertools.chain(*used.values()))
    ledger.num_found += sum(len(rows.names) for rows in found.values())
    splits = {split: _build([found[path] for path in paths]) for split, paths in used.items()}
    hub_names = _one_list_of_names(storage.root, found)
    class_ids = numbered_classes(splits, storage.root, num_named=len(hub_names) or None)
    names = file_names or dict(zip(class_ids, hub_names, strict=False))
    return Source(layout=LAYOUT, root=storage.root, classes=class_infos(class_ids, names), splits=splits)


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _index(reading: Reading, paths: Iterable[str]) -> dict[str, _Rows]:
    works = [_FileWork(root=reading.storage.root, path=path) for path in paths]
    return {rows.path: rows for rows in reading.map_tasks(_read_rows_index, works)}


def _check_one_place(root: str, files: Mapping[Split | None, Sequence[str]]) -> None:
    """Files of one split in two folders are two copies of a data set, or two data sets."""
    for split in ("train", "val"):
        places: dict[str, str] = {}
        for path in files.get(split, ()):
            folders = path.split("/")[:-1]
            while folders and exact_split(folders[-1]) is not None:
                folders.pop()
            places.setdefault("/".join(folders), path)
        if len(places) > 1:
            one, other = list(places.values())[:2]
            raise SourceError(f"{root}: expected one data set, found {one} and {other}: give the folder of one of them")


def _one_list_of_names(root: str, found: Mapping[str, _Rows]) -> tuple[str, ...]:
    """The classes by the files' own metadata. Raises SourceError when two files number them differently."""
    named = {path: rows.class_names for path, rows in found.items() if rows.class_names}
    for path, names in named.items():
        first = next(iter(named))
        if names != named[first]:
            raise SourceError(f"{root}: expected one order of classes, found one in {first} and another in {path}")
    return next(iter(named.values()), ())


def _read_rows_index(work: _FileWork) -> _Rows:
    """Reads a file's labels and paths. Runs in a task."""
    from pyarrow.parquet import ParquetFile

    storage = open_storage(work.root)
    with parquet_errors(f"{work.root}/{work.path}"):
        with client_errors(storage, work.path), storage.open(work.path) as source, ParquetFile(source) as file:
            columns = find_columns(file.schema_arrow)
            _check_num_rows(file.metadata.num_rows, source.seek(0, os.SEEK_END))
            table = file.read(columns=[LABEL_COLUMN, *([] if columns.path is None else [columns.path])])
            labels = _labels(table[LABEL_COLUMN])
            names = _names(table, columns)
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            group_sizes = tuple(group.num_rows for group in groups)
            if min(group_sizes, default=0) < 0 or table.num_rows != sum(group_sizes):
                raise SourceError(f"expected the rows of its groups, found {table.num_rows:,}: it is damaged")
            sizes = [np.full(group.num_rows, _mean_size(group, columns.image)) for group in groups]
            class_names = _hub_class_names(file.schema_arrow.metadata)
    return _Rows(
        path=work.path,
        columns=columns,
        names=names,
        labels=labels,
        sizes=np.concatenate(sizes) if sizes else np.zeros(0, np.int64),
        group_sizes=group_sizes,
        class_names=class_names,
    )


def _check_num_rows(num_rows: int, size_bytes: int) -> None:
    """Labels of a few bytes may say any number of rows; each of them takes memory."""
    if num_rows > size_bytes:
        raise SourceError(f"expected at most as many rows as bytes, found {num_rows:,} rows in {size_bytes:,} bytes")


def _labels(column: Any) -> npt.NDArray[np.int32]:
    """int32 [N]. Raises SourceError, with the row, for a label that is null or out of range."""
    import pyarrow.compute as compute

    nulls = np.flatnonzero(compute.is_null(column).to_numpy())
    if len(nulls):
        raise SourceError(f"row {nulls[0]:,}: column 'label': expected a whole number, found null")
    values = column.to_numpy()
    wrong = np.flatnonzero((values < 0) | (values > MAX_LABEL))
    if len(wrong):
        raise SourceError(
            f"row {wrong[0]:,}: column 'label': expected a label from 0 to {MAX_LABEL:,}, found {values[wrong[0]]}"
        )
    labels: npt.NDArray[np.int32] = values.astype(np.int32)
    return labels


def _names(table: Any, columns: Columns) -> list[bytes]:
    """A name for each row, no two the same: its path, or its number, and both where paths are not enough."""
    num_rows = table.num_rows
    paths: list[str | None] = [None] * num_rows
    if columns.path is not None:
        paths = [None if item is None else item["path"] for item in table[columns.path.split(".")[0]].to_pylist()]
    names = [str(row) if path is None else path.replace("\0", "\\0") for row, path in enumerate(paths)]
    shared = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name}#{row}" if name in shared else name for row, name in enumerate(names)]
    if len(set(names)) < num_rows:
        names = [f"{name}#{row}" for row, name in enumerate(names)]
    return [name.encode("utf-8", "surrogateescape") for name in names]


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
        return tuple(str(name) for name in features[LABEL_COLUMN]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def _build(files: list[_Rows]) -> ImageList:
    builder = ImageListBuilder("row")
    for rows in files:
        builder.begin_container(rows.path)
        prefix = os.fsencode(f"{rows.path}/")
        first_rows = set(np.cumsum((0, *rows.group_sizes)).tolist())
        for row, name in enumerate(rows.names):
            if row in first_rows:
                builder.begin_group()
            builder.add(prefix + name, int(rows.labels[row]), int(rows.sizes[row]), row)
    return builder.build()
