"""The training loop: batches in, two columns forward and backward, the paper's update. Read this file first."""

import contextlib
import json

import torch

from commandline import Progress, print_line, write_line
from commandline.stopping import StopRequests
from loader_service.client import LoaderClient, LoaderError
from trainer.checkpoint.folder import locked, numbered
from trainer.checkpoint.identity import identity_of
from trainer.checkpoint.keeper import Keeper, last_saved
from trainer.checkpoint.saved_network import plan_of_run
from trainer.checkpoint.state import TrainingState
from trainer.config import TrainConfig
from trainer.data.centring import Centring
from trainer.data.consumed import ConsumedDigest
from trainer.data.feed import DeviceBatch, Feed, allocator
from trainer.devices import devices_of_rank, precision_on
from trainer.errors import DeviceError, DivergedError, PeerFailedError, RanksError, Stopped, TrainerError
from trainer.monitor.interval import Interval
from trainer.monitor.metrics import METRICS_NAME, EpochPoint, MetricsWriter, history_of
from trainer.monitor.prometheus import Exporter
from trainer.monitor.run_record import RunRecord
from trainer.monitor.starvation import StarvationWatch
from trainer.network.columns import TwoColumns
from trainer.network.describe import describe_architecture
from trainer.optimizer import PaperUpdate
from trainer.ranks import Ranks, joined_ranks, local_rank
from trainer.recipes.schedule import ScheduleState, after_epoch, colour_end, colour_std_at, is_better, rates_at
from trainer.report.curve import CurveWriter
from trainer.report.epoch_line import epoch_line
from trainer.step import step_for
from trainer.validation import Validation
from trainer.waiting import unless_stopped

VALIDATION_AHEAD = 4  # steps before an epoch's end at which the first batches of its validation are asked for


