"""NVIDIA DALI, CPU only: its file reader, decoders.image_crop, flip; in-process.

--variant resized: decoders.image_random_crop and resize, linear, as its own ImageNet examples have them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvidia.dali import fn, pipeline_def, types

from benchmarks.peers.measure import BATCH_SIZE, CROP, Run, Stream, main, num_stored


def prepare(data: Path, variant: str) -> None:
    folder = data / "formats" / "dali"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{index:06d}.jpg {index}\n" for index in range(num_stored(data))]
    (folder / "files.txt").write_text("".join(lines))


@pipeline_def(batch_size=BATCH_SIZE, device_id=None)
def crops(data: Path, is_resized: bool):
    files, indices = fn.readers.file(
        file_root=str(data / "files"),
        file_list=str(data / "formats" / "dali" / "files.txt"),
        random_shuffle=True,
        initial_fill=2048,
        dont_use_mmap=False,
        name="reader",
    )
    if is_resized:
        windows = fn.decoders.image_random_crop(
            files,
            random_area=(0.08, 1.0),
            random_aspect_ratio=(3 / 4, 4 / 3),
            num_attempts=10,
            output_type=types.RGB,
            device="cpu",
        )
        images = fn.resize(windows, resize_x=CROP, resize_y=CROP, interp_type=types.INTERP_LINEAR)
    else:
        images = fn.decoders.image_crop(
            files,
            crop=(CROP, CROP),
            crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
            crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
            output_type=types.RGB,
            device="cpu",
        )
    return fn.flip(images, horizontal=fn.random.coin_flip()), indices


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    is_resized = run.variant == "resized"
    pipeline = crops(run.data, is_resized, num_threads=run.workers, prefetch_queue_depth=3, set_affinity=False)
    pipeline.build()
    yield in_numpy(pipeline)


def in_numpy(pipeline) -> Stream:
    while True:
        images, indices = pipeline.run()
        yield images.as_array(), indices.as_array()[:, 0]


if __name__ == "__main__":
    main(batches, prepare)
