"""What is compared: each entry is one way to the same batches, with the numbers of workers it is tried with."""

import os
from dataclasses import dataclass
from typing import Literal

Kind = Literal["ours", "peer", "limit"]
Part = Literal["crops", "resized", "decoded"]
PARTS: dict[Part, str] = {
    "crops": "JPEG decoded on the way",
    "resized": "JPEG decoded on the way, random resized crops",
    "decoded": "Already decoded, to pixels or YUV planes",
}
"""Of the table, with their titles; each is compared within itself."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the table."""

    name: str
    title: str
    kind: Kind
    module: str
    """The program, of benchmarks.peers."""
    environment: str | None
    """Where it runs, of benchmarks/peers/environments; None: the project's own environment."""
    variant: str = ""
    images: str | None = None
    """The form of the images that it reads, which the first entry that wants it makes; None: the stores and files."""
    workers: tuple[int, ...]
    """What to try in the search; one means no search. 0: the peer chooses."""
    mirrors: bool = True
    """Whether half of the crops must be mirrored; only the limit does not."""
    part: Part = "crops"


def entries(num_cores: int | None = None) -> tuple[Entry, ...]:
    """All rows, in the table's order. Worker counts follow from the cores that this process may use."""
    cores = num_cores or len(os.sched_getaffinity(0))
    around = tuple(sorted({max(cores - 1, 1), cores, cores + 1}))
    many = tuple(sorted({cores, cores + 1, 2 * cores}))
    tf, torch = "tf_data", "torch_lmdb"
    at_most_cores = tuple(workers for workers in around if workers <= cores)  # FFCV takes no more
    return (
        *(
            Entry(
                name=f"limit-{variant}",
                title=f"the limit: libjpeg-turbo in C, {what}",
                kind="limit",
                module="limit",
                environment=None,
                variant=variant,
                images="limit",
                workers=(cores,),
                mirrors=False,
            )
            for variant, what in (("whole", "decode and crop"), ("region", "decode the region"))
        ),
        Entry(
            name="ours-pipeline-1",
            title="ours: decode pipeline alone, 1 process",
            kind="ours",
            module="ours",
            environment=None,
            variant="pipeline-jpeg",
            workers=(1,),
        ),
        Entry(
            name="ours-pipeline-2",
            title="ours: decode pipeline alone, 2 processes",
            kind="ours",
            module="ours",
            environment=None,
            variant="pipeline-jpeg",
            workers=(2,),
        ),
        _ours("ours-shm", "ours: JPEG store, same-host shared memory", "shm-jpeg", around),
        _ours("ours-grpc", "ours: JPEG store, gRPC", "grpc-jpeg", around),
        Entry(
            name="tf-data",
            images="tfrecord",
            title="tf.data",
            kind="peer",
            module=tf,
            environment="tensorflow",
            workers=(0, *around),
        ),
        Entry(
            name="tf-service",
            images="tfrecord",
            title="tf.data service, no compression",
            kind="peer",
            module=tf,
            environment="tensorflow",
            variant="service",
            workers=(0, *around),
        ),
        Entry(
            name="tf-service-compressed",
            images="tfrecord",
            title="tf.data service, default compression",
            kind="peer",
            module=tf,
            environment="tensorflow",
            variant="service-compressed",
            workers=(0, cores),
        ),
        Entry(
            name="dali",
            images="dali",
            title="DALI, CPU",
            kind="peer",
            module="dali_cpu",
            environment="dali",
            workers=many,
        ),
        Entry(
            name="ffcv",
            images="ffcv-jpeg",
            title="FFCV, JPEG",
            kind="peer",
            module="ffcv_loader",
            environment="ffcv",
            variant="jpeg",
            workers=at_most_cores,
        ),
        Entry(
            name="torch-pillow-simd",
            images="torch-lmdb",
            title="torch DataLoader, LMDB, pillow-simd",
            kind="peer",
            module=torch,
            environment="torch",
            variant="pillow-simd",
            workers=around,
        ),
        Entry(
            name="torch-simplejpeg",
            images="torch-lmdb",
            title="torch DataLoader, LMDB, simplejpeg",
            kind="peer",
            module=torch,
            environment="torch",
            variant="simplejpeg",
            workers=around,
        ),
        Entry(name="spdl", title="SPDL, FFmpeg", kind="peer", module="spdl_threads", environment="spdl", workers=many),
        Entry(
            name="spdl-simplejpeg",
            title="SPDL, simplejpeg",
            kind="peer",
            module="spdl_threads",
            environment="spdl",
            variant="simplejpeg",
            workers=many,
        ),
        Entry(
            name="ray-data",
            images="parquet",
            title="Ray Data",
            kind="peer",
            module="ray_dataset",
            environment="ray",
            workers=(cores,),
        ),
        _ours(
            "ours-resized-pipeline-1",
            "ours: decode pipeline alone, 1 process",
            "pipeline-jpeg-resized_crop",
            (1,),
            part="resized",
        ),
        _ours(
            "ours-resized-shm",
            "ours: JPEG store, same-host shared memory",
            "shm-jpeg-resized_crop",
            around,
            part="resized",
        ),
        _ours("ours-resized-grpc", "ours: JPEG store, gRPC", "grpc-jpeg-resized_crop", around, part="resized"),
        Entry(
            name="tf-data-resized",
            images="tfrecord",
            title="tf.data, sample_distorted_bounding_box, bilinear",
            kind="peer",
            module=tf,
            environment="tensorflow",
            variant="resized",
            workers=(0, *around),
            part="resized",
        ),
        Entry(
            name="dali-resized",
            images="dali",
            title="DALI, CPU, image_random_crop, linear",
            kind="peer",
            module="dali_cpu",
            environment="dali",
            variant="resized",
            workers=many,
            part="resized",
        ),
        Entry(
            name="ffcv-resized",
            images="ffcv-jpeg",
            title="FFCV, JPEG, RandomResizedCrop",
            kind="peer",
            module="ffcv_loader",
            environment="ffcv",
            variant="jpeg-resized",
            workers=at_most_cores,
            part="resized",
        ),
        Entry(
            name="torch-resized",
            images="torch-lmdb",
            title="torch DataLoader, LMDB, pillow-simd, as torchvision's RandomResizedCrop",
            kind="peer",
            module=torch,
            environment="torch",
            variant="resized",
            workers=around,
            part="resized",
        ),
        _ours("ours-shm-yuv420", "ours: YUV 4:2:0 store, shared memory", "shm-yuv420", around, part="decoded"),
        _ours("ours-grpc-yuv420", "ours: YUV 4:2:0 store, gRPC", "grpc-yuv420", around, part="decoded"),
        _ours("ours-shm-raw", "ours: raw store, shared memory", "shm-raw", around, part="decoded"),
        _ours("ours-slots-raw", "ours: raw store, shared memory, `copy=False`", "slots-raw", around, part="decoded"),
        _ours("ours-grpc-raw", "ours: raw store, gRPC", "grpc-raw", around, part="decoded"),
        _ours(
            "ours-grpc-cached", "ours: JPEG store, all decoded in memory, gRPC", "grpc-cached", around, part="decoded"
        ),
        Entry(
            name="ffcv-raw",
            images="ffcv-raw",
            title="FFCV, RAW",
            kind="peer",
            module="ffcv_loader",
            environment="ffcv",
            variant="raw",
            workers=at_most_cores,
            part="decoded",
        ),
    )


