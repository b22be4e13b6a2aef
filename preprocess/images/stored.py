"""The bytes of a store's record back to pixels. Needs no PIL: a machine that only serves a store can verify it too."""

import numpy as np
import numpy.typing as npt
import simplejpeg

from preprocess.images.yuv420 import yuv420_to_rgb
from preprocess.store.format import ImageSpec


def stored_pixels(image: bytes, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """The pixels, uint8 [side, side, 3], of a record's image; raw ones are a view of it.

    Raises ValueError when the bytes are damaged or give another size.
    """
    if spec.encoding == "raw":
        if len(image) != spec.raw_size_bytes:
            raise ValueError(f"expected {spec.raw_size_bytes:,} bytes, found {len(image):,}")
        return np.frombuffer(image, np.uint8).reshape(spec.side, spec.side, 3)
    if spec.encoding == "yuv420":
        return yuv420_to_rgb(image, spec.side)
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(image, fastdct=False, fastupsample=False)
    if pixels.shape[:2] != (spec.side, spec.side):
        raise ValueError(f"expected {spec.side} x {spec.side} pixels, found {pixels.shape[1]} x {pixels.shape[0]}")
    return pixels
