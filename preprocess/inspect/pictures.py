"""Pictures of a store: contact sheet, mean image, and its colours with their principal axes. Drawn with PIL alone."""

import io
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from preprocess.images.stored import stored_pixels
from preprocess.store.format import ImageSpec, Statistics
from preprocess.store.split_reader import SplitReader, spread

_Pixels = npt.NDArray[np.uint8]
_THUMB = 112
_TITLE = 14
_COLUMNS = 10


def read_pixels(reader: SplitReader, index: int, spec: ImageSpec) -> tuple[int, _Pixels]:
    """The label and the pixels, uint8 [side, side, 3], of one image."""
    label, image = reader.read(index)
    return label, stored_pixels(bytes(image), spec)


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def contact_sheet(reader: SplitReader, spec: ImageSpec, names: Sequence[str], *, count: int = 60) -> Image.Image:
    """Images from all over a split, each with its class's name."""
    indices = spread(reader.num_images, count)
    rows = math.ceil(len(indices) / _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * (_THUMB + 4) + 4, rows * (_THUMB + _TITLE + 4) + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(indices):
        label, pixels = read_pixels(reader, index, spec)
        left, top = 4 + place % _COLUMNS * (_THUMB + 4), 4 + place // _COLUMNS * (_THUMB + _TITLE + 4)
        sheet.paste(Image.fromarray(pixels).resize((_THUMB, _THUMB), Image.Resampling.BICUBIC), (left, top))
        title = names[label].split(",")[0].encode("ascii", "replace").decode()
        while draw.textlength(title) > _THUMB:
            title = title[:-1]
        draw.text((left, top + _THUMB + 1), title, fill="black")
    return sheet


def mean_picture(statistics: Statistics) -> Image.Image:
    """The mean image, rounded."""
    return Image.fromarray(np.rint(statistics.mean_image).astype(np.uint8))


def colour_plot(
    reader: SplitReader, spec: ImageSpec, statistics: Statistics, *, side: int = 720, num_images: int = 200
) -> Image.Image:
    """Pixels from all over a split as points of the RGB cube, with the principal axes through the mean colour.

    An axis reaches two standard deviations to each side.
    """
    points = np.concatenate([_some_pixels(reader, index, spec) for index in spread(reader.num_images, num_images)])
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    for start, end in _cube_edges():
        draw.line([_project(start, side), _project(end, side)], fill="silver")
    for name, corner in (("R", (255, 0, 0)), ("G", (0, 255, 0)), ("B", (0, 0, 255))):
        draw.text(_project(np.array(corner), side), f" {name} 255", fill="black")
    for point in points[np.argsort(points @ np.array([1.0, 1.0, 1.0]))]:
        x, y = _project(point, side)
        draw.rectangle([x - 1, y - 1, x + 1, y + 1], fill=tuple(int(value) for value in point))
    mean = statistics.mean_image.mean(axis=(0, 1), dtype=np.float64)
    draw.text((10, 10), f"mean RGB {_numbers(mean, 1)}", fill="black")
    for axis, ink in enumerate(("crimson", "black", "blue")):
        deviation = math.sqrt(max(float(statistics.eigenvalues[axis]), 0.0))
        vector = statistics.eigenvectors[:, axis]
        ends = [_project(mean + sign * 2 * deviation * vector, side) for sign in (-1, 1)]
        draw.line(ends, fill=ink, width=3)
        text = f"axis {axis + 1}: deviation {deviation:.2f}, direction {_numbers(vector, 4)}"
        draw.text((10, 26 + 16 * axis), text, fill=ink)
    return picture


def _some_pixels(reader: SplitReader, index: int, spec: ImageSpec) -> npt.NDArray[np.float64]:
    """float64 [100, 3]: pixels of one image on a coarse lattice."""
    _, pixels = read_pixels(reader, index, spec)
    places = np.arange(5, 105, 10) * spec.side // 105
    return pixels[places][:, places].reshape(-1, 3).astype(np.float64)


def _cube_edges() -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    corners = [np.array(corner, np.float64) for corner in itertools.product((0, 255), repeat=3)]
    return [(a, b) for a, b in itertools.combinations(corners, 2) if np.count_nonzero(a != b) == 1]


def _project(point: npt.NDArray[np.float64], side: int) -> tuple[float, float]:
    """Where a colour lies in the picture: the cube seen from the side, grey axis nearly upright."""
    r, g, b = (float(value) / 255 - 0.5 for value in point)
    return side * (0.5 + 0.42 * (r - b)), side * (0.56 - 0.26 * (r + b) - 0.32 * g)


def _numbers(values: npt.NDArray[np.float64], decimals: int) -> str:
    return "(" + ", ".join(f"{value:.{decimals}f}" for value in values) + ")"
