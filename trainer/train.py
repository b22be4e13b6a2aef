"""The training loop: batches in, two columns forward and backward, the paper's update. Read this file first."""

import contextlib
import json
from pathlib import Path

import torch
from torch import Tensor

from commandline import Progress, write_line
from commandline.stopping import StopRequests
from loader_service.client.client import LoaderClient
from loader_service.wire.errors import LoaderError
from trainer.checkpoint.identity import identity_of
from trainer.checkpoint.keeper import Keeper, last_saved
from trainer.checkpoint.saved_network import plan_of_run
from trainer.checkpoint.state import TrainingState
from trainer.config import TrainConfig
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch, Feed, allocator
from trainer.errors import DeviceError, DivergedError
from trainer.evaluate import Evaluation, evaluate
from trainer.monitor.interval import Interval
from trainer.monitor.metrics import EpochPoint, MetricsWriter
from trainer.monitor.prometheus import Exporter
from trainer.monitor.run_record import write_record
from trainer.monitor.starvation import StarvationWatch
from trainer.network.columns import TwoColumns
from trainer.network.describe import describe_architecture
from trainer.optimizer import PaperUpdate
from trainer.ranks import Ranks, devices_of_rank, join_ranks, leave_ranks, local_rank
from trainer.recipes.schedule import ScheduleState, after_epoch, colour_phases, rates_at
from trainer.report.charts import write_curve

VALIDATION_BATCH = 128
"""Images of a validation step, at most."""


def train(config: TrainConfig) -> int:
    """Runs ``train``: returns the exit code, 0 when the schedule has ended, 130 or 143 when a signal stopped it."""
    devices = devices_of_rank(config.devices, local_rank(), 1 if config.columns == "one" else 2)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    ranks = join_ranks(devices)
    try:
        with LoaderClient(config.target, config.client_options) as client, StopRequests() as stop:
            return Run(config, client, devices, ranks, stop).go()
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise DeviceError(f"{str(error).splitlines()[0]}; {last_saved(config.run_dir)}") from None
    finally:
        leave_ranks(ranks)


