"""One run a folder."""

import os
import signal
from pathlib import Path

import pytest

from tests.trainer.runs import started, train, wait_for_checkpoint


def test_a_second_run_is_refused_and_names_the_owner(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(loader_target, tmp_path, "--epochs", "9999", "--checkpoint-steps", "2") as process:
        wait_for_checkpoint(tmp_path, process)
        for how in ("auto", "never"):
            assert train(loader_target, tmp_path, "--resume", how) == 1
            told = capsys.readouterr().err
            assert f"held by process {process.pid} on {os.uname().nodename} since 2" in told
            assert told.count("\n") == 1
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)
    assert train(loader_target, tmp_path, "--epochs", "1", "--resume", "auto") == 0, "a dead owner holds nothing"
