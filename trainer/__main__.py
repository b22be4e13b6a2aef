"""The trainer's command line."""

import sys
from collections.abc import Sequence

from commandline import Command, run_program
from loader_service.errors import LoaderError
from trainer.config import EvaluateConfig, TrainConfig
from trainer.errors import TrainerError
from trainer.evaluate_command import run_evaluate
from trainer.train import train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return run_program(
        "alexnet-trainer",
        "Trains AlexNet as two columns on two devices, from the loader service.",
        [
            Command(
                "train",
                TrainConfig,
                train,
                "train a network, or continue",
                "Trains a network, or continues. To get the published numbers (40.7 / 18.2 % error, ten crops) use\n"
                "--recipe convnet2012, the default: it is what the authors ran. --recipe paper is the text's words.\n"
                "Start it with torchrun to use more than two devices.",
            ),
            Command("evaluate", EvaluateConfig, run_evaluate, "error rates of a network, centre and ten crops"),
        ],
        argv,
        user_errors=(LoaderError, TrainerError),
    )


if __name__ == "__main__":
    sys.exit(main())