def train(config: TrainConfig) -> int:
    """Runs ``train``: returns the exit code, 0 when the schedule has ended, 130 or 143 when a signal stopped it."""
    devices = devices_of_rank(config.devices, local_rank(), 1 if config.columns == "one" else 2)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks(devices, config.service_timeout_s))
        stop = stack.enter_context(StopRequests())
        try:
            ranks.decide(lambda: str(stack.enter_context(locked(config.run_dir))))
            client = LoaderClient(config.target, config.client_options)  # its streams are closed by who reads them
            unless_stopped(client.describe, stop)
            return Run(config, client, devices, ranks, stop).go()
        except Stopped:
            write_line("stopped before the first step")
            return stop.exit_code
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            raise DeviceError(f"{str(error).splitlines()[0]}; {last_saved(config.run_dir)}") from None
        except OSError as error:
            if error.filename is None:  # not a file's
                raise
            raise TrainerError(f"{error.filename}: {error.strerror}; {last_saved(config.run_dir)}") from None
        except RanksError as error:
            if stop.requested:
                return stop.exit_code
            raise RanksError(f"{error}; {last_saved(config.run_dir)}") from None


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
            consumed=ConsumedDigest() if ranks.world_size == 1 else None,
        )
        self.precision = precision_on(devices[0]) if config.precision == "auto" else config.precision
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self.step = step_for(self.state, self.centring, ranks, batch_size=config.batch_size, precision=dtype)
        identity = identity_of(config, self.plan, self.description, self.precision)
        history = config.run_dir / METRICS_NAME
        self.keeper = Keeper(config, identity, self.plan, self.state, ranks, num_images=num_images, history=history)
        self.record = RunRecord(config, self.plan, self.description, precision=self.precision, ranks=ranks)
        self.metrics: MetricsWriter | None = None
        self.exporter: Exporter | None = None
        self.curve = CurveWriter(config.run_dir)
        self.validation = Validation(
            client,
            network,
            self.centring,
            split=config.validation_split,
            crop=self.plan.crop,
            ranks=ranks,
            stopping=self._is_stopping,
        )

    def go(self) -> int:
        """Trains from the start or the checkpoint to the end of the schedule."""
        config, state = self.config, self.state
        start = self.keeper.resume()
        self.step.refresh()
        end_epoch = self.recipe.schedule.end_epoch
        epoch_images = self.steps_per_epoch * config.batch_size
        if state.schedule.finished:
            if self.ranks.leads:
                write_line(f"nothing is left to train: {state.epoch} epochs of --epochs {end_epoch} have been")
                self._print_result()
            return 0
        with contextlib.ExitStack() as stack:
            stack.callback(self.validation.close)
            if self.ranks.leads:
                write_line(f"{describe_architecture(self.plan.architecture()).splitlines()[-1]}, {self.precision}")
                self.record.write(state.consumed)
                writer = MetricsWriter(
                    config.run_dir,
                    epoch=state.epoch,
                    global_step=state.global_step,
                    tensorboard=config.tensorboard,
                    history=None if start is None else history_of(start),
                )
                self.metrics = stack.enter_context(writer)
                if config.metrics_listen is not None:
                    self.exporter = stack.enter_context(Exporter(config.metrics_listen))
            done = state.epoch * epoch_images + state.step * config.batch_size
            total = end_epoch * epoch_images
            progress = stack.enter_context(Progress("train", total, "images", done=done, quiet=not self.ranks.leads))
            try:
                with self.keeper:
                    is_stopped = self._train_and_save(progress)
            except DivergedError as error:
                self.record.write(state.consumed, diverged=str(error))
                raise DivergedError(f"{error}: {self._advice()}") from None
        if self.ranks.leads:
            if is_stopped:
                self.curve.draw()
                write_line(f"stopped at {state.place}: {last_saved(config.run_dir)}")
            else:
                self._print_result()
        return self.stop.exit_code if is_stopped else 0

    def _train_and_save(self, progress: Progress) -> bool:
        """Returns whether a signal has ended it. However it ends, the last steps are saved."""
        try:
            self._train_epochs(progress)
        except Stopped:
            self.keeper.save_new()
            return True
        except (LoaderError, PeerFailedError) as error:
            self.keeper.save_new()
            raise type(error)(f"{error}; {last_saved(self.config.run_dir)}") from None
        self.keeper.save_new()
        return False

    def _train_epochs(self, progress: Progress) -> None:
        if self.state.step == self.steps_per_epoch:  # stopped between an epoch's last step and its validation
            self._end_epoch()
        while not self.state.schedule.finished and self.state.epoch < self.recipe.schedule.end_epoch:
            colour_std = colour_std_at(self.recipe, self.state.epoch)
            self._train_phase(colour_end(self.recipe, self.state.epoch), colour_std, progress)

    def _train_phase(self, end_epoch: int, colour_std: float, progress: Progress) -> None:
        """Trains up to ``end_epoch`` from one stream: a stream has one deviation of the colour draw."""
        state, devices = self.state, self.state.network.devices
        digested = state.consumed is not None
        stream = self.client.stream(
            self.config.stream_spec(self.plan.crop, colour_std, self.ranks.rank, self.ranks.world_size),
            epoch=state.epoch,
            step=state.step,
            num_epochs=end_epoch - state.epoch,
            allocate=allocator(devices),
        )
        # [C2] divides the centred pixels while noise is on, so that their scale stays that of test images.
        divisor = 1.0 + colour_std if self.recipe.rescale_after_colour and self.config.augment else 1.0
        with Feed(stream, devices, digested=digested, interrupted=self._is_stopping, close_source=stream.close) as feed:
            watch = StarvationWatch(len(self.config.target))
            interval = Interval(state, self.ranks, progress=progress, metrics=self.metrics, exporter=self.exporter)
            while (batch := self._next_batch(feed, interval)) is not None:
                assert (batch.epoch, batch.step) == (state.epoch, state.step), "the stream lost its place"
                self._take_step(batch, divisor)
                progress.advance(self.config.batch_size)
                ends_epoch = state.step == self.steps_per_epoch
                if ends_epoch or state.global_step % self.config.log_steps == 0:
                    point = interval.report(rates_at(self.recipe, state.epoch, state.schedule))
                    if self.ranks.leads:
                        watch.look(point.data_wait, point.images_per_s)
                if state.step >= self.steps_per_epoch - VALIDATION_AHEAD:
                    self.validation.prepare()
                if ends_epoch:
                    self._end_epoch()
                    interval.restart()
                    if state.schedule.finished:
                        return

    def _next_batch(self, feed: Feed, interval: Interval) -> DeviceBatch | None:
        """The next step's batch, once all ranks have theirs; None after the phase's last.

        Between two steps all ranks hold the same state: here they save it if that is due, and here they stop, or fail,
        together.
        """
        failure: LoaderError | None = None
        batch = None
        try:
            batch = interval.next(feed)
        except LoaderError as error:
            failure = error
        if self.ranks.agree(stop=self.stop.requested, failure=failure, save=self.keeper.is_due()):
            self.keeper.save()
        return batch

    def _take_step(self, batch: DeviceBatch, divisor: float) -> None:
        state = self.state
        self.step.take(batch, divisor, rates_at(self.recipe, state.epoch, state.schedule))
        if state.consumed is not None:
            state.consumed.add(batch.rows)
        state.step += 1
        state.global_step += 1

    def _end_epoch(self) -> None:
        """Validates, moves the schedule and the position on, and saves."""
        state = self.state
        loss, top1, top5, count = self.ranks.sum(state.epoch_sums).tolist()
        result = self.validation.run(state.epoch)
        error = top1 / count if result is None else result.top1_error
        figures = {} if result is None else result.figures
        is_best = is_better(error, state.schedule.best_error)
        rates = rates_at(self.recipe, state.epoch, state.schedule)
        point = EpochPoint(
            epoch=state.epoch,
            global_step=state.global_step,
            train_loss=loss / count,
            train_top1_error=top1 / count,
            train_top5_error=top5 / count,
            rate=rates.weight,
            **{f"validation_{name}": value for name, value in figures.items()},
        )
        if self.metrics is not None:
            self.metrics.write(point)
        state.schedule = after_epoch(self.recipe, state.epoch, state.schedule, error)
        state.validation = state.validation if result is None else result.figures
        if state.consumed is not None:
            state.consumed.end_epoch()
        state.epoch, state.step = state.epoch + 1, 0
        state.epoch_sums.zero_()
        self.keeper.save(best=is_best, waits=False)
        if self.ranks.leads:
            next_rate = None if state.schedule.finished else rates_at(self.recipe, state.epoch, state.schedule).weight
            write_line(epoch_line(point, self.recipe.schedule.end_epoch, is_best=is_best, next_rate=next_rate))
            self.curve.begin()
        self.record.write(state.consumed)

    def _is_stopping(self) -> bool:
        return self.stop.requested

    def _advice(self) -> str:
        """What to do when numbers are no longer finite."""
        lower = min(self.recipe.weight_rate / 10, 0.01)
        text = f"start again in another --run-dir with --lr {lower:g}"
        if numbered(self.config.run_dir):
            text += f"; or, if the loss was falling until then, {last_saved(self.config.run_dir)} --lr {lower:g}"
        return text

    def _print_result(self) -> None:
        validation, curve = self.state.validation, self.curve.draw()
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
        print_line(f"loss curve: {curve}")
