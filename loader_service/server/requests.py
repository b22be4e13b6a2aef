"""Checks requests field by field against what is served; says what that is, and where its images came from."""

import time
from dataclasses import replace
from functools import cache

from loader_service.pipeline.pipeline import Pipeline
from loader_service.pipeline.resized_crop import resize_digest
from loader_service.pipeline.store_errors import as_loader_error
from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.errors import DataLossError, InvalidRequestError, MismatchError
from loader_service.wire.translate import COLOUR_SCALES, PIXEL_FORMATS, VIEWS, range_from_request
from loader_service.wire.types import Description, Limits, StepRange
from preprocess.errors import StoreError


def describe(pipeline: Pipeline, limits: Limits, shared_memory_socket: str = "") -> Description:
    """What this replica serves."""
    store = pipeline.store
    statistics = store.statistics
    return Description(
        fingerprint=store.fingerprint,
        pipeline_version=pipeline.version,
        splits={name: split.num_images for name, split in store.manifest.splits.items()},
        classes=tuple((info.id, info.name) for info in store.manifest.classes),
        image_side=pipeline.side,
        mean_image=statistics.mean_image,
        eigenvalues=statistics.eigenvalues,
        eigenvectors=statistics.eigenvectors,
        limits=limits,
        cpu_s=time.process_time(),
        shared_memory_socket=shared_memory_socket,
        resize_version=resize_digest(),
    )


def step_range(request: pb.StreamBatchesRequest, pipeline: Pipeline, limits: Limits) -> StepRange:
    """The valid form of ``request``.

    Raises MismatchError for another store or pipeline, InvalidRequestError for anything out of range.
    """
    _expect_same("fingerprint", pipeline.store.fingerprint, request.fingerprint)
    is_resized = request.view == pb.VIEW_RESIZED_CROP
    version = f"{pipeline.version}.{resize_digest()}" if is_resized else pipeline.version
    _expect_same("pipeline_version", version, request.pipeline_version)
    _expect_split(request.split, pipeline)
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
    num_steps = -(-pipeline.store.split(request.split).num_images // request.batch_size)
    _expect_between("last_step", request.last_step, 1, num_steps)
    _expect_between("first_step", request.first_step, 0, request.last_step - 1)
    _expect_between("last_step - first_step", request.last_step - request.first_step, 1, limits.max_steps)
    try:
        steps = range_from_request(request)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from None
    return replace(steps, spec=replace(steps.spec, crop_size=crop_size), slice_end=slice_end)


def names(request: pb.NamesRequest, pipeline: Pipeline, limits: Limits) -> list[bytes]:
    """The names that a request asks for. Raises as ``step_range`` does, and DataLossError where a list is damaged."""
    _expect_same("fingerprint", pipeline.store.fingerprint, request.fingerprint)
    _expect_split(request.split, pipeline)
    _expect_between("indices", len(request.indices), 0, limits.max_batch_size)
    reader = pipeline.store.split(request.split)
    names_of = cache(reader.names)
    found = []
    for index in request.indices:
        _expect_between("indices", index, 0, reader.num_images - 1)
        shard, position = reader.locate(index)
        try:
            found.append(names_of(shard)[position])
        except StoreError as error:
            raise as_loader_error(error) from None
        except IndexError as error:
            raise DataLossError(str(error)) from None
    return found


def _expect_split(name: str, pipeline: Pipeline) -> None:
    splits = pipeline.store.manifest.splits
    if name not in splits:
        raise InvalidRequestError(f"split: expected one of {', '.join(splits)}, found {name[:64]!r}")


def _expect_same(field: str, expected: str, found: str) -> None:
    if expected != found:
        raise MismatchError(f"{field}: this replica has {expected}, the request asks for {found[:80]!r}")


def _expect_between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequestError(f"{field}: expected {low} to {high}, found {value}")
