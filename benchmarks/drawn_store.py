"""A store of images that a benchmark has drawn, each as often as it takes."""

from pathlib import Path

import numpy as np

from preprocess.store import (
    ClassInfo,
    ImageSpec,
    Manifest,
    ShardWriter,
    SplitInfo,
    Statistics,
    write_manifest,
    write_statistics,
)

NUM_CLASSES = 1000


def write_drawn_store(path: Path, images: list[bytes], spec: ImageSpec, *, num_images: int, per_shard: int) -> None:
    """Writes a store of ``num_images``, which are ``images`` again and again, with ``per_shard`` in a shard."""
    shards = []
    for first in range(0, num_images, per_shard):
        with ShardWriter(path, f"shards/train-{first // per_shard:05d}.lmdb") as writer:
            for i in range(first, min(first + per_shard, num_images)):
                writer.add(i % NUM_CLASSES, b"%d" % i, images[i % len(images)])
        shards.append(writer.info)
    statistics = Statistics(
        num_images=num_images,
        mean_image=np.full((spec.side, spec.side, 3), 128, np.float32),
        covariance=np.eye(3),
        eigenvalues=np.ones(3),
        eigenvectors=np.eye(3),
    )
    manifest = Manifest(
        image=spec,
        classes=tuple(ClassInfo(id=f"n{i:08d}", name=str(i)) for i in range(NUM_CLASSES)),
        splits={"train": SplitInfo(shards=tuple(shards))},
        statistics_sha256=write_statistics(path, statistics),
        source={"layout": "drawn"},
    )
    write_manifest(path, manifest)
