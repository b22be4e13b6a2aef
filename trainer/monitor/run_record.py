"""run.json: how a run was started, on what, and with which network; what the report tells of it."""

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from commandline import one_line, write_line
from commandline.arguments import value_types
from commandline.files import write_whole
from loader_service.client import Description
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.config import TrainConfig
from trainer.data.consumed import ConsumedDigest
from trainer.ranks import Ranks

RECORD_NAME = "run.json"


class RunRecord:
    """Writes a run's record: when it starts or continues, after each epoch, and when it ends by diverging."""

    def __init__(
        self, config: TrainConfig, plan: NetworkPlan, description: Description, *, precision: str, ranks: Ranks
    ) -> None:
        self._path, self._leads = config.run_dir / RECORD_NAME, ranks.leads
        architecture = plan.architecture()
        self._document = {
            "options": vars(config),
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
                "precision": precision,
                "processes": ranks.world_size,
            },
            "recipe": dataclasses.asdict(config.resolved_recipe),
        }

    def write(self, consumed: ConsumedDigest | None, *, diverged: str | None = None) -> None:
        """Writes it anew on the leading rank; ``diverged`` says where numbers ceased to be finite."""
        if self._leads:
            stream = {"consumed_by_epoch": None if consumed is None else list(consumed.epochs)}
            document = {**self._document, "stream": stream, "outcome": {"diverged": diverged}}
            write_whole(self._path, json.dumps(document, indent=1, default=os.fspath))


def read_record(run_dir: Path) -> dict[str, Any]:
    """The record's parts, each an object; those that are missing or damaged are left out, with a warning."""
    path = run_dir / RECORD_NAME
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        write_line(f"WARNING: {path} cannot be read ({one_line(error)}): the report does without it")
        return {}
    parts = document.items() if isinstance(document, dict) else ()
    return {name: part for name, part in parts if isinstance(part, dict)}


def options_of(record: dict[str, Any]) -> TrainConfig | None:
    """The options that the run was last started with; None where the record does not tell them."""
    types = {field.name: value_type for field, value_type in value_types(TrainConfig).items()}
    told = {name: value for name, value in record.get("options", {}).items() if name in types and value is not None}
    try:
        return TrainConfig(**{name: types[name].from_toml(value) for name, value in told.items()})
    except (TypeError, ValueError):
        return None
