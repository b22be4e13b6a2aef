"""Checks a StreamBatches request, field by field, and turns it into a StepRange; and a Description into its message."""

import time

from loader_service.pipeline.pipeline import Pipeline
from loader_service.pipeline.plan import StepRange
from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.errors import InvalidRequestError, MismatchError
from loader_service.wire.types import COLOUR_SCALE_NUMBERS, PIXEL_FORMAT_NUMBERS, VIEW_NUMBERS, Limits

VIEWS = {number: view for view, number in VIEW_NUMBERS.items()}
COLOUR_SCALES = {number: scale for scale, number in COLOUR_SCALE_NUMBERS.items()}
PIXEL_FORMATS = {number: pixels for pixels, number in PIXEL_FORMAT_NUMBERS.items()}


def describe(pipeline: Pipeline, limits: Limits, shared_memory_socket: str = "") -> pb.DescribeResponse:
    """What this replica serves."""
    store = pipeline.store
    statistics = store.statistics
    return pb.DescribeResponse(
        fingerprint=store.fingerprint,
        pipeline_version=pipeline.version,
        splits=[pb.Split(name=n, num_images=s.num_images) for n, s in store.manifest.splits.items()],
        classes=[pb.ClassInfo(id=info.id, name=info.name) for info in store.manifest.classes],
        image_side=pipeline.side,
        mean_image=statistics.mean_image.astype("<f4").tobytes(),
        eigenvalues=statistics.eigenvalues.tolist(),
        eigenvectors=statistics.eigenvectors.ravel().tolist(),
        limits=pb.Limits(
            max_batch_size=limits.max_batch_size,
            max_steps=limits.max_steps,
            message_bytes=limits.message_bytes,
            max_streams_per_identity=limits.max_streams_per_identity,
            max_streams=limits.max_streams,
        ),
        cpu_seconds=time.process_time(),
        shared_memory_socket=shared_memory_socket,
    )


def step_range(request: pb.StreamBatchesRequest, pipeline: Pipeline, limits: Limits) -> StepRange:
    """The valid form of ``request``.

    Raises MismatchError for another store or pipeline, InvalidRequestError for anything out of range.
    """
    _expect_same("fingerprint", pipeline.store.fingerprint, request.fingerprint)
    _expect_same("pipeline_version", pipeline.version, request.pipeline_version)
    splits = pipeline.store.manifest.splits
    if request.split not in splits:
        raise InvalidRequestError(f"split: expected one of {', '.join(splits)}, found {request.split[:64]!r}")
    if request.view not in VIEWS:
        raise InvalidRequestError(f"view: expected one of {', '.join(VIEWS.values())}, found {request.view}")
    if request.colour_scale not in COLOUR_SCALES:
        raise InvalidRequestError(f"colour_scale: expected 0 or 1, found {request.colour_scale}")
    if request.pixel_format not in PIXEL_FORMATS:
        raise InvalidRequestError(f"pixel_format: expected 0 or 1, found {request.pixel_format}")
    if not 0.0 <= request.colour_std <= 10.0:  # false for NaN too
        raise InvalidRequestError(f"colour_std: expected 0 to 10, found {request.colour_std}")
    view = VIEWS[request.view]
    crop_size = pipeline.side if view == "full" else request.crop_size or pipeline.side * 7 // 8
    _expect_between("crop_size", crop_size, 1, pipeline.side)
    _expect_between("batch_size", request.batch_size, 1, limits.max_batch_size)
    slice_begin, slice_end = request.slice_begin, request.slice_end or request.batch_size
    _expect_between("slice_end", slice_end, 1, request.batch_size)
    _expect_between("slice_begin", slice_begin, 0, slice_end - 1)
    num_steps = -(-splits[request.split].num_images // request.batch_size)
    _expect_between("last_step", request.last_step, 1, num_steps)
    _expect_between("first_step", request.first_step, 0, request.last_step - 1)
    _expect_between("last_step - first_step", request.last_step - request.first_step, 1, limits.max_steps)
    return StepRange(
        split=request.split,
        view=view,
        crop_size=crop_size,
        shuffle=request.shuffle,
        seed=request.seed,
        epoch=request.epoch,
        batch_size=request.batch_size,
        first_step=request.first_step,
        last_step=request.last_step,
        slice_begin=slice_begin,
        slice_end=slice_end,
        colour_std=request.colour_std + 0.0,  # of 0.0 and -0.0, which are equal and give other bits, the former
        colour_scale=COLOUR_SCALES[request.colour_scale],
        pixel_format=PIXEL_FORMATS[request.pixel_format],
    )


def _expect_same(field: str, expected: str, found: str) -> None:
    if expected != found:
        raise MismatchError(f"{field}: this replica has {expected}, the request asks for {found[:80]!r}")


def _expect_between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequestError(f"{field}: expected {low} to {high}, found {value}")
