"""Measures whole training steps, pixels to update, on this machine's CPU or GPU: ours beside what others would run.

    python -m benchmarks.trainer_step                                         # cpu,cpu, full-size network, batch 128
    python -m benchmarks.trainer_step --devices cuda:0,cuda:0 --batch-size 128,1024 --rounds 20
    python -m benchmarks.trainer_step --devices cuda:0,cuda:0 --only default --profile

Every row takes its turn in each round, so that a slow minute of the machine slows all of them. The ratio is that of the
best rounds, which other work on the machine disturbs least. ``--profile`` prints a step's kernels by time instead.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `python -m trainer` has it

import numpy as np
import torch
from torch import Tensor, nn

from trainer.checkpoint.state import TrainingState
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch
from trainer.devices import devices_of_rank, precision_on
from trainer.network import fused, lrn
from trainer.network.architecture import Ablation, resolve
from trainer.network.columns import BatchSlice, TwoColumns
from trainer.network.merged import MergedColumns
from trainer.optimizer import PaperUpdate
from trainer.ranks import Ranks
from trainer.recipes import recipe_named
from trainer.recipes.recipe import CrossMapNorm, RecipeName
from trainer.recipes.schedule import ScheduleState, rates_at
from trainer.step import ColumnsStep, step_for

STEPS_AHEAD = 4
"""Steps before the first round: compiling, allocating, recording."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to take the step."""

    name: str
    how: str = "columns"
    """``default``: as ``train`` takes it; ``columns``; ``merged``: of torch's parts alone; or ``torchvision``'s."""
    recipe: RecipeName | None = None
    norm: str = "ours"
    bfloat16: bool = False
    maps_last: bool = True
    compiled: bool = False


ROWS = (
    Row(name="default", how="default"),
    Row(name="default, recipe paper", how="default", recipe="paper"),
    Row(name="columns, float32"),
    Row(name="columns, float32, maps outermost", maps_last=False),
    Row(name="columns, torch's LRN", norm="torch"),
    Row(name="columns, LRN as an expression", norm="expression"),
    Row(name="columns, no LRN", norm="none"),
    Row(name="columns, bfloat16", bfloat16=True),
    Row(name="columns, bfloat16, no LRN", norm="none", bfloat16=True),
    Row(name="columns, bfloat16, compiled", bfloat16=True, compiled=True),
    Row(name="merged, torch's LRN, bfloat16", how="merged", recipe="paper", bfloat16=True),
    Row(name="merged, torch's LRN, bfloat16, compiled", how="merged", recipe="paper", bfloat16=True, compiled=True),
    Row(name="torchvision's alexnet, float32", how="torchvision"),
    Row(name="torchvision's alexnet, bfloat16", how="torchvision", bfloat16=True),
)


def torch_norm(a: Tensor, norm: CrossMapNorm, *, relu: bool = False, **_: Any) -> Tensor:
    a = torch.relu(a) if relu else a
    return nn.functional.local_response_norm(a, norm.num_maps, norm.alpha * norm.num_maps, norm.beta, norm.k)


def expression_norm(a: Tensor, norm: CrossMapNorm, *, relu: bool = False, **_: Any) -> Tensor:
    a = torch.relu(a) if relu else a
    num_maps, reach = a.shape[1], norm.num_maps // 2
    squares = nn.functional.pad(a * a, (0, 0, 0, 0, reach, reach))
    total = squares[:, :num_maps]
    for shift in range(1, norm.num_maps):
        total = total + squares[:, shift : shift + num_maps]
    root = (norm.k + norm.alpha * total).rsqrt()
    return a * root * root.sqrt()


NORMS = {"torch": torch_norm, "expression": expression_norm}


def make_step(row: Row, options: argparse.Namespace, batch_size: int) -> Callable[[], None]:
    """What takes one step of ``row`` when called; it does not wait for the device."""
    devices = devices_of_rank(options.devices.split(","), 0)
    batch = drawn_batch(devices, batch_size, options.crop)
    recipe = recipe_named(row.recipe or options.recipe)
    if row.how == "torchvision":
        import torchvision  # type: ignore[import-not-found]

        network = torchvision.models.alexnet(num_classes=1000).to(devices[0])
        return _module_step(network, row, batch, options.crop)
    architecture = resolve(
        recipe, crop=options.crop, num_classes=1000, width=options.width, ablation=Ablation(lrn=row.norm != "none")
    )
    network = TwoColumns(architecture, devices)
    if row.how == "merged":
        return _module_step(_MergedModule(network), row, batch, options.crop)
    if row.maps_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if row.compiled:
        network.compile_columns()
    state = TrainingState(
        network=network,
        update=PaperUpdate(network.named_parameters(), recipe),
        schedule=ScheduleState(),
        epoch_sums=torch.zeros(4, dtype=torch.float64, device=devices[0]),
    )
    mean = np.full((options.crop, options.crop, 3), 120, np.float32)
    centring = Centring(mean, options.crop, devices, channels_last=row.maps_last)
    is_bfloat16 = precision_on(devices[0]) == "bfloat16" if row.how == "default" else row.bfloat16
    precision = torch.bfloat16 if is_bfloat16 else torch.float32
    make = step_for if row.how == "default" else ColumnsStep
    step = make(state, centring, Ranks(), batch_size=batch_size, precision=precision)
    rates = rates_at(recipe, 0, ScheduleState())
    return _with_norm(row.norm, lambda: step.take(batch, 1.0, rates))


