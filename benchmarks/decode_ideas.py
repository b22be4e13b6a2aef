"""Ways to get from a stored image to a crop: processor time of each against ours, and how far its pixels are off.

    python -m benchmarks.decode_ideas BENCH_DIR/data    # the images that scripts/bench made

One thread; all ways take turns on the same images. Ratios are medians over the turns of (processor time of our way) /
(its own): above 1 is faster than ours. PSNR is of whole images against the raw store, in dB.
"""

import argparse
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from loader_service.pipeline.decode import Decoder, copy_crop
from preprocess.images.resize import encode
from preprocess.store import ImageSpec, Store

UInt8 = npt.NDArray[np.uint8]
SIDE, CROP = 256, 224
NUM_IMAGES = 128


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way: what is stored, and how it becomes pixels of a window."""

    name: str
    store: Callable[[bytes, UInt8], bytes | UInt8]
    """Stored form, from the JPEG's bytes and the raw pixels."""
    load: Callable[[bytes | UInt8, int, int, int], UInt8]
    """Pixels of the window of that size at (top, left): (stored, top, left, size)."""
    mirror: Callable[[UInt8, UInt8], object]
    """Writes the mirrored window into the batch: (window, out)."""


def _window(pixels: UInt8, top: int, left: int, size: int) -> UInt8:
    return pixels[top : top + size, left : left + size]


def _simplejpeg(*, fastdct: bool, fastupsample: bool) -> Callable[[bytes | UInt8, int, int, int], UInt8]:
    buffer = np.empty((SIDE, SIDE, 3), np.uint8)

    def load(stored: bytes | UInt8, top: int, left: int, size: int) -> UInt8:
        pixels = simplejpeg.decode_jpeg(stored, fastdct=fastdct, fastupsample=fastupsample, buffer=buffer)
        return _window(pixels, top, left, size)

    return load


def _opencv(stored: bytes | UInt8, top: int, left: int, size: int) -> UInt8:
    pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR_RGB)
    return _window(np.asarray(pixels, np.uint8), top, left, size)


def _pillow(stored: bytes | UInt8, top: int, left: int, size: int) -> UInt8:
    image = Image.open(io.BytesIO(bytes(stored)), formats=("JPEG",))
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _to_planes(_: bytes, pixels: UInt8) -> bytes:
    return encode(Image.fromarray(pixels), ImageSpec(encoding="yuv420", side=SIDE))


