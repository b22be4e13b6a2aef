"""MAT-files of level 5, as far as ImageNet's devkit needs them: an array of structures of numbers and of text.

The format is MathWorks' "MAT-File Format", level 5: a header, then elements, each of a type, a size and bytes. An
element may be gzipped ones; a matrix is an element of elements. Nothing is made larger than the bytes that are there.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CHARACTERS, _STRUCTURES, _NUMBERS = 4, 2, range(6, 16)
# By an element's type: NumPy's of its numbers, and what its text is in.
_NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}

Value = float | str | None
"""The first number of a matrix of numbers, a text, or None for whatever else."""


def read_structures(content: bytes, name: str, most_bytes: int) -> list[dict[str, Value]]:
    """The structures of the array called ``name``, each with its values by field.

    Raises ValueError where there is none, or the file is damaged, or expands to more than ``most_bytes``.
    """
    order = "<" if content[_HEADER_BYTES - 2 : _HEADER_BYTES] == b"IM" else ">"
    for kind, element in _elements(memoryview(content)[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            expanded = zlib.decompressobj().decompress(element, most_bytes + 1)
            if len(expanded) > most_bytes:
                raise ValueError(f"expected at most {most_bytes:,} bytes, found more when expanded")
            kind, element = next(_elements(memoryview(expanded), order), (0, element))
        if kind == _MATRIX:
            parts = _elements(element, order)
            if (_class_and_name(parts, order)) == (_STRUCTURES, name):
                return _structures(parts, order)
    raise ValueError(f"expected an array of structures called {name}, found none")


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element. One of up to four bytes has both in one word."""
    position = 0
    while position + 8 <= len(content):
        kind, size_bytes = struct.unpack_from(f"{order}II", content, position)
        start = position + 8
        if kind >> 16:
            kind, size_bytes, start = kind & 0xFFFF, kind >> 16, position + 4
        end = start + size_bytes
        if end > len(content):
            raise ValueError("expected an element within its file, found one that goes on past its end")
        yield kind, content[start:end]
        position = end if kind == _COMPRESSED else end + -end % 8


def _class_and_name(parts: Iterator[tuple[int, memoryview]], order: str) -> tuple[int, str]:
    """A matrix's class, and its name; the parts that follow hold its values."""
    flags, _, name = (part for _, part in itertools.islice(parts, 3))
    return struct.unpack_from(f"{order}I", flags)[0] & 0xFF, bytes(name).decode("latin-1")


def _structures(parts: Iterator[tuple[int, memoryview]], order: str) -> list[dict[str, Value]]:
    (_, length), (_, names) = itertools.islice(parts, 2)
    width = max(1, struct.unpack_from(f"{order}i", length)[0])
    fields = [bytes(names[at : at + width]).partition(b"\0")[0].decode("latin-1") for at in range(0, len(names), width)]
    values = [_value(part, order) for _, part in parts]
    if not fields or len(values) % len(fields):
        raise ValueError(f"expected values for each of {len(fields):,} fields, found {len(values):,}")
    starts = range(0, len(values), len(fields))
    return [dict(zip(fields, values[start : start + len(fields)], strict=True)) for start in starts]


def _value(matrix: memoryview, order: str) -> Value:
    if not matrix:
        return None
    parts = _elements(matrix, order)
    kind, _ = _class_and_name(parts, order)
    stored, content = next(parts, (0, memoryview(b"")))
    if kind == _CHARACTERS:
        encoding = _ENCODINGS.get(stored, "latin-1")
        return bytes(content).decode(encoding + ("" if encoding != "utf-16" else "-le" if order == "<" else "-be"))
    if kind in _NUMBERS and stored in _NUMBER_TYPES and content:
        return float(np.frombuffer(content, np.dtype(f"{order}{_NUMBER_TYPES[stored]}"))[0])
    return None
