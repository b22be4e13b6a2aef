"""A network as plain data inside a checkpoint, and back: what evaluate, predict, export and report start from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from commandline import one_line
from loader_service.client import Description
from trainer.checkpoint.folder import find
from trainer.checkpoint.snapshot import Snapshot, load
from trainer.config import TrainConfig
from trainer.data.crops import centre_crop, default_crop
from trainer.errors import CheckpointError, TrainerError
from trainer.network.architecture import Ablation, Architecture, resolve
from trainer.network.columns import TwoColumns
from trainer.recipes import recipe_named
from trainer.recipes.recipe import RecipeName


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """Everything needed to build a network and feed it pictures, without a service."""

    recipe: RecipeName
    crop: int
    width: float
    ablation: Ablation
    classes: tuple[tuple[str, str], ...]
    """(id, human-readable name) by label."""
    mean_image: npt.NDArray[np.float32]
    """float32 [side, side, 3], RGB, 0..255."""

    def architecture(self) -> Architecture:
        """The concrete layers."""
        return resolve(
            recipe_named(self.recipe),
            crop=self.crop,
            num_classes=len(self.classes),
            width=self.width,
            ablation=self.ablation,
        )

    def to_plain(self) -> dict[str, Any]:
        """Tensors, strings and numbers alone, as ``torch.load(weights_only=True)`` accepts them."""
        return {
            "recipe": self.recipe,
            "crop": self.crop,
            "width": self.width,
            "ablation": dataclasses.asdict(self.ablation),
            "classes": [list(pair) for pair in self.classes],
            "mean_image": torch.from_numpy(self.mean_image.copy()),
            "num_parameters": self.architecture().num_parameters,
        }


def plan_of_run(config: TrainConfig, description: Description) -> NetworkPlan:
    """The network that the store's images and classes and the options make. Raises TrainerError if they cannot."""
    crop = config.crop or default_crop(description.image_side)
    if crop > description.image_side:
        raise TrainerError(f"--crop: expected at most the stored side {description.image_side}, found {crop}")
    if config.split not in description.splits:
        raise TrainerError(f"--split: expected one of {', '.join(description.splits)}, found {config.split!r}")
    if description.splits[config.split] < config.batch_size:
        raise TrainerError(
            f"--batch-size: split {config.split!r} has {description.splits[config.split]} images, "
            f"less than one batch of {config.batch_size}"
        )
    plan = NetworkPlan(
        recipe=config.recipe,
        crop=crop,
        width=config.width,
        ablation=config.ablation,
        classes=description.classes,
        mean_image=description.mean_image,
    )
    try:
        plan.architecture()
    except ValueError as error:
        raise TrainerError(str(error)) from None
    return plan


def plan_of(snapshot: Snapshot, path: Path) -> NetworkPlan:
    """The plan in a snapshot. Raises CheckpointError when today's recipe makes another network of it."""
    plain = snapshot.network
    try:
        plan = NetworkPlan(
            recipe=plain["recipe"],
            crop=plain["crop"],
            width=plain["width"],
            ablation=Ablation(**plain["ablation"]),
            classes=tuple((str(id_), str(name)) for id_, name in plain["classes"]),
            mean_image=plain["mean_image"].numpy(),
        )
        expected, found = int(plain["num_parameters"]), plan.architecture().num_parameters
        centre_crop(plan.mean_image, plan.crop)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: no network of ours ({type(error).__name__}: {one_line(error)})") from None
    if found != expected:
        raise CheckpointError(f"{path}: expected {expected:,} parameters, recipe {plan.recipe!r} now makes {found:,}")
    return plan


def refuse_others(loaded: Sequence["LoadedNetwork"], description: Description) -> None:
    """Raises CheckpointError unless all networks see the same crops, and what the loaders serve suits them."""
    for each in loaded:
        plan = each.plan
        if plan.crop != loaded[0].plan.crop:
            raise CheckpointError(
                f"{each.path}: expected crop {loaded[0].plan.crop} as in {loaded[0].path}, found {plan.crop}"
            )
        if [id_ for id_, _ in plan.classes] != [id_ for id_, _ in description.classes]:
            raise CheckpointError(
                f"{each.path}: was trained on other classes ({len(plan.classes)}) than the loaders serve "
                f"({len(description.classes)})"
            )
        if len(plan.mean_image) != description.image_side:
            raise CheckpointError(
                f"{each.path}: was trained on images of {len(plan.mean_image)} pixels, the loaders serve "
                f"{description.image_side}"
            )


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network in evaluation mode, with where it came from."""

    network: TwoColumns
    plan: NetworkPlan
    snapshot: Snapshot
    path: Path


def load_network(path: Path, devices: Sequence[torch.device]) -> LoadedNetwork:
    """Builds the network of a checkpoint file or run folder on ``devices``.

    Raises CheckpointError for a file that is damaged, foreign or not finite.
    """
    file = find(path)
    snapshot = load(file)
    plan = plan_of(snapshot, file)
    network = TwoColumns(plan.architecture(), devices)
    try:
        network.load_state_dict(snapshot.weights)
    except (RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: its weights do not fit its network ({one_line(error)[:200]})") from None
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval()
    return LoadedNetwork(network=network, plan=plan, snapshot=snapshot, path=file)