def _to_planes_opencv(_: bytes, pixels: UInt8) -> bytes:
    """As OpenCV does it: the colour of 2 x 2 pixels is that of one of them."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420), np.uint8).tobytes()


def _from_planes() -> Callable[[bytes | UInt8, int, int, int], UInt8]:
    decoder = Decoder(ImageSpec(encoding="yuv420", side=SIDE))

    def load(stored: bytes | UInt8, top: int, left: int, size: int) -> UInt8:
        assert isinstance(stored, bytes)
        return decoder.decode_window(memoryview(stored), top, left, size, size)

    return load


def _raw(stored: bytes | UInt8, top: int, left: int, size: int) -> UInt8:
    assert isinstance(stored, np.ndarray)
    return _window(stored, top, left, size)


def _flip(window: UInt8, out: UInt8) -> object:
    copy_crop(out, window, True)
    return out


def _flip_across(window: UInt8, out: UInt8) -> object:
    return cv2.flip(window, 1, dst=out)


def _reversed_copy(window: UInt8, out: UInt8) -> object:
    np.copyto(out, window[:, ::-1])
    return out


def _jpeg(image: bytes, _: UInt8) -> bytes:
    return image


def _encoded(quality: int) -> Callable[[bytes, UInt8], bytes]:
    return lambda _, pixels: bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", "420"))


def _pixels(_: bytes, pixels: UInt8) -> UInt8:
    return pixels


_accurate = _simplejpeg(fastdct=False, fastupsample=False)
WAYS = (
    Way(name="ours: simplejpeg, accurate, cv2.flip", store=_jpeg, load=_accurate, mirror=_flip),
    Way(name="mirrored on the way into the batch", store=_jpeg, load=_accurate, mirror=_flip_across),
    Way(name="mirrored by a reversed NumPy copy", store=_jpeg, load=_accurate, mirror=_reversed_copy),
    Way(name="fast IDCT", store=_jpeg, load=_simplejpeg(fastdct=True, fastupsample=False), mirror=_flip),
    Way(name="fast upsampling", store=_jpeg, load=_simplejpeg(fastdct=False, fastupsample=True), mirror=_flip),
    Way(name="fast IDCT and upsampling", store=_jpeg, load=_simplejpeg(fastdct=True, fastupsample=True), mirror=_flip),
    Way(name="OpenCV", store=_jpeg, load=_opencv, mirror=_flip),
    Way(name="pillow-simd", store=_jpeg, load=_pillow, mirror=_flip),
    Way(name="quality 90", store=_encoded(90), load=_accurate, mirror=_flip),
    Way(name="quality 85", store=_encoded(85), load=_accurate, mirror=_flip),
    Way(name="planar YUV 4:2:0", store=_to_planes, load=_from_planes(), mirror=_flip),
    Way(name="the same, colours of one pixel of four", store=_to_planes_opencv, load=_from_planes(), mirror=_flip),
    Way(name="raw", store=_pixels, load=_raw, mirror=_flip),
)


def _psnr(way: Way, stored: list[bytes | UInt8], raw: list[UInt8]) -> float:
    errors = [
        np.mean((way.load(image, 0, 0, SIDE).astype(np.float64) - pixels) ** 2)
        for image, pixels in zip(stored, raw, strict=True)
    ]
    error = float(np.mean(errors))
    return float("inf") if error == 0 else 10 * np.log10(255.0**2 / error)


def _turn(way: Way, stored: list[bytes | UInt8], corners: list[tuple[int, int]]) -> float:
    """Processor time of one pass over the images, in microseconds an image."""
    batch = np.empty((len(stored), CROP, CROP, 3), np.uint8)
    begin = time.thread_time()
    for place, (image, (top, left)) in enumerate(zip(stored, corners, strict=True)):
        window = way.load(image, top, left, CROP)
        if place % 2:
            way.mirror(window, batch[place])
        else:
            np.copyto(batch[place], window)
    return (time.thread_time() - begin) / len(stored) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    with Store(options.data / "stores" / "jpeg") as jpegs, Store(options.data / "stores" / "raw") as raws:
        images = [bytes(jpegs.split("train").read(i)[1]) for i in range(NUM_IMAGES)]
        raw = [
            np.frombuffer(raws.split("train").read(i)[1], np.uint8).reshape(SIDE, SIDE, 3).copy()
            for i in range(NUM_IMAGES)
        ]
    stored = {way.name: list(itertools.starmap(way.store, zip(images, raw, strict=True))) for way in WAYS}
    generator = np.random.default_rng(0)
    times: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for _ in range(options.rounds):
        drawn = generator.integers(0, SIDE - CROP + 1, (NUM_IMAGES, 2)).tolist()
        corners = [(top, left) for top, left in drawn]
        for way in WAYS:
            times[way.name].append(_turn(way, stored[way.name], corners))
    first = times[WAYS[0].name]
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        pairs = zip(first, times[way.name], strict=True)
        rows.append(
            {
                "way": way.name,
                "cpu_us": statistics.median(times[way.name]),
                "ratio": statistics.median(ours / other for ours, other in pairs),
                "bytes": sum(len(i) if isinstance(i, bytes) else i.nbytes for i in stored[way.name]) / NUM_IMAGES,
                "psnr_db": _psnr(way, stored[way.name], raw),
            }
        )
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"| {row['way']} | {row['cpu_us']:.0f} | {row['ratio']:.2f} | {row['bytes']:,.0f} | {row['psnr_db']:.1f} |"
        )


if __name__ == "__main__":
    main()
