"""run.json: how a run was started, on what, and with which network; what the report tells of it."""

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from loader_service.wire.types import Description
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.config import TrainConfig
from trainer.ranks import Ranks

RECORD_NAME = "run.json"


def write_record(run_dir: Path, config: TrainConfig, plan: NetworkPlan, description: Description, ranks: Ranks) -> None:
    """Writes the record; a resumed run writes it anew."""
    architecture = plan.architecture()
    document = {
        "options": {name: _plain(value) for name, value in vars(config).items()},
        "store": {
            "fingerprint": description.fingerprint,
            "pipeline_version": description.pipeline_version,
            "splits": description.splits,
            "image_side": description.image_side,
        },
        "network": {
            "num_parameters": architecture.num_parameters,
            "multiply_adds": architecture.multiply_adds,
            "crop": architecture.crop,
            "num_classes": architecture.num_classes,
        },
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "processes": ranks.world_size,
        },
        "recipe": dataclasses.asdict(config.resolved_recipe),
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / RECORD_NAME).write_text(json.dumps(document, indent=1), encoding="utf-8")


def read_record(run_dir: Path) -> dict[str, Any]:
    """The record, or an empty one when there is none."""
    path = run_dir / RECORD_NAME
    document: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
