"""Measures what a training run spends beside its arithmetic: checkpoints, validation's streams, metrics, waiting.

    python -m benchmarks.trainer_epoch --target 127.0.0.1:7000 -- --width 0.25 --init fan_in --batch-size 128 --epochs 6

Options after ``--`` are those of ``train``. Arithmetic is the time inside steps and inside validation's network; on a
GPU each is waited for, which costs a little itself. The first epoch is left out: it compiles, allocates and connects.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import trainer.evaluate
import trainer.train
from trainer.__main__ import main as run_trainer


class Stopwatch:
    """Adds up the time inside functions, and notes the sum whenever an epoch ends."""

    def __init__(self) -> None:
        self.inside_s = 0.0
        self.laps: list[tuple[float, float]] = []

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.inside_s += time.perf_counter() - began
            return result

        return wrapper

    def lap_after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            result = function(*arguments)
            self.laps.append((time.perf_counter(), self.inside_s))
            return result

        return wrapper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("train_options", nargs="*")
    arguments = parser.parse_args()
    watch = Stopwatch()
    run = trainer.train.Run
    setattr(run, "_take_step", watch.timed(run._take_step))  # noqa: B010
    setattr(run, "_end_epoch", watch.lap_after(run._end_epoch))  # noqa: B010
    setattr(trainer.evaluate, "class_probabilities", watch.timed(trainer.evaluate.class_probabilities))  # noqa: B010
    with tempfile.TemporaryDirectory() as folder:
        options = ["--target", arguments.target, "--run-dir", str(Path(folder) / "run"), *arguments.train_options]
        code = run_trainer(["train", *options])
    if code or len(watch.laps) < 2:
        raise SystemExit(f"expected a run of at least two epochs, found exit code {code} and {len(watch.laps)} epochs")
    (began, inside_before), (ended, inside_after) = watch.laps[0], watch.laps[-1]
    wall_s, inside_s = ended - began, inside_after - inside_before
    share = inside_s / wall_s
    print(f"{len(watch.laps) - 1} epochs in {wall_s:.1f} s")
    print(f"{100 * share:.1f} % steps and validation's arithmetic, {100 * (1 - share):.1f} % anything else")


if __name__ == "__main__":
    main()
