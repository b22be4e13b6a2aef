"""The trainer's command line."""

import os
import sys
from collections.abc import Sequence

from commandline import Command, run_program
from loader_service.errors import LoaderError
from trainer.config import EvaluateConfig, TrainConfig
from trainer.errors import TrainerError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # torch's OpenMP threads spin at the end of each operation. Beside a loader on the same cores they spin while the
    # one they wait for has no core, and a step takes ten times as long or more (benchmarks/trainer_step.py). OpenMP
    # reads this once, when torch is loaded: hence also the late imports below.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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


if __name__ == "__main__":
    sys.exit(main())
