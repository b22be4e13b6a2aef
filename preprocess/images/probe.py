"""What this machine's libraries make of built-in pictures, as a digest: versions do not say how a library was built."""

import hashlib
import io
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from preprocess.images.decode import decode
from preprocess.images.resize import centre_square, encode, planes_of
from preprocess.store.format import ImageSpec

# Width, height, PIL's mode and JPEG's subsampling. Sides are odd, and no multiples of what vectors take at once: what
# is left over is often another code's work. The first are made smaller, the last larger.
_PICTURES = (
    (613, 431, "RGB", "4:2:0"),
    (431, 613, "RGB", "4:4:4"),
    (401, 299, "L", "4:4:4"),
    (299, 401, "CMYK", "4:2:2"),
    (101, 67, "RGB", "4:2:0"),
)
_SIDE = 256


@cache
def images_digest(spec: ImageSpec) -> str:
    """Sixteen hex digits that name what is made of images here: decoded, resized, and encoded as ``spec`` says, at a
    side of 256 whatever its own. Takes 0.1 s once.
    """
    spec = replace(spec, side=_SIDE)
    digest = hashlib.sha256()
    for number, (width, height, mode, subsampling) in enumerate(_PICTURES):
        buffer = io.BytesIO()
        picture = Image.fromarray(_pixels(number, width, height)).convert(mode)
        picture.save(buffer, "JPEG", quality=85, subsampling=subsampling)
        square = centre_square(decode(buffer.getvalue()), _SIDE)
        for plane in planes_of(square):
            digest.update(plane.tobytes())
        digest.update(encode(square, spec))
    return digest.hexdigest()[:16]


def _pixels(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: smooth colours with noise, the same everywhere."""
    noise = np.frombuffer(hashlib.shake_128(bytes([seed])).digest(width * height * 3), np.uint8)
    x, y = np.arange(width, dtype=np.uint32)[None, :, None], np.arange(height, dtype=np.uint32)[:, None, None]
    waves = (x * np.array([3, 5, 7], np.uint32) + y * np.array([7, 3, 5], np.uint32)) % 384
    smooth = np.where(waves < 192, waves, 384 - waves)
    pixels: npt.NDArray[np.uint8] = (smooth + (noise.reshape(height, width, 3) >> 3)).astype(np.uint8)
    return pixels
