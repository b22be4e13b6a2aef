"""Planar YUV 4:2:0 (BT.601, video range): pixels to planes and back, in whole numbers alone. Pure.

Luma for each pixel, two colour differences for each 2 x 2 of them: half the bytes of RGB. Back to RGB each pixel takes
the differences of its own 2 x 2 and of no other, so that any part of an image that begins and ends at even numbers
can be converted alone and is, byte for byte, that part of the whole.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]

# Y, U and V of red, green and blue (ITU-R BT.601), times 2**8: no sum leaves 16 bits, and grey has no colour exactly.
_LUMA = (66, 129, 25)
_U = (-38, -74, 112)
_V = (112, -94, -18)
# And back, times 2**20, with the numbers and the rounding of OpenCV's COLOR_YUV2RGB_I420: the loader uses that.
_FROM_LUMA = 1_220_542
_FROM_U_V = ((0, 1_673_527), (-409_993, -852_492), (2_116_026, 0))
_HALF = 1 << 19


def rgb_to_yuv420(colours: Sequence[UInt8], halved: Sequence[UInt8]) -> bytes:
    """The planes of an image: Y, uint8 [side, side], U and V, uint8 [side / 2, side / 2], one after the other.

    ``colours`` are its red, green and blue, each uint8 [side, side], and ``halved`` those of the image at half its
    side, each pixel the mean of 2 x 2.
    """
    luma = _weighted(colours, _LUMA, 16, np.uint16)
    u, v = (_weighted(halved, weights, 128, np.int16) for weights in (_U, _V))
    return luma.tobytes() + u.tobytes() + v.tobytes()


def yuv420_to_rgb(planes: bytes | memoryview, side: int) -> UInt8:
    """The pixels, uint8 [side, side, 3], of an image's planes. Raises ValueError when there are not as many bytes."""
    num_pixels, half = side * side, side // 2
    if len(planes) != num_pixels * 3 // 2:
        raise ValueError(f"expected {num_pixels * 3 // 2:,} bytes, found {len(planes):,}")
    values = np.frombuffer(planes, np.uint8)
    luma = (np.maximum(values[:num_pixels], 16).astype(np.int32) - 16) * _FROM_LUMA + _HALF
    # Each 2 x 2 on axes of its own: [half, 2, half, 2].
    luma = luma.reshape(half, 2, half, 2)
    u, v = values[num_pixels:].reshape(2, half, 1, half, 1).astype(np.int32) - 128
    pixels = np.empty((half, 2, half, 2, 3), np.uint8)
    for channel, (from_u, from_v) in enumerate(_FROM_U_V):
        pixels[..., channel] = np.clip((luma + (from_u * u + from_v * v)) >> 20, 0, 255)
    return pixels.reshape(side, side, 3)


def _weighted(
    colours: Sequence[UInt8], weights: tuple[int, int, int], zero: int, dtype: type[np.uint16] | type[np.int16]
) -> UInt8:
    """The colours' weighted sum over 2**8, rounded, plus ``zero``."""
    total = np.multiply(colours[0], dtype(weights[0]), dtype=dtype)
    for colour, weight in zip(colours[1:], weights[1:], strict=True):
        total += np.multiply(colour, dtype(weight), dtype=dtype)
    total += dtype(128)
    total >>= dtype(8)
    total += dtype(zero)
    return total.astype(np.uint8)
