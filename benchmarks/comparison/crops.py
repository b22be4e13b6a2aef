"""Checks what an entry delivered: every crop is looked for in the stored image that it claims to be of."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from benchmarks.comparison.images import SIDE

UInt8 = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]
"""Top, left, height, width."""

CROP = 224
# libjpeg's fast IDCT differs from the accurate one by up to 3 levels (root mean square) on photographs, FFmpeg's
# conversion to RGB by up to 7; another window or image by 20 and more.
MAX_DIFFERENCE = 12.0
MAX_RESIZED_DIFFERENCE = 24.0
"""For crops that were resized, whose windows are found to a few pixels: of some thousand photographs, crops fitted
their own image within 20 levels; of 50, they fitted another with 25 and more but once."""
_MAX_STRETCH = 1.4
"""Of a window, width by height or the other way: 4/3, and half a pixel more."""
_MEAN_AREA = (0.3, 0.8)
"""Of windows whose area is uniform over 0.08 to 1 of the image's."""
# 4.5 standard deviations of a fair coin: a sound entry fails once in 150,000 runs.
_NUM_DEVIATIONS = 4.5


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a sample of crops turned out to be."""

    num_crops: int
    worst_difference: float
    """Root mean square over a crop, in levels of 0..255, of the crop that fits worst."""
    mean_level: float
    mirrored: float
    """Share of the crops that are mirrored."""
    windows: int
    """Different windows seen."""


def check(
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64],
    data: Path,
    *,
    mirrors: bool,
    is_resized: bool = False,
    max_crops: int = 64,
) -> Found:
    """Finds the window and the mirroring of ``images`` (uint8 [N, 224, 224, 3], at most ``max_crops`` of them), which
    have the size of their windows unless ``is_resized``.

    Raises ValueError when a crop is not part of its image, or when windows or mirroring are not random.
    """
    if images.ndim != 4 or images.shape[1:] != (CROP, CROP, 3) or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 [N, {CROP}, {CROP}, 3], found {images.dtype} {list(images.shape)}")
    if len(np.unique(indices)) < len(indices) // 2:
        raise ValueError(f"expected different images, found {len(np.unique(indices))} among {len(indices)}")
    chosen = np.linspace(0, len(images) - 1, min(max_crops, len(images))).astype(int)
    worst, mirrored, windows = 0.0, 0, set()
    for place in chosen:
        stored = (data / "files" / f"{int(indices[place]):06d}.jpg").read_bytes()
        source = simplejpeg.decode_jpeg(stored)
        difference, window, is_mirrored = (_find_resized if is_resized else _find)(source, images[place])
        worst = max(worst, difference)
        if difference > (MAX_RESIZED_DIFFERENCE if is_resized else MAX_DIFFERENCE):
            raise ValueError(
                f"image {indices[place]}: expected a crop of it, found one that differs by {difference:.1f} levels"
            )
        mirrored += is_mirrored
        windows.add(window)
    share, num_crops = mirrored / len(chosen), len(chosen)
    slack = _NUM_DEVIATIONS * 0.5 / num_crops**0.5
    if mirrors and abs(share - 0.5) > slack:
        raise ValueError(f"expected half of the crops mirrored, found {share:.2f}")
    if num_crops >= 16 and len(windows) < num_crops // 2:
        raise ValueError(f"expected random windows, found {len(windows)} among {num_crops} crops")
    mean_area = float(np.mean([height * width for _, _, height, width in windows])) / SIDE**2
    if is_resized and not _MEAN_AREA[0] < mean_area < _MEAN_AREA[1]:
        raise ValueError(f"expected windows of half of the image's area or so, found {mean_area:.2f}")
    return Found(
        num_crops=num_crops,
        worst_difference=worst,
        mean_level=float(images[chosen].mean()),
        mirrored=share,
        windows=len(windows),
    )


def _find(source: npt.NDArray[Any], crop: npt.NDArray[Any]) -> tuple[float, Window, bool]:
    """Difference, window and mirroring of the best fit of ``crop`` in ``source``."""
    fits = []
    for is_mirrored in (False, True):
        wanted = np.ascontiguousarray(crop[:, ::-1]) if is_mirrored else crop
        differences = cv2.matchTemplate(source, wanted, cv2.TM_SQDIFF)
        least, _, (left, top), _ = cv2.minMaxLoc(differences)
        fits.append(((max(least, 0.0) / crop.size) ** 0.5, (top, left, *crop.shape[:2]), is_mirrored))
    return min(fits)


def _find_resized(source: UInt8, crop: UInt8) -> tuple[float, Window, bool]:
    """The same of a crop that was resized: windows of all sizes at an eighth of the images', then of those near the
    best one at a quarter."""
    coarse = range(7, SIDE // 8 + 1)
    _, (_, _, height, width), _ = _find_at(8, source, crop, itertools.product(coarse, repeat=2))
    near = (range(max(side // 4 - 3, 1), min(side // 4 + 3, SIDE // 4) + 1) for side in (height, width))
    return _find_at(4, source, crop, itertools.product(*near))


def _find_at(shrink: int, source: UInt8, crop: UInt8, sizes: Iterable[tuple[int, ...]]) -> tuple[float, Window, bool]:
    """The best fit among windows of ``sizes`` (height, width), of images that are shrunk so many times."""
    small = cv2.resize(source, (SIDE // shrink, SIDE // shrink), interpolation=cv2.INTER_AREA)
    fits = []
    for height, width in sizes:
        if max(height, width) <= _MAX_STRETCH * min(height, width):
            wanted = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
            difference, (top, left, _, _), is_mirrored = _find(small, wanted)
            fits.append((difference, (shrink * top, shrink * left, shrink * height, shrink * width), is_mirrored))
    return min(fits)
