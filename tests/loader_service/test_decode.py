"""Decoding a window against decoding the whole, and OpenCV's conversion of planes against the plain one."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader_service.pipeline.decode import Decoder, copy_crop, decoder_digest
from preprocess.images.yuv420 import yuv420_to_rgb
from preprocess.store import Encoding, ImageSpec
from tests.stores import draw_image, encode


def _noise(side: int, seed: int = 0) -> bytes:
    """Planes of any bytes at all."""
    return np.random.default_rng(seed).bytes(side * side * 3 // 2)


def test_every_colour_is_as_the_plain_conversion_has_it() -> None:
    """All 2**24 of Y, U and V: an image for each U, a row of 2 x 2 for each V, and all Y along it."""
    decoder = Decoder(ImageSpec(encoding="yuv420", side=256))
    luma = np.arange(256, dtype=np.uint8).reshape(2, 128).repeat(2, axis=1)
    # Each 2 x 2 holds four Y: half of its row's in one pair of rows, the other half in the next.
    rows = np.tile(luma, (128, 1))
    for u in range(256):
        for first_v in (0, 128):
            v = np.arange(first_v, first_v + 128, dtype=np.uint8)
            planes = rows.tobytes() + bytes([u]) * 128 * 128 + v.repeat(128).tobytes()
            assert decoder.decode(memoryview(planes)).tobytes() == yuv420_to_rgb(planes, 256).tobytes()


@st.composite
def _windows(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """An even side, and a window in it: side, top, left, height, width."""
    side = 2 * draw(st.integers(4, 160))
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    return side, draw(st.integers(0, side - height)), draw(st.integers(0, side - width)), height, width


@given(_windows())
@example((256, 17, 31, 224, 224))
@example((200, 1, 1, 64, 64))  # as wide as the columns that are converted at once, and one pixel off them
@example((200, 71, 71, 128, 128))
def test_a_window_is_that_part_of_the_whole(window: tuple[int, int, int, int, int]) -> None:
    side, top, left, height, width = window
    planes = _noise(side)
    found = Decoder(ImageSpec(encoding="yuv420", side=side)).decode_window(memoryview(planes), top, left, height, width)
    np.testing.assert_array_equal(found, yuv420_to_rgb(planes, side)[top : top + height, left : left + width])


@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
def test_windows_of_one_decoder_do_not_disturb_each_other(encoding: Encoding) -> None:
    """Buffers are used again for other images, other places and other sizes."""
    spec = ImageSpec(encoding=encoding, side=64)
    images = [memoryview(encode(draw_image(seed, 64), spec)) for seed in range(3)]
    whole = [Decoder(spec).decode(image) for image in images]
    decoder = Decoder(spec)
    for number, top, left, size in ((0, 3, 5, 41), (1, 0, 0, 64), (2, 20, 33, 8), (0, 0, 1, 63), (1, 63, 63, 1)):
        expected = whole[number][top : top + size, left : left + size]
        np.testing.assert_array_equal(decoder.decode_window(images[number], top, left, size, size), expected)


@pytest.mark.parametrize("mirror", [False, True])
def test_crops_of_every_size_are_copied_and_mirrored(mirror: bool) -> None:
    """OpenCV has different code for whole vectors and for what is left over, and mirrors in place."""
    image = np.random.default_rng(3).integers(0, 256, (256, 256, 3), np.uint8)
    before = image.copy()
    for size in range(1, 257):
        left = min(7, 256 - size)
        window = image[256 - size :, left : left + size]
        # Neighbours in the batch stay as they are.
        batch = np.full((3, size, size, 3), 77, np.uint8)
        copy_crop(batch[1], window, mirror)
        np.testing.assert_array_equal(batch[1], window[:, ::-1] if mirror else window)
        assert (batch[[0, 2]] == 77).all()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("num_bytes", [0, 6143, 6145, 12288])
def test_planes_of_another_length_are_refused(num_bytes: int) -> None:
    image = memoryview(bytes(num_bytes))
    with pytest.raises(ValueError, match=f"expected 6144 bytes, found {num_bytes}"):
        Decoder(ImageSpec(encoding="yuv420", side=64)).decode(image)
    with pytest.raises(ValueError, match=f"expected 6,144 bytes, found {num_bytes:,}"):
        yuv420_to_rgb(image, 64)


def test_another_conversion_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose OpenCV rounds one value otherwise."""
    convert = cv2.cvtColor

    def off_by_one(*arguments: object, **named: object) -> npt.NDArray[np.uint8]:
        pixels: npt.NDArray[np.uint8] = convert(*arguments, **named)  # type: ignore[call-overload]
        pixels[17, 250, 1] ^= 1
        return pixels

    here = {encoding: decoder_digest.__wrapped__(encoding) for encoding in ("jpeg", "yuv420", "raw")}
    monkeypatch.setattr(cv2, "cvtColor", off_by_one)
    there = {encoding: decoder_digest.__wrapped__(encoding) for encoding in here}
    assert {encoding for encoding in here if here[encoding] != there[encoding]} == {"yuv420"}
