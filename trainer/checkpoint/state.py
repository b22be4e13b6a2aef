"""What a training step changes, and how it becomes a checkpoint and comes back."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from commandline import one_line
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.checkpoint.snapshot import Identity, Snapshot, all_finite
from trainer.data.consumed import ConsumedDigest
from trainer.errors import CheckpointError, DivergedError
from trainer.network.columns import TwoColumns
from trainer.optimizer import PaperUpdate
from trainer.recipes.schedule import ScheduleState


@dataclass(kw_only=True)
class TrainingState:
    """One process's state. ``step`` equal to the steps of an epoch means: trained, not yet validated."""

    network: TwoColumns
    update: PaperUpdate
    schedule: ScheduleState
    epoch_sums: Tensor
    """float64 [4] on the first device: loss, top-1 errors, top-5 errors, images of this rank in the epoch so far."""
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    validation: dict[str, float] | None = None
    consumed: ConsumedDigest | None = None
    """Digest of the stream so far; None where it is not kept: several ranks, or a checkpoint that had none."""

    @property
    def place(self) -> str:
        """The next step, in words."""
        return f"epoch {self.epoch}, step {self.step}"

    def snapshot(self, identity: Identity, plan: NetworkPlan) -> Snapshot:
        """A copy on the CPU; waits for the devices. Raises DivergedError when a number in it is not finite."""
        self.check()
        return Snapshot(
            identity=identity,
            epoch=self.epoch,
            step=self.step,
            global_step=self.global_step,
            weights={name: _copied(value) for name, value in self.network.state_dict().items()},
            velocities={name: _copied(value) for name, value in self.update.velocities.items()},
            generators=self.network.generator_states(),
            schedule=self.schedule,
            epoch_sums=_copied(self.epoch_sums),
            network=plan.to_plain(),
            validation=self.validation,
            consumed=None if self.consumed is None else self.consumed.to_plain(),
        )

    def check(self) -> None:
        """Raises DivergedError unless everything that would be saved is finite; waits for the devices."""
        if not all_finite([self.epoch_sums, *self.network.state_dict().values(), *self.update.velocities.values()]):
            raise DivergedError(f"the weights are no longer finite numbers at {self.place}")

    def restore(self, snapshot: Snapshot, path: Path, *, step: int, keep_sums: bool) -> None:
        """Continues from ``snapshot`` at ``step``; of several ranks one keeps the sums, the others begin at 0.

        Raises CheckpointError when the snapshot, read from ``path``, does not fit this network.
        """
        try:
            self.network.load_state_dict(snapshot.weights)
            self.update.load(snapshot.velocities)
            self.network.set_generator_states(snapshot.generators)
            self.epoch_sums.copy_(snapshot.epoch_sums if keep_sums else torch.zeros(4))
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: does not fit this network ({one_line(error)[:200]})") from None
        self.schedule = snapshot.schedule
        self.epoch, self.step, self.global_step = snapshot.epoch, step, snapshot.global_step
        self.validation = snapshot.validation
        if self.consumed is not None:
            self.consumed = None if snapshot.consumed is None else ConsumedDigest.from_plain(snapshot.consumed)


def _copied(tensor: Tensor) -> Tensor:
    """On the CPU, and not the tensor itself, which training goes on to change."""
    return tensor.detach().to("cpu", copy=True)
