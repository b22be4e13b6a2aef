"""Error rates over a whole split, each image exactly once: centre crop, or ten crops averaged after softmax."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from commandline import Progress
from loader_service.client import LoaderClient, LoaderError, StreamSpec
from trainer.checkpoint.saved_network import LoadedNetwork
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch, Feed, allocator
from trainer.errors import DivergedError, TrainerError
from trainer.network.columns import TwoColumns
from trainer.ranks import Ranks

Crops = Literal["centre", "ten"]
CROPS_IN_WORDS: dict[Crops, str] = {"centre": "centre crop", "ten": "ten crops"}
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

    @property
    def figures(self) -> dict[str, float]:
        """Loss and errors by name."""
        return {"loss": self.loss, "top1_error": self.top1_error, "top5_error": self.top5_error}


class SplitPass:
    """One pass over a split, this rank's share of it; its first batches are on their way from construction on.

    ``interrupted`` is asked while it waits for a batch; when it says True, the pass ends early.
    """

    def __init__(
        self,
        client: LoaderClient,
        devices: tuple[torch.device, ...],
        *,
        split: str,
        crops: Crops,
        crop: int,
        batch_size: int,
        ranks: Ranks,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.crops = crops
        self.num_images = client.describe().splits[split]
        whole = StreamSpec(
            split=split,
            view="ten_crop" if crops == "ten" else "centre",
            crop_size=crop,
            shuffle=False,
            batch_size=max(min(batch_size, self.num_images), ranks.world_size),
            drop_last=False,
        )
        self._feeds: list[Feed] = []
        for spec, first_step in shares(whole, self.num_images, ranks):
            stream = client.stream(spec, step=first_step, allocate=allocator(devices))
            self._feeds.append(Feed(stream, devices, interrupted=interrupted, close_source=stream.close))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for feed in self._feeds:
            feed.__exit__(kind)

    def __iter__(self) -> Iterator[DeviceBatch]:
        for feed in self._feeds:
            yield from feed

    def close(self) -> None:
        """Ends what is under way."""
        for feed in self._feeds:
            feed.close()


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
    batches: SplitPass,
    *,
    ranks: Ranks,
    stopping: Callable[[], bool] = lambda: False,
    seen: Callable[[DeviceBatch, Tensor], None] = lambda batch, probabilities: None,
) -> Evaluation:
    """Evaluates ``networks`` (averaged) over ``batches``; each rank computes its share and all get the result.

    ``seen`` gets each batch with its probabilities, on the CPU. Leaves the networks in the mode (train or eval) that
    they came in. Raises DivergedError when their outputs are not finite, Stopped when a rank is stopping, and what the
    client raises, the two on all ranks alike.
    """
    was_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    num_classes = networks[0].architecture.num_classes
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    sums = torch.zeros(4, dtype=torch.float64)
    failure: LoaderError | None = None
    try:
        for batch in batches:
            probabilities = class_probabilities(networks, centring, batch.images).cpu()
            labels = batch.labels.cpu()
            sums += score(probabilities, labels)
            places = labels * num_classes + probabilities.argmax(1)
            confusion += torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)
            seen(batch, probabilities)
            if stopping():
                break
    except LoaderError as error:
        failure = error
    for network, training in zip(networks, was_training, strict=True):
        network.train(training)
    ranks.agree(stop=stopping(), failure=failure)
    sums, confusion = ranks.sum(sums), ranks.sum(confusion)
    loss, top1, top5, count = sums.tolist()
    if not math.isfinite(loss):
        raise DivergedError("the network's outputs are not finite numbers")
    return Evaluation(
        crops=batches.crops,
        num_images=int(count),
        loss=loss / count,
        top1_error=top1 / count,
        top5_error=top5 / count,
        confusion=confusion,
    )


def evaluate_loaded(
    loaded: Sequence[LoadedNetwork],
    client: LoaderClient,
    *,
    split: str,
    crops: Crops,
    batch_size: int,
    seen: Callable[[DeviceBatch, Tensor], None] = lambda batch, probabilities: None,
) -> Evaluation:
    """Evaluates networks (averaged) with a progress display; ``seen`` gets each batch with its probabilities."""
    first = loaded[0]
    devices = first.network.devices
    centring = Centring(first.plan.mean_image, first.plan.crop, devices, channels_last=True)
    with (
        SplitPass(
            client,
            devices,
            split=split,
            crops=crops,
            crop=first.plan.crop,
            batch_size=batch_size,
            ranks=Ranks(),
        ) as batches,
        Progress(CROPS_IN_WORDS[crops], batches.num_images, "images") as progress,
    ):

        def note(batch: DeviceBatch, probabilities: Tensor) -> None:
            progress.advance(batch.num_images)
            seen(batch, probabilities)

        networks = [each.network for each in loaded]
        return evaluate(networks, centring, batches, ranks=Ranks(), seen=note)


def require_images(option: str, split: str, splits: Mapping[str, int]) -> None:
    """Raises TrainerError, which names the option, unless the store has images of ``split``."""
    if not splits.get(split):
        raise TrainerError(f"{option}: expected one of {', '.join(splits)}, found {split!r}")


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
    loss = -right.double().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
    return tally(probabilities, labels, loss)


def tally(scores: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
    """float64 [4] on the scores' device: the given loss, top-1 errors, top-5 errors, images. Does not wait for it.

    A label's rank is how many classes score at least as high: ties count against us. A row that holds a number that
    is not finite is wrong, whatever the order of the others.
    """
    rank = (scores >= scores.gather(1, labels[:, None])).sum(1)
    rank = rank.masked_fill(~scores.isfinite().all(1), scores.shape[1] + 5)
    count = torch.full_like(loss, len(labels), dtype=torch.float64)
    return torch.stack([loss.double(), (rank > 1).sum().double(), (rank > 5).sum().double(), count])
