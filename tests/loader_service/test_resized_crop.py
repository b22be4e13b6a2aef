"""Random resized crops: pinned bits, torchvision's distribution, resizing by whole numbers, one digest on any path."""

import hashlib
import math
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader_service.__main__ import main
from loader_service.client import ClientOptions, InvalidRequestError, LoaderClient, Security, StreamSpec, Transport
from loader_service.client.replica import Replica
from loader_service.pipeline.draws import draw
from loader_service.pipeline.resized_crop import Windows, _exp, draw_windows, resize, resize_digest
from loader_service.wire.translate import range_to_request
from preprocess.store import Encoding
from tests.conftest import serving
from tests.loader_service.digests import epoch_digest
from tests.loader_service.test_pipeline import EPOCH, SEED, read_all, stored_images
from tests.stores import make_store

UInt8 = npt.NDArray[np.uint8]
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def windows(indices: Any, *, seed: int = 0, epoch: int = 0, side: int = 256, **shape: tuple[float, float]) -> Windows:
    shape = {"scale": SCALE, "ratio": RATIO, **shape}
    return draw_windows(np.asarray(indices), seed=seed, epoch=epoch, side=side, **shape)


def test_golden() -> None:
    """Another draw is another pipeline: change these values only together with PIPELINE_VERSION."""
    drawn = windows([0, 1, 2, 1_281_166])
    assert drawn.tops.tolist() == [27, 20, 8, 67]
    assert drawn.lefts.tolist() == [4, 37, 51, 75]
    assert drawn.heights.tolist() == [227, 229, 198, 135]
    assert drawn.widths.tolist() == [252, 215, 184, 168]
    many = windows(np.arange(100_000), seed=2**63 + 5, epoch=90)
    digest = hashlib.sha256()
    for array in (many.tops, many.lefts, many.heights, many.widths):
        digest.update(array.astype("<i8").tobytes())
    assert digest.hexdigest() == "cc642fbcd36b0d298ef4d8155cafe0efff3fa86d4846e97c45269a74c0fc32dc"
    assert resize_digest() == "a8860ed9"


def test_depend_on_the_index_alone() -> None:
    together, alone = windows(np.arange(64), seed=9, epoch=4, side=64), windows([37], seed=9, epoch=4, side=64)
    for name in ("tops", "lefts", "heights", "widths"):
        assert getattr(together, name)[37] == getattr(alone, name)[0]


@given(
    scale=st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted),
    side=st.integers(1, 600),
)
@settings(deadline=None)
def test_windows_are_within_the_image(scale: list[float], ratio: list[float], side: int) -> None:
    drawn = windows(np.arange(200), side=side, scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]))
    assert (drawn.tops >= 0).all()
    assert (drawn.lefts >= 0).all()
    assert (np.minimum(drawn.heights, drawn.widths) >= 1).all()
    assert (drawn.tops + drawn.heights <= side).all()
    assert (drawn.lefts + drawn.widths <= side).all()


def test_sizes_and_shapes_are_spread_as_torchvisions() -> None:
    """Its own loop, with its own random numbers: the means of area, log of shape and place agree."""
    generator = np.random.default_rng(0)
    expected = []
    for _ in range(20_000):
        for _ in range(10):
            area, shape = generator.uniform(*SCALE), math.exp(generator.uniform(*np.log(RATIO)))
            width, height = round(256 * math.sqrt(area * shape)), round(256 * math.sqrt(area / shape))
            if 0 < width <= 256 and 0 < height <= 256:
                top, left = (int(generator.integers(0, 256 - length + 1)) for length in (height, width))
                break
        else:
            width, height, top, left = 256, 256, 0, 0
        expected.append((height, width, top, left))
    drawn = windows(np.arange(20_000))
    found = np.stack([drawn.heights, drawn.widths, drawn.tops, drawn.lefts], 1)
    for a, b in zip(found.T, np.array(expected).T, strict=True):
        assert abs(a.mean() - b.mean()) < 4 * b.std() * math.sqrt(2 / 20_000)
        assert abs(a.std() / b.std() - 1) < 0.03
    assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] == pytest.approx(
        np.corrcoef(np.array(expected).T)[0, 1], abs=0.02
    )


def test_the_exponential() -> None:
    x = np.linspace(-5, 5, 10_001)
    np.testing.assert_allclose(_exp(x), np.exp(x), rtol=2e-15)


