"""The options of ``experiment``, checked once."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commandline import option, required
from commandline.options import option_name
from loader_service.client.machine import Processors, processors
from loader_service.commands.connect import ConnectConfig

ExperimentName = Literal["figure-1", "ablations", "table-1", "table-2", "figure-3", "figure-4"]


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(ConnectConfig):
    """Options of ``experiment``."""

    name: ExperimentName = required("figure-1, ablations, table-1, table-2, figure-3 or figure-4", positional=True)
    out: Path = required("its folder: runs, table.md, table.json, picture.svg and page.html")
    store: Path | None = option(
        None, "store to read, by a loader that lasts as long as the experiment; or give --target"
    )
    checkpoint: tuple[Path, ...] = option(
        (), "tables, figure-3 and figure-4: checkpoint files or run folders (their best) to look at"
    )
    seeds: int | None = option(None, "seeds of each setting (default: the experiment's own number)", least=1, most=30)
    epochs: int | None = option(None, "epochs of each run (default: the experiment's own number)", least=1)
    quick: bool = option(False, "figure-1: one rate and one seed for each unit")
    scale: Literal["small", "full"] = option(
        "small", "ablations and tables: small: a narrow network for ten classes of small images; full: the paper's"
    )
    at_once: int = option(1, "training runs at once; those of one seed share the loader's work", least=1, most=64)
    devices: tuple[str, ...] = option(
        (),
        "devices of each run, as --devices of train (default: the machine's GPUs, or cpu,cpu)",
        metavar="DEVICE,DEVICE",
    )
    threads: int | None = option(
        None,
        "CPU threads of each run (default: torch's choice, or an equal part of the cores for each of --at-once)",
        least=1,
        most=4096,
    )
    split: str = option("val", "tables and figure-4: split to evaluate, and to show images of")
    train_split: str = option("train", "figure-4: split in which neighbours are sought")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.store is not None and self.target:
            raise ValueError("--store: expected this or --target, found both")
        if self.name in ("figure-3", "figure-4") and not self.checkpoint:
            raise ValueError("--checkpoint: expected a checkpoint file or run folder to look at, found none")
        if self.name != "figure-3" and self.store is None:
            self.require_target()

    @property
    def machine_options(self) -> tuple[str, ...]:
        """Options of ``train`` that say where and how a run is computed, and how it reaches the loaders."""
        connect = [field for field in dataclasses.fields(ConnectConfig) if field.name != "target"]
        threads = self.threads or threads_of_each(processors(), self.at_once)
        values = {"--devices": ",".join(self.devices), "--threads": threads}
        values |= {option_name(field): getattr(self, field.name) for field in connect}
        given = {name: value for name, value in values.items() if value not in (None, "", False)}
        return tuple(
            text for name, value in given.items() for text in ((name,) if value is True else (name, str(value)))
        )


def threads_of_each(found: Processors, at_once: int) -> int | None:
    """CPU threads of each of several runs, which share the cores of a machine; None for one run, which has them all."""
    if at_once == 1:
        return None
    return max(int(min(found.num_cores, found.quota or found.num_cores)) // at_once, 1)
