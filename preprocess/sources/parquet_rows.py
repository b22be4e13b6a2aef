"""The columns of a parquet file of images, and its rows read one after the other."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

from commandline import one_line
from preprocess.errors import SourceError
from preprocess.sources.listing import ImageEntry, ImageList
from preprocess.sources.storage import Storage, client_errors

# As ILSVRC/imagenet-1k and uoft-cs/cifar10 on the Hub call theirs.
_IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"
# Rows decoded at once: some 4 MB of photographs, where a row group is a hundred rows and may be any number.
_ROWS_AT_ONCE = 32


class Columns(NamedTuple):
    """Which columns of a file are read, beside LABEL_COLUMN."""

    image: str
    """The leaf that holds the images' bytes."""
    path: str | None
    """The leaf that holds their names; None where there is none."""


def find_columns(schema: Any) -> Columns:
    """The columns of images and labels. Raises SourceError when one is missing or of a type that cannot be."""
    import pyarrow.types as types

    image = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
    for name, column in (("image", image), ("label", LABEL_COLUMN)):
        if column is None or schema.names.count(column) != 1:
            raise SourceError(f"expected a column {name!r}, found {', '.join(schema.names)}")
    assert image is not None
    label = schema.field(LABEL_COLUMN).type
    if not types.is_integer(label):
        raise SourceError(f"column {LABEL_COLUMN!r}: expected whole numbers, found {label}")
    kind = schema.field(image).type
    leaves = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
    if not _is_bytes(leaves.get("bytes", kind)):
        raise SourceError(f"column {image!r}: expected bytes, or a struct with bytes and path, found {kind}")
    if not leaves:
        return Columns(image, None)
    path = leaves.get("path")
    named = path is not None and (types.is_string(path) or types.is_large_string(path))
    return Columns(f"{image}.bytes", f"{image}.path" if named else None)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def read_rows(storage: Storage, images: ImageList) -> Generator[tuple[ImageEntry, bytes | None]]:
    """Each image with its bytes, or None where the row holds none. ``images`` are in the order of file and row.

    A row group is read once, and no more of it than up to the last row that is wanted.
    """
    from pyarrow.parquet import ParquetFile

    for path, entries in groupby(images, key=lambda entry: entry.container):
        assert path is not None
        with parquet_errors(f"{storage.root}/{path}"):
            with client_errors(storage, path), storage.open(path) as source, ParquetFile(source) as file:
                yield from _read_file_rows(file, list(entries))


@contextmanager
def parquet_errors(where: str) -> Iterator[None]:
    """Makes one line that names the file of whatever is wrong in it; Arrow's errors are of several kinds."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, SourceError, OSError, UnicodeDecodeError) as error:
        text = one_line(error)
        raise SourceError(text if text.startswith(where) else f"{where}: {text}") from None


def _read_file_rows(file: Any, entries: list[ImageEntry]) -> Iterator[tuple[ImageEntry, bytes | None]]:
    column = find_columns(file.schema_arrow).image
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
    if position < len(entries):
        raise SourceError(f"expected a row {entries[position].offset:,}, found {first_row:,} rows: it has changed")
