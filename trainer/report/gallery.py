"""What the network makes of some validation images, and the training images nearest to them: [P] figure 4."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loader_service.client.client import LoaderClient
from loader_service.wire.types import StreamSpec
from trainer.checkpoint.saved_network import LoadedNetwork
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch, Feed, allocator
from trainer.report.pictures import thumbnails

NUM_IMAGES = 8  # [P] figure 4 shows eight
NUM_GUESSES = 5
NUM_NEIGHBOURS = 6  # [P] figure 4: the six training images nearest to each
THUMBNAIL_SIDE = 112
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training image, and how far its fc7 activations are."""

    pixels: Tensor
    """uint8 [side, side, 3]"""
    label: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One validation image with the network's best guesses and its nearest training images."""

    pixels: Tensor
    """uint8 [side, side, 3]"""
    label: int
    guesses: tuple[tuple[int, float], ...]
    """(class, probability), most probable first."""
    neighbours: tuple[Neighbour, ...]


@torch.no_grad()
def collect(
    loaded: LoadedNetwork, client: LoaderClient, *, split: str, train_split: str, num_searched: int
) -> list[Exhibit]:
    """Eight images of ``split`` (always the same ones), their neighbours among ``num_searched`` training images."""
    splits = client.describe().splits
    centring = Centring(loaded.plan.mean_image, loaded.plan.crop, loaded.network.devices, channels_last=True)
    wanted = min(NUM_IMAGES, splits[split])
    [batch] = _batches(loaded, client, split, wanted, 1)
    features, pixels = _features(loaded, centring, batch)
    probabilities = _probabilities(loaded, features)
    found: list[list[Neighbour]] = [[] for _ in range(wanted)]
    searched = min(num_searched, splits[train_split])
    size = min(BATCH_SIZE, searched)
    for train_batch in _batches(loaded, client, train_split, size, searched // size) if searched else ():
        theirs, train_pixels = _features(loaded, centring, train_batch)
        distances = torch.cdist(features, theirs).cpu()
        labels = train_batch.labels.tolist()
        for place, row in enumerate(distances):
            for distance, index in zip(
                *(v.tolist() for v in row.topk(min(NUM_NEIGHBOURS, len(row)), largest=False)), strict=True
            ):
                found[place].append(
                    Neighbour(pixels=train_pixels[index].clone(), label=labels[index], distance=distance)
                )
            found[place] = sorted(found[place], key=lambda n: n.distance)[:NUM_NEIGHBOURS]
    top = probabilities.topk(min(NUM_GUESSES, probabilities.shape[1]))
    return [
        Exhibit(
            pixels=pixels[place],
            label=int(batch.labels[place]),
            guesses=tuple(zip(top.indices[place].tolist(), top.values[place].tolist(), strict=True)),
            neighbours=tuple(found[place]),
        )
        for place in range(wanted)
    ]


def _batches(
    loaded: LoadedNetwork, client: LoaderClient, split: str, batch_size: int, num_batches: int
) -> Sequence[DeviceBatch]:
    spec = StreamSpec(
        split=split, view="centre", crop_size=loaded.plan.crop, shuffle=True, seed=0, batch_size=batch_size
    )
    devices = loaded.network.devices
    stream = client.stream(spec, allocate=allocator(devices))
    with Feed(stream, devices, close_source=stream.close) as feed:
        return [batch for _, batch in zip(range(num_batches), feed, strict=False)]


def _features(loaded: LoadedNetwork, centring: Centring, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
    devices = loaded.network.devices
    inputs = {device: centring(images) for device, images in batch.images.items()}
    features = loaded.network.features([inputs[device] for device in devices])
    return features.float(), thumbnails(batch.images[devices[0]], THUMBNAIL_SIDE)


def _probabilities(loaded: LoadedNetwork, features: Tensor) -> Tensor:
    network = loaded.network
    return network.classifier.run_stage(network.head, features).softmax(1).cpu()
