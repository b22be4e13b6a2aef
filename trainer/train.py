"""The training loop: batches in, two columns forward and backward, the paper's update. Read this file first."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from commandline import Progress, write_line
from loader_service.client import LoaderClient
from loader_service.errors import LoaderError
from loader_service.wire import Description
from trainer import checkpoint
from trainer.charts import write_curve
from trainer.columns import TwoColumns
from trainer.config import TrainConfig
from trainer.describe import describe_architecture, describe_run
from trainer.errors import DeviceError, DivergedError, TrainerError
from trainer.evaluate import Evaluation, evaluate
from trainer.feed import DeviceBatch, Feed, allocator
from trainer.identity import identity_of
from trainer.inputs import Centring
from trainer.metrics import EpochPoint, MetricsWriter, TrainPoint
from trainer.optimizer import PaperUpdate
from trainer.ranks import Ranks, devices_of_rank, join_ranks, leave_ranks, local_rank
from trainer.saved_network import NetworkPlan
from trainer.schedule import ScheduleState, after_epoch, colour_phases, rates_at
from trainer.starvation import StarvationWatch
from trainer.stopping import StopRequests


def train(config: TrainConfig) -> int:
    """Runs ``train``: returns the exit code, 0 when the schedule has ended, 130 or 143 when a signal stopped it."""
    if config.describe:
        print(describe_run(config))
        return 0
    try:
        devices = devices_of_rank(config.devices, local_rank(), 1 if config.columns == "one" else 2)
    except ValueError as error:
        raise DeviceError(str(error)) from None
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    ranks = join_ranks(devices)
    try:
        with LoaderClient(config.target, config.client_options) as client, StopRequests() as stop:
            run = Run(config, client, devices, ranks, stop)
            return run.go()
    finally:
        leave_ranks(ranks)


class Run:
    """One process's training run: the state that a step changes, and what happens between steps."""

    def __init__(
        self,
        config: TrainConfig,
        client: LoaderClient,
        devices: tuple[torch.device, ...],
        ranks: Ranks,
        stop: StopRequests,
    ) -> None:
        assert config.run_dir is not None
        self.config, self.client, self.ranks, self.stop = config, client, ranks, stop
        self.run_dir: Path = config.run_dir
        self.recipe = config.resolved_recipe
        self.description = client.describe()
        self.plan = _plan(config, self.description)
        self.steps_per_epoch = config.stream_spec(self.plan.crop, 0.0, 0, 1).num_steps(
            self.description.splits[config.split]
        )
        architecture = self.plan.architecture()
        self.network = TwoColumns(architecture, devices, init=config.init, seed=config.seed)
        if config.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile:
            self.network.compile_columns()
        self.centring = Centring(
            self.description.mean_image, self.plan.crop, devices, channels_last=config.channels_last
        )
        self.update = PaperUpdate(self.network.named_parameters(), self.recipe)
        self.schedule = ScheduleState()
        self.epoch, self.step, self.global_step = 0, 0, 0
        self.epoch_sums = torch.zeros(4, dtype=torch.float64, device=devices[0])
        self.validation: dict[str, float] | None = None
        self.identity = identity_of(config, self.plan, self.description)
        self.saved_at, self.saved_step = time.monotonic(), -1

    def go(self) -> int:
        """Trains from the start or the checkpoint to the end of the schedule."""
        self._resume()
        quiet = not self.ranks.leads
        if not quiet:
            write_line(describe_architecture(self.plan.architecture()).splitlines()[-1])
        metrics = None
        with contextlib.ExitStack() as stack:
            if self.ranks.leads:
                metrics = stack.enter_context(
                    MetricsWriter(self.run_dir, from_step=self.global_step, tensorboard=self.config.tensorboard)
                )
            images = self.steps_per_epoch * self.config.batch_size
            self.progress = stack.enter_context(
                Progress(
                    "train",
                    self.recipe.schedule.end_epoch * images,
                    "images",
                    done=self.global_step * self.config.batch_size,
                    quiet=quiet,
                )
            )
            self.metrics = metrics
            try:
                stopped = self._train_epochs()
            except LoaderError as error:
                raise type(error)(f"{error}; {self._save_at_exit()}") from None
            except torch.OutOfMemoryError as error:
                raise DeviceError(f"out of device memory: {error}; {self._last_saved()}") from None
        if stopped:
            return self._finish_stopped()
        if self.ranks.leads:
            self._print_result(write_curve(self.run_dir))
        return 0

    def _train_epochs(self) -> bool:
        """Returns whether a signal ended it."""
        if self.step == self.steps_per_epoch:  # stopped between an epoch's last step and its validation
            self._end_epoch()
        while not self.schedule.finished:
            _, end, colour_std = colour_phases(self.recipe, self.epoch)[0]
            if self._train_phase(end, colour_std):
                return True
        return False

    def _train_phase(self, end_epoch: int, colour_std: float) -> bool:
        """Trains up to ``end_epoch`` from one stream, which has one deviation of the colour draw."""
        spec = self.config.stream_spec(self.plan.crop, colour_std, self.ranks.rank, self.ranks.world_size)
        divisor = 1.0 + colour_std if self.recipe.rescale_after_colour and self.config.augment else 1.0
        stream = self.client.stream(
            spec,
            epoch=self.epoch,
            step=self.step,
            num_epochs=end_epoch - self.epoch,
            allocate=allocator(self.network.devices),
        )
        interrupted = (lambda: self.stop.requested) if self.ranks.world_size == 1 else (lambda: False)
        with stream, Feed(stream, self.network.devices, interrupted=interrupted) as feed:
            watch = StarvationWatch(self.config.batch_size, len(self.config.target))
            points = _Interval(self)
            for batch in points.timed(feed):
                assert (batch.epoch, batch.step) == (self.epoch, self.step), "the stream lost its place"
                self._take_step(batch, divisor)
                ends_epoch = self.step == self.steps_per_epoch
                if ends_epoch or self.global_step % self.config.log_steps == 0:
                    point = points.report()
                    if self.ranks.leads:
                        watch.look(point.data_wait, point.images_per_s)
                stop, save = self.ranks.agree(self.stop.requested, self._is_time_to_save())
                if stop:
                    return True
                if ends_epoch:
                    self._end_epoch()
                    points.restart()
                    if self.schedule.finished:
                        break
                elif save:
                    self._save()
            # The stream may also have ended because a signal came while waiting for a batch.
            return self.ranks.agree(self.stop.requested, False)[0]

    def _take_step(self, batch: DeviceBatch, divisor: float) -> None:
        """One update: no line here waits for a device."""
        inputs = {d: self.centring(batch.images[d], batch.shifts[d], divisor) for d in batch.images}
        rows = self.ranks.rows(self.config.batch_size)
        device_type = self.network.devices[0].type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            scores = self.network([inputs[device] for device in self.network.devices], rows)
        scores = scores.float()
        loss = torch.nn.functional.cross_entropy(scores, batch.labels, reduction="sum")
        (loss / self.config.batch_size).backward()  # type: ignore[no-untyped-call]
        self.ranks.sum_gradients(self.network.parameters())
        self.update.step(rates_at(self.recipe, self.epoch, self.schedule))
        self.network.zero_grad(set_to_none=True)
        self.epoch_sums += _sums(scores.detach(), batch.labels, loss.detach())
        self.step += 1
        self.global_step += 1

    def _end_epoch(self) -> None:
        """Validates, moves the schedule and the position on, and saves."""
        loss, top1, top5, count = self.ranks.sum(self.epoch_sums).tolist()
        result = self._validate()
        error = top1 / count if result is None else result.top1_error
        is_best = self.schedule.best_error is None or error < self.schedule.best_error
        rate = rates_at(self.recipe, self.epoch, self.schedule).weight
        self.schedule = after_epoch(self.recipe, self.epoch, self.schedule, error)
        point = EpochPoint(
            epoch=self.epoch,
            global_step=self.global_step,
            train_loss=loss / count,
            train_top1_error=top1 / count,
            train_top5_error=top5 / count,
            rate=rate,
            validation_loss=None if result is None else result.loss,
            validation_top1_error=None if result is None else result.top1_error,
            validation_top5_error=None if result is None else result.top5_error,
        )
        if self.metrics is not None:
            self.metrics.write(point)
        if result is not None:
            self.validation = {
                "loss": result.loss,
                "top1_error": result.top1_error,
                "top5_error": result.top5_error,
            }
        self.epoch, self.step = self.epoch + 1, 0
        self.epoch_sums.zero_()
        self._save(best=is_best)

    def _validate(self) -> Evaluation | None:
        split = self.config.validation_split
        if split is None or not self.description.splits.get(split):
            return None
        return evaluate(
            [self.network],
            self.centring,
            self.client,
            split=split,
            crops="centre",
            crop=self.plan.crop,
            batch_size=min(self.config.batch_size, 128),
            ranks=self.ranks,
        )

    def _is_time_to_save(self) -> bool:
        every = self.config.checkpoint_steps
        if every is not None and self.global_step % every == 0:
            return True
        return time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes

    def _snapshot(self) -> checkpoint.Snapshot:
        return checkpoint.Snapshot(
            identity=self.identity,
            epoch=self.epoch,
            step=self.step,
            global_step=self.global_step,
            weights={name: value.detach().cpu() for name, value in self.network.state_dict().items()},
            velocities={name: value.cpu() for name, value in self.update.velocities.items()},
            generators=self.network.generator_states(),
            schedule=self.schedule,
            epoch_sums=self.epoch_sums.cpu(),
            network=self.plan.to_plain(),
            validation=self.validation,
        )

    def _save(self, *, best: bool = False) -> None:
        if self.ranks.world_size > 1:
            # Every rank holds the same weights, but only its share of the sums.
            sums = self.ranks.sum(self.epoch_sums).to(self.epoch_sums.device)
            self.epoch_sums = sums if self.ranks.leads else torch.zeros_like(sums)
        self.saved_at, self.saved_step = time.monotonic(), self.global_step
        if not self.ranks.leads:
            return
        snapshot = self._snapshot()
        checkpoint.save(snapshot, checkpoint.path_of(self.run_dir, self.global_step))
        if best:
            checkpoint.save(snapshot, checkpoint.folder_of(self.run_dir) / checkpoint.BEST_NAME)
        checkpoint.remove_old(self.run_dir, self.config.keep)

    def _save_at_exit(self) -> str:
        """Saves if there is something new, without asking the other ranks; says where the run can continue."""
        if self.ranks.leads and self.ranks.world_size == 1 and self.global_step > max(self.saved_step, 0):
            checkpoint.save(self._snapshot(), checkpoint.path_of(self.run_dir, self.global_step))
            self.saved_step = self.global_step
        return self._last_saved()

    def _last_saved(self) -> str:
        paths = checkpoint.numbered(self.run_dir)
        if not paths:
            return "no checkpoint had been written yet"
        return f"the last checkpoint is {paths[0]}; continue with --resume auto"

    def _finish_stopped(self) -> int:
        if self.saved_step != self.global_step:
            self._save()
        if self.ranks.leads:
            write_curve(self.run_dir)
            write_line(f"stopped at epoch {self.epoch}, step {self.step}: {self._last_saved()}")
        return self.stop.exit_code

    def _resume(self) -> None:
        how = self.config.resume
        if how == "auto":
            found = checkpoint.newest(self.run_dir)
        elif how == "never":
            found = None
            if checkpoint.numbered(self.run_dir) and self.ranks.leads:
                raise TrainerError(
                    f"{self.run_dir} holds checkpoints: continue them with --resume auto, or choose another --run-dir"
                )
        else:
            path = checkpoint.find(Path(how))
            found = path, checkpoint.load(path)
        if found is None:
            return
        path, snapshot = found
        checkpoint.refuse_mismatch(path, snapshot.identity, self.identity)
        self.network.load_state_dict(snapshot.weights)
        self.update.load(snapshot.velocities)
        self.network.set_generator_states(snapshot.generators)
        self.schedule = snapshot.schedule
        self.epoch, self.step, self.global_step = snapshot.epoch, snapshot.step, snapshot.global_step
        if self.ranks.leads:
            self.epoch_sums.copy_(snapshot.epoch_sums)
            write_line(f"continuing from {path}: epoch {self.epoch}, step {self.step}")
        self.validation = snapshot.validation
        self.saved_step = self.global_step
        # A run may be carried on past its old end.
        ends = self.epoch >= self.recipe.schedule.end_epoch
        if not ends and self.schedule.finished and not self.config.needs_validation:
            self.schedule = dataclasses.replace(self.schedule, finished=False)

    def _print_result(self, curve: Path) -> None:
        result = {"epochs": self.epoch, "steps": self.global_step, "curve": str(curve)}
        result |= {f"validation_{name}": value for name, value in (self.validation or {}).items()}
        if self.config.json:
            print(json.dumps(result))
            return
        if self.validation is not None:
            print(
                f"validation: top-1 error {100 * self.validation['top1_error']:.1f} %, "
                f"top-5 error {100 * self.validation['top5_error']:.1f} %, loss {self.validation['loss']:.3f}"
            )
        print(f"loss curve: {curve}")


