"""``show``: one step's batch as a picture, each crop with its label and the name that its image had in the source."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from loader_service.client import LoaderClient, StreamSpec
from loader_service.commands.preview import UInt8, with_shifts, write_png

_MARGIN = 8
_CAPTION_ROWS = 2
_LINE_HEIGHT = 14
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.36
_LETTER_WIDTH = 6.5
_INK = (40, 40, 40)
_CENTRE_CROP = 4
"""Which of ten crops is drawn."""


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """One image of the batch, in its order."""

    index: int
    label: int
    class_name: str
    name: str
    """In the source."""


def write_batch(client: LoaderClient, spec: StreamSpec, *, epoch: int, step: int, out: Path) -> list[ShownImage]:
    """Writes a PNG of exactly the batch of (``epoch``, ``step``), colour shifts added; returns what it shows."""
    with client.stream(spec, epoch=epoch, step=step) as stream:
        batch = next(stream)
    names = client.names(spec.split, batch.indices)
    classes = client.describe().classes
    shown = [
        ShownImage(index=index, label=label, class_name=classes[label][1], name=name)
        for index, label, name in zip(batch.indices.tolist(), batch.labels.tolist(), names, strict=True)
    ]
    crops = batch.images if batch.images.ndim == 4 else batch.images[:, _CENTRE_CROP]
    write_png(_sheet(with_shifts(crops, batch.colour_shifts), shown), out)
    return shown


def _sheet(crops: npt.NDArray[np.uint8], shown: list[ShownImage]) -> UInt8:
    size = crops.shape[1]
    cell = max(size, 160) + _MARGIN, size + _MARGIN + _CAPTION_ROWS * _LINE_HEIGHT
    columns = max(round((len(crops) * cell[1] / cell[0]) ** 0.5), 1)
    rows = -(-len(crops) // columns)
    sheet = np.full((rows * cell[1] + _MARGIN, columns * cell[0] + _MARGIN, 3), 255, np.uint8)
    letters = int((cell[0] - _MARGIN) / _LETTER_WIDTH)
    for number, (crop, image) in enumerate(zip(crops, shown, strict=True)):
        left, top = _MARGIN + number % columns * cell[0], _MARGIN + number // columns * cell[1]
        sheet[top : top + size, left : left + size] = crop
        # The end of a name tells more than its folders.
        for line, text in enumerate((f"{image.label} {image.class_name}"[:letters], image.name[-letters:]), 1):
            place = left, top + size + line * _LINE_HEIGHT - 3
            cv2.putText(sheet, text, place, _FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)
    return sheet
