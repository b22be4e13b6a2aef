"""Several processes: the same training as one, a stop that all agree on, another number of ranks on resume."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from loader_service.client import StreamSpec
from tests.processes import free_port, loader_processes
from tests.trainer.runs import command, train, train_command, wait_for_checkpoint
from tests.waiting import wait_until
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
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr


def test_two_ranks_train_as_one_process(loader_target: str, tmp_path: Path) -> None:
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


def test_two_ranks_then_one_then_two_end_where_one_does(loader_target: str, tmp_path: Path) -> None:
    one, run_dir = tmp_path / "one", tmp_path / "changing"
    options = ("--recipe", "paper", "--checkpoint-steps", "2")
    assert train(loader_target, one, *options, "--epochs", "3") == 0
    run_by_hand(loader_target, run_dir, *options, "--epochs", "1")
    assert train(loader_target, run_dir, *options, "--epochs", "2", "--resume", "auto") == 0
    run_by_hand(loader_target, run_dir, *options, "--epochs", "3", "--resume", "auto")
    a, b = (load(folder.numbered(each)[0]) for each in (one, run_dir))
    assert (a.epoch, a.step, a.global_step) == (b.epoch, b.step, b.global_step)
    for name, value in a.weights.items():
        torch.testing.assert_close(value, b.weights[name], rtol=1e-3, atol=1e-5)
    assert all(map(torch.equal, a.generators, b.generators))
    assert [p.global_step for p in read_points(run_dir)[0]] == [p.global_step for p in read_points(one)[0]]


@contextlib.contextmanager
def ranks_by_hand(
    target: str,
    run_dirs: list[Path],
    *options: str,
    last_of_rank_1: tuple[str, ...] = (),
    inside: Sequence[Path | None] = (None, None),
) -> Iterator[list["subprocess.Popen[str]"]]:
    """One process a folder, as ranks on machines of their own; killed at the end."""
    common = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(len(run_dirs)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank, run_dir in enumerate(run_dirs):
            command = train_command(target, run_dir, *options, *(last_of_rank_1 if rank == 1 else ()))
            folder_of_rank = inside[rank]
            if folder_of_rank is not None:
                folder_of_rank.mkdir(exist_ok=True)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "trainer", *command],
                    stderr=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=common | {"RANK": str(rank), "LOCAL_RANK": "0"},
                    cwd=folder_of_rank,
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def run_by_hand(target: str, run_dir: Path, *options: str) -> None:
    with ranks_by_hand(target, [run_dir] * 2, *options) as ranks:
        outcomes = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outcomes


def test_ranks_that_would_differ_refuse_to_go_on(loader_target: str, tmp_path: Path) -> None:
    """Another seed stands for whatever puts a rank elsewhere: a checkpoint on rank 0's disk alone, another file."""
    with ranks_by_hand(loader_target, [tmp_path] * 2, last_of_rank_1=("--seed", "5")) as ranks:
        outcomes = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    for stderr in outcomes:
        assert "Traceback" not in stderr
        assert "rank 1 on " in stderr
        assert "the run folder must be on storage that all ranks see" in stderr.splitlines()[-1]
    assert not folder.numbered(tmp_path)


def test_a_checkpoint_that_one_rank_cannot_read_is_refused(loader_target: str, tmp_path: Path) -> None:
    """Relative folders stand for storage that only rank 0 sees: what is ``run`` to it is nothing to rank 1."""
    assert train(loader_target, tmp_path / "0" / "run", "--epochs", "1") == 0
    options = ("--epochs", "2", "--resume", "auto")
    with ranks_by_hand(loader_target, [Path("run")] * 2, *options, inside=[tmp_path / "0", tmp_path / "1"]) as ranks:
        outcomes = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    for stderr in outcomes:
        assert "Traceback" not in stderr
        assert "cannot continue: run/checkpoints/step-000000006.pt: no such checkpoint" in stderr.splitlines()[-1]


