"""Where crops lie in a stored image: the arithmetic of the loader's views, for what is done without a loader."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def default_crop(image_side: int) -> int:
    """The side of a crop when nobody chooses one: 7/8 of the stored side, 224 of 256."""
    return image_side * 7 // 8


def centre_crop(mean_image: npt.NDArray[np.float32], crop: int) -> npt.NDArray[np.float32]:
    """The centre ``crop x crop`` of the mean image [S, S, 3], which every crop subtracts ([C])."""
    top, left = _places(mean_image.shape[0], crop)[-1]
    return mean_image[top : top + crop, left : left + crop].copy()


def ten_crops(square: Pixels, crop: int) -> Pixels:
    """uint8 [10, crop, crop, 3] of uint8 [S, S, 3]: four corners and the centre, then their mirror images ([P] 4.1)."""
    five = np.stack([square[top : top + crop, left : left + crop] for top, left in _places(square.shape[0], crop)])
    return np.concatenate([five, five[:, :, ::-1]])


def _places(side: int, crop: int) -> list[tuple[int, int]]:
    """(top, left) of the four corners and of the centre crop. Raises ValueError for a crop that does not fit."""
    if crop > side:
        raise ValueError(f"crop: expected at most the stored side {side}, found {crop}")
    far, middle = side - crop, (side - crop) // 2
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