class Run:
    """One process's training run. ``go`` calls the rest, from top to bottom."""

    def __init__(
        self,
        config: TrainConfig,
        client: LoaderClient,
        devices: tuple[torch.device, ...],
        ranks: Ranks,
        stop: StopRequests,
    ) -> None:
        self.config, self.client, self.ranks, self.stop = config, client, ranks, stop
        self.run_dir = config.run_dir
        self.recipe = config.resolved_recipe
        self.description = client.describe()
        self.plan = plan_of_run(config, self.description)
        num_images = self.description.splits[config.split]
        self.steps_per_epoch = config.stream_spec(self.plan.crop, 0.0, 0, 1).num_steps(num_images)
        network = TwoColumns(self.plan.architecture(), devices, init=config.init, seed=config.seed)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile:
            network.compile_columns()
        self.centring = Centring(
            self.description.mean_image, self.plan.crop, devices, channels_last=config.channels_last
        )
        self.state = TrainingState(
            network=network,
            update=PaperUpdate(network.named_parameters(), self.recipe),
            schedule=ScheduleState(),
            epoch_sums=torch.zeros(4, dtype=torch.float64, device=devices[0]),
        )
        identity = identity_of(config, self.plan, self.description)
        self.keeper = Keeper(config, self.run_dir, identity, self.plan, self.state, ranks)
        self.metrics: MetricsWriter | None = None
        self.exporter: Exporter | None = None

    def go(self) -> int:
        """Trains from the start or the checkpoint to the end of the schedule."""
        self.keeper.resume()
        if self.ranks.leads:
            write_line(describe_architecture(self.plan.architecture()).splitlines()[-1])
            write_record(self.run_dir, self.config, self.plan, self.description, self.ranks)
        with contextlib.ExitStack() as stack:
            if self.ranks.leads:
                writer = MetricsWriter(
                    self.run_dir, from_step=self.state.global_step, tensorboard=self.config.tensorboard
                )
                self.metrics = stack.enter_context(writer)
                if self.config.metrics_listen is not None:
                    self.exporter = stack.enter_context(Exporter(self.config.metrics_listen))
            epoch_images = self.steps_per_epoch * self.config.batch_size
            progress = stack.enter_context(
                Progress(
                    "train",
                    self.recipe.schedule.end_epoch * epoch_images,
                    "images",
                    done=self.state.global_step * self.config.batch_size,
                    quiet=not self.ranks.leads,
                )
            )
            try:
                stopped = self._train_epochs(progress)
            except LoaderError as error:
                raise type(error)(f"{error}; {self.keeper.save_alone()}") from None
            except DivergedError as error:
                raise DivergedError(f"{error}; {last_saved(self.run_dir)}") from None
        if stopped:
            self.keeper.save_new()
        if self.ranks.leads:
            curve = write_curve(self.run_dir)
            if stopped:
                place = f"epoch {self.state.epoch}, step {self.state.step}"
                write_line(f"stopped at {place}: {last_saved(self.run_dir)}")
            else:
                self._print_result(curve)
        return self.stop.exit_code if stopped else 0

    def _train_epochs(self, progress: Progress) -> bool:
        """Returns whether a signal ended it."""
        if self.state.step == self.steps_per_epoch:  # stopped between an epoch's last step and its validation
            self._end_epoch()
        while not self.state.schedule.finished and self.state.epoch < self.recipe.schedule.end_epoch:
            _, end, colour_std = colour_phases(self.recipe, self.state.epoch)[0]
            if self._train_phase(end, colour_std, progress):
                return True
        return False

    def _train_phase(self, end_epoch: int, colour_std: float, progress: Progress) -> bool:
        """Trains up to ``end_epoch`` from one stream: a stream has one deviation of the colour draw."""
        state = self.state
        stream = self.client.stream(
            self.config.stream_spec(self.plan.crop, colour_std, self.ranks.rank, self.ranks.world_size),
            epoch=state.epoch,
            step=state.step,
            num_epochs=end_epoch - state.epoch,
            allocate=allocator(state.network.devices),
        )
        # [C2] divides the centred pixels while noise is on, so that their scale stays that of test images.
        divisor = 1.0 + colour_std if self.recipe.rescale_after_colour and self.config.augment else 1.0
        alone = self.ranks.world_size == 1  # several ranks stop together, at the end of a step
        with Feed(
            stream,
            state.network.devices,
            interrupted=lambda: alone and self.stop.requested,
            close_source=stream.close,
        ) as feed:
            watch = StarvationWatch(len(self.config.target))
            interval = Interval(
                state,
                self.ranks,
                batch_size=self.config.batch_size,
                end_epoch=self.recipe.schedule.end_epoch,
                progress=progress,
                metrics=self.metrics,
                exporter=self.exporter,
            )
            for batch in interval.timed(feed):
                assert (batch.epoch, batch.step) == (state.epoch, state.step), "the stream lost its place"
                self._take_step(batch, divisor)
                ends_epoch = state.step == self.steps_per_epoch
                if ends_epoch or state.global_step % self.config.log_steps == 0:
                    point = interval.report(rates_at(self.recipe, state.epoch, state.schedule))
                    if self.ranks.leads:
                        watch.look(point.data_wait, point.images_per_s)
                stop, save = self.ranks.agree(self.stop.requested, self.keeper.is_due())
                if stop:
                    return True
                if ends_epoch:
                    self._end_epoch()
                    interval.restart()
                    if state.schedule.finished:
                        return False
                elif save:
                    self.keeper.save()
        # The feed may also have ended because a signal came while a step waited for its batch.
        return self.ranks.agree(self.stop.requested, False)[0]

    def _take_step(self, batch: DeviceBatch, divisor: float) -> None:
        """One update: no line here waits for a device."""
        state, network = self.state, self.state.network
        inputs = {d: self.centring(batch.images[d], batch.shifts[d], divisor) for d in batch.images}
        with torch.autocast(network.devices[0].type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            scores = network([inputs[d] for d in network.devices], self.ranks.rows(self.config.batch_size))
        scores = scores.float()
        loss = torch.nn.functional.cross_entropy(scores, batch.labels, reduction="sum")
        (loss / self.config.batch_size).backward()  # type: ignore[no-untyped-call]
        self.ranks.sum_gradients(network.parameters())
        state.update.step(rates_at(self.recipe, state.epoch, state.schedule))
        network.zero_grad(set_to_none=True)
        state.epoch_sums += _sums(scores.detach(), batch.labels, loss.detach())
        state.step += 1
        state.global_step += 1

    def _end_epoch(self) -> None:
        """Validates, moves the schedule and the position on, and saves."""
        state = self.state
        loss, top1, top5, count = self.ranks.sum(state.epoch_sums).tolist()
        result = self._validate()
        error = top1 / count if result is None else result.top1_error
        is_best = state.schedule.best_error is None or error < state.schedule.best_error
        point = EpochPoint(
            epoch=state.epoch,
            global_step=state.global_step,
            train_loss=loss / count,
            train_top1_error=top1 / count,
            train_top5_error=top5 / count,
            rate=rates_at(self.recipe, state.epoch, state.schedule).weight,
            validation_loss=None if result is None else result.loss,
            validation_top1_error=None if result is None else result.top1_error,
            validation_top5_error=None if result is None else result.top5_error,
        )
        if self.metrics is not None:
            self.metrics.write(point)
        state.schedule = after_epoch(self.recipe, state.epoch, state.schedule, error)
        if result is not None:
            state.validation = {
                "loss": result.loss,
                "top1_error": result.top1_error,
                "top5_error": result.top5_error,
            }
        state.epoch, state.step = state.epoch + 1, 0
        state.epoch_sums.zero_()
        self.keeper.save(best=is_best)

    def _validate(self) -> Evaluation | None:
        split = self.config.validation_split
        if split is None or not self.description.splits.get(split):
            return None
        batch_size = min(VALIDATION_BATCH, self.description.splits[split])
        return evaluate(
            [self.state.network],
            self.centring,
            self.client,
            split=split,
            crops="centre",
            crop=self.plan.crop,
            batch_size=max(batch_size, self.ranks.world_size),
            ranks=self.ranks,
        )

    def _print_result(self, curve: Path) -> None:
        validation = self.state.validation
        if self.config.json:
            result = {"epochs": self.state.epoch, "steps": self.state.global_step, "curve": str(curve)}
            result |= {f"validation_{name}": value for name, value in (validation or {}).items()}
            print(json.dumps(result))
            return
        if validation is not None:
            print(
                f"validation: top-1 error {100 * validation['top1_error']:.1f} %, "
                f"top-5 error {100 * validation['top5_error']:.1f} %, loss {validation['loss']:.3f}"
            )
        print(f"loss curve: {curve}")


def _sums(scores: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
    """float64 [4] on the scores' device: loss, top-1 errors, top-5 errors, images."""
    rank = (scores >= scores.gather(1, labels[:, None])).sum(1)
    count = torch.full_like(loss, len(labels))
    return torch.stack([loss, (rank > 1).sum(), (rank > 5).sum(), count]).double()
