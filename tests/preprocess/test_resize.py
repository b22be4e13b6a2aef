"""The square is the plain two-step's up to rounding, and costs nothing for extreme shapes."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from preprocess.images.decode import decode
from preprocess.images.resize import centre_square, encode, planes_of
from preprocess.images.yuv420 import yuv420_to_rgb
from preprocess.store.format import Encoding, ImageSpec, Subsampling
from tests.preprocess.conftest import smooth_pixels


def two_steps(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """The oracle: shorter side to ``side``, then the centre cut out."""
    width, height = image.size
    scale = side / min(width, height)
    scaled = image.convert("RGB").resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (scaled.width - side) // 2, (scaled.height - side) // 2
    return np.asarray(scaled.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("sides", [(256, 256), (512, 256), (256, 384), (640, 323), (333, 500), (100, 57), (7, 3)])
def test_equals_two_steps(sides: tuple[int, int]) -> None:
    image = Image.fromarray(smooth_pixels(1, *sides))
    difference = np.abs(np.asarray(centre_square(image, 256).convert("RGB")).astype(int) - two_steps(image, 256))
    assert difference.max() <= 2


def test_real_photographs_equal_two_steps(photos: list[bytes]) -> None:
    for content in photos:
        image = decode(content)
        difference = np.abs(np.asarray(centre_square(image, 256).convert("RGB")).astype(int) - two_steps(image, 256))
        assert difference.max() <= 2
        assert difference.mean() < 0.05


@pytest.mark.parametrize("sides", [(1, 1), (1, 5000), (5000, 1), (2, 3), (300, 299)])
def test_any_shape_becomes_the_square(sides: tuple[int, int]) -> None:
    square = centre_square(Image.new("RGB", sides, (10, 20, 30)), 64)
    assert square.size == (64, 64)
    np.testing.assert_array_equal(np.asarray(square), np.broadcast_to(np.array([10, 20, 30], np.uint8), (64, 64, 3)))


def test_the_centre_is_kept() -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    assert np.asarray(centre_square(Image.fromarray(pixels), 50))[:, 1:-1].min() > 200


def test_planes() -> None:
    pixels = smooth_pixels(2, 16, 24)
    for mode in ("RGB", "RGBX"):
        image = Image.fromarray(pixels).convert(mode)
        np.testing.assert_array_equal(np.stack(planes_of(image)), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("encoding", ["raw", "yuv420", "jpeg"])
def test_the_fourth_byte_means_nothing(encoding: Encoding) -> None:
    image = Image.fromarray(smooth_pixels(2, 32, 32))
    spec = ImageSpec(encoding=encoding, side=32)
    assert encode(image.convert("RGBX"), spec) == encode(image, spec)


def test_raw_holds_the_pixels_as_they_are() -> None:
    pixels = smooth_pixels(2, 32, 32)
    assert encode(Image.fromarray(pixels), ImageSpec(encoding="raw", side=32)) == pixels.tobytes()


def _planes(image: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Y, U and V of an image as it is stored."""
    side, half = image.width, image.width // 2
    content = encode(image, ImageSpec(encoding="yuv420", side=side))
    assert len(content) == side * side * 3 // 2 == ImageSpec(encoding="yuv420", side=side).stored_size_bytes
    values = np.frombuffer(content, np.uint8)
    u, v = values[side * side :].reshape(2, half, half)
    return values[: side * side].reshape(side, side), u, v


def test_yuv420_is_bt_601() -> None:
    pixels = smooth_pixels(2, 32, 32)
    y, u, v = _planes(Image.fromarray(pixels))
    red, green, blue = pixels.astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # To whole numbers twice, on the way and at the end: never a whole level off.
    assert np.abs(y - (16 + luma * 219 / 255)).max() < 1
    for found, colour, scale in ((u, blue, 1.772), (v, red, 1.402)):
        difference = (colour - luma).reshape(16, 2, 16, 2).mean(axis=(1, 3))
        assert np.abs(found - (128 + difference / scale * 224 / 255)).max() < 1.5


def test_yuv420_keeps_grey_and_averages_colours() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    y, u, v = _planes(Image.fromarray(ramp))
    assert (y[0, 0], y[0, 255]) == (16, 235)
    assert set(u.flat) | set(v.flat) == {128}
    # Red and blue in turns: each 2 x 2 has the colour of their mean, whichever of them comes first.
    turns = np.zeros((8, 8, 3), np.uint8)
    turns[0::2, 0::2, 0] = turns[1::2, 1::2, 0] = 255
    turns[0::2, 1::2, 2] = turns[1::2, 0::2, 2] = 255
    _, u, v = _planes(Image.fromarray(turns))
    _, other_u, other_v = _planes(Image.fromarray(np.roll(turns, 1, axis=1)))
    assert (set(u.flat), set(v.flat)) == (set(other_u.flat), set(other_v.flat))
    assert len(set(u.flat)) == len(set(v.flat)) == 1


def test_yuv420_and_back() -> None:
    pixels = smooth_pixels(2, 64, 64)
    content = encode(Image.fromarray(pixels), ImageSpec(encoding="yuv420", side=64))
    assert np.abs(yuv420_to_rgb(content, 64).astype(int) - pixels).mean() < 6


def test_yuv420_of_photographs_is_nearer_than_jpeg(photos: list[bytes]) -> None:
    errors = {"yuv420": 0.0, "jpeg": 0.0}
    for content in photos:
        image = centre_square(decode(content), 256)
        pixels = np.asarray(image.convert("RGB")).astype(float)
        planes = yuv420_to_rgb(encode(image, ImageSpec(encoding="yuv420")), 256)
        stored = np.asarray(decode(encode(image, ImageSpec())).convert("RGB"))
        errors["yuv420"] += float(np.mean((planes - pixels) ** 2)) / len(photos)
        errors["jpeg"] += float(np.mean((stored - pixels) ** 2)) / len(photos)
    assert errors["yuv420"] < errors["jpeg"]


@pytest.mark.parametrize(("subsampling", "factors"), [("4:4:4", (1, 1)), ("4:2:2", (2, 1)), ("4:2:0", (2, 2))])
def test_jpeg_is_as_specified(subsampling: Subsampling, factors: tuple[int, int]) -> None:
    image = Image.fromarray(smooth_pixels(2, 64, 64))
    content = encode(image, ImageSpec(side=64, quality=95, subsampling=subsampling))
    found = Image.open(io.BytesIO(content))
    assert found.layer[0][1:3] == factors  # type: ignore[attr-defined]
    assert len(content) > len(encode(image, ImageSpec(side=64, quality=50, subsampling="4:2:0")))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(image)).mean() < 6
