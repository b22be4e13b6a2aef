"""The built-in demonstration data: patterns drawn by code, in ImageNet's folder layout, with its odd files."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from commandline import Progress
from commandline.files import write_whole
from preprocess.config import SampleConfig
from preprocess.errors import PreprocessError

_Coordinates = npt.NDArray[np.float32]
_Mask = Any  # float32 [height, width], range 0..1

# Sides of the pictures, in pixels: some 110 KB photos would only make the demonstration slower.
_MIN_SIDE, _MAX_SIDE = 130, 300
# Of each hundred training images: how many are greyscale and CMYK, as a few of ImageNet's are.
_GREY_PERCENT, _CMYK_PERCENT = 6, 3

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _wave(x: _Coordinates, period: float, phase: float) -> _Mask:
    """A smooth stripe pattern, range 0..1; ``period`` in pixels."""
    return np.clip(0.5 + 2.0 * np.sin(2 * np.pi * (x / period + phase)), 0.0, 1.0).astype(np.float32)


def _horizontal(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    return _wave(y, period, phase) + 0 * x


def _vertical(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    return _wave(x, period, phase) + 0 * y


def _diagonal(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    # Leaning to either side, since the loader mirrors images.
    return _wave((x + y if phase < 0.5 else x - y) * np.float32(0.7), period, phase)


def _checkers(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    a, b = _wave(x, 1.6 * period, phase), _wave(y, 1.6 * period, phase)
    return a * b + (1 - a) * (1 - b)


def _dots(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    u, v = (x / period + phase) % 1 - 0.5, (y / period + phase) % 1 - 0.5
    return np.clip(8 * (0.28 - np.hypot(u, v)) + 0.5, 0, 1)


def _rings(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    return _wave(np.hypot(x, y), period, phase)


def _rays(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    spokes = 6 + round(period / 4)
    return np.clip(0.5 + 2.0 * np.sin(spokes * np.arctan2(y, x) + 6.28 * phase), 0, 1)


def _grid(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    u, v = np.abs((x / period + phase) % 1 - 0.5), np.abs((y / period + phase) % 1 - 0.5)
    return np.clip(12 * (0.14 - np.minimum(u, v)) + 0.5, 0, 1)


def _crosses(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    u, v = np.abs((x / (1.5 * period) + phase) % 1 - 0.5), np.abs((y / (1.5 * period) + phase) % 1 - 0.5)
    return np.clip(12 * np.minimum(0.12 - np.minimum(u, v), 0.36 - np.maximum(u, v)) + 0.5, 0, 1)


def _zigzag(x: _Coordinates, y: _Coordinates, period: float, phase: float) -> _Mask:
    return _wave(y + 2 * np.abs((x / period + phase) % 1 - 0.5) * period, period, phase)


_Pattern = Callable[[_Coordinates, _Coordinates, float, float], _Mask]
# In the order in which --classes takes them.
PATTERNS: tuple[tuple[str, _Pattern], ...] = (
    ("horizontal stripes", _horizontal),
    ("vertical stripes", _vertical),
    ("dots", _dots),
    ("rings", _rings),
    ("checkers", _checkers),
    ("rays", _rays),
    ("diagonal stripes", _diagonal),
    ("grid", _grid),
    ("crosses", _crosses),
    ("zigzag", _zigzag),
)


def sample(config: SampleConfig) -> int:
    """Writes the data set. Raises PreprocessError when ``--out`` holds something."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise PreprocessError(f"--out {config.out}: expected no such folder or an empty one, found something in it")
    counts = {"train": config.train_per_class, "val": config.val_per_class}
    with Progress("sample", config.classes * sum(counts.values()), "images") as progress:
        for split_number, (split, count) in enumerate(counts.items()):
            for label in range(config.classes):
                folder = config.out / split / class_id(label)
                folder.mkdir(parents=True)
                for number in range(count):
                    key = np.array([config.seed, (split_number << 40) | (label << 32) | number], np.uint64)
                    file = folder / f"{class_id(label)}_{number}.JPEG"
                    file.write_bytes(draw_file(label, np.random.Philox(key=key), odd=split == "train" and number == 1))
                    progress.advance()
    names = "".join(f"{class_id(label)} {PATTERNS[label][0]}\n" for label in range(config.classes))
    write_whole(config.out / "LOC_synset_mapping.txt", names)  # last: a data set that has it is complete
    return 0


def class_id(label: int) -> str:
    """An identifier of the form of ImageNet's that is none of ImageNet's."""
    return f"n99{label:06d}"


def draw_file(label: int, bits: np.random.Philox, *, odd: bool) -> bytes:
    """The bytes of one file: a JPEG in colour, greyscale or CMYK, or when ``odd`` a PNG."""
    draws = _unit_interval(bits, 17)
    pixels = _draw_pixels(label, draws, bits)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if odd:
        image.save(buffer, "PNG")
        return buffer.getvalue()
    kind = 100 * draws[15]
    if kind < _GREY_PERCENT:
        image = image.convert("L")
    elif kind < _GREY_PERCENT + _CMYK_PERCENT:
        image = image.convert("CMYK")
    image.save(buffer, "JPEG", quality=round(75 + 20 * draws[16]))
    return buffer.getvalue()


def _draw_pixels(label: int, draws: npt.NDArray[np.float64], bits: np.random.Philox) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: the class's pattern in two random colours under uneven light, with noise."""
    width, height = (round(_MIN_SIDE + draw * (_MAX_SIDE - _MIN_SIDE)) for draw in draws[:2])
    short = min(width, height)
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(width * (0.35 + 0.3 * draws[2]))
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height * (0.35 + 0.3 * draws[3]))
    period = short * (0.11 + 0.09 * draws[4])
    # Whole degrees of freedom that no class may depend on: tilt of a few degrees, colours, light, noise.
    tilt = 0.24 * (draws[5] - 0.5)
    u, v = x * np.float32(np.cos(tilt)) - y * np.float32(np.sin(tilt)), x * np.float32(np.sin(tilt)) + y
    mask = PATTERNS[label][1](u, v, period, float(draws[6]))
    first = (255 * draws[7:10]).astype(np.float32)
    # Colours may be anything, as long as the pattern is also there in greyscale.
    second = (255 * draws[10:13]).astype(np.float32)
    if abs(float((second - first) @ _LUMA)) < 70:
        second = np.clip(first + (110 if float(first @ _LUMA) < 128 else -110), 0, 255)
    slope_x, slope_y = (np.float32(0.4 * (draw - 0.5)) for draw in draws[13:15])
    light = 1 + slope_x * x / width + slope_y * y / height
    noise = np.frombuffer(bits.random_raw(-(-width * height // 8)).astype("<u8").tobytes(), np.uint8)
    noise = noise[: width * height].reshape(height, width)
    shaded: npt.NDArray[np.float32] = first + mask[..., None] * (second - first)
    shaded *= light[..., None]
    shaded += ((noise >> 3).astype(np.float32) - 16)[..., None]
    return np.clip(shaded, 0, 255).astype(np.uint8)


def _unit_interval(bits: np.random.Philox, count: int) -> npt.NDArray[np.float64]:
    """``count`` numbers in [0, 1) from raw bits, which are the same in every release of NumPy."""
    return (bits.random_raw(count) >> np.uint64(11)).astype(np.float64) / (1 << 53)
