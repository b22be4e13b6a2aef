"""Ray Data: parquet of JPEG bytes, decoded with simplejpeg in map_batches tasks, iter_batches of 128."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import simplejpeg

from benchmarks.peers.measure import BATCH_SIZE, CROP, SIDE, Run, Stream, main, stored

NUM_FILES = 16
_THREAD_TIMEOUT_S = 10.0


def prepare(data: Path, variant: str) -> None:
    folder = data / "formats" / "parquet"
    folder.mkdir(parents=True, exist_ok=True)
    images = list(stored(data))
    for part in range(NUM_FILES):
        indices = range(part, len(images), NUM_FILES)
        table = pa.table({"image": [images[i] for i in indices], "index": list(indices)})
        pq.write_table(table, folder / f"{part:02d}.parquet", compression="none", use_dictionary=False)


def crop(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    crops = np.empty((len(rows["index"]), CROP, CROP, 3), np.uint8)
    for out, image in zip(crops, rows["image"], strict=True):
        top, left, mirror = np.random.randint(0, SIDE - CROP + 1, 3)
        window = simplejpeg.decode_jpeg(image)[top : top + CROP, left : left + CROP]
        out[:] = window[:, ::-1] if mirror % 2 else window
    return {"image": crops, "index": rows["index"]}


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(
        address="local", num_cpus=run.workers, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    stream = in_numpy(run.data)
    try:
        yield stream
    finally:
        stream.close()
        # The data set's own threads end some time later, and until then ask Ray, which aborts once it has ended.
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.name.startswith("ray_"):
                thread.join(_THREAD_TIMEOUT_S)
        ray.shutdown()


def in_numpy(data: Path) -> Stream:
    while True:
        rows = ray.data.read_parquet(str(data / "formats" / "parquet"), shuffle="files")
        rows = rows.map_batches(crop, batch_size=BATCH_SIZE)
        for batch in rows.iter_batches(batch_size=BATCH_SIZE, drop_last=True, prefetch_batches=2):
            yield batch["image"], batch["index"]


if __name__ == "__main__":
    main(batches, prepare)
