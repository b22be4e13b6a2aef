"""The whole program against a real service: learns, stops, resumes to the same bits, refuses what does not fit."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import serving
from tests.processes import loader_processes
from tests.stores import make_store
from tests.trainer.runs import started, train, wait_for_checkpoint
from trainer.__main__ import main
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import Snapshot, load
from trainer.monitor.metrics import read_points
from trainer.network.columns import TwoColumns

TRAIN = ("train", "--target", "localhost:1", "--run-dir", "x")


def final(run_dir: Path) -> Snapshot:
    return load(folder.numbered(run_dir)[0])


def assert_same_state(a: Snapshot, b: Snapshot) -> None:
    assert (a.epoch, a.step, a.global_step, a.schedule) == (b.epoch, b.step, b.global_step, b.schedule)
    for name in a.weights:
        assert torch.equal(a.weights[name], b.weights[name]), name
        assert torch.equal(a.velocities[name], b.velocities[name]), name
    for ours, theirs in zip(a.generators, b.generators, strict=True):
        assert torch.equal(ours, theirs)
    assert a.validation == b.validation


@pytest.fixture(scope="module")
def unbroken(loader_target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs of six steps that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("unbroken")
    torch.set_num_threads(1)
    assert train(loader_target, run_dir, "--epochs", "3", "--checkpoint-steps", "2", "--keep", "99") == 0
    return run_dir


def test_a_run_leaves_metrics_checkpoints_and_a_curve(unbroken: Path) -> None:
    train_points, epochs = read_points(unbroken)
    assert [point.epoch for point in epochs] == [0, 1, 2]
    assert [point.global_step for point in train_points] == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert all(0 <= point.data_wait <= 1 and point.images_per_s > 0 for point in train_points)
    assert epochs[-1].validation_top5_error is not None
    assert (unbroken / "curve.svg").read_text().startswith("<svg")
    assert (folder.folder_of(unbroken) / "best.pt").is_file()
    assert final(unbroken).step == 0
    assert final(unbroken).epoch == 3


def test_the_same_seed_gives_the_same_curve(unbroken: Path, loader_target: str, tmp_path: Path) -> None:
    assert train(loader_target, tmp_path, "--epochs", "3") == 0
    ours, theirs = read_points(unbroken)[1], read_points(tmp_path)[1]
    assert ours == theirs
    assert_same_state(final(unbroken), final(tmp_path))


def test_killed_and_resumed_is_bit_identical(unbroken: Path, loader_target: str, tmp_path: Path) -> None:
    options = ("--epochs", "3", "--checkpoint-steps", "2")
    with started(loader_target, tmp_path, *options) as process:
        wait_for_checkpoint(tmp_path, process, least_step=8)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert train(loader_target, tmp_path, *options, "--resume", "auto") == 0
    assert_same_state(final(unbroken), final(tmp_path))
    assert [e.train_loss for e in read_points(tmp_path)[1]] == [e.train_loss for e in read_points(unbroken)[1]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_saves_and_the_run_continues_to_the_same_bits(
    number: signal.Signals, code: int, unbroken: Path, loader_target: str, tmp_path: Path
) -> None:
    with started(loader_target, tmp_path, "--epochs", "3", "--checkpoint-steps", "1") as process:
        wait_for_checkpoint(tmp_path, process, least_step=3)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    assert "--resume auto" in stderr
    assert "Traceback" not in stderr
    assert train(loader_target, tmp_path, "--epochs", "3", "--resume", "auto") == 0
    assert_same_state(final(unbroken), final(tmp_path))


@pytest.mark.parametrize("step", [4, 6, 10, 12, 18])
def test_any_checkpoint_leads_to_the_same_end(step: int, unbroken: Path, loader_target: str, tmp_path: Path) -> None:
    """Mid-epoch, at an epoch's end, and at the very end."""
    start_from = folder.path_of(unbroken, step)
    assert train(loader_target, tmp_path, "--epochs", "3", "--resume", str(start_from)) == 0
    if step < 18:
        assert_same_state(final(unbroken), final(tmp_path))


