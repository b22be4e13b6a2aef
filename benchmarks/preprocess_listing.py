"""Time and memory that the driver takes for the listing and the plan of ImageNet-21k's 14.2 million images.

    python -m benchmarks.preprocess_listing [--images 14200000]

The listing is synthetic: no file is read. Prints seconds, bytes an image and the process's peak memory as JSON.
"""

import argparse
import json
import resource
import time

from preprocess.images.decode import decoder_versions
from preprocess.images.limits import DEFAULT_MAX_PIXELS
from preprocess.job.plan import plan_shards
from preprocess.job.shard import ShardWork
from preprocess.sources.listing import ImageListBuilder, Source
from preprocess.store import ClassInfo, ImageSpec

_NUM_CLASSES = 21_841


def main() -> None:
    """Lists, digests, plans, and makes every task's arguments once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=14_200_000)
    num_images = parser.parse_args().images
    seconds = {}
    started = time.monotonic()
    builder = ImageListBuilder("file")
    for number in range(num_images):
        label = number * _NUM_CLASSES // num_images
        builder.add(b"train/n%08d/n%08d_%d.JPEG" % (label, label, number % 10_000), label, 110_000)
    classes = tuple(ClassInfo(id=f"n{label:08d}", name="") for label in range(_NUM_CLASSES))
    images = builder.build()
    source = Source(layout="folder", root="/", classes=classes, splits={"train": images})
    seconds["list"] = time.monotonic() - started
    started = time.monotonic()
    source.digest()
    seconds["digest"] = time.monotonic() - started
    started = time.monotonic()
    shards = plan_shards(source, images_per_shard=1024, seed=0)
    seconds["plan"] = time.monotonic() - started
    started = time.monotonic()
    for shard in shards:
        ShardWork(
            probe=None,
            store="/store",
            root="/",
            split="train",
            stem=shard.stem,
            images=images.take(shard.indices),
            image=ImageSpec(),
            max_pixels=DEFAULT_MAX_PIXELS,
            decoders=decoder_versions(),
        )
    seconds["all tasks' arguments"] = time.monotonic() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    listed_bytes = len(images.name_bytes) + images.name_ends.nbytes + images.labels.nbytes + images.sizes.nbytes
    report = {
        "num_images": num_images,
        "num_shards": len(shards),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "listing_bytes_per_image": round(listed_bytes / num_images, 1),
        "peak_memory_gb": round(peak_bytes / 1e9, 2),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
