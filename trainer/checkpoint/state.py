"""What a training step changes, and how it becomes a checkpoint and comes back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.checkpoint.files import Identity, Snapshot
from trainer.checkpoint.saved_network import NetworkPlan
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

    def snapshot(self, identity: Identity, plan: NetworkPlan) -> Snapshot:
        """A copy on the CPU; waits for the devices."""
        return Snapshot(
            identity=identity,
            epoch=self.epoch,
            step=self.step,
            global_step=self.global_step,
            weights={name: value.detach().cpu() for name, value in self.network.state_dict().items()},
            velocities={name: value.cpu() for name, value in self.update.velocities.items()},
            generators=self.network.generator_states(),
            schedule=self.schedule,
            epoch_sums=self.epoch_sums.cpu(),
            network=plan.to_plain(),
            validation=self.validation,
        )

    def restore(self, snapshot: Snapshot, *, keep_sums: bool) -> None:
        """Continues from ``snapshot``; of several ranks one keeps the sums, the others begin at 0."""
        self.network.load_state_dict(snapshot.weights)
        self.update.load(snapshot.velocities)
        self.network.set_generator_states(snapshot.generators)
        self.schedule = snapshot.schedule
        self.epoch, self.step, self.global_step = snapshot.epoch, snapshot.step, snapshot.global_step
        self.epoch_sums.copy_(snapshot.epoch_sums if keep_sums else torch.zeros(4))
        self.validation = snapshot.validation
