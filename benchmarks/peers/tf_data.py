"""tf.data: TFRecord files, parse, decode_and_crop_jpeg, mirror, batch; in-process, or its service with one worker.

``--variant service`` and ``--variant service-compressed`` run dispatcher and worker in a process of their own;
``--variant resized`` cuts windows as tf.image's own sample_distorted_bounding_box draws them, and resizes them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf

from benchmarks.peers.measure import BATCH_SIZE, CROP, SIDE, Run, Stream, main, stored

NUM_FILES = 8


def prepare(data: Path, variant: str) -> None:
    folder = data / "formats" / "tfrecord"
    folder.mkdir(parents=True, exist_ok=True)
    writers = [tf.io.TFRecordWriter(str(folder / f"{i}.tfrecord")) for i in range(NUM_FILES)]
    for index, image in enumerate(stored(data)):
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "index": tf.train.Feature(int64_list=tf.train.Int64List(value=[index])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        writers[index % NUM_FILES].write(example.SerializeToString())
    for writer in writers:
        writer.close()


def random_window() -> tf.Tensor:
    return tf.concat([tf.random.uniform([2], 0, SIDE - CROP + 1, tf.int32), [CROP, CROP]], 0)


def random_resized_window() -> tf.Tensor:
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        [SIDE, SIDE, 3],
        tf.zeros([1, 0, 4]),
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def crop(record: tf.Tensor, is_resized: bool) -> tuple[tf.Tensor, tf.Tensor]:
    features = {"image": tf.io.FixedLenFeature([], tf.string), "index": tf.io.FixedLenFeature([], tf.int64)}
    example = tf.io.parse_single_example(record, features)
    window = random_resized_window() if is_resized else random_window()
    image = tf.io.decode_and_crop_jpeg(example["image"], window, channels=3)
    if is_resized:
        image = tf.cast(tf.round(tf.image.resize(image, [CROP, CROP])), tf.uint8)
    image = tf.cond(tf.random.uniform([]) < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, [CROP, CROP, 3]), example["index"]


def dataset(run: Run) -> tf.data.Dataset:
    calls = run.workers or tf.data.AUTOTUNE
    files = sorted(str(path) for path in (run.data / "formats" / "tfrecord").iterdir())
    records = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    records = records.interleave(
        tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    records = records.shuffle(2048)
    cut = partial(crop, is_resized=run.variant == "resized")
    return records.map(cut, num_parallel_calls=calls, deterministic=False).batch(BATCH_SIZE, drop_remainder=True)


SERVE = """
import tensorflow as tf
dispatcher = tf.data.experimental.service.DispatchServer()
address = dispatcher.target.split("://")[1]
worker = tf.data.experimental.service.WorkerServer(
    tf.data.experimental.service.WorkerConfig(dispatcher_address=address))
print(dispatcher.target, flush=True)
input()
"""


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    records = dataset(run)
    if not run.variant.startswith("service"):
        yield in_numpy(records.prefetch(tf.data.AUTOTUNE))
        return
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        records = records.apply(
            tf.data.experimental.service.distribute(
                processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                service=server.stdout.readline().strip(),
                compression="AUTO" if run.variant == "service-compressed" else None,
            )
        )
        yield in_numpy(records.prefetch(tf.data.AUTOTUNE))
    finally:
        server.kill()
        server.wait()


def in_numpy(records: tf.data.Dataset) -> Stream:
    for images, indices in records:
        yield images.numpy(), indices.numpy()


if __name__ == "__main__":
    main(batches, prepare)
