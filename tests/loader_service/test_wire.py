"""Our serializer against the generated classes, both ways."""

from contextlib import suppress
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.codec import PartHeader, pack_part, unpack_part
from loader_service.wire.translate import (
    description_from_response,
    description_to_response,
    range_from_request,
    range_to_request,
)
from loader_service.wire.types import ColourScale, Description, Limits, PixelFormat, StreamSpec, View

Part = tuple[PartHeader, npt.NDArray[Any]]


def make_part(num_images: int, num_crops: int = 1, side: int = 5, dtype: type = np.uint8, seed: int = 0) -> Part:
    generator = np.random.default_rng(seed)
    shape = num_images, num_crops, side, side, 3
    header = PartHeader(
        epoch=int(generator.integers(0, 2**32)),
        step=int(generator.integers(0, 2**63)),
        offset=int(generator.integers(0, 2)) * 7,
        slice_size=num_images + 7,
        shape=shape,
        dtype=np.dtype(dtype),
        labels=generator.integers(-(2**63), 2**63 - 1, num_images),
        indices=generator.integers(0, 2**40, num_images),
        colour_shifts=generator.normal(size=(num_images, 3)).astype(np.float32),
    )
    return header, generator.integers(0, 256, shape).astype(dtype)


def assert_equal(a: Part, b: Part) -> None:
    for name in ("epoch", "step", "offset", "slice_size", "shape", "dtype", "slot", "generation"):
        assert getattr(a[0], name) == getattr(b[0], name)
    arrays = [(getattr(a[0], name), getattr(b[0], name)) for name in ("labels", "indices", "colour_shifts")]
    for one, other in [(a[1], b[1]), *arrays]:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("num_images", "num_crops"), [(0, 1), (1, 1), (3, 10), (33, 1)])
def test_generated_class_reads_ours_and_ours_reads_it(num_images: int, num_crops: int, dtype: type) -> None:
    part, images = make_part(num_images, num_crops, dtype=dtype, seed=num_images)
    packed = pack_part(part, images)
    message = pb.Batch.FromString(packed)
    assert message.num_images == num_images
    assert (message.epoch, message.step, message.slice_size) == (part.epoch, part.step, part.slice_size)
    assert list(message.labels) == part.labels.tolist()
    assert list(message.colour_shifts) == part.colour_shifts.ravel().tolist()
    assert message.images == images.tobytes()
    assert_equal(unpack_part(message.SerializeToString()), (part, images))
    assert_equal(unpack_part(packed), (part, images))
    assert message.SerializeToString(deterministic=True) == packed


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_are_a_part_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        unpack_part(data)


def test_truncated_message() -> None:
    packed = pack_part(*make_part(4))
    with pytest.raises(ValueError, match="expected"):
        unpack_part(packed[:-1])


@given(st.integers(1, 500), st.integers(1, 40))
def test_slices_of_all_ranks_make_the_batch(batch_size: int, world_size: int) -> None:
    world_size = min(world_size, batch_size)
    positions: list[int] = []
    for rank in range(world_size):
        begin, end = StreamSpec(batch_size=batch_size, rank=rank, world_size=world_size).slice
        assert begin < end
        positions.extend(range(begin, end))
    assert positions == list(range(batch_size))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("view", "nope", "view: expected one of train, centre, ten_crop, full, resized_crop, found 'nope'"),
        ("pixel_format", "nope", "pixel_format: expected one of uint8, float32, found 'nope'"),
        ("colour_scale", "nope", "colour_scale: expected one of"),
        ("batch_size", 2.5, "batch_size: expected a whole number from 1 to 4294967295, found 2.5"),
        ("seed", 1.5, "seed: expected a whole number"),
        ("crop_size", 2**32, "crop_size: expected a whole number"),
        ("colour_std", float("nan"), "colour_std: expected 0 or more, found nan"),
        ("world_size", 0, "world_size: expected a whole number"),
        ("rank", 1, "rank: expected 0 to world_size - 1 = 0, found 1"),
    ],
)
def test_specs_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamSpec(**{name: value})


SPECS = st.builds(
    StreamSpec,
    split=st.text(max_size=9),
    view=st.sampled_from(get_args(View)),
    crop_size=st.none() | st.integers(1, 2**32 - 1),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    batch_size=st.integers(40, 2**32 - 1),
    rank=st.integers(0, 19),
    world_size=st.integers(20, 40),
    drop_last=st.booleans(),
    colour_std=st.floats(0, 10),
    colour_scale=st.sampled_from(get_args(ColourScale)),
    pixel_format=st.sampled_from(get_args(PixelFormat)),
    scale=st.tuples(st.floats(0.001, 0.5), st.floats(0.5, 1.0)),
    ratio=st.tuples(st.floats(0.01, 1.0), st.floats(1.0, 100.0)),
    mirror=st.booleans(),
)
NUMBERS = st.integers(1, 2**32 - 1)
LIMITS = st.builds(
    Limits,
    max_batch_size=NUMBERS,
    max_steps=NUMBERS,
    message_bytes=NUMBERS,
    max_streams_per_identity=NUMBERS,
    max_streams=NUMBERS,
)


def describe(side: int, limits: Limits, splits: dict[str, int], classes: tuple[tuple[str, str], ...]) -> Description:
    generator = np.random.default_rng(side)
    return Description(
        fingerprint="f" * 64,
        pipeline_version="1.ab",
        splits=splits,
        classes=classes,
        image_side=side,
        mean_image=generator.normal(size=(side, side, 3)).astype(np.float32),
        eigenvalues=generator.normal(size=3),
        eigenvectors=generator.normal(size=(3, 3)),
        limits=limits,
        cpu_s=generator.normal() ** 2,
        shared_memory_socket="name",
        resize_version="cd",
    )


DESCRIPTIONS = st.builds(
    describe,
    side=st.integers(1, 8),
    limits=LIMITS,
    splits=st.dictionaries(st.text(max_size=9), st.integers(0, 2**40), max_size=3),
    classes=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=4).map(tuple),
)


@given(spec=SPECS, description=DESCRIPTIONS, epoch=st.integers(0, 2**32 - 1), step=st.integers(0, 2**60))
def test_a_range_and_a_description_cross_the_wire_unchanged(
    spec: StreamSpec, description: Description, epoch: int, step: int
) -> None:
    steps = spec.steps(step, step + 5, epoch=epoch)
    request = pb.StreamBatchesRequest.FromString(range_to_request(steps, description).SerializeToString())
    assert range_from_request(request) == steps
    assert request.fingerprint == description.fingerprint
    assert request.pipeline_version == ("1.ab.cd" if spec.view == "resized_crop" else "1.ab")
    response = pb.DescribeResponse.FromString(description_to_response(description).SerializeToString())
    found = asdict(description_from_response(response))
    for name, expected in asdict(description).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
