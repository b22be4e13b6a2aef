"""Every odd file becomes RGB or is refused with its reason."""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from preprocess.images.decode import UnusableImageError, decode, decoder_versions, readable_formats
from tests.preprocess.conftest import jpeg, smooth_pixels


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _rgb(content: bytes, *, apply_exif: bool = False) -> npt.NDArray[np.uint8]:
    image = decode(content, apply_exif=apply_exif)
    assert image.mode in ("RGB", "RGBX")
    return np.asarray(image.convert("RGB"))


def test_colour_jpegs_equal_pil() -> None:
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for sides in ((64, 48), (65, 33), (1, 7), (17, 1)):
            content = _saved(Image.fromarray(smooth_pixels(1, *sides)), "JPEG", subsampling=subsampling)
            expected = np.asarray(Image.open(io.BytesIO(content)))
            np.testing.assert_array_equal(_rgb(content), expected)


def test_real_photographs_equal_pil(photos: list[bytes]) -> None:
    for content in photos:
        np.testing.assert_array_equal(_rgb(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_progressive_jpeg() -> None:
    content = _saved(Image.fromarray(smooth_pixels(1, 64, 48)), "JPEG", progressive=True)
    np.testing.assert_array_equal(_rgb(content), np.asarray(Image.open(io.BytesIO(content))))


def test_greyscale_jpeg() -> None:
    pixels = _rgb(jpeg(3, mode="L"))
    assert np.all(pixels[..., 0] == pixels[..., 1])
    assert np.all(pixels[..., 0] == pixels[..., 2])


def test_cmyk_jpeg_looks_right() -> None:
    # Adobe writes CMYK inverted. The reference: each ink multiplies what black leaves of the paper.
    content = jpeg(4, mode="CMYK", quality=100)
    ink = np.asarray(Image.open(io.BytesIO(content))).astype(np.float64)
    reference = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    assert np.abs(_rgb(content) - reference).max() <= 1.5
    # And it is the picture that was drawn, not its negative.
    assert np.abs(_rgb(content).astype(int) - smooth_pixels(4, 80, 60)).mean() < 12


def test_png_named_jpeg() -> None:
    pixels = smooth_pixels(5, 30, 20)
    np.testing.assert_array_equal(_rgb(_saved(Image.fromarray(pixels), "PNG")), pixels)


def test_sixteen_bit_greyscale_keeps_its_upper_byte() -> None:
    values = np.linspace(0, 65535, 30 * 20).astype(np.uint16).reshape(20, 30)
    pixels = _rgb(_saved(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(pixels[..., 0], values >> 8)


def test_sixteen_bit_rgb() -> None:
    values = np.arange(4 * 4 * 3, dtype=np.uint16).reshape(4, 4, 3) * 1300
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(_rgb(content), values >> 8)


def test_palette_with_transparency_and_alpha() -> None:
    pixels = smooth_pixels(6, 30, 20)
    palette = Image.fromarray(pixels).quantize(16)
    content = _saved(palette, "PNG", transparency=3)
    np.testing.assert_array_equal(_rgb(content), np.asarray(palette.convert("RGB")))
    alpha = Image.fromarray(np.dstack([pixels, np.full((20, 30), 9, np.uint8)]))
    np.testing.assert_array_equal(_rgb(_saved(alpha, "PNG")), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes(mode: str) -> None:
    assert _rgb(_saved(Image.fromarray(smooth_pixels(7, 31, 17)).convert(mode), "PNG")).shape == (17, 31, 3)


@pytest.mark.parametrize("format", ["WEBP", "BMP", "GIF"])
def test_other_formats(format: str) -> None:
    if format not in readable_formats():
        assert format == "WEBP"
        with pytest.raises(UnusableImageError, match="this Pillow was compiled without WebP: install"):
            decode(b"RIFF\x08\0\0\0WEBPVP8L")
        assert decoder_versions().endswith(", without WEBP")
        return
    assert f"without {format}" not in decoder_versions()
    assert _rgb(_saved(Image.fromarray(smooth_pixels(7, 31, 17)), format)).shape == (17, 31, 3)


def test_exif_orientation_is_ignored_unless_asked_for() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    content = _saved(Image.fromarray(smooth_pixels(8, 40, 20)), "JPEG", exif=exif)
    assert _rgb(content).shape == (20, 40, 3)
    assert _rgb(content, apply_exif=True).shape == (40, 20, 3)


def test_broken_exif_is_no_reason_to_refuse() -> None:
    content = _saved(Image.fromarray(smooth_pixels(8, 40, 20)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert _rgb(content).shape == (20, 40, 3)
    assert _rgb(content, apply_exif=True).shape == (20, 40, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_beside_a_damaged_entry(orientation: int) -> None:
    # A rational over zero: PIL's own turning reads, and writes, the whole block.
    entries = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + struct.pack("<HHII", 0x9204, 10, 1, 38)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4) + struct.pack("<ii", -1, 0)
    plain = _saved(Image.fromarray(smooth_pixels(8, 40, 20)), "JPEG")
    damaged = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    sound = Image.Exif()
    sound[0x112] = orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(_saved(Image.open(io.BytesIO(plain)), "PNG", exif=sound))))
    np.testing.assert_array_equal(_rgb(damaged, apply_exif=True), np.asarray(expected))
    np.testing.assert_array_equal(_rgb(damaged), _rgb(plain))


def test_bytes_after_the_end_are_no_reason_to_refuse() -> None:
    np.testing.assert_array_equal(_rgb(jpeg(1) + b"\0" * 100), _rgb(jpeg(1)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"this is a text file\n", "expected an image .*, found text$"),
        (jpeg(1)[:200], "damaged"),
        (jpeg(1)[:-300], "damaged: image file is truncated"),
        (jpeg(1, mode="L")[:-300], "damaged: image file is truncated"),
        (_saved(Image.fromarray(smooth_pixels(1, 30, 20)), "PNG")[:-200], "damaged"),
        (b"\xff\xd8\xff", "damaged|expected an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "expected an image|damaged"),
        (_saved(Image.fromarray(smooth_pixels(1, 30, 20)), "TIFF"), "expected an image"),
    ],
)
def test_unusable_files_give_their_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableImageError, match=reason):
        decode(content)


@pytest.mark.parametrize("step", ["PIL.Image.open", "PIL.PngImagePlugin.PngImageFile.load"])
def test_no_memory_is_no_images_fault(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    content = _saved(Image.fromarray(smooth_pixels(1, 30, 20)), "PNG")
    monkeypatch.setattr(step, fail)
    with pytest.raises(MemoryError):
        decode(content)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_too_many_pixels_are_refused_without_decoding(format: str) -> None:
    content = _saved(Image.new("RGB", (300, 200)), format)
    with pytest.raises(UnusableImageError, match="expected at most 59,999 pixels, found 300 x 200 = 60,000"):
        decode(content, max_pixels=59_999)
    assert decode(content, max_pixels=60_000).size == (300, 200)


def test_decompression_bomb() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(UnusableImageError, match="pixels"):
        decode(bomb)
