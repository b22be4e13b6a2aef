"""The examples, run as their first lines say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> list[str]:
    """The lines that an example prints."""
    # One thread each: of several that share busy processors, all wait for the last.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env=environment,
        )
        # Torch's own threads, when one of several processes has ended its work: one time in twenty on a busy machine.
        if "terminate called without an active exception" not in result.stderr:
            break
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def losses(lines: list[str]) -> list[float]:
    found = [re.fullmatch(r"epoch \d: loss ([\d.]+), validation error [\d.]+% of 30", line) for line in lines]
    assert all(found), lines
    return [float(match[1]) for match in found if match]


def test_two_processes_train_the_network_that_one_does(loader_target: str) -> None:
    """The same steps of the same images, each process with its half: the same losses, but for rounding."""
    alone = losses(run("examples/train_torch.py", loader_target, "--epochs", "2", "--batch-size", "20"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    both = losses(run(*torchrun, "examples/train_torch.py", loader_target, "--epochs", "2", "--batch-size", "10"))
    assert len(alone) == 2
    assert both == pytest.approx(alone, abs=2e-3)


def test_resnet_on_resized_crops(loader_target: str) -> None:
    lines = run("examples/train_resnet.py", loader_target, "--epochs", "1", "--batch-size", "20", "--lr", "0.01")
    assert len(losses(lines)) == 1


def test_lightning(loader_target: str, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    options = [loader_target, "--batch-size", "16", "--folder", str(tmp_path)]
    lines = run("examples/train_lightning.py", *options, "--epochs", "1")
    assert lines[-1].startswith("validation error ")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert run("examples/train_lightning.py", *options, "--epochs", "2", "--resume", str(checkpoint))
