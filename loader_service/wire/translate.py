"""Between protobuf's messages and our types: requests and descriptions, each way."""

from dataclasses import asdict, fields

import numpy as np

from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.types import (
    DEFAULT_RATIO,
    DEFAULT_SCALE,
    ColourScale,
    Description,
    Limits,
    PixelFormat,
    StepRange,
    StreamSpec,
    View,
)

# The names of loader.proto's enums, by number.
VIEWS: dict[int, View] = {
    pb.VIEW_TRAIN: "train",
    pb.VIEW_CENTRE: "centre",
    pb.VIEW_TEN_CROP: "ten_crop",
    pb.VIEW_FULL: "full",
    pb.VIEW_RESIZED_CROP: "resized_crop",
}
COLOUR_SCALES: dict[int, ColourScale] = {
    pb.COLOUR_SCALE_SQRT_EIGENVALUE: "sqrt_eigenvalue",
    pb.COLOUR_SCALE_UNIT_EIGENVALUE: "unit_eigenvalue",
}
PIXEL_FORMATS: dict[int, PixelFormat] = {
    pb.PIXEL_FORMAT_UINT8: "uint8",
    pb.PIXEL_FORMAT_FLOAT32: "float32",
}
_VIEW_NUMBERS = {view: number for number, view in VIEWS.items()}
_COLOUR_SCALE_NUMBERS = {scale: number for number, scale in COLOUR_SCALES.items()}
_PIXEL_FORMAT_NUMBERS = {pixels: number for number, pixels in PIXEL_FORMATS.items()}


def range_to_request(steps: StepRange, description: Description) -> pb.StreamBatchesRequest:
    """The request for ``steps`` of the store and the pipeline that ``description`` names."""
    spec = steps.spec
    scale, ratio = (spec.scale, spec.ratio) if spec.is_resized else ((0.0, 0.0), (0.0, 0.0))
    return pb.StreamBatchesRequest(
        fingerprint=description.fingerprint,
        pipeline_version=description.version_for(spec.view),
        split=spec.split,
        view=_VIEW_NUMBERS[spec.view],  # type: ignore[arg-type]  # protobuf's stubs want their own type of int
        crop_size=spec.crop_size or 0,
        shuffle=spec.shuffle,
        seed=spec.seed,
        epoch=steps.epoch,
        batch_size=spec.batch_size,
        first_step=steps.first_step,
        last_step=steps.last_step,
        slice_begin=steps.slice_begin,
        slice_end=steps.slice_end,
        colour_std=spec.colour_std,
        colour_scale=_COLOUR_SCALE_NUMBERS[spec.colour_scale],  # type: ignore[arg-type]
        pixel_format=_PIXEL_FORMAT_NUMBERS[spec.pixel_format],  # type: ignore[arg-type]
        least_scale=scale[0],
        most_scale=scale[1],
        least_ratio=ratio[0],
        most_ratio=ratio[1],
        without_mirror=not spec.mirror,
    )


def range_from_request(request: pb.StreamBatchesRequest) -> StepRange:
    """The steps that a request asks for. Its enums must be known ones; raises ValueError for what fits no store."""
    is_resized = request.view == pb.VIEW_RESIZED_CROP
    return StepRange(
        spec=StreamSpec(
            split=request.split,
            view=VIEWS[request.view],
            crop_size=request.crop_size or None,
            shuffle=request.shuffle,
            seed=request.seed,
            batch_size=request.batch_size,
            colour_std=request.colour_std + 0.0,  # of 0.0 and -0.0, which are equal and give other bits, the former
            colour_scale=COLOUR_SCALES[request.colour_scale],
            pixel_format=PIXEL_FORMATS[request.pixel_format],
            mirror=not request.without_mirror,
            scale=(request.least_scale, request.most_scale) if is_resized else DEFAULT_SCALE,
            ratio=(request.least_ratio, request.most_ratio) if is_resized else DEFAULT_RATIO,
        ).whole(),
        epoch=request.epoch,
        first_step=request.first_step,
        last_step=request.last_step,
        slice_begin=request.slice_begin,
        slice_end=request.slice_end or request.batch_size,
    )


def description_to_response(description: Description) -> pb.DescribeResponse:
    """What a replica serves, as it says so."""
    return pb.DescribeResponse(
        fingerprint=description.fingerprint,
        pipeline_version=description.pipeline_version,
        splits=[pb.Split(name=name, num_images=count) for name, count in description.splits.items()],
        classes=[pb.ClassInfo(id=id, name=name) for id, name in description.classes],
        image_side=description.image_side,
        mean_image=description.mean_image.astype("<f4", copy=False).tobytes(),
        eigenvalues=description.eigenvalues.tolist(),
        eigenvectors=description.eigenvectors.ravel().tolist(),
        limits=pb.Limits(**asdict(description.limits)),
        cpu_seconds=description.cpu_s,
        shared_memory_socket=description.shared_memory_socket,
        resize_version=description.resize_version,
    )


def description_from_response(response: pb.DescribeResponse) -> Description:
    """What a replica says that it serves. Raises ValueError when that cannot be."""
    side = response.image_side
    if len(response.mean_image) != side * side * 3 * 4 or len(response.eigenvectors) != 9:
        raise ValueError(f"expected a mean image of {side}x{side} pixels and three axes of colours, found others")
    return Description(
        fingerprint=response.fingerprint,
        pipeline_version=response.pipeline_version,
        splits={split.name: split.num_images for split in response.splits},
        classes=tuple((info.id, info.name) for info in response.classes),
        image_side=side,
        mean_image=np.frombuffer(response.mean_image, "<f4").reshape(side, side, 3),
        eigenvalues=np.array(response.eigenvalues, np.float64),
        eigenvectors=np.array(response.eigenvectors, np.float64).reshape(3, 3),
        limits=Limits(**{field.name: getattr(response.limits, field.name) for field in fields(Limits)}),
        cpu_s=response.cpu_seconds,
        shared_memory_socket=response.shared_memory_socket,
        resize_version=response.resize_version,
    )
