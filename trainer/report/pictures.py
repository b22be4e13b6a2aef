"""Pictures without an imaging library: PNG bytes, the conv1 filters as in [P] figure 3, thumbnails."""

import base64
import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from trainer.data.crops import Pixels


def png_bytes(pixels: Pixels) -> bytes:
    """A PNG file of uint8 [H, W, 3], RGB."""
    height, width, _ = pixels.shape
    # Each row begins with its filter type: 1 (Sub) leaves differences to the left, which deflate packs well.
    left = np.zeros_like(pixels)
    left[:, 1:] = pixels[:, :-1]
    rows = np.concatenate([np.ones((height, 1), np.uint8), (pixels - left).reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def data_uri(pixels: Pixels) -> str:
    """The picture as a ``data:`` address, to be put into a page."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode("ascii")


def filter_grid(filters: Tensor, *, scale: int = 4) -> Pixels:
    """uint8 picture of conv1 filters float [N, 3, k, k], each on its own scale; three rows as in [P] figure 3.

    Every filter is stretched symmetrically about 0, which shows as mid-grey; ``scale`` pixels a weight, one pixel of
    white between filters.
    """
    filters = filters.detach().float().cpu()
    num_filters, _, size, _ = filters.shape
    per_row = max(6, -(-num_filters // 3))
    peak = filters.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    tiles = (127.5 + 127.5 * filters / peak).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    cell = size * scale + 1
    num_rows = -(-num_filters // per_row)
    picture = np.full((num_rows * cell - 1, min(per_row, num_filters) * cell - 1, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // per_row * cell, place % per_row * cell
        picture[top : top + cell - 1, left : left + cell - 1] = tile
    return picture


def filter_figures(weights: Mapping[str, Tensor]) -> str:
    """HTML: the conv1 filters among a network's weights, a figure for each column."""
    figures: list[str] = []
    while (filters := weights.get(f"columns.{len(figures)}.conv1.weight")) is not None:
        column, size = len(figures) + 1, tuple(filters.shape[2:])
        figures.append(
            f'<figure><img class=filters alt="filters of column {column}" src="{data_uri(filter_grid(filters))}">'
            f"<figcaption>Column {column}: {len(filters)} filters of {size[0]}x{size[1]}x3</figcaption></figure>"
        )
    return "<div class=charts>" + "".join(figures) + "</div>"


def thumbnails(images: Tensor, side: int) -> Tensor:
    """uint8 [N, H, W, 3] shrunk to [N, side, side, 3]; smaller images stay as they are."""
    if images.shape[1] <= side:
        return images.cpu()
    planes = images.permute(0, 3, 1, 2).float()
    shrunk = torch.nn.functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    return shrunk.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
