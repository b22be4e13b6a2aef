"""``preview``: a contact sheet of augmented crops beside the images they were cut from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from commandline.files import write_whole
from loader_service.client import Batch, LoaderClient, StreamSpec
from loader_service.wire.types import Images

UInt8 = npt.NDArray[np.uint8]

_MARGIN = 8
_BACKGROUND = 255


def write_preview(client: LoaderClient, spec: StreamSpec, *, epoch: int, count: int, draws: int, out: Path) -> None:
    """Writes a PNG: a row for each of the first ``count`` images of stored order, the whole image first, then its
    crop with the colour shift added (and clipped, for the eye) as epochs ``epoch``, ``epoch + 1``, ... draw it.
    """
    description = client.describe()
    count = min(count, description.splits.get(spec.split, count))
    # Stored order: each epoch draws anew for the same images.
    crops_spec = replace(spec, shuffle=False, batch_size=count, drop_last=False)
    columns: list[Images] = [_first_batch(client, replace(crops_spec, view="full"), epoch).images]
    for draw in range(draws):
        batch = _first_batch(client, crops_spec, epoch + draw)
        crops = batch.images if batch.images.ndim == 4 else batch.images[:, draw % 10]
        columns.append(with_shifts(crops, batch.colour_shifts))
    write_png(_sheet(columns, description.image_side), out)


def with_shifts(crops: Images, shifts: npt.NDArray[np.float32]) -> UInt8:
    """Crops [N, H, W, 3] with their colour shifts [N, 3] added, and clipped for the eye."""
    shifted = crops.astype(np.float32) + shifts[:, None, None, :]
    return np.asarray(np.clip(np.rint(shifted), 0, 255), np.uint8)


def write_png(picture: UInt8, out: Path) -> None:
    """Writes a picture (uint8 [H, W, 3], RGB), whole or not at all."""
    _, png = cv2.imencode(".png", picture[:, :, ::-1])
    write_whole(out, png.tobytes())


def _first_batch(client: LoaderClient, spec: StreamSpec, epoch: int) -> Batch:
    with client.stream(spec, epoch=epoch) as stream:
        return next(stream)


def _sheet(columns: Sequence[Images], side: int) -> UInt8:
    rows = len(columns[0])
    cell = side + _MARGIN
    sheet = np.full((rows * cell + _MARGIN, len(columns) * cell + _MARGIN, 3), _BACKGROUND, np.uint8)
    for column, images in enumerate(columns):
        for row in range(rows):
            height, width = images[row].shape[:2]
            top = _MARGIN + row * cell + (side - height) // 2
            left = _MARGIN + column * cell + (side - width) // 2
            sheet[top : top + height, left : left + width] = images[row]
    return sheet
