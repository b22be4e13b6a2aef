"""The ``export`` command: a checkpoint's weights as a safetensors file, which any framework reads without pickles."""

import json

import torch
from safetensors.torch import save_file

from trainer.checkpoint.files import find, load
from trainer.checkpoint.saved_network import plan_of
from trainer.config import ExportConfig


def run_export(config: ExportConfig) -> int:
    """Writes the file and prints its path."""
    path = find(config.checkpoint)
    snapshot = load(path)
    plan = plan_of(snapshot, path)
    about = {
        "format": "pt",
        "recipe": plan.recipe,
        "crop": str(plan.crop),
        "width": str(plan.width),
        "classes": json.dumps([id_ for id_, _ in plan.classes]),
    }
    tensors = {**snapshot.weights, "mean_image": torch.from_numpy(plan.mean_image)}
    temporary = config.out.with_name(config.out.name + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, about)
    temporary.replace(config.out)
    print(config.out)
    return 0