def test_ranks_whose_loader_is_gone_save(tiny_store: Path, tmp_path: Path) -> None:
    options = ("--epochs", "3000", "--checkpoint-steps", "3", "--service-timeout-s", "0.5")
    with loader_processes(tiny_store, 1) as [replica]:
        with ranks_by_hand(replica.target, [tmp_path] * 2, *options) as ranks:
            wait_for_checkpoint(tmp_path, ranks[0], least_step=6)
            replica.end()
            outcomes = [process.communicate(timeout=300)[1] for process in ranks]
            assert [process.returncode for process in ranks] == [1, 1]
    for stderr in outcomes:
        assert "Traceback" not in stderr
        assert "continue with --resume auto" in stderr.splitlines()[-1]
    found = folder.newest(tmp_path)
    assert found is not None
    assert f"the last checkpoint is {found[0]}" in outcomes[0]


def test_a_dead_peer_is_one_line(loader_target: str, tmp_path: Path) -> None:
    with ranks_by_hand(loader_target, [tmp_path] * 2, "--epochs", "9999", "--checkpoint-steps", "2") as ranks:
        wait_for_checkpoint(tmp_path, ranks[0], least_step=4)
        ranks[1].kill()
        _, stderr = ranks[0].communicate(timeout=300)
    assert ranks[0].returncode == 1
    assert "Traceback" not in stderr
    assert "another rank is gone" in stderr.splitlines()[-1]
    assert "continue with --resume auto" in stderr.splitlines()[-1]


def test_orphaned_ranks_save_and_end(loader_target: str, tmp_path: Path) -> None:
    """torchrun is killed and cannot end its workers: they notice, and let the folder go."""
    with torchrun(2, *train_command(loader_target, tmp_path, "--epochs", "9999", "--checkpoint-steps", "2")) as process:
        wait_for_checkpoint(tmp_path, process, least_step=4)
        orphans = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(orphans) >= 2
        process.kill()
        process.wait(300)
        deadline = time.monotonic() + 300
        while any(Path(f"/proc/{orphan}/cmdline").exists() for orphan in orphans):
            assert time.monotonic() < deadline, "orphans live on"
            time.sleep(0.1)
    folder.locked(tmp_path).close()
    found = folder.newest(tmp_path)
    assert found is not None


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_rank_orphaned_while_it_waits_for_the_others_ends(loader_target: str, tmp_path: Path) -> None:
    port = free_port()
    env = os.environ | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parent = "import subprocess, sys; rank = subprocess.Popen(sys.argv[1:]); print(rank.pid, flush=True); rank.wait()"
    command = [sys.executable, "-c", parent, sys.executable, "-m", "trainer", *train_command(loader_target, tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        orphan = Path("/proc") / process.stdout.readline().strip()
        wait_until(lambda: _is_listening(port), "the rank to wait for another")
        process.kill()
    wait_until(lambda: not (orphan / "cmdline").exists(), "the orphan to end")
    assert not folder.numbered(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_rank_that_waits_for_the_others_ends_by_a_signal(
    number: signal.Signals, loader_target: str, tmp_path: Path
) -> None:
    env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with command(*train_command(loader_target, tmp_path), **env) as process:
        wait_until(lambda: _is_listening(int(env["MASTER_PORT"])), "the rank to wait for another")
        process.send_signal(number)
        assert process.wait(300) == -number


def test_a_stopped_rank_stops_all_and_saves(loader_target: str, tmp_path: Path) -> None:
    options = ("--epochs", "9999", "--checkpoint-steps", "2")
    with torchrun(2, *train_command(loader_target, tmp_path, *options)) as process:
        wait_for_checkpoint(tmp_path, process, least_step=4)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=300)
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


def test_what_ranks_tell_each_other_cannot_be_a_program() -> None:
    """Torch's collectives of objects unpickle what comes over a network that asks nobody who he is."""
    for path in (Path(__file__).parents[2] / "trainer").rglob("*.py"):
        assert not re.search(r"import pickle|_object(?:_list)?\(", path.read_text("utf-8")), path