def _plan(config: TrainConfig, description: Description) -> NetworkPlan:
    crop = config.crop or description.image_side * 7 // 8
    if crop > description.image_side:
        raise TrainerError(f"--crop: expected at most the stored side {description.image_side}, found {crop}")
    if config.split not in description.splits:
        raise TrainerError(f"--split: expected one of {', '.join(description.splits)}, found {config.split!r}")
    if description.splits[config.split] < config.batch_size:
        raise TrainerError(
            f"--batch-size: split {config.split!r} has {description.splits[config.split]} images, "
            f"less than one batch of {config.batch_size}"
        )
    plan = NetworkPlan(
        recipe=config.recipe,
        crop=crop,
        width=config.width,
        ablation=config.ablation,
        classes=description.classes,
        mean_image=description.mean_image,
    )
    try:
        plan.architecture()
    except ValueError as error:
        raise TrainerError(str(error)) from None
    return plan


def _sums(scores: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
    """float64 [4] on the scores' device: loss, top-1 errors, top-5 errors, images."""
    rank = (scores >= scores.gather(1, labels[:, None])).sum(1)
    count = torch.full_like(loss, len(labels))
    return torch.stack([loss, (rank > 1).sum(), (rank > 5).sum(), count]).double()


class _Interval:
    """Times the steps between two points of the metrics, and what of it was waiting for data."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.restart()

    def restart(self) -> None:
        """Begins a new interval here."""
        self._started, self._wait_s = time.monotonic(), 0.0
        self._first_step = self._run.global_step
        self._sums_before = self._run.ranks.sum(self._run.epoch_sums)

    def timed(self, feed: Feed):  # type: ignore[no-untyped-def]
        """Yields the feed's batches, adding up the time spent waiting for them."""
        while True:
            began = time.monotonic()
            batch = next(feed, None)
            self._wait_s += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def report(self) -> TrainPoint:
        """Writes and shows the averages since the interval began; waits for the devices, once an interval."""
        run = self._run
        sums = run.ranks.sum(run.epoch_sums)
        loss, top1, top5, count = (sums - self._sums_before).tolist()
        took_s = time.monotonic() - self._started
        point = TrainPoint(
            epoch=run.epoch,
            step=run.step,
            global_step=run.global_step,
            loss=loss / count,
            top1_error=top1 / count,
            top5_error=top5 / count,
            rate=rates_at(run.recipe, run.epoch, run.schedule).weight,
            images_per_s=count / took_s,
            data_wait=self._wait_s / took_s,
        )
        if run.metrics is not None:
            run.metrics.write(point)
        note = (
            f"epoch {point.epoch + 1}/{run.recipe.schedule.end_epoch} loss {point.loss:.3f} "
            f"top-1 err {100 * point.top1_error:.1f}% top-5 err {100 * point.top5_error:.1f}% "
            f"lr {point.rate:g} data-wait {100 * point.data_wait:.0f}%"
        )
        run.progress.advance((run.global_step - self._first_step) * run.config.batch_size, note=note)
        if loss != loss:
            raise DivergedError(
                f"the loss is not a number at epoch {run.epoch}, step {run.step}: try a lower --lr; {run._last_saved()}"
            )
        self.restart()
        return point
