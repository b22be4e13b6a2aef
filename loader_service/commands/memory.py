"""Whether a store fits in this machine's memory, and what to expect where it does not."""

from preprocess.store import Manifest


def expectation(manifest: Manifest, available: int) -> str:
    """What serving a store means for the disk, where ``available`` bytes of memory can hold it."""
    splits = manifest.splits.values()
    size_bytes = sum(shard.size_bytes for split in splits for shard in split.shards)
    image_bytes = size_bytes / max(sum(split.num_images for split in splits), 1)
    both = f"the store's {_gigabytes(size_bytes)}, memory for {_gigabytes(available)}"
    if size_bytes <= available:
        return f"{both}: each image is read from the disk once, and from memory after that"
    return (
        f"{both}: an epoch over all of it reads about {_gigabytes(size_bytes - available)} from the disk; "
        f"1,000 images/s need up to {1000 * image_bytes / 1e6:,.0f} MB/s in 1,000 random reads a second"
    )


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
