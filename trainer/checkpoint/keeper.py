"""When a run saves, what it keeps, and where it continues from."""

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Self

import torch

from commandline import write_line
from commandline.files import atomic_file, link_whole, naming, remove_leftovers, sync
from trainer.checkpoint import folder
from trainer.checkpoint.background import Background
from trainer.checkpoint.identity import compare, step_of
from trainer.checkpoint.saved_network import NetworkPlan, plan_of
from trainer.checkpoint.snapshot import Identity, Snapshot, load, save
from trainer.checkpoint.state import TrainingState
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.ranks import Ranks, digest_of
from trainer.recipes.schedule import has_ended


class Keeper:
    """Owns a run's checkpoint folder, whose lock the run holds. Only the leading rank writes, beside training; all
    ranks must call :meth:`save` together.
    """

    def __init__(
        self,
        config: TrainConfig,
        identity: Identity,
        plan: NetworkPlan,
        state: TrainingState,
        ranks: Ranks,
        *,
        num_images: int,
        history: Path,
    ) -> None:
        """``history``: the file of the run's metrics, which reach the disk before the checkpoint after them does."""
        self._config, self._run_dir, self._history = config, config.run_dir, history
        self._identity, self._plan, self._state, self._ranks = identity, plan, state, ranks
        self._num_images = num_images
        self._writing = Background()
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._owes_a_save = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the save under way, but for a second Ctrl-C; its failure matters unless there is one already."""
        if kind is None:
            self._writing.finish()
        elif kind is not KeyboardInterrupt:
            with contextlib.suppress(OSError):
                self._writing.finish()

    def resume(self) -> Path | None:
        """Restores the state as ``--resume`` says, the same on all ranks; returns the checkpoint that it continues.

        Checkpoints that the run does not continue from are set aside, with a copy of the history. Raises TrainerError
        when that cannot be.
        """
        chosen = self._ranks.decide(self._choose)
        path = None if chosen is None else Path(chosen)
        problem = ""
        if path is not None:
            try:
                changed, is_best = self._restore(path)
            except TrainerError as error:
                problem = str(error)
                if self._ranks.world_size == 1:
                    raise
        state = self._state
        digest = digest_of(state.network.state_dict().values()) if self._ranks.world_size > 1 else ""
        self._ranks.expect_same(
            f"cannot continue: {problem}" if problem else f"continues at {state.place} with weights {digest}"
        )
        if problem:
            raise TrainerError(problem)
        self._saved_step = state.global_step
        if path is None or not self._ranks.leads:
            return path
        write_line(f"continuing from {path}: {state.place}")
        if changed:
            write_line(f"changed since that checkpoint: {', '.join(changed)}")
        strangers = folder.strangers(self._run_dir, path, state.global_step)
        if strangers:
            branch = folder.set_aside(self._run_dir, strangers)
            if self._history.is_file():
                with atomic_file(branch / self._history.name) as temporary:
                    shutil.copy2(self._history, temporary)
            names = ", ".join(stranger.name for stranger in strangers)
            write_line(f"set aside in {branch}, since this run does not continue from them: {names}")
        if is_best:  # the power may have failed before it had that name
            link_whole(path, folder.best_of(self._run_dir))
        return path

    def is_due(self) -> bool:
        """Whether steps or time since the last save ask for one. Raises OSError when the last one has failed."""
        self._writing.check()
        if self._saved_step == self._state.global_step:
            return False
        every = self._config.checkpoint_steps
        if every is not None and self._state.global_step % every == 0:
            return True
        late = self._owes_a_save or time.monotonic() - self._saved_at > self._config.checkpoint_interval_s
        return late and not self._writing.is_busy

    def save(self, *, best: bool = False, waits: bool = True) -> None:
        """Begins to save, also as the best if ``best``, and to remove what is too old.

        While the save before is under way, waits for it; or, unless ``best``, leaves it to a later step if ``waits`` is
        False. Raises DivergedError when the state is not finite, and OSError when the save before has failed.
        """
        state = self._state
        if self._ranks.world_size > 1:
            # Every rank holds the same weights, but only its share of the sums.
            sums = self._ranks.sum(state.epoch_sums)
            state.epoch_sums.copy_(sums if self._ranks.leads else torch.zeros_like(sums))
        may_wait = waits or best
        self._owes_a_save = not may_wait and self._ranks.decide(lambda: self._writing.is_busy)
        if self._owes_a_save:
            return
        self._saved_at, self._saved_step = time.monotonic(), state.global_step
        if self._ranks.leads:
            snapshot = state.snapshot(self._identity, self._plan)
            best = best or (state.validation is not None and state.step == 0 and not self._has_best())
            self._writing.start(lambda: self._write(dataclasses.replace(snapshot, is_best=best)))

    def save_new(self) -> None:
        """Saves if steps have been taken since the last save, and returns when everything is on the disk."""
        if self._saved_step != self._state.global_step or self._owes_a_save:
            self.save()
        self._writing.finish()

    def _has_best(self) -> bool:
        return folder.best_of(self._run_dir).is_file()

    def _choose(self) -> str | None:
        """On the leading rank: the checkpoint to continue from, which is whole and of this run; None to begin."""
        how, run_dir = self._config.resume, self._run_dir
        remove_leftovers(folder.folder_of(run_dir))
        remove_leftovers(run_dir)
        if how == "auto":
            found = folder.newest(run_dir)
            return None if found is None else str(found[0])
        if how != "never":
            return str(folder.find(Path(how)))
        if folder.numbered(run_dir) or self._has_best():
            raise TrainerError(
                f"{run_dir} holds checkpoints: continue them with --resume auto, or choose another --run-dir"
            )
        return None

    def _restore(self, path: Path) -> tuple[list[str], bool]:
        """Continues from ``path``; returns the options that have changed since, and whether it is its run's best."""
        snapshot, state = load(path), self._state
        plan_of(snapshot, path)  # what evaluate and the others will build of it
        changed = compare(path, snapshot.identity, self._identity)
        if "--precision" in changed and self._config.precision == "auto":
            before, here = snapshot.identity["precision"], self._identity["precision"]
            raise TrainerError(f"{path} was trained in {before}, and this device would choose {here}: give --precision")
        step = step_of(snapshot, path, batch_size=self._config.batch_size, num_images=self._num_images)
        state.restore(snapshot, path, step=step, keep_sums=self._ranks.leads)
        ended = has_ended(self._config.resolved_recipe, state.epoch, state.schedule)
        state.schedule = dataclasses.replace(state.schedule, finished=ended)
        return changed, snapshot.is_best

    def _write(self, snapshot: Snapshot) -> None:
        path = folder.path_of(self._run_dir, snapshot.global_step)
        with naming(self._history):
            sync(self._history)  # whoever continues takes no step before the checkpoint again
        save(snapshot, path)
        if snapshot.is_best:
            link_whole(path, folder.best_of(self._run_dir))
        folder.remove_old(self._run_dir, self._config.keep, path)


def last_saved(run_dir: Path) -> str:
    """Where a run can continue, in words."""
    paths = folder.numbered(run_dir)
    if not paths:
        return "no checkpoint had been written yet"
    return f"the last checkpoint is {paths[0]}; continue with --resume auto"
