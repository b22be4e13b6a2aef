"""One step of training: pixels in, two columns forward and backward, the paper's update. No line waits for a device."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from commandline import one_line, write_line
from trainer.checkpoint.state import TrainingState
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch
from trainer.evaluate import tally
from trainer.network import fused
from trainer.network.columns import BatchSlice
from trainer.network.merged import MergedColumns, can_merge
from trainer.ranks import Ranks
from trainer.recipes.schedule import Rates

RECORDED_AFTER = 3
"""Steps launched kernel by kernel before they are recorded: libraries choose and allocate in the first ones."""


class Step(Protocol):
    """Moves a ``TrainingState`` on by one batch: weights, velocities, dropout's generators and the epoch's sums."""

    def take(self, batch: DeviceBatch, divisor: float, rates: Rates) -> None:
        """``divisor`` is 1 + the colour deviation in the 2012 recipe while it trains with noise."""

    def refresh(self) -> None:
        """To be called when the state was changed by something else."""


def step_for(
    state: TrainingState, centring: Centring, ranks: Ranks, *, batch_size: int, precision: torch.dtype
) -> Step:
    """The fastest step for the network's devices."""
    network = state.network
    is_one = len(set(network.devices)) == 1 and ranks.world_size == 1
    if is_one and fused.runs_on(network.devices[0]) and can_merge(network.architecture):
        torch.backends.cudnn.benchmark = True  # the shapes never change
        return FusedStep(state, centring, batch_size=batch_size, precision=precision)
    return ColumnsStep(state, centring, ranks, batch_size=batch_size, precision=precision)


class ColumnsStep:
    """Column by column, wherever they are: the way of CPUs, of two devices and of several ranks."""

    def __init__(
        self, state: TrainingState, centring: Centring, ranks: Ranks, *, batch_size: int, precision: torch.dtype
    ) -> None:
        self._state, self._centring, self._ranks = state, centring, ranks
        self._batch_size, self._precision = batch_size, precision

    def take(self, batch: DeviceBatch, divisor: float, rates: Rates) -> None:
        state, network = self._state, self._state.network
        inputs = {d: self._centring(batch.images[d], batch.shifts[d], divisor) for d in batch.images}
        with torch.autocast(network.devices[0].type, self._precision, enabled=self._precision != torch.float32):
            scores = network([inputs[d] for d in network.devices], self._ranks.rows(self._batch_size))
        scores = scores.float()
        loss = torch.nn.functional.cross_entropy(scores, batch.labels, reduction="sum")
        (loss / self._batch_size).backward()  # type: ignore[no-untyped-call]
        self._ranks.sum_gradients(network.parameters())
        state.update.step(rates)
        network.zero_grad(set_to_none=True)
        state.epoch_sums += tally(scores.detach(), batch.labels, loss.detach())

    def refresh(self) -> None:
        pass


class FusedStep:
    """Both columns as one network on one GPU, with fused norms and update, launched all at once as a CUDA graph.

    The graph reads its batch, rates and divisor from tensors of its own. Its kernels are those of a step that is not
    recorded, in the same order: results are the same bits, and dropout's generators move on as they do there.
    """

    def __init__(self, state: TrainingState, centring: Centring, *, batch_size: int, precision: torch.dtype) -> None:
        self._state, self._centring, self._precision = state, centring, precision
        self._network = MergedColumns(state.network, precision)
        self._device = state.network.devices[0]
        self._rows = BatchSlice(begin=0, end=batch_size, total=batch_size)
        self._batch: dict[str, Tensor] = {}
        self._numbers: dict[str, tuple[float, Tensor]] = {}
        self._launch: Callable[[], None] = self._compute
        self._num_taken = 0

    def take(self, batch: DeviceBatch, divisor: float, rates: Rates) -> None:
        self._set(divisor=divisor, **vars(rates))
        values = {"images": batch.images[self._device], "shifts": batch.shifts[self._device], "labels": batch.labels}
        if not self._batch:
            self._batch = {name: torch.empty_like(value) for name, value in values.items()}
        for name, value in values.items():
            self._batch[name].copy_(value)
        if self._num_taken == RECORDED_AFTER and self._device.type == "cuda":
            self._launch = _recorded(self._compute, self._state.network.generators)
        self._launch()
        self._num_taken += 1

    def refresh(self) -> None:
        self._network.refresh()

    def _set(self, **numbers: float) -> None:
        """Puts numbers where the kernels read them, on the device, when they change."""
        for name, number in numbers.items():
            known, tensor = self._numbers.get(name) or (None, torch.empty((), device=self._device))
            if known != number:
                self._numbers[name] = number, tensor.fill_(number)

    def _compute(self) -> None:
        state, network, labels = self._state, self._network, self._batch["labels"]
        inputs = fused.centred(
            self._batch["images"],
            self._centring.mean_on(self._device),
            self._batch["shifts"],
            self._numbers["divisor"][1],
            self._precision,
        )
        scores = network(inputs, self._rows).float()
        loss = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
        gradients = torch.autograd.grad(loss / self._rows.total, list(network.working.values()))
        by_name = dict(zip(network.working, gradients, strict=True))
        for parameter in state.update.parameters:
            name, rows = network.parts[parameter.name]
            fused.update(
                parameter.weight,
                parameter.velocity,
                by_name[name][rows],
                network.working[name].detach()[rows],
                rate=self._numbers[parameter.kind][1],
                momentum=state.update.momentum,
                decay=parameter.decay,
            )
        state.epoch_sums += tally(scores.detach(), labels, loss.detach())


def _recorded(compute: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """What launches all of ``compute``'s kernels at once; ``compute`` itself, with a warning, where that cannot be."""
    graph = torch.cuda.CUDAGraph()
    try:
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the feed's thread goes on allocating
            compute()
    except RuntimeError as error:
        write_line(f"WARNING: the step is launched kernel by kernel, which is slower: {one_line(error)[:200]}")
        return compute
    return graph.replay
