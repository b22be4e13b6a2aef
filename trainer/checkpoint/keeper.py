"""When a run saves, what it keeps, and where it continues from."""

import time
from pathlib import Path

import torch

from commandline import write_line
from trainer.checkpoint import files as checkpoint
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.checkpoint.state import TrainingState
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.ranks import Ranks


class Keeper:
    """Owns a run's checkpoint folder. Only the leading rank writes; all ranks must call :meth:`save` together."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        identity: checkpoint.Identity,
        plan: NetworkPlan,
        state: TrainingState,
        ranks: Ranks,
    ) -> None:
        self._config, self._run_dir = config, run_dir
        self._identity, self._plan, self._state, self._ranks = identity, plan, state, ranks
        self._saved_at = time.monotonic()
        self._saved_step = 0

    def resume(self) -> None:
        """Restores the state as ``--resume`` says. Raises TrainerError when that cannot be."""
        how = self._config.resume
        if how == "auto":
            found = checkpoint.newest(self._run_dir)
        elif how == "never":
            found = None
            if checkpoint.numbered(self._run_dir) and self._ranks.leads:
                raise TrainerError(
                    f"{self._run_dir} holds checkpoints: continue them with --resume auto, or choose another --run-dir"
                )
        else:
            path = checkpoint.find(Path(how))
            found = path, checkpoint.load(path)
        if found is None:
            return
        path, snapshot = found
        checkpoint.refuse_mismatch(path, snapshot.identity, self._identity)
        self._state.restore(snapshot, keep_sums=self._ranks.leads)
        self._saved_step = self._state.global_step
        if self._ranks.leads:
            write_line(f"continuing from {path}: epoch {self._state.epoch}, step {self._state.step}")

    def is_due(self) -> bool:
        """Whether steps or minutes since the last save ask for one."""
        every = self._config.checkpoint_steps
        if every is not None and self._state.global_step % every == 0:
            return True
        return time.monotonic() - self._saved_at > self._config.checkpoint_interval_s

    def save(self, *, best: bool = False) -> None:
        """Saves, also as the best if ``best``, and removes what is too old."""
        state = self._state
        if self._ranks.world_size > 1:
            # Every rank holds the same weights, but only its share of the sums.
            sums = self._ranks.sum(state.epoch_sums).to(state.epoch_sums.device)
            state.epoch_sums = sums if self._ranks.leads else torch.zeros_like(sums)
        self._saved_at, self._saved_step = time.monotonic(), state.global_step
        if not self._ranks.leads:
            return
        snapshot = state.snapshot(self._identity, self._plan)
        checkpoint.save(snapshot, checkpoint.path_of(self._run_dir, state.global_step))
        if best:
            checkpoint.save(snapshot, checkpoint.folder_of(self._run_dir) / checkpoint.BEST_NAME)
        checkpoint.remove_old(self._run_dir, self._config.keep)

    def save_new(self) -> None:
        """Saves if steps have been taken since the last save."""
        if self._saved_step != self._state.global_step:
            self.save()

    def save_alone(self) -> str:
        """After a failure: saves what is new if there are no other ranks to ask, and says what there is."""
        if self._ranks.world_size == 1:
            self.save_new()
        return last_saved(self._run_dir)


def last_saved(run_dir: Path) -> str:
    """Where a run can continue, in words."""
    paths = checkpoint.numbered(run_dir)
    if not paths:
        return "no checkpoint had been written yet"
    return f"the last checkpoint is {paths[0]}; continue with --resume auto"
