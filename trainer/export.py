"""The ``export`` command: a checkpoint's weights as a safetensors file, which any framework reads without pickles."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trainer.checkpoint.files import find, load
from trainer.checkpoint.saved_network import plan_of
from trainer.config import ExportConfig

_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


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
    mean = torch.from_numpy(plan.mean_image)
    write_safetensors(config.out, {**snapshot.weights, "mean_image": mean}, about)
    print(config.out)
    return 0


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Writes ``tensors`` in the safetensors format: header length (uint64), JSON header, raw little-endian data.

    The header gives each tensor's dtype, shape and [begin, end) in the data; ``about`` goes into ``__metadata__``.
    """
    header: dict[str, object] = {"__metadata__": dict(about)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    temporary.replace(path)
