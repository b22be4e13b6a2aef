"""The view ``resized_crop``: a window of random size, shape and place, drawn and resized the same on every machine.

What is drawn is what torchvision's RandomResizedCrop draws, from lanes of the counter-based generator that no other
view uses. Resizing is defined by whole numbers (docs/protocol.md); OpenCV's bit-exact bilinear resize is just that, and
a digest of what this machine makes of a built-in image is part of the version of this view.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from loader_service.pipeline.draws import Float64, log, philox4x32

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_FIRST_LANE = 2
_NUM_TRIES = 10
"""As many as torchvision's."""
_LOG_2 = 0.6931471805599453


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where the crops of N images are cut, before they are resized: int64 [N] each."""

    tops: Int64
    lefts: Int64
    heights: Int64
    widths: Int64


def draw_windows(
    indices: Int64, *, seed: int, epoch: int, side: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Windows:
    """The windows of the images ``indices`` (int64 [N]) of a store of ``side``-pixel images.

    The area is uniform over ``scale`` of the image's, the width by the height log-uniform over ``ratio``, both rounded
    to whole pixels; of ten tries the first that fits the image counts, at a place that is uniform. Where none fits, it
    is the largest centred window whose shape is within ``ratio``.
    """
    widest, tallest = min(1.0, ratio[1]), max(1.0, ratio[0])
    width, height = max(int(np.rint(side * widest)), 1), max(int(np.rint(side / tallest)), 1)
    heights, widths = np.full(len(indices), height), np.full(len(indices), width)
    tops, lefts = (side - heights) // 2, (side - widths) // 2
    low, high = log(np.array(ratio))
    missing = np.arange(len(indices))
    for number in range(_NUM_TRIES):
        words = philox4x32(indices[missing], seed=seed, epoch=epoch, lane=_FIRST_LANE + number)
        uniforms = (words[:2].astype(np.float64) + 0.5) * 2.0**-32
        areas = (scale[0] + uniforms[0] * (scale[1] - scale[0])) * (side * side)
        ratios = _exp(low + uniforms[1] * (high - low))
        tried_widths, tried_heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (np.minimum(tried_widths, tried_heights) >= 1) & (np.maximum(tried_widths, tried_heights) <= side)
        found = missing[fits]
        heights[found], widths[found] = tried_heights[fits], tried_widths[fits]
        tops[found] = _places(words[2][fits], side - heights[found])
        lefts[found] = _places(words[3][fits], side - widths[found])
        missing = missing[~fits]
        if not len(missing):
            break
    return Windows(tops=tops, lefts=lefts, heights=heights, widths=widths)


def _places(words: npt.NDArray[np.uint64], last: Int64) -> Int64:
    """One of 0..last for each 32-bit word."""
    return ((words * (last + 1).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def _exp(x: Float64) -> Float64:
    """The exponential by correctly rounded operations only: ``2**n e**r`` with r within half of log 2, as a series."""
    n = np.rint(x / _LOG_2)
    r = x - n * _LOG_2
    series = np.ones_like(r)
    for k in range(14, 0, -1):
        series = 1.0 + r * series / k
    return np.ldexp(series, n.astype(np.int64))


def resize(window: UInt8, out: UInt8) -> None:
    """Resizes ``window`` (uint8 [height, width, 3]) into ``out`` (uint8 [size, size, 3]).

    Bilinear, with weights of 8 bits. Where that would pass pixels over (more than 4/3 of the window's for one of
    ``out``), it goes to twice the size, or four times, and each halving takes the mean of 2 x 2 pixels.
    """
    size = out.shape[0]
    num_halvings = 0
    while 3 * max(window.shape[:2]) > 4 * size << num_halvings:
        num_halvings += 1
    if not num_halvings:
        cv2.resize(window, (size, size), dst=out, interpolation=cv2.INTER_LINEAR_EXACT)
        return
    larger = cv2.resize(window, (size << num_halvings,) * 2, interpolation=cv2.INTER_LINEAR_EXACT)
    for left in range(num_halvings - 1, 0, -1):
        larger = cv2.resize(larger, (size << left,) * 2, interpolation=cv2.INTER_AREA)
    cv2.resize(larger, (size, size), dst=out, interpolation=cv2.INTER_AREA)


@cache
def resize_digest() -> str:
    """Eight hex digits that name what this machine makes of windows of a built-in image, larger and smaller."""
    image = np.frombuffer(hashlib.shake_128(b"any bytes will do").digest(150 * 150 * 3), np.uint8).reshape(150, 150, 3)
    digest = hashlib.sha256()
    for height, width, size in ((37, 61, 66), (120, 150, 129), (150, 97, 66), (150, 150, 31)):
        out = np.empty((size, size, 3), np.uint8)
        resize(image[:height, 150 - width :], out)
        digest.update(out.tobytes())
    return digest.hexdigest()[:8]
