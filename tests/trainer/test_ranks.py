"""Several processes: the same training as one, a stop that all agree on, another number of ranks on resume."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loader_service.wire.types import StreamSpec
from tests.processes import free_port
from tests.trainer.runs import train, train_command, wait_for_checkpoint
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load
from trainer.devices import devices_of_rank
from trainer.errors import DeviceError
from trainer.evaluate import shares
from trainer.monitor.metrics import read_points
from trainer.ranks import Ranks


@contextlib.contextmanager
def torchrun(num_ranks: int, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks)]
    process = subprocess.Popen(
        [*command, "--master-port", str(free_port()), "-m", "trainer", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()  # torchrun ends its workers before itself


def run_ranks(num_ranks: int, target: str, run_dir: Path, *options: str) -> None:
    with torchrun(num_ranks, *train_command(target, run_dir, *options)) as process:
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr


def test_two_ranks_train_as_one_process_and_resume_as_one(loader_target: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(loader_target, one, "--epochs", "2", "--keep", "9", "--recipe", "paper") == 0
    run_ranks(2, loader_target, two, "--epochs", "2", "--keep", "9", "--recipe", "paper")
    for ours, theirs in zip(read_points(one)[1], read_points(two)[1], strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)
        assert ours.train_top1_error == pytest.approx(theirs.train_top1_error, abs=0.02)
    a, b = (load(folder.numbered(run_dir)[0]) for run_dir in (one, two))
    for name, value in a.weights.items():
        torch.testing.assert_close(value, b.weights[name], rtol=1e-3, atol=1e-5)
    assert all(map(torch.equal, a.generators, b.generators))  # dropout goes by position in the step
    # What two ranks began, one process ends.
    resumed = tmp_path / "resumed"
    first = folder.path_of(two, 6)
    assert train(loader_target, resumed, "--epochs", "2", "--recipe", "paper", "--resume", str(first)) == 0
    c = load(folder.numbered(resumed)[0])
    for name, value in b.weights.items():
        torch.testing.assert_close(value, c.weights[name], rtol=1e-3, atol=1e-5)


def test_a_stopped_rank_stops_all_and_saves(loader_target: str, tmp_path: Path) -> None:
    options = ("--epochs", "9999", "--checkpoint-steps", "2")
    with torchrun(2, *train_command(loader_target, tmp_path, *options)) as process:
        wait_for_checkpoint(tmp_path, process, least_step=4)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert "stopped at epoch" in stderr
    found = folder.newest(tmp_path)
    assert found is not None
    assert found[1].global_step >= 4


def test_shares_hold_each_image_once() -> None:
    whole = StreamSpec(split="val", batch_size=16, drop_last=False)
    for num_images in (7, 16, 30, 33):
        covered: list[int] = []
        for rank in range(3):
            for spec, first in shares(whole, num_images, Ranks(rank=rank, world_size=3)):
                begin, end = spec.slice
                for step in range(first, spec.num_steps(num_images)):
                    covered += [i for i in range(16 * step + begin, 16 * step + end) if i < num_images]
        assert sorted(covered) == list(range(num_images))


def test_rows_are_the_services_slices() -> None:
    for rank in range(3):
        rows = Ranks(rank=rank, world_size=3).rows(16)
        assert (rows.begin, rows.end) == StreamSpec(batch_size=16, rank=rank, world_size=3).slice


def test_devices_by_rank() -> None:
    cpu = torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    chosen = [torch.device("cuda", 0), torch.device("cuda", min(1, num_gpus - 1))] if num_gpus else [cpu, cpu]
    assert list(devices_of_rank((), 0)) == chosen
    assert devices_of_rank(("cpu", "cpu"), 5) == (cpu, cpu)
    assert devices_of_rank(("cpu",), 0) == (cpu, cpu)
    assert devices_of_rank(("cpu", "cpu"), 0, num_columns=1) == (cpu,)
    with pytest.raises(DeviceError, match="rank 2 on this machine needs devices 4 and 5 of the list, found 4"):
        devices_of_rank(("cpu",) * 4, 2)
