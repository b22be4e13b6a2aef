"""Measures one training step on this machine's CPU or GPU: each option against torch's LRN and plain float32.

    python benchmarks/trainer_step.py                       # cpu,cpu, full-size network, batch 128
    python benchmarks/trainer_step.py --devices cuda:0,cuda:0 --rounds 20

Every variant takes its turn in each round, so that a slow minute of the machine slows all of them. The ratio is that
of the best rounds, which other work on the machine disturbs least; the medians are shown beside it.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `python -m trainer` has it

import torch
from torch import Tensor, nn

from trainer.network import layers as model
from trainer.network.architecture import Ablation, resolve
from trainer.network.columns import TwoColumns
from trainer.network.lrn import cross_map_norm
from trainer.optimizer import PaperUpdate
from trainer.recipes import CrossMapNorm, recipe_named
from trainer.recipes.schedule import ScheduleState, rates_at


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to take the same step."""

    name: str
    norm: str = "ours"
    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False


VARIANTS = (
    Variant(name="torch.nn.LocalResponseNorm", norm="torch"),
    Variant(name="a plain expression, autograd", norm="expression"),
    Variant(name="ours"),
    Variant(name="no LRN at all", norm="none"),
    Variant(name="ours, channels_last", channels_last=True),
    Variant(name="ours, bfloat16", bfloat16=True),
    Variant(name="ours, bfloat16, channels_last", bfloat16=True, channels_last=True),
    Variant(name="ours, compiled", compiled=True),
    Variant(name="compiled expression", norm="expression", compiled=True),
    Variant(name="compiled expression, channels_last", norm="expression", compiled=True, channels_last=True),
)


def torch_norm(a: Tensor, norm: CrossMapNorm) -> Tensor:
    return nn.functional.local_response_norm(a, norm.num_maps, norm.alpha * norm.num_maps, norm.beta, norm.k)


def expression_norm(a: Tensor, norm: CrossMapNorm) -> Tensor:
    num_maps, reach = a.shape[1], norm.num_maps // 2
    squares = nn.functional.pad(a * a, (0, 0, 0, 0, reach, reach))
    total = squares[:, :num_maps]
    for shift in range(1, norm.num_maps):
        total = total + squares[:, shift : shift + num_maps]
    root = (norm.k + norm.alpha * total).rsqrt()
    return a * root * root.sqrt()


NORMS: dict[str, Callable[[Tensor, CrossMapNorm], Tensor]] = {
    "torch": torch_norm,
    "expression": expression_norm,
    "ours": cross_map_norm,
    "none": cross_map_norm,
}


class Step:
    """A network, its update, and a batch, ready to be timed."""

    def __init__(self, variant: Variant, arguments: argparse.Namespace) -> None:
        self.variant = variant
        recipe = recipe_named(arguments.recipe)
        architecture = resolve(
            recipe,
            crop=arguments.crop,
            num_classes=1000,
            width=arguments.width,
            ablation=Ablation(lrn=variant.norm != "none"),
        )
        self.devices = tuple(torch.device(name) for name in arguments.devices.split(","))
        self.network = TwoColumns(architecture, self.devices)
        if variant.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if variant.compiled:
            self.network.compile_columns()
        self.update = PaperUpdate(self.network.named_parameters(), recipe)
        self.rates = rates_at(recipe, 0, ScheduleState())
        drawn = torch.Generator().manual_seed(0)
        images = 60 * torch.randn(arguments.batch_size, 3, arguments.crop, arguments.crop, generator=drawn)
        if variant.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        self.inputs = [images.to(device) for device in self.devices]
        self.labels = torch.randint(1000, (arguments.batch_size,), generator=drawn).to(self.devices[0])

    def take(self) -> float:
        """One step; its seconds."""
        setattr(model, "cross_map_norm", NORMS[self.variant.norm])  # noqa: B010
        _wait(self.devices)
        started = time.perf_counter()
        with torch.autocast(self.devices[0].type, torch.bfloat16, enabled=self.variant.bfloat16):
            scores = self.network(self.inputs)
        nn.functional.cross_entropy(scores.float(), self.labels).backward()
        self.update.step(self.rates)
        self.network.zero_grad(set_to_none=True)
        _wait(self.devices)
        return time.perf_counter() - started


def _wait(devices: tuple[torch.device, ...]) -> None:
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cpu,cpu")
    parser.add_argument("--recipe", default="paper", choices=("paper", "convnet2012"))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="comma-separated places in the list of variants")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = [VARIANTS[int(place)] for place in arguments.only.split(",")] if arguments.only else list(VARIANTS)
    steps = [Step(variant, arguments) for variant in chosen]
    for step in steps:
        step.take()  # compiles, allocates, warms up
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(arguments.rounds):
        for step, taken in zip(steps, times, strict=True):
            taken.append(step.take())
    bests = [min(taken) for taken in times]
    if arguments.json:
        print(json.dumps({s.variant.name: arguments.batch_size / m for s, m in zip(steps, bests, strict=True)}))
        return
    print(f"{torch.__version__}, {arguments.devices}, {torch.get_num_threads()} threads, batch {arguments.batch_size}")
    print(f"{'':36}     best   median images/s, best against the first's")
    for step, taken, best in zip(steps, times, bests, strict=True):
        median = statistics.median(taken)
        rates = f"{arguments.batch_size / best:8.1f} {arguments.batch_size / median:8.1f}"
        print(f"{step.variant.name:36} {rates}  {bests[0] / best:5.2f}x")


if __name__ == "__main__":
    main()
