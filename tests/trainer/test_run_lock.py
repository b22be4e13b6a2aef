"""One run a folder."""

import os
import signal
from pathlib import Path

import pytest

from tests.trainer.runs import started, train, wait_for_checkpoint
from trainer.checkpoint.lock import RunLock
from trainer.errors import TrainerError


def test_a_second_run_is_refused_and_names_the_owner(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(loader_target, tmp_path, "--epochs", "9999", "--checkpoint-steps", "2") as process:
        wait_for_checkpoint(tmp_path, process)
        for how in ("auto", "never"):
            assert train(loader_target, tmp_path, "--resume", how) == 1
            told = capsys.readouterr().err
            assert f"held by process {process.pid} on {os.uname().nodename}, since 2" in told
            assert told.count("\n") == 1
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=100)
    assert train(loader_target, tmp_path, "--epochs", "1", "--resume", "auto") == 0, "a dead owner holds nothing"


def test_it_is_let_go(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(TrainerError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path)
    RunLock(tmp_path).close()
