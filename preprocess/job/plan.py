"""Which image goes to which shard: one seeded shuffle of the listing, cut into slices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.sources.listing import ImageList, Source
from preprocess.store.format import shard_stem


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One shard to be: which images of its split, in which order."""

    split: str
    number: int
    indices: npt.NDArray[np.int64]
    """int64 [num_images] into the split's listing; a view of the split's whole order."""

    @property
    def stem(self) -> str:
        return shard_stem(self.split, self.number)


def plan_shards(source: Source, *, images_per_shard: int, seed: int) -> list[PlannedShard]:
    """Every shard of every split, in order. The same source, size and seed give the same plan."""
    shards = []
    for split_number, (split, images) in enumerate(source.splits.items()):
        order = shuffled_order(images, seed, split_number)
        for number, start in enumerate(range(0, len(order), images_per_shard)):
            indices = order[start : start + images_per_shard]
            # Within a large file a task reads forwards: disks and row groups want it so.
            indices = indices if images.access == "file" else np.sort(indices)
            shards.append(PlannedShard(split=split, number=number, indices=indices))
    return shards


def shuffled_order(images: ImageList, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """int64 [N]: the order of the shuffled listing. Where images are stored in groups, whole groups change places."""
    if images.group_starts is None:
        return _permutation(len(images), seed, stream)
    starts = images.group_starts
    ends = np.append(starts[1:], len(images))
    return np.concatenate([np.arange(starts[g], ends[g]) for g in _permutation(len(starts), seed, stream)])


def _permutation(size: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """A permutation from raw Philox bits: those, unlike NumPy's shuffles, are the same in every release."""
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(size)
    return np.argsort(bits, kind="stable")
