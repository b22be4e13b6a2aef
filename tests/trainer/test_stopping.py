"""Stop signals in every phase of every command: what is under way ends, what is worth saving is saved, 143 or 130."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.processes import loader_processes
from tests.relays import relaying
from tests.trainer.runs import command, started, train, train_command, wait_for_checkpoint
from tests.waiting import wait_until
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


class SilentService:
    """Takes connections and never answers."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(90)
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._server, *self._connections):
            each.close()

    def wait_for_a_client(self) -> None:
        self._connections.append(self._server.accept()[0])


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("name", ["train", "evaluate", "report", "describe"])
def test_while_it_waits_for_a_loader(
    name: str, number: signal.Signals, code: int, loader_target: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    if name in ("evaluate", "report"):
        assert train(loader_target, run_dir, "--epochs", "1") == 0
    with SilentService() as service:
        address = service.address
        waiting = ("--target", address, "--service-timeout-s", "1000")
        arguments = {
            "train": train_command(address, run_dir, "--service-timeout-s", "1000"),
            "evaluate": ["evaluate", *waiting, "--checkpoint", str(run_dir)],
            "report": ["report", str(run_dir), *waiting],
            "describe": ["describe", *waiting],
        }[name]
        with command(*arguments) as process:
            service.wait_for_a_client()
            process.send_signal(number)
            _, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr


def test_in_a_validation_that_gets_nothing(tiny_store: Path, tmp_path: Path) -> None:
    """The loader freezes where the epoch's last step has been taken: those steps are saved, and are not taken again."""
    options = ("--epochs", "3000", "--checkpoint-interval-s", "1000")
    with loader_processes(tiny_store, 1) as [replica]:
        for delay_s in (0.0, 0.05, 0.1):
            run_dir = tmp_path / f"run-{delay_s}"
            with started(replica.target, run_dir, *options) as process:
                wait_for_checkpoint(run_dir, process, least_step=6)
                signal.sigtimedwait([], delay_s)
                replica.send(signal.SIGSTOP)
                signal.sigtimedwait([], 0.5)
                process.send_signal(signal.SIGTERM)
                _, stderr = process.communicate(timeout=300)
                replica.send(signal.SIGCONT)
            assert process.returncode == 143, stderr
            assert "stopped at epoch" in stderr
            assert "Traceback" not in stderr
            last = load(folder.numbered(run_dir)[0])
            assert f"stopped at epoch {last.epoch}, step {last.step}" in stderr


def test_an_epochs_last_steps_are_saved_before_its_validation(
    loader_target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.evaluate import SplitPass

    begin = SplitPass.__iter__

    def stopped_meanwhile(self: SplitPass) -> Iterator[object]:
        os.kill(os.getpid(), signal.SIGTERM)
        return begin(self)

    monkeypatch.setattr(SplitPass, "__iter__", stopped_meanwhile)
    assert train(loader_target, tmp_path, "--epochs", "2") == 143
    monkeypatch.undo()
    [path] = folder.numbered(tmp_path)
    assert (load(path).epoch, load(path).step) == (0, 6)
    assert train(loader_target, tmp_path, "--epochs", "2", "--resume", "auto") == 0
    unbroken = tmp_path / "unbroken"
    assert train(loader_target, unbroken, "--epochs", "2") == 0
    ours, theirs = (load(folder.numbered(run_dir)[0]) for run_dir in (tmp_path, unbroken))
    assert all((ours.weights[name] == value).all() for name, value in theirs.weights.items())
    assert ours.validation == theirs.validation


@pytest.mark.parametrize(("number", "code"), CODES)
def test_while_it_evaluates(number: signal.Signals, code: int, loader_target: str, tmp_path: Path) -> None:
    assert train(loader_target, tmp_path, "--epochs", "1") == 0
    with relaying(loader_target) as relay:
        relay.bytes_per_s = 50_000
        options = ("--checkpoint", str(tmp_path), "--service-timeout-s", "999", "--transport", "grpc")
        with command("evaluate", "--target", relay.target, *options) as process:
            wait_until(lambda: relay.num_connections > 1, "the stream's first connection", 90)
            relay.is_open.clear()
            process.send_signal(number)
            _, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
