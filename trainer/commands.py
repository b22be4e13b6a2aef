"""The trainer's commands. What they run is imported late: torch takes seconds to load."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from commandline import Command, run_program
from loader_service.client import LoaderError
from trainer.config import DescribeConfig, EvaluateConfig, ExportConfig, PredictConfig, ReportConfig, TrainConfig
from trainer.errors import TrainerError
from trainer.experiments.config import ExperimentConfig
from trainer.watch.config import WatchConfig

COMMANDS = (
    Command(
        "train",
        TrainConfig,
        "trainer.train:train",
        "train a network, or continue",
        "Trains a network, or continues. To get the published numbers (40.7 / 18.2 % error, ten crops) use\n"
        "--recipe convnet2012, the default: it is what the authors ran. --recipe paper is the text's words.\n"
        "Start it with torchrun to use more than two devices.",
    ),
    Command(
        "evaluate",
        EvaluateConfig,
        "trainer.evaluate_command:run_evaluate",
        "error rates of a network, centre and ten crops",
    ),
    Command("predict", PredictConfig, "trainer.predict:run_predict", "what a network makes of picture files"),
    Command(
        "watch",
        WatchConfig,
        "trainer.watch.server:run_watch",
        "a page of this machine that follows a run",
        "Serves a page to this machine's browsers that follows a run as its folder grows: curves, speed, images\n"
        "of the batch that it was just shown, the filters of its last checkpoint. The run's folder says which\n"
        "loaders to ask for the batch, and how; --target and what goes with it say otherwise.",
    ),
    Command(
        "report",
        ReportConfig,
        "trainer.report.report:run_report",
        "one HTML file about a run: curves, filters, examples",
    ),
    Command(
        "experiment",
        ExperimentConfig,
        "trainer.experiments.command:run_experiment",
        "one of the paper's experiments: its runs, table and page",
    ),
    Command(
        "describe",
        DescribeConfig,
        "trainer.describe_command:run_describe",
        "the network that options make: layers, shapes, sizes",
    ),
    Command("export", ExportConfig, "trainer.export:run_export", "a network's weights as a safetensors file"),
)


def run(argv: Sequence[str] | None) -> int:
    """Runs one command and returns its exit code; SIGTERM ends any command with 143, and nothing half-written."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["train"] and "--describe" in given:
        print("alexnet-trainer train: error: --describe is a command now: alexnet-trainer describe", file=sys.stderr)
        return 2
    with _ending_on_sigterm():
        try:
            return run_program(
                "alexnet-trainer",
                "Trains AlexNet as two columns on two devices, from the loader service.",
                COMMANDS,
                argv,
                user_errors=(LoaderError, TrainerError),
            )
        except _Terminated:
            print("alexnet-trainer: stopped by SIGTERM", file=sys.stderr)
            return 128 + signal.SIGTERM


class _Terminated(BaseException):
    """SIGTERM came: unwinds as KeyboardInterrupt does."""


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Has SIGTERM unwind what runs, so that it closes and removes what it leaves; training has a gentler way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what closes now must not be broken off
        raise _Terminated

    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
