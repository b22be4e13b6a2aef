"""SPDL: files decoded by FFmpeg, cropped and mirrored by its filters, in SPDL's pipeline of threads; in-process.

--variant simplejpeg: SPDL's pipeline alone, with simplejpeg and NumPy doing the work.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
import spdl.io
from spdl.pipeline import PipelineBuilder

from benchmarks.peers.measure import BATCH_SIZE, CROP, SIDE, Run, Stream, main, num_stored, shuffled_indices


def endless(num_images: int) -> Iterator[list[int]]:
    for indices in shuffled_indices(num_images):
        yield indices.tolist()


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    files: Path = run.data / "files"

    def decode(index: int):
        top, left = random.randint(0, SIDE - CROP), random.randint(0, SIDE - CROP)
        mirror = ",hflip" if random.random() < 0.5 else ""
        packets = spdl.io.demux_image(str(files / f"{index:06d}.jpg"))
        window = f"crop={CROP}:{CROP}:{left}:{top}:exact=1,format=pix_fmts=rgb24{mirror}"
        return index, spdl.io.decode_packets(packets, filter_desc=window)

    def pack(decoded: list) -> tuple[np.ndarray, np.ndarray]:
        buffer = spdl.io.convert_frames([frames for _, frames in decoded])
        return spdl.io.to_numpy(buffer), np.array([index for index, _ in decoded])

    def decode_array(index: int) -> tuple[int, np.ndarray]:
        top, left = random.randint(0, SIDE - CROP), random.randint(0, SIDE - CROP)
        pixels = simplejpeg.decode_jpeg((files / f"{index:06d}.jpg").read_bytes())
        window = pixels[top : top + CROP, left : left + CROP]
        return index, window[:, ::-1] if random.random() < 0.5 else window

    def pack_arrays(decoded: list) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([window for _, window in decoded]), np.array([index for index, _ in decoded])

    work, finish = (decode_array, pack_arrays) if run.variant == "simplejpeg" else (decode, pack)
    pipeline = (
        PipelineBuilder()
        .add_source(endless(num_stored(run.data)))
        .disaggregate()
        .pipe(work, concurrency=run.workers)
        .aggregate(BATCH_SIZE)
        .pipe(finish)
        .add_sink(3)
        .build(num_threads=run.workers + 1)
    )
    with pipeline.auto_stop():
        yield iter(pipeline)


if __name__ == "__main__":
    main(batches)
