"""Measures training through the whole path on one machine, store to update, against the step by itself.

    python -m benchmarks.trainer_end_to_end STORE [STORE...] --devices cuda:0,cuda:0 --batch-size 1024

For each store (make one of each encoding) it starts loaders of one thread, trains two epochs over shared memory, and
prints the second's images a second and its share of waiting for data. Validation and checkpoints lie between the epochs
and are not in these figures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.trainer_step import ROWS, STEPS_AHEAD, make_step, timed
from loader_service.commands.sweep import loaders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--devices", default="cpu,cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--recipe", default="convnet2012", choices=("paper", "convnet2012"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="loaders")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates = {Path(store).name: end_to_end(store, options) for store in options.stores}
    take = make_step(ROWS[0], options, options.batch_size)
    timed(take, STEPS_AHEAD)
    alone = options.batch_size / min(timed(take, 20) for _ in range(options.rounds))
    print(f"{options.devices}, batch {options.batch_size}: the step alone {alone:.0f} images/s")
    for name, (rate, wait) in rates.items():
        print(f"{name:24} {rate:8.0f} images/s, {rate / alone:.2f} of the step alone, data-wait {100 * wait:.1f} %")


def end_to_end(store: str, options: argparse.Namespace) -> tuple[float, float]:
    """Images a second and the share of data-wait, medians over the second epoch's points."""
    with loaders(Path(store), options.processes) as targets, tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "trainer", "train", "--target", ",".join(targets), "--run-dir", str(run_dir)]
        command += ["--epochs", "2", "--log-steps", "4", "--transport", "shm", "--no-tensorboard"]
        for name in ("devices", "batch_size", "recipe", "width", "crop"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    points = [line for line in lines if line["kind"] == "train" and line["epoch"] == 1]
    rate, wait = (statistics.median(point[name] for point in points) for name in ("images_per_s", "data_wait"))
    return rate, wait


if __name__ == "__main__":
    main()
