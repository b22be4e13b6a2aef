"""Error rates over a whole split, each image exactly once: centre crop, or ten crops averaged after softmax."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from loader_service.client.client import LoaderClient
from loader_service.wire.types import StreamSpec
from trainer.data.centring import Centring
from trainer.data.feed import Feed, allocator
from trainer.network.columns import TwoColumns
from trainer.ranks import Ranks

Crops = Literal["centre", "ten"]
IMAGES_AT_ONCE = 256
"""Crops that go through the network together: bounds memory when an image has ten."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results over a split; errors are fractions, 0..1."""

    crops: Crops
    num_images: int
    loss: float
    """Mean of -log of the (averaged) probability of the right class."""
    top1_error: float
    top5_error: float
    confusion: Tensor
    """int64 [classes, classes]: images of class i (row) whose best guess was j (column)."""


@torch.no_grad()
def class_probabilities(
    networks: list[TwoColumns], centring: Centring, images: Mapping[torch.device, Tensor]
) -> Tensor:
    """Probabilities float32 [N, classes] on the first device: the mean of the softmax outputs over crops and networks.

    ``images`` is uint8 [N, crop, crop, 3], or [N, 10, crop, crop, 3], on each distinct device. [P] 4.1 averages the
    softmax outputs of the ten crops; [P] table 2 those of several networks.
    """
    devices = networks[0].devices
    num_images = len(images[devices[0]])
    crops = {device: pixels.flatten(0, -4) for device, pixels in images.items()}
    total = len(crops[devices[0]])
    pieces = []
    for begin in range(0, total, IMAGES_AT_ONCE):
        piece = {device: centring(crops[device][begin : begin + IMAGES_AT_ONCE]) for device in crops}
        inputs = [piece[device] for device in devices]
        pieces.append(torch.stack([network(inputs).float().softmax(1) for network in networks]).mean(0))
    return torch.cat(pieces).view(num_images, total // num_images, -1).mean(1)


def evaluate(
    networks: list[TwoColumns],
    centring: Centring,
    client: LoaderClient,
    *,
    split: str,
    crops: Crops,
    crop: int,
    batch_size: int,
    ranks: Ranks,
) -> Evaluation:
    """Evaluates ``networks`` (averaged) on ``split``; each rank computes its share and all get the result.

    Leaves the networks in the mode (train or eval) that they came in. Raises what the client raises.
    """
    was_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    num_classes = networks[0].architecture.num_classes
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    sums = torch.zeros(4, dtype=torch.float64)
    devices = networks[0].devices
    whole = StreamSpec(
        split=split,
        view="ten_crop" if crops == "ten" else "centre",
        crop_size=crop,
        shuffle=False,
        batch_size=batch_size,
        drop_last=False,
    )
    for spec, first_step in shares(whole, client.describe().splits[split], ranks):
        stream = client.stream(spec, step=first_step, allocate=allocator(devices))
        with Feed(stream, devices, close_source=stream.close) as feed:
            for batch in feed:
                probabilities = class_probabilities(networks, centring, batch.images).cpu()
                labels = batch.labels.cpu()
                sums += score(probabilities, labels)
                places = labels * num_classes + probabilities.argmax(1)
                confusion += torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)
    for network, training in zip(networks, was_training, strict=True):
        network.train(training)
    sums, confusion = ranks.sum(sums), ranks.sum(confusion)
    loss, top1, top5, count = sums.tolist()
    return Evaluation(
        crops=crops,
        num_images=int(count),
        loss=loss / count,
        top1_error=top1 / count,
        top5_error=top5 / count,
        confusion=confusion,
    )


def shares(whole: StreamSpec, num_images: int, ranks: Ranks) -> list[tuple[StreamSpec, int]]:
    """``(spec, first step)`` of the streams that this rank reads: all ranks' together hold each image once.

    A short last step may be too small to share: the leading rank reads it alone.
    """
    if ranks.world_size == 1:
        return [(whole, 0)]
    shared = dataclasses.replace(whole, drop_last=True, rank=ranks.rank, world_size=ranks.world_size)
    num_full = shared.num_steps(num_images)
    streams = [(shared, 0)] if num_full else []
    if ranks.leads and num_full < whole.num_steps(num_images):
        streams.append((whole, num_full))
    return streams


def score(probabilities: Tensor, labels: Tensor) -> Tensor:
    """float64 [4]: sums over the batch of -log p(label), top-1 errors, top-5 errors, and the number of images."""
    right = probabilities.gather(1, labels[:, None])
    # The label's rank: how many classes are at least as probable. Ties count against us.
    rank = (probabilities >= right).sum(1)
    loss = -right.double().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
    return torch.stack(
        [loss, (rank > 1).sum().double(), (rank > 5).sum().double(), torch.tensor(float(len(labels))).double()]
    )
