"""What makes two runs the same run: flat names and values that a resumed checkpoint must share."""

import dataclasses
from typing import Any

from loader_service.wire.types import Description
from trainer.checkpoint.files import Identity, Value
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.config import TrainConfig
from trainer.recipes import Milestones


def identity_of(config: TrainConfig, plan: NetworkPlan, description: Description) -> Identity:
    """The store, the stream, the network and the rule of update, by dotted name.

    The number of processes, the devices and the last epoch are not part of it: the stream goes by position, so a run
    may continue on other machines. Milestones are (their epochs move with the last one), and so are all rates.
    """
    recipe = dataclasses.asdict(config.resolved_recipe)
    if not isinstance(config.resolved_recipe.schedule, Milestones):
        del recipe["schedule"]["end_epoch"]
    values: dict[str, Value] = {
        "fingerprint": description.fingerprint,
        "pipeline_version": description.pipeline_version,
        "split": config.split,
        "seed": config.seed,
        "crop": plan.crop,
        "width": plan.width,
        "num_classes": len(plan.classes),
        "augment": config.augment,
        "init": config.init,
        "precision": config.precision,
    }
    _flatten("recipe", recipe, values)
    _flatten("ablation", dataclasses.asdict(plan.ablation), values)
    return values


def _flatten(prefix: str, value: Any, into: dict[str, Value]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}", item, into)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            # Layers are told apart by their names, which read better in a message than numbers.
            name = item["name"] if isinstance(item, dict) and "name" in item else place
            _flatten(f"{prefix}.{name}", item, into)
    else:
        into[prefix] = value