def _ours(name: str, title: str, variant: str, workers: tuple[int, ...], *, part: Part = "crops") -> Entry:
    return Entry(
        name=name,
        title=title,
        kind="ours",
        module="ours",
        environment=None,
        variant=variant,
        workers=workers,
        part=part,
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio of images a second that the project holds itself to."""

    entry: str
    against: str
    at_least: float


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An upper bound that the project holds itself to."""

    entry: str
    figure: str
    """``cpu_to_limit``, or a figure of the entry's row."""
    title: str
    at_most: float


BOUNDS = (
    Bound(entry="ours-grpc", figure="cpu_to_limit", title="processor time, to the C loop's", at_most=1.5),
    Bound(entry="ours-shm", figure="cpu_to_limit", title="processor time, to the C loop's", at_most=1.5),
    Bound(entry="ours-grpc", figure="consumer_cpu_s_per_1000", title="client's CPU s / 1,000 images", at_most=0.05),
    Bound(entry="ours-shm", figure="consumer_cpu_s_per_1000", title="client's CPU s / 1,000 images", at_most=0.02),
)
TARGETS = (
    Target(entry="ours-grpc", against="tf-service", at_least=1.4),
    Target(entry="ours-grpc", against="tf-data", at_least=1.0),
    Target(entry="ours-shm", against="tf-data", at_least=1.15),
    Target(entry="ours-grpc-raw", against="ffcv-raw", at_least=2.5),
    Target(entry="ours-shm-raw", against="ffcv-raw", at_least=4.0),
    Target(entry="ours-slots-raw", against="ffcv-raw", at_least=4.0),
    Target(entry="ours-pipeline-2", against="ours-pipeline-1", at_least=1.85),
)
