"""The trainer's commands. What they run is imported late: torch takes seconds to load."""

import sys
from collections.abc import Sequence

from commandline import Command, run_program
from loader_service.wire.errors import LoaderError
from trainer.config import DescribeConfig, EvaluateConfig, ExportConfig, PredictConfig, ReportConfig, TrainConfig
from trainer.errors import TrainerError


def run(argv: Sequence[str] | None) -> int:
    """Runs one command and returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["train"] and "--describe" in given:
        print("alexnet-trainer train: error: --describe is a command now: alexnet-trainer describe", file=sys.stderr)
        return 2
    return run_program(
        "alexnet-trainer",
        "Trains AlexNet as two columns on two devices, from the loader service.",
        [
            Command(
                "train",
                TrainConfig,
                _train,
                "train a network, or continue",
                "Trains a network, or continues. To get the published numbers (40.7 / 18.2 % error, ten crops) use\n"
                "--recipe convnet2012, the default: it is what the authors ran. --recipe paper is the text's words.\n"
                "Start it with torchrun to use more than two devices.",
            ),
            Command("evaluate", EvaluateConfig, _evaluate, "error rates of a network, centre and ten crops"),
            Command("predict", PredictConfig, _predict, "what a network makes of picture files"),
            Command("report", ReportConfig, _report, "one HTML file about a run: curves, filters, examples"),
            Command("describe", DescribeConfig, _describe, "the network that options make: layers, shapes, sizes"),
            Command("export", ExportConfig, _export, "a network's weights as a safetensors file"),
        ],
        argv,
        user_errors=(LoaderError, TrainerError),
    )


def _train(config: TrainConfig) -> int:
    from trainer.train import train

    return train(config)


def _evaluate(config: EvaluateConfig) -> int:
    from trainer.evaluate_command import run_evaluate

    return run_evaluate(config)


def _predict(config: PredictConfig) -> int:
    from trainer.predict import run_predict

    return run_predict(config)


def _report(config: ReportConfig) -> int:
    from trainer.report.report import run_report

    return run_report(config)


def _describe(config: DescribeConfig) -> None:
    from trainer.describe_command import run_describe

    run_describe(config)


def _export(config: ExportConfig) -> int:
    from trainer.export import run_export

    return run_export(config)