def test_a_truncated_newest_checkpoint_falls_back(
    unbroken: Path, loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (8, 10):
        content = folder.path_of(unbroken, step).read_bytes()
        path = folder.path_of(tmp_path, step)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[: len(content) // 3] if step == 10 else content)
    assert train(loader_target, tmp_path, "--epochs", "3", "--resume", "auto") == 0
    assert "step-000000010.pt: not a whole checkpoint" in capsys.readouterr().err
    assert_same_state(final(unbroken), final(tmp_path))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--seed", "5"), "--seed was 0 and is 5 (they decide the stream of images: leave them, or start another run)"),
        (("--recipe", "paper"), "--recipe was 'convnet2012' and is 'paper' (leave it, or start another run)"),
        (("--no-lrn",), "--lrn was True and is False (they decide the network"),
        (("--colour-pca", "off"), "--colour-pca"),
        (("--init", "he"), "--init was 'fan_in' and is 'he' (the weights have left it behind"),
    ],
)
def test_another_run_is_refused_by_name(
    options: tuple[str, ...],
    difference: str,
    unbroken: Path,
    loader_target: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(loader_target, unbroken, "--epochs", "3", "--resume", "auto", *options) == 1
    message = capsys.readouterr().err
    assert difference in message
    assert message.count("\n") == 1


def test_another_store_is_refused(unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(make_store(tmp_path / "other", seed=9)) as target:
        assert train(target, unbroken, "--epochs", "3", "--resume", "auto") == 1
    message = capsys.readouterr().err
    assert "the store's fingerprint was" in message
    assert "serve the store" in message


def test_a_folder_with_checkpoints_is_not_overwritten(
    unbroken: Path, loader_target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, unbroken, "--epochs", "3") == 1
    assert "continue them with --resume auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop", "65"), "--crop: expected at most the stored side 64, found 65"),
        (("--split", "test"), "--split: expected one of train, val"),
        (("--batch-size", "101"), "has 100 images, less than one batch of 101"),
        (("--devices", "cuda:7,cuda:8"), "cuda:7 does not exist"),
        (("--devices", "nonsense,cpu"), "expected names such as cpu or cuda:0"),
    ],
)
def test_mistakes_take_one_line(
    options: tuple[str, ...],
    message: str,
    loader_target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(loader_target, tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--run-dir", "x"], "--target must be given"),
        (["train"], "--target, --run-dir must be given"),
        (["train", "--target", "localhost:1"], "--run-dir must be given"),
        (["train", "--describe"], "--describe is a command now: alexnet-trainer describe"),
        (["describe", "--crop", "30"], "--crop: 30 is too small"),
        ([*TRAIN, "--lr", "nan"], "--lr: expected more than 0, found nan"),
        ([*TRAIN, "--width", "inf"], "--width: expected more than 0 and at most 16, found inf"),
        ([*TRAIN, "--lr-drops", "0"], "--lr-drops: expected at least 1, found 0"),
        ([*TRAIN, "--lr-drops", "2,2"], "--lr-drops: expected rising epochs, found 2,2"),
        ([*TRAIN, "--epochs", "9", "--lr-drops", "5,9"], "--lr-drops: expected epochs before the last, 9, found 9"),
        ([*TRAIN, "--checkpoint-minutes", "0"], "--checkpoint-interval-s: expected more than 0, found 0.0"),
        (["evaluate", "--target", "localhost:1"], "--checkpoint must be given"),
    ],
)
def test_usage_errors_exit_with_two(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unreachable_service_is_one_line_and_saves_what_there_is(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("127.0.0.1:9", tmp_path, "--service-timeout-s", "0.3") == 1
    assert "expected a loader at 127.0.0.1:9" in capsys.readouterr().err


def test_a_service_that_goes_away_ends_in_a_checkpoint(
    unbroken: Path, tiny_store: Path, loader_target: str, tmp_path: Path
) -> None:
    options = ("--epochs", "3000", "--checkpoint-steps", "3", "--service-timeout-s", "0.5")
    with loader_processes(tiny_store, 1) as [replica], started(replica.target, tmp_path, *options) as process:
        wait_for_checkpoint(tmp_path, process, least_step=6)
        replica.end()
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr
    assert "continue with --resume auto" in stderr
    assert "Traceback" not in stderr
    assert final(tmp_path).global_step > 0


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"), "CUDA out of memory"),
        (torch.AcceleratorError("CUDA error: device lost"), "CUDA error: device lost"),
    ],
)
def test_a_failing_device_is_one_line_and_leaves_the_last_checkpoint(
    failure: Exception,
    message: str,
    loader_target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward = TwoColumns.forward
    calls = []

    def fails_at_the_fifth(self: TwoColumns, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise failure
        return forward(self, *arguments)

    monkeypatch.setattr(TwoColumns, "forward", fails_at_the_fifth)
    assert train(loader_target, tmp_path, "--epochs", "3", "--checkpoint-steps", "2") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert "step-000000004.pt; continue with --resume auto" in error
    assert final(tmp_path).global_step == 4


def test_a_silent_service_does_not_hold_up_a_stop(tiny_store: Path, tmp_path: Path) -> None:
    """The loader is frozen, so the step waits for a batch when the signal comes."""
    options = ("--epochs", "3000", "--checkpoint-steps", "2")
    with loader_processes(tiny_store, 1) as [replica], started(replica.target, tmp_path, *options) as process:
        wait_for_checkpoint(tmp_path, process, least_step=4)
        replica.send(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 143, stderr
    assert "stopped at epoch" in stderr


def test_describe_needs_no_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe"]) == 0
    assert "60,965,224 parameters" in capsys.readouterr().out


def test_json_result(unbroken: Path, loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(loader_target, tmp_path, "--epochs", "1", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["epochs"] == 1
    assert result["steps"] == 6
    assert 0 <= result["validation_top1_error"] <= 1
    assert os.path.exists(result["curve"])