def drawn_batch(devices: tuple[torch.device, ...], batch_size: int, crop: int) -> DeviceBatch:
    drawn = np.random.default_rng(0)
    images = torch.from_numpy(drawn.integers(0, 256, (batch_size, crop, crop, 3), np.uint8))
    labels = torch.from_numpy(drawn.integers(0, 1000, batch_size))
    return DeviceBatch(
        epoch=0,
        step=0,
        images={device: images.to(device) for device in devices},
        shifts={device: torch.zeros(batch_size, 3, device=device) for device in devices},
        labels=labels.to(devices[0]),
        indices=torch.arange(batch_size),
    )


class _MergedModule(nn.Module):
    """Both columns as one network of torch's own operations."""

    def __init__(self, network: TwoColumns) -> None:
        super().__init__()
        self.merged = MergedColumns(network, torch.float32)
        setattr(self.merged, "_norms", SimpleNamespace(cross_map_norm=_both_columns))  # noqa: B010
        self.weights = nn.ParameterDict({name.replace(".", "_"): w for name, w in self.merged.working.items()})

    def forward(self, x: Tensor) -> Tensor:
        self.merged.working = {name.replace("_", "."): weight for name, weight in self.weights.items()}
        return self.merged(x, BatchSlice(begin=0, end=len(x), total=len(x)))


def _both_columns(a: Tensor, norm: CrossMapNorm, *, num_columns: int, relu: bool) -> Tensor:
    columns = (torch.relu(a) if relu else a).chunk(num_columns, dim=1)
    return torch.cat([torch_norm(column, norm) for column in columns], dim=1)


def _module_step(module: nn.Module, row: Row, batch: DeviceBatch, crop: int) -> Callable[[], None]:
    (device, images), *_ = batch.images.items()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(module) if row.compiled else module
    update = torch.optim.SGD(module.parameters(), 1e-4, 0.9, weight_decay=5e-4, fused=device.type == "cuda")
    centring = Centring(np.full((crop, crop, 3), 120, np.float32), crop, [device], channels_last=True)

    def take() -> None:
        inputs = centring(images, batch.shifts[device])
        with torch.autocast(device.type, torch.bfloat16, enabled=row.bfloat16):
            scores = forward(inputs)
        nn.functional.cross_entropy(scores.float(), batch.labels).backward()
        update.step()
        update.zero_grad(set_to_none=True)

    return take


def _with_norm(norm: str, take: Callable[[], None]) -> Callable[[], None]:
    if norm not in NORMS:
        return take

    def take_with_norm() -> None:
        with patch.object(lrn, "cross_map_norm", NORMS[norm]), patch.object(fused, "runs_on", lambda device: False):
            take()

    return take_with_norm


def timed(take: Callable[[], None], steps: int) -> float:
    """Seconds a step, over ``steps`` of them."""
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        take()
    wait()
    return (time.perf_counter() - started) / steps


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, *, bfloat16: bool) -> float:
    """Multiply-adds a second of a large product on ``device``: what the step's arithmetic could go at."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)

    def multiply() -> None:
        torch.matmul(a, a)

    multiply()  # the first one chooses its kernel
    return side**3 / min(timed(multiply, 3) for _ in range(3))


def profile(take: Callable[[], None], steps: int = 5) -> str:
    """A table of the kernels of a step, by time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    by = "self_cpu_time_total"
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        by = "self_device_time_total"
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(steps):
            take()
        wait()
    return str(found.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cpu,cpu")
    parser.add_argument("--recipe", default="convnet2012", choices=("paper", "convnet2012"))
    parser.add_argument("--batch-size", default="128", help="one or several, separated by commas")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="steps in a round")
    parser.add_argument("--only", default="", help="names of rows, separated by semicolons")
    parser.add_argument("--compiled", action="store_true", help="also the compiled rows, which take minutes to begin")
    parser.add_argument("--profile", action="store_true", help="print a step's kernels by time instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for batch_size in map(int, options.batch_size.split(",")):
        _measure(options, batch_size)


def _measure(options: argparse.Namespace, batch_size: int) -> None:
    names = [name.strip() for name in options.only.split(";") if name.strip()]
    rows = [row for row in ROWS if (row.name in names if names else options.compiled or not row.compiled)]
    takes: dict[str, Callable[[], None]] = {}
    for row in rows:
        try:
            take = make_step(row, options, batch_size)
            timed(take, STEPS_AHEAD)
        except (ImportError, RuntimeError) as error:
            print(f"{row.name}: left out: {str(error).splitlines()[0][:150]}")
            continue
        takes[row.name] = take
    if options.profile:
        for name, take in takes.items():
            print(f"{name}, batch {batch_size}\n{profile(take)}")
        return
    times: dict[str, list[float]] = {name: [] for name in takes}
    for _ in range(options.rounds):
        for name, take in takes.items():
            times[name].append(timed(take, options.steps))
    best = {name: batch_size / min(taken) for name, taken in times.items()}
    if options.json:
        print(json.dumps({"batch_size": batch_size, "images_per_s": best}))
        return
    device = devices_of_rank(options.devices.split(","), 0)[0]
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    full = resolve(recipe_named(options.recipe), crop=options.crop, num_classes=1000, width=options.width)
    ceiling = matrix_rate(device, bfloat16=precision_on(device) == "bfloat16")
    print(f"torch {torch.__version__}, {options.devices} ({kind}), batch {batch_size}, recipe {options.recipe}")
    print(f"{'':42}     best   median images/s, best against the first's; of the device's matrix rate")
    first = next(iter(best.values()))
    for name, rate in best.items():
        share = 3 * full.multiply_adds * rate / ceiling  # forward, and backward for inputs and for weights
        median = batch_size / statistics.median(times[name])
        print(f"{name:42} {rate:8.1f} {median:8.1f}  {rate / first:5.2f}x  {100 * share:5.1f} %")


if __name__ == "__main__":
    main()
