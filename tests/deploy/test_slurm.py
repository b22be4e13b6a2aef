"""deploy/slurm: the batch scripts, run as they are; Slurm's commands, and what they start, are stand-ins."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY
from tests.trainer.runs import train_command
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load

STAND_INS = {
    # All nodes are this one.
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": '[ "$1" != show ] || echo here',
    "rsync": 'if [[ $2 == --exclude=* ]]; then cp -r "$3." "$4" && rm "$4/manifest.json"; else cp "$2" "$3"; fi',
    "alexnet-loader": 'printf "%s\\n" "$@" >"$SAW"',
    "torchrun": 'printf "%s\\n" "$@" >"$SAW"; rendezvous=$(printf "%s\\n" "$@" | sed -n "s/--rdzv-endpoint=//p")\n'
    'stat -c "%a" "$(dirname "$rendezvous")" >>"$SAW"',
    # A cluster has a status once its head has started.
    "ray": 'if [ "$1" = start ]; then printf "%s\\n" "$@" >>"$SAW"\n'
    'else until [ -s "$SAW" ]; do /bin/sleep 0.01; done; fi',
    "alexnet-preprocess": "true",
    "sleep": "true",
}


class Allocation:
    """One node on which nobody asks for Slurm."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.disk = tmp_path / "disk"
        self.disk.mkdir()
        self._saw = tmp_path / "saw"
        (tmp_path / "bin").mkdir()
        for name, text in STAND_INS.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        self.environment = os.environ | {
            "ENVIRONMENT": str(tmp_path),
            "SAW": str(self._saw),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "here",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_RESTART_COUNT": "20",
            "LOCAL_DISK": str(self.disk),
            "TLS": "/tls",
        }

    def run(self, script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(DEPLOY / "slurm" / script)]
        return subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=300, check=False
        )

    def saw(self) -> list[str]:
        """The words of the program that was started, and what its stand-in wrote."""
        return self._saw.read_text("utf-8").splitlines()


@pytest.fixture
def allocation(tmp_path: Path) -> Allocation:
    return Allocation(tmp_path)


def test_the_copy_is_in_a_folder_of_our_own(allocation: Allocation, tiny_store: Path) -> None:
    for _ in range(2):  # the second job finds it there
        done = allocation.run("loader.sbatch", STORE=str(tiny_store))
        assert done.returncode == 0, done.stderr
        words = allocation.saw()
        copy = Path(words[words.index("--store") + 1])
        assert copy.parent.parent == allocation.disk
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        assert (copy / "manifest.json").read_bytes() == (tiny_store / "manifest.json").read_bytes()


@pytest.mark.parametrize("trap", ["open to all", "a link", "another's", "a file"])
def test_a_trap_laid_there_is_refused(trap: str, allocation: Allocation, tiny_store: Path, tmp_path: Path) -> None:
    """Whoever knows the folder's name may have made it before us."""
    place = allocation.disk / f"alexnet-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trap == "a link":
        place.symlink_to(elsewhere)
    elif trap == "a file":
        place.touch(mode=0o700)
    else:
        place.mkdir(mode=0o700)
        if trap == "open to all":
            place.chmod(0o777)
        elif os.getuid() == 0:
            os.chown(place, 12345, -1)
        else:
            pytest.skip("only root can give a folder away")
    done = allocation.run("loader.sbatch", STORE=str(tiny_store))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{place}: expected a folder of yours alone" in line
    assert place.is_symlink() or place.is_file() or not list(place.iterdir())
    assert not list(elsewhere.iterdir())


def test_ranks_find_each_other_by_a_file_of_our_own(allocation: Allocation, tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("loader-1:7000")
    done = allocation.run("trainer.sbatch", TARGETS=str(tmp_path / "targets"), RUN=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    *words, mode = allocation.saw()
    assert "--rdzv-conf=store_type=file" in words
    (endpoint,) = (Path(word.partition("=")[2]) for word in words if word.startswith("--rdzv-endpoint="))
    assert mode == "700"
    assert endpoint.parent.parent == tmp_path / "run"
    assert not endpoint.parent.exists(), "it goes with the job"


def test_two_nodes_train_by_such_a_file(loader_target: str, tmp_path: Path) -> None:
    """With the script's own words about the rendezvous, each node's torchrun being a process here."""
    text = (DEPLOY / "slurm/trainer.sbatch").read_text("utf-8").replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("srun torchrun "))
    words = [word for word in shlex.split(line) if word.startswith("--rdzv-")]
    values = {"$rendezvous": str(tmp_path), "$SLURM_JOB_ID": "17"}
    options = [word.replace(name, value) for word in words for name, value in values.items() if name in word]
    options += [word for word in words if "$" not in word]
    assert len(options) == 4
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *options]
    command += ["-m", "trainer", *train_command(loader_target, tmp_path / "run", "--epochs", "1")]
    nodes = [
        subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        outcomes = [(node.communicate(timeout=300)[1], node.returncode) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [code for _, code in outcomes] == [0, 0], outcomes
    assert load(folder.numbered(tmp_path / "run")[0]).epoch == 1


def test_ray_writes_where_nobody_else_gets(allocation: Allocation) -> None:
    done = allocation.run("preprocess.sbatch", SOURCE="/source", OUT="/store")
    assert done.returncode == 0, done.stderr
    (folder_of_ray,) = (Path(word.partition("=")[2]) for word in allocation.saw() if word.startswith("--temp-dir="))
    try:
        assert stat.S_IMODE(folder_of_ray.parent.stat().st_mode) == 0o700
        assert "17" in folder_of_ray.parent.name
        longest = folder_of_ray / "session_2026-11-27_10-20-30_123456_1234567/sockets/plasma_store"
        assert len(str(longest)) < 108, "a Unix socket's path"
    finally:
        folder_of_ray.parent.rmdir()
