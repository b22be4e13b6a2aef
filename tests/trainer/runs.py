"""Trainer commands as tests run them: in this process, or in one that can be killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from trainer.__main__ import main
from trainer.checkpoint import folder

# 64 pixels are the least that three poolings leave anything of: crops are then the whole stored image, mirrored or not.
NETWORK = ("--width", "0.0625", "--crop", "64", "--init", "fan_in", "--devices", "cpu,cpu")
SHORT = ("--batch-size", "16", "--no-tensorboard", "--log-steps", "2", "--threads", "1", "--lr", "0.002")


def train_command(target: str, run_dir: Path, *options: str) -> list[str]:
    return ["train", "--target", target, "--run-dir", str(run_dir), *NETWORK, *SHORT, *options]


def train(target: str, run_dir: Path, *options: str) -> int:
    """Runs ``train`` in this process and returns its exit code."""
    return main(train_command(target, run_dir, *options))


@contextmanager
def command(*arguments: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """A command of the trainer in a process of its own, with ``env`` added; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def started(target: str, run_dir: Path, *options: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """``train`` as such a process."""
    return command(*train_command(target, run_dir, *options))


def wait_for_checkpoint(run_dir: Path, process: "subprocess.Popen[str]", *, least_step: int = 1) -> None:
    """Returns when the run has saved at or after ``least_step``; fails when the process ends before."""
    deadline = time.monotonic() + 300
    while not any(int(path.stem[5:]) >= least_step for path in folder.numbered(run_dir)):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)
