"""Image files' bytes to RGB pixels: JPEG by libjpeg-turbo when it can, everything else by PIL. Pure."""

import io
import re
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, features

from commandline import one_line
from preprocess.images.limits import DEFAULT_MAX_PIXELS

# Formats that users' folders hold; the rest of PIL's (fonts, TIFF, PostScript, video) stay closed to untrusted bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# PIL's own names of the libraries that it may have been compiled without.
_LIBRARIES = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp"}
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# simplejpeg's result is pixel-identical to PIL's for these and 12 % faster, since PIL then needs no copy of it.
_FAST_COLORSPACES = ("YCbCr", "RGB")
_JPEG_MAGIC = b"\xff\xd8\xff"
# Of what is no RGB yet, so many at a time become it.
_STRIP_PIXELS = 1 << 20
# What files called .jpg are instead, by how they begin in lower case.
_OTHERS = (
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"),
    (b"%pdf", "a PDF"),
    (b"ii*\0", "a TIFF"),
    (b"mm\0*", "a TIFF"),
    (b"pk\x03\x04", "a zip"),
    (b"\x1f\x8b", "gzipped bytes"),
    (b"\0\0\0\x1cftyp", "an AVIF, HEIC or film"),
    (b"\0\0\0\x20ftyp", "an AVIF, HEIC or film"),
    (b"version https://git-lfs", "a pointer of Git LFS: git lfs pull"),
)
_QUOTED_BYTES = re.compile(r"b([\"\']).*?\1")


class UnusableImageError(Exception):
    """The bytes cannot become an RGB image; the message is the reason that quarantine gives."""


def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that the PIL of this machine was compiled with."""
    return tuple(name for name in FORMATS if name not in _LIBRARIES or features.check(_LIBRARIES[name]))


@cache
def decoder_versions() -> str:
    """The libraries that turn bytes into pixels and pixels into bytes, and the formats that they lack here."""
    try:
        pillow = f"pillow-simd {version('pillow-simd')}"
    except PackageNotFoundError:
        pillow = f"pillow {version('pillow')}"
    readable = readable_formats()
    without = "".join(f", without {name}" for name in FORMATS if name not in readable)
    return f"{pillow}, simplejpeg {version('simplejpeg')}{without}"


def decode(content: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, apply_exif: bool = False) -> Image.Image:
    """Decodes ``content`` to an image of mode RGB or RGBX (RGB and a byte that means nothing).

    Greyscale, palette, CMYK (Adobe's inverted one too) and 16-bit images become RGB; alpha is dropped, as
    torchvision and Caffe do. EXIF orientation is ignored unless ``apply_exif``. Only the first frame counts.
    Raises UnusableImageError when the file is truncated, of no known format, or has more than ``max_pixels``.
    """
    if not content:
        raise UnusableImageError("the file is empty")
    if content.startswith(_JPEG_MAGIC) and not apply_exif:
        image = _decode_colour_jpeg(content, max_pixels)
        if image is not None:
            return image
    with warnings.catch_warnings():
        # Broken EXIF blocks and odd palettes are warned about and read all the same.
        warnings.simplefilter("ignore")
        return _decode_any(content, max_pixels, apply_exif)


def _decode_colour_jpeg(content: bytes, max_pixels: int) -> Image.Image | None:
    """The image by the fast decoder, or None where PIL has to judge: other colours, damage, size."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
        if colorspace not in _FAST_COLORSPACES or width * height > max_pixels:
            return None
        # Four bytes a pixel is PIL's own layout: the array becomes an image without a copy.
        pixels = simplejpeg.decode_jpeg(content, colorspace="RGBX", fastdct=False, fastupsample=False)
    except ValueError:
        return None
    return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)


def _decode_any(content: bytes, max_pixels: int, apply_exif: bool) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnusableImageError(f"too many pixels: {error}") from None
    except UnidentifiedImageError:
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP" and "WEBP" not in readable_formats():
            raise UnusableImageError(
                "a WebP image, and this Pillow was compiled without WebP: install libwebp-dev and compile it again"
            ) from None
        raise UnusableImageError(
            f"expected an image ({', '.join(readable_formats())}), found {_describe(content)}"
        ) from None
    except MemoryError:
        raise  # the machine's fault, and no image's
    except Exception as error:
        raise UnusableImageError(_damage(error)) from None
    width, height = image.size
    if width * height > max_pixels:
        raise UnusableImageError(
            f"expected at most {max_pixels:,} pixels, found {width} x {height} = {width * height:,}"
        )
    # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others for damage: to a run
    # over a million files all of them mean the same.
    try:
        image.load()
        turn = _turn_of(image) if apply_exif else None
        return _to_rgb(image if turn is None else image.transpose(turn))
    except MemoryError:
        raise
    except Exception as error:
        raise UnusableImageError(_damage(error)) from None


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """How the orientation tag says to turn an image. Of the block that holds it nothing else is read: a damaged entry
    elsewhere in it is no damage to the picture.
    """
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # so broken that not even its entries can be counted
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB: made strip by strip, so that beside it and the result there is never a third of their size."""
    if image.mode == "RGB":
        return image
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return _strip_to_rgb(image)
    converted = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(_strip_to_rgb(strip), (0, top))
    return converted


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greyscale: PIL would clip at 255 where the upper byte is meant.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        # By way of RGBA: a palette's transparency is then alpha, and is dropped like any other.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _describe(content: bytes) -> str:
    """What a file is that is no image. It is not quoted: a link may have led to what is nobody's to read here."""
    start = content[:512].lstrip().lower()
    for beginning, what in _OTHERS:
        if start.startswith(beginning):
            return what
    return "text" if content[:512].isascii() and b"\0" not in content[:512] else "bytes of no such format"


def _damage(error: Exception) -> str:
    """What PIL says is wrong, without the file's own bytes."""
    return f"damaged: {_QUOTED_BYTES.sub('...', one_line(error))}"