def resized(window: UInt8, size: int) -> UInt8:
    """What docs/protocol.md defines, in whole numbers but for where a weight is computed."""
    halvings = 0
    while 3 * max(window.shape[:2]) > 4 * size * 2**halvings:
        halvings += 1
    wide = window.astype(np.int64)
    for axis in (1, 0):
        length, steps = wide.shape[axis], size * 2**halvings
        before, after, weights = np.zeros(steps, int), np.zeros(steps, int), np.zeros(steps, int)
        scale = 1.0 / (steps / length)
        for i in range(steps):
            place = scale * (i + 0.5) - 0.5
            whole = math.floor(place)
            before[i], after[i] = min(max(whole, 0), length - 1), min(max(whole + 1, 0), length - 1)
            weights[i] = 0 if whole < 0 else round((place - whole) * 256)
        weights = weights.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        wide = wide.take(before, axis) * (256 - weights) + wide.take(after, axis) * weights
    pixels = (wide + 2**15) >> 16
    for _ in range(halvings):
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        pixels = (pixels.reshape(height, 2, width, 2, 3).sum((1, 3)) + 2) >> 2
    return pixels.astype(np.uint8)


@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(1, 130), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_resizing_is_what_its_definition_says(height: int, width: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (300, 300, 3), np.uint8)
    out = np.empty((size, size, 3), np.uint8)
    resize(image[300 - height :, :width], out)
    np.testing.assert_array_equal(out, resized(image[300 - height :, :width], size))


@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
@pytest.mark.parametrize("cache_bytes", [0, 10**6])
@pytest.mark.parametrize("mirror", [True, False])
def test_what_the_service_sends(tmp_path: Path, encoding: Encoding, cache_bytes: int, mirror: bool) -> None:
    path = make_store(tmp_path / "store", num_train=40, num_val=1, encoding=encoding)
    stored = stored_images(path, "train")
    shape: dict[str, Any] = {"scale": (0.05, 0.9), "ratio": (0.5, 1.5)}
    spec = StreamSpec(view="resized_crop", crop_size=32, seed=SEED, batch_size=40, mirror=mirror, **shape)
    with serving(path, cache_bytes=cache_bytes) as target:
        (batch,) = read_all(target, spec)
    drawn = windows(batch.indices, seed=SEED, epoch=EPOCH, side=64, **shape)
    mirrors = draw(batch.indices, seed=SEED, epoch=EPOCH, side=64, crop_size=32).mirrors & mirror
    assert batch.colour_shifts.any(1).all()
    for i, index in enumerate(batch.indices.tolist()):
        label, image = stored[index]
        top, left = drawn.tops[i], drawn.lefts[i]
        crop = resized(image[top : top + drawn.heights[i], left : left + drawn.widths[i]], 32)
        np.testing.assert_array_equal(batch.images[i], crop[:, ::-1] if mirrors[i] else crop)
        assert batch.labels[i] == label


def test_one_digest_through_every_transport_and_command(
    tmp_path: Path, loader_target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = StreamSpec(view="resized_crop", seed=3, drop_last=False, scale=(0.2, 1.0))
    transports: tuple[Transport, ...] = ("grpc", "shm", "grpcio")
    found = set()
    for transport in transports:
        with LoaderClient([loader_target], ClientOptions(transport=transport)) as client:
            found.add(epoch_digest(client, spec, 0))
    options = ["--target", loader_target, "--view", "resized_crop", "--scale", "0.2,1", "--seed", "3"]
    assert main(["digest", *options]) == 0
    assert {capsys.readouterr().out.strip()} == found
    assert main(["preview", *options, "--out", str(tmp_path / "crops.png")]) == 0
    assert (tmp_path / "crops.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "0.5"], "--scale or --ratio: scale: expected two numbers, the least and the most, of more than 0"),
        (["--scale", "0,1"], "expected two numbers, the least and the most, of more than 0 to 1, found (0.0, 1.0)"),
        (["--ratio", "2,1"], "ratio: expected two numbers, the least and the most, of 0.01 to 100, found (2.0, 1.0)"),
    ],
)
def test_numbers_that_are_no_window(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["digest", "--target", "127.0.0.1:1", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_service_refuses_such_numbers_too(loader_target: str) -> None:
    """Of clients in other languages."""
    with LoaderClient([loader_target]) as client:
        request = range_to_request(StreamSpec(view="resized_crop").steps(0, 1, epoch=0), client.describe())
    request.most_scale = 2.0
    with Replica(target=loader_target, security=Security()).connect() as connection:
        with pytest.raises(grpc.RpcError) as failure:
            next(connection.stream_batches(request))
        translated = connection.translate(failure.value)
    assert isinstance(translated, InvalidRequestError)
    assert "scale: expected two numbers" in str(translated)
