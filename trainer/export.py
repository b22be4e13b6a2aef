"""The ``export`` command: a checkpoint's weights as a safetensors file, which any framework reads without pickles."""

import json

import safetensors.torch
import torch

from commandline.files import write_whole
from trainer.checkpoint.saved_network import load_network
from trainer.config import ExportConfig


def run_export(config: ExportConfig) -> int:
    """Writes the file, whole or not at all, and prints its path."""
    loaded = load_network(config.checkpoint, [torch.device("cpu")] * 2)
    about = {
        "format": "pt",
        "recipe": loaded.plan.recipe,
        "crop": str(loaded.plan.crop),
        "width": str(loaded.plan.width),
        "classes": json.dumps([id_ for id_, _ in loaded.plan.classes]),
    }
    tensors = {**loaded.snapshot.weights, "mean_image": torch.from_numpy(loaded.plan.mean_image)}
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, about)
    write_whole(config.out, content)
    print(config.out)
    return 0
