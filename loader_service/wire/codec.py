"""A batch's parts as bytes and back: ``Batch`` messages, written and read without protobuf touching the pixels.

The bytes are those of the ``Batch`` message of loader.proto: a generated stub in any language reads what
:func:`pack_part` writes, and :func:`unpack_part` reads what a generated stub writes with ``images`` last.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loader_service.v1 import loader_pb2
from loader_service.wire.types import Images


@dataclass(frozen=True, kw_only=True)
class PartHeader:
    """All that a message says of some consecutive images of one step's slice, but their pixels."""

    epoch: int
    step: int
    offset: int
    """Position in the slice of the first image."""
    slice_size: int
    """Images of the whole slice."""
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    colour_shifts: npt.NDArray[np.float32]
    shape: tuple[int, int, int, int, int]
    """[N, num_crops, H, W, 3]"""
    dtype: "np.dtype[Any]"
    """uint8 or float32"""
    slot: int = 0
    """Slot of shared memory that the images are in, from 1; 0: the message holds them."""
    generation: int = 0
    """The slot's generation."""
    pixels_at: int = 0
    """Where in a message that has come the pixels begin, if it holds them."""

    @property
    def is_whole_step(self) -> bool:
        """Whether no other part belongs to its step's slice."""
        return len(self.labels) == self.slice_size

    @property
    def num_pixel_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


_NUMBERS: dict[str, int] = {field.name: field.number for field in loader_pb2.Batch.DESCRIPTOR.fields}
_NAMES = {number: name for name, number in _NUMBERS.items()}
_VARINT, _LENGTH_DELIMITED = 0, 2
_DTYPES: tuple["np.dtype[Any]", ...] = (np.dtype("<u1"), np.dtype("<f4"))


def pack_part(part: PartHeader, images: Images) -> bytes:
    """The bytes of a ``Batch`` message that holds its pixels: field numbers as in loader.proto, pixels last and copied
    once."""
    return b"".join((pack_header(part), images.data))


def pack_header(part: PartHeader) -> bytes:
    """The bytes of a ``Batch`` message up to its pixels."""
    num_images, num_crops, height, width, _ = part.shape
    header = bytearray()
    for name, value in (
        ("epoch", part.epoch),
        ("step", part.step),
        ("offset", part.offset),
        ("slice_size", part.slice_size),
        ("num_images", num_images),
        ("num_crops", num_crops),
        ("height", height),
        ("width", width),
        ("pixel_format", _DTYPES.index(part.dtype)),
        ("slot", part.slot),
        ("generation", part.generation),
    ):
        if value:  # proto3 leaves zeros out
            header += _varint(_NUMBERS[name] << 3 | _VARINT) + _varint(value)
    for name, array, dtype in (
        ("labels", part.labels, "<i8"),
        ("indices", part.indices, "<i8"),
        ("colour_shifts", part.colour_shifts, "<f4"),
    ):
        if array.size:
            header += _varint(_NUMBERS[name] << 3 | _LENGTH_DELIMITED) + _varint(array.nbytes)
            header += array.astype(dtype, copy=False).tobytes()
    if part.num_pixel_bytes and not part.slot:
        header += _varint(_NUMBERS["images"] << 3 | _LENGTH_DELIMITED) + _varint(part.num_pixel_bytes)
    return bytes(header)


def unpack_part(message: bytes | memoryview) -> tuple[PartHeader, Images]:
    """Reads a ``Batch`` message that holds its pixels; the arrays are views into ``message``.

    Raises ValueError when the bytes are not a sound ``Batch``: a wrong length, or arrays that disagree.
    """
    view = memoryview(message)
    header = unpack_header(view, len(view))
    if header is None:
        raise ValueError(f"expected a whole message, found its end at byte {len(view)}")
    pixels = view[header.pixels_at :]
    if header.slot:
        raise ValueError(f"expected {header.num_pixel_bytes} bytes of pixels in the message, found {len(pixels)}")
    return header, np.frombuffer(pixels, header.dtype).reshape(header.shape)


def unpack_header(head: memoryview, size: int) -> PartHeader | None:
    """Reads a ``Batch`` message of ``size`` bytes up to its pixels; the arrays are views into ``head``, its beginning.

    None when ``head`` ends before that. Raises ValueError when the bytes are not a sound ``Batch``: arrays of other
    lengths than they should have, or pixels that are not last or not as many as the shape says.
    """
    scalars = dict.fromkeys(_NUMBERS, 0)
    payloads: dict[str, memoryview] = {}
    at = 0
    pixels_at = size
    while at < len(head) and pixels_at == size:
        try:
            tag, at = _read_varint(head, at)
            value, at = _read_varint(head, at)
        except IndexError:
            return None
        number, wire_type = tag >> 3, tag & 7
        name = _NAMES.get(number, "unknown")
        if wire_type == _VARINT:
            scalars[name] = value
        elif wire_type != _LENGTH_DELIMITED:
            raise ValueError(f"field {number}: expected wire type 0 or 2, found {wire_type}")
        elif at + value > size:
            raise ValueError(f"field {number}: expected {value} bytes, found {size - at}")
        elif name == "images":
            pixels_at = at
        elif at + value > len(head):
            return None
        else:
            payloads[name] = head[at : at + value]
            at += value
    if at < size and pixels_at == size:
        return None

    labels, indices, shifts = (payloads.get(name, b"") for name in ("labels", "indices", "colour_shifts"))
    if scalars["pixel_format"] >= len(_DTYPES):
        raise ValueError(f"expected a known pixel format, found {scalars['pixel_format']}")
    num_images = scalars["num_images"]
    for name, payload, size_each in (("labels", labels, 8), ("indices", indices, 8), ("colour_shifts", shifts, 12)):
        if len(payload) != num_images * size_each:
            raise ValueError(f"{name}: expected {num_images * size_each} bytes, found {len(payload)}")
    header = PartHeader(
        epoch=scalars["epoch"],
        step=scalars["step"],
        offset=scalars["offset"],
        slice_size=scalars["slice_size"],
        shape=(num_images, scalars["num_crops"], scalars["height"], scalars["width"], 3),
        dtype=_DTYPES[scalars["pixel_format"]],
        labels=np.frombuffer(labels, "<i8"),
        indices=np.frombuffer(indices, "<i8"),
        colour_shifts=np.frombuffer(shifts, "<f4").reshape(num_images, 3),
        slot=scalars["slot"],
        generation=scalars["generation"],
        pixels_at=pixels_at,
    )
    if not header.slot and size - pixels_at != header.num_pixel_bytes:
        raise ValueError(f"expected {header.num_pixel_bytes} bytes of pixels at the end, found {size - pixels_at}")
    return header


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if shift > 63:
            raise ValueError(f"expected a varint of at most ten bytes, found a longer one before byte {at}")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
