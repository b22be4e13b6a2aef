from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class View(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_UNSPECIFIED: _ClassVar[View]
    VIEW_TRAIN: _ClassVar[View]
    VIEW_CENTRE: _ClassVar[View]
    VIEW_TEN_CROP: _ClassVar[View]
    VIEW_FULL: _ClassVar[View]
    VIEW_RESIZED_CROP: _ClassVar[View]

class ColourScale(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOUR_SCALE_SQRT_EIGENVALUE: _ClassVar[ColourScale]
    COLOUR_SCALE_UNIT_EIGENVALUE: _ClassVar[ColourScale]

class PixelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_FORMAT_UINT8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_FLOAT32: _ClassVar[PixelFormat]
VIEW_UNSPECIFIED: View
VIEW_TRAIN: View
VIEW_CENTRE: View
VIEW_TEN_CROP: View
VIEW_FULL: View
VIEW_RESIZED_CROP: View
COLOUR_SCALE_SQRT_EIGENVALUE: ColourScale
COLOUR_SCALE_UNIT_EIGENVALUE: ColourScale
PIXEL_FORMAT_UINT8: PixelFormat
PIXEL_FORMAT_FLOAT32: PixelFormat

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("fingerprint", "pipeline_version", "splits", "classes", "image_side", "mean_image", "eigenvalues", "eigenvectors", "limits", "cpu_seconds", "shared_memory_socket", "resize_version")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIDE_FIELD_NUMBER: _ClassVar[int]
    MEAN_IMAGE_FIELD_NUMBER: _ClassVar[int]
    EIGENVALUES_FIELD_NUMBER: _ClassVar[int]
    EIGENVECTORS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_SOCKET_FIELD_NUMBER: _ClassVar[int]
    RESIZE_VERSION_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    pipeline_version: str
    splits: _containers.RepeatedCompositeFieldContainer[Split]
    classes: _containers.RepeatedCompositeFieldContainer[ClassInfo]
    image_side: int
    mean_image: bytes
    eigenvalues: _containers.RepeatedScalarFieldContainer[float]
    eigenvectors: _containers.RepeatedScalarFieldContainer[float]
    limits: Limits
    cpu_seconds: float
    shared_memory_socket: str
    resize_version: str
    def __init__(self, fingerprint: _Optional[str] = ..., pipeline_version: _Optional[str] = ..., splits: _Optional[_Iterable[_Union[Split, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[ClassInfo, _Mapping]]] = ..., image_side: _Optional[int] = ..., mean_image: _Optional[bytes] = ..., eigenvalues: _Optional[_Iterable[float]] = ..., eigenvectors: _Optional[_Iterable[float]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., cpu_seconds: _Optional[float] = ..., shared_memory_socket: _Optional[str] = ..., resize_version: _Optional[str] = ...) -> None: ...

class Split(_message.Message):
    __slots__ = ("name", "num_images")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_images: int
    def __init__(self, name: _Optional[str] = ..., num_images: _Optional[int] = ...) -> None: ...

class ClassInfo(_message.Message):
    __slots__ = ("id", "name")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_batch_size", "max_steps", "message_bytes", "max_streams_per_identity", "max_streams")
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_PER_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_FIELD_NUMBER: _ClassVar[int]
    max_batch_size: int
    max_steps: int
    message_bytes: int
    max_streams_per_identity: int
    max_streams: int
    def __init__(self, max_batch_size: _Optional[int] = ..., max_steps: _Optional[int] = ..., message_bytes: _Optional[int] = ..., max_streams_per_identity: _Optional[int] = ..., max_streams: _Optional[int] = ...) -> None: ...

class NamesRequest(_message.Message):
    __slots__ = ("fingerprint", "split", "indices")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    split: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, fingerprint: _Optional[str] = ..., split: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ...) -> None: ...

class NamesResponse(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, names: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StreamBatchesRequest(_message.Message):
    __slots__ = ("fingerprint", "pipeline_version", "split", "view", "crop_size", "shuffle", "seed", "epoch", "batch_size", "first_step", "last_step", "slice_begin", "slice_end", "colour_std", "colour_scale", "pixel_format", "least_scale", "most_scale", "least_ratio", "most_ratio", "without_mirror")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    CROP_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    SLICE_BEGIN_FIELD_NUMBER: _ClassVar[int]
    SLICE_END_FIELD_NUMBER: _ClassVar[int]
    COLOUR_STD_FIELD_NUMBER: _ClassVar[int]
    COLOUR_SCALE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    LEAST_SCALE_FIELD_NUMBER: _ClassVar[int]
    MOST_SCALE_FIELD_NUMBER: _ClassVar[int]
    LEAST_RATIO_FIELD_NUMBER: _ClassVar[int]
    MOST_RATIO_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_MIRROR_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    pipeline_version: str
    split: str
    view: View
    crop_size: int
    shuffle: bool
    seed: int
    epoch: int
    batch_size: int
    first_step: int
    last_step: int
    slice_begin: int
    slice_end: int
    colour_std: float
    colour_scale: ColourScale
    pixel_format: PixelFormat
    least_scale: float
    most_scale: float
    least_ratio: float
    most_ratio: float
    without_mirror: bool
    def __init__(self, fingerprint: _Optional[str] = ..., pipeline_version: _Optional[str] = ..., split: _Optional[str] = ..., view: _Optional[_Union[View, str]] = ..., crop_size: _Optional[int] = ..., shuffle: bool = ..., seed: _Optional[int] = ..., epoch: _Optional[int] = ..., batch_size: _Optional[int] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ..., slice_begin: _Optional[int] = ..., slice_end: _Optional[int] = ..., colour_std: _Optional[float] = ..., colour_scale: _Optional[_Union[ColourScale, str]] = ..., pixel_format: _Optional[_Union[PixelFormat, str]] = ..., least_scale: _Optional[float] = ..., most_scale: _Optional[float] = ..., least_ratio: _Optional[float] = ..., most_ratio: _Optional[float] = ..., without_mirror: bool = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("epoch", "step", "offset", "slice_size", "num_images", "num_crops", "height", "width", "pixel_format", "labels", "indices", "colour_shifts", "slot", "generation", "images")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SLICE_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_CROPS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    COLOUR_SHIFTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step: int
    offset: int
    slice_size: int
    num_images: int
    num_crops: int
    height: int
    width: int
    pixel_format: PixelFormat
    labels: _containers.RepeatedScalarFieldContainer[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    colour_shifts: _containers.RepeatedScalarFieldContainer[float]
    slot: int
    generation: int
    images: bytes
    def __init__(self, epoch: _Optional[int] = ..., step: _Optional[int] = ..., offset: _Optional[int] = ..., slice_size: _Optional[int] = ..., num_images: _Optional[int] = ..., num_crops: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., pixel_format: _Optional[_Union[PixelFormat, str]] = ..., labels: _Optional[_Iterable[int]] = ..., indices: _Optional[_Iterable[int]] = ..., colour_shifts: _Optional[_Iterable[float]] = ..., slot: _Optional[int] = ..., generation: _Optional[int] = ..., images: _Optional[bytes] = ...) -> None: ...
