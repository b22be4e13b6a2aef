"""What the network makes of some validation images, and the training images nearest to them: [P] figure 4."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from commandline import Progress
from loader_service.client import LoaderClient, StreamSpec
from trainer.checkpoint.saved_network import LoadedNetwork
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch, Feed, allocator
from trainer.report.pictures import thumbnails

NUM_IMAGES = 8  # [P] figure 4 shows eight
NUM_GUESSES = 5
NUM_NEIGHBOURS = 6  # [P] figure 4: the six training images nearest to each
NUM_WORST = 12
THUMBNAIL_SIDE = 112
BATCH_SIZE = 64

Guesses = tuple[tuple[int, float], ...]
"""(class, probability), most probable first."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training image, and how far its fc7 activations are."""

    pixels: Tensor
    """uint8 [side, side, 3]"""
    label: int
    index: int
    """In the split, in stored order."""
    distance: float


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One validation image with the network's best guesses and its nearest training images, if they were sought."""

    pixels: Tensor
    """uint8 [side, side, 3]"""
    label: int
    index: int
    """In the split, in stored order."""
    guesses: Guesses
    neighbours: tuple[Neighbour, ...] = ()


class Worst:
    """Collects the images of an evaluation whose right class got the least probability: NUM_WORST of them."""

    def __init__(self) -> None:
        self._found: list[tuple[float, Exhibit]] = []

    def see(self, batch: DeviceBatch, probabilities: Tensor) -> None:
        """Takes a batch of centre or ten crops and its probabilities, on the CPU."""
        labels = batch.labels.cpu()
        right = probabilities.gather(1, labels[:, None])[:, 0]
        images = next(iter(batch.images.values()))
        for place in right.topk(min(NUM_WORST, len(right)), largest=False).indices.tolist():
            if len(self._found) == NUM_WORST and right[place] >= self._found[-1][0]:
                break
            crops = images[place]
            pixels = thumbnails((crops[4] if crops.ndim == 4 else crops)[None], THUMBNAIL_SIDE)[0]
            exhibit = Exhibit(
                pixels=pixels,
                label=int(labels[place]),
                index=int(batch.indices[place]),
                guesses=_best_guesses(probabilities[place]),
            )
            self._found = sorted([*self._found, (float(right[place]), exhibit)], key=lambda pair: pair[0])[:NUM_WORST]

    @property
    def exhibits(self) -> list[Exhibit]:
        """Worst first."""
        return [exhibit for _, exhibit in self._found]


@torch.no_grad()
def collect(
    loaded: LoadedNetwork, client: LoaderClient, *, split: str, train_split: str, num_searched: int
) -> tuple[list[Exhibit], int]:
    """Eight images of ``split`` (always the same ones) with their neighbours among ``num_searched`` training images or,
    in whole batches, a few more; and how many were searched.
    """
    splits = client.describe().splits
    centring = Centring(loaded.plan.mean_image, loaded.plan.crop, loaded.network.devices, channels_last=True)
    batch = next(_batches(loaded, client, split, min(NUM_IMAGES, splits[split])))
    features, pixels = _features(loaded, centring, batch)
    found: list[list[Neighbour]] = [[] for _ in range(batch.num_images)]
    num_searched = min(-(-num_searched // BATCH_SIZE) * BATCH_SIZE, splits[train_split])
    if num_searched:
        with Progress("neighbours", num_searched, "images") as progress:
            for train_batch in _batches(loaded, client, train_split, num_searched):
                theirs, train_pixels = _features(loaded, centring, train_batch)
                labels = train_batch.labels.tolist()
                for place, distances in enumerate(torch.cdist(features, theirs).cpu()):
                    nearest = distances.topk(min(NUM_NEIGHBOURS, len(distances)), largest=False)
                    for distance, index in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True):
                        picture = train_pixels[index].clone()
                        stored = int(train_batch.indices[index])
                        found[place].append(
                            Neighbour(pixels=picture, label=labels[index], index=stored, distance=distance)
                        )
                    found[place] = sorted(found[place], key=lambda n: n.distance)[:NUM_NEIGHBOURS]
                progress.advance(train_batch.num_images)
    probabilities = loaded.network.classifier.run_stage(loaded.network.head, features).softmax(1).cpu()
    exhibits = [
        Exhibit(
            pixels=pixels[place],
            label=int(batch.labels[place]),
            index=int(batch.indices[place]),
            guesses=_best_guesses(probabilities[place]),
            neighbours=tuple(found[place]),
        )
        for place in range(batch.num_images)
    ]
    return exhibits, num_searched


def _batches(loaded: LoadedNetwork, client: LoaderClient, split: str, num_images: int) -> Iterator[DeviceBatch]:
    """Shuffled images of a split, a few batches in memory at a time; ends with the batch that has ``num_images``."""
    size = min(BATCH_SIZE, num_images)
    spec = StreamSpec(
        split=split, view="centre", crop_size=loaded.plan.crop, shuffle=True, batch_size=size, drop_last=False
    )
    devices = loaded.network.devices
    stream = client.stream(spec, allocate=allocator(devices))
    with Feed(stream, devices, close_source=stream.close) as feed:
        for batch in feed:
            yield batch
            num_images -= batch.num_images
            if num_images <= 0:
                return


def _features(loaded: LoadedNetwork, centring: Centring, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
    devices = loaded.network.devices
    inputs = {device: centring(images) for device, images in batch.images.items()}
    features = loaded.network.features([inputs[device] for device in devices])
    return features.float(), thumbnails(batch.images[devices[0]], THUMBNAIL_SIDE)


def _best_guesses(probabilities: Tensor) -> Guesses:
    top = probabilities.topk(min(NUM_GUESSES, len(probabilities)))
    return tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
