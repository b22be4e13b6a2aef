"""Checks what an entry delivered: every crop is looked for in the stored image that it claims to be of."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

CROP = 224
# libjpeg's fast IDCT differs from the accurate one by up to 3 levels (root mean square) on photographs, FFmpeg's
# conversion to RGB by up to 7; another window or image by 20 and more.
MAX_DIFFERENCE = 12.0
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
    """Different corners seen."""


def check(
    images: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64],
    data: Path,
    *,
    mirrors: bool,
    max_crops: int = 64,
) -> Found:
    """Finds the window and the mirroring of ``images`` (uint8 [N, 224, 224, 3], at most ``max_crops`` of them).

    Raises ValueError when a crop is not part of its image, or when corners or mirroring are not random.
    """
    if images.ndim != 4 or images.shape[1:] != (CROP, CROP, 3) or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 [N, {CROP}, {CROP}, 3], found {images.dtype} {list(images.shape)}")
    if len(np.unique(indices)) < len(indices) // 2:
        raise ValueError(f"expected different images, found {len(np.unique(indices))} among {len(indices)}")
    chosen = np.linspace(0, len(images) - 1, min(max_crops, len(images))).astype(int)
    worst, mirrored, corners = 0.0, 0, set()
    for place in chosen:
        stored = (data / "files" / f"{int(indices[place]):06d}.jpg").read_bytes()
        source = simplejpeg.decode_jpeg(stored)
        difference, corner, is_mirrored = _find(source, images[place])
        worst = max(worst, difference)
        if difference > MAX_DIFFERENCE:
            raise ValueError(
                f"image {indices[place]}: expected a crop of it, found one that differs by {difference:.1f} levels"
            )
        mirrored += is_mirrored
        corners.add(corner)
    share, num_crops = mirrored / len(chosen), len(chosen)
    slack = _NUM_DEVIATIONS * 0.5 / num_crops**0.5
    if mirrors and abs(share - 0.5) > slack:
        raise ValueError(f"expected half of the crops mirrored, found {share:.2f}")
    if num_crops >= 16 and len(corners) < num_crops // 2:
        raise ValueError(f"expected random windows, found {len(corners)} among {num_crops} crops")
    return Found(
        num_crops=num_crops,
        worst_difference=worst,
        mean_level=float(images[chosen].mean()),
        mirrored=share,
        windows=len(corners),
    )


def _find(source: npt.NDArray[np.uint8], crop: npt.NDArray[np.uint8]) -> tuple[float, tuple[int, int], bool]:
    """Difference, (top, left) and mirroring of the best fit of ``crop`` in ``source``."""
    fits = []
    for is_mirrored in (False, True):
        wanted = np.ascontiguousarray(crop[:, ::-1]) if is_mirrored else crop
        differences = cv2.matchTemplate(source, wanted, cv2.TM_SQDIFF)
        least, _, (left, top), _ = cv2.minMaxLoc(differences)
        fits.append(((max(least, 0.0) / crop.size) ** 0.5, (top, left), is_mirrored))
    return min(fits)
