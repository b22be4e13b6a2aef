"""scripts/cluster: what it starts, that it survives kill -9 of each process, that it stops cleanly."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.test_trainer_metrics import scrape
from tests.stores import make_store
from tests.trainer.runs import NETWORK, SHORT
from tests.waiting import wait_until

COMMAND = Path(__file__).parents[2] / "deploy/local/cluster"
BIN = Path(sys.executable).parent
OFFSETS = (0, 1, 2, 10, 11, 12, 20, 30)

pytestmark = [
    pytest.mark.skipif(not (BIN / "supervisord").exists(), reason="needs supervisor"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command"),
]


def free_ports() -> int:
    """A base whose ports are all free, below those that the system gives to connections."""
    while True:
        base = random.randrange(20_000, 32_000)
        with ExitStack() as stack:
            try:
                for offset in OFFSETS:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", base + offset))
            except OSError:
                continue
            return base


def processes(folder: Path) -> dict[str, int]:
    """What runs out of ``folder``, by its name in the cluster."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if not any(str(folder) in word for word in words) or "bash" in words[0]:
            continue
        if "serve" in words:
            found[words[words.index("--listen") + 1]] = int(entry.name)
        elif "train" in words:
            found["trainer"] = int(entry.name)
        else:
            found[Path(words[1] if "python" in words[0] else words[0]).name] = int(entry.name)
    return found


def wait_until_replaced(folder: Path, name: str, old: int) -> None:
    wait_until(lambda: processes(folder).get(name, old) != old, f"{name} back")


def step(base: int) -> float:
    try:
        return scrape(base + 20)["alexnet_trainer_step"]
    except OSError:
        return 0.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def test_survives_kills_and_stops(tmp_path: Path, folder: Path) -> None:
    store = make_store(tmp_path / "store", side=72)
    base = free_ports()
    names = {f"127.0.0.1:{base + number}" for number in range(3)} | {"trainer", "supervisord"}
    if shutil.which("prometheus"):
        names.add("prometheus")
    options = ("--epochs", "100000", "--checkpoint-steps", "10")
    command = [str(COMMAND), "--store", str(store), "--port", str(base), str(folder), "--", *NETWORK, *SHORT, *options]
    with subprocess.Popen(command, env=os.environ | {"PYTHON": sys.executable}) as process:
        try:
            wait_until(lambda: step(base) > 10, "training to begin")
            first = processes(folder)
            assert set(first) == names
            # The keeper last: it takes all others along. The three loaders are alike, so one of them.
            for name in [*sorted(names - {"supervisord"})[-3:], "supervisord"]:
                victim = processes(folder)[name]
                os.kill(victim, signal.SIGKILL)
                wait_until_replaced(folder, name, victim)
            wait_until(lambda: set(processes(folder)) == names, "all to run again")
            assert not set(processes(folder).values()) & set(first.values())
            wait_until(lambda: step(base) > 10, "training to go on")
        finally:
            process.terminate()
        assert process.wait(300) == 0
    assert processes(folder) == {}


def test_once_ends_with_the_training(tmp_path: Path, folder: Path) -> None:
    store = make_store(tmp_path / "store", side=72)
    command = [str(COMMAND), "--store", str(store), "--port", str(free_ports()), "--once", str(folder), "--"]
    done = subprocess.run(
        [*command, *NETWORK, *SHORT, "--epochs", "1"],
        env=os.environ | {"PYTHON": sys.executable},
        timeout=300,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "validation: top-1 error" in done.stdout
    assert processes(folder) == {}


@pytest.mark.parametrize("options", [("--port", "x"), ("--what",), ("one", "two")])
def test_says_what_is_wrong(options: tuple[str, ...]) -> None:
    done = subprocess.run([str(COMMAND), *options], env=os.environ | {"PYTHON": sys.executable}, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"cluster: error: ")
