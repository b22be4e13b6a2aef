"""Everything that is to be measured of the trainer on a GPU, in one run of some minutes: prints one table.

    python -m benchmarks.trainer_gpu --stores RAW YUV420 --photos JPEG --devices cuda:0,cuda:0

``--stores`` are for the whole path, ``--photos`` (imagenette at 256) for a run of 90 epochs. Each line is printed as
soon as it is known, with what was hoped for, so that a run that is cut short has told what it found.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.trainer_end_to_end import end_to_end
from benchmarks.trainer_step import ROWS, STEPS_AHEAD, make_step, timed
from loader_service.commands.sweep import loaders

DEFAULT, BEFORE, TORCHVISION = "default", "columns, float32", "torchvision's alexnet, bfloat16"
HOPED_OF_BEFORE = {128: 4.0, 1024: 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cuda:0,cuda:0")
    parser.add_argument("--recipe", default="convnet2012", choices=("paper", "convnet2012"))
    parser.add_argument("--batch-sizes", default="128,1024")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--processes", type=int, default=8, help="loaders")
    parser.add_argument("--stores", nargs="*", default=[], metavar="STORE")
    parser.add_argument("--photos", metavar="STORE")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--seeds", type=int, default=1, help="such runs with each precision")
    options = parser.parse_args()
    alone = {}
    for batch_size in map(int, options.batch_sizes.split(",")):
        rates = step_rates(options, batch_size)
        alone[batch_size] = rates[DEFAULT]
        say(f"batch {batch_size}: images/s, all rows", {name: round(rate) for name, rate in rates.items()})
        if TORCHVISION in rates:
            say(f"batch {batch_size}: default / torchvision's", f"{rates[DEFAULT] / rates[TORCHVISION]:.2f}", "1.0")
        before = f"{rates[DEFAULT] / rates[BEFORE]:.2f}"
        say(f"batch {batch_size}: default / columns, float32", before, str(HOPED_OF_BEFORE.get(batch_size, "")))
        say(f"batch {batch_size}: images/s", f"{rates[DEFAULT]:.0f}", "45,000" if batch_size == 1024 else "")
    options.batch_size = max(alone)
    for store in options.stores:
        rate, wait = end_to_end(store, options)
        say(f"{Path(store).name}, whole path / step alone", f"{rate / alone[options.batch_size]:.2f}", "0.95")
        say(f"{Path(store).name}, data-wait", f"{100 * wait:.1f} %", "under 1 %")
    if options.photos:
        for precision in ("bfloat16", "float32"):
            for seed in range(options.seeds):
                error, took_s = trained(options, precision, seed)
                what = f"{options.epochs} epochs, {precision}, seed {seed}"
                say(f"{what}: top-1 right", f"{100 * (1 - error):.1f} %", "82 %")
                say(f"{what}: wall time", f"{took_s:.0f} s", "under 120 s")


def step_rates(options: argparse.Namespace, batch_size: int) -> dict[str, float]:
    """Images a second of every row that is not compiled: the best of some rounds in turn."""
    takes = {}
    for row in ROWS:
        if not row.compiled:
            try:
                takes[row.name] = make_step(row, options, batch_size)
                timed(takes[row.name], STEPS_AHEAD)
            except (ImportError, RuntimeError) as error:
                takes.pop(row.name, None)
                say(f"{row.name}, batch {batch_size}", f"left out: {str(error).splitlines()[0][:120]}")
    best = dict.fromkeys(takes, float("inf"))
    for _ in range(options.rounds):
        for name, take in takes.items():
            best[name] = min(best[name], timed(take, options.steps))
    return {name: batch_size / seconds for name, seconds in best.items()}


def trained(options: argparse.Namespace, precision: str, seed: int) -> tuple[float, float]:
    """The best top-1 validation error of a run on ``--photos``, and its seconds."""
    with loaders(Path(options.photos), options.processes) as targets, tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "trainer", "train", "--target", ",".join(targets), "--run-dir", str(run_dir)]
        command += ["--devices", options.devices, "--epochs", str(options.epochs), "--precision", precision]
        command += ["--seed", str(seed)]
        command += ["--width", str(options.width), "--crop", str(options.crop), "--recipe", options.recipe]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took_s = time.monotonic() - began
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        return min(line["validation_top1_error"] for line in lines if line["kind"] == "epoch"), took_s


def say(what: str, found: object, hoped: str = "") -> None:
    print(f"{what:48} {found!s:>12}  {hoped and f'hoped for: {hoped}'}", flush=True)


if __name__ == "__main__":
    main()
