"""A full disk: whatever could not be written, one line says which file, why, and where the run can continue."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from commandline.files import Appender, write_whole
from tests.disks import fill, small_disk
from tests.trainer.runs import started, train, wait_for_checkpoint
from tests.trainer.test_metrics import train_point
from trainer.__main__ import main
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load
from trainer.monitor.events import EventsFile
from trainer.monitor.metrics import MetricsWriter, read_points

ENOUGH = 8_000_000


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100_000) as disk:
        path = disk / "file"
        write_whole(path, "before")
        with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
            write_whole(path, b"x" * 1_000_000)
        assert path.read_text() == "before"
        assert [entry.name for entry in disk.iterdir()] == ["file"]


def test_what_is_appended_is_whole_or_an_error_that_names_the_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100_000) as disk:
        appender = Appender(disk / "log")
        appender.append(b"x" * 999)
        with pytest.raises(OSError, match=r"No space left on device: '.*/log'"):
            appender.append(b"x" * 200_000)
        appender.close()


def test_events_are_given_up_and_metrics_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 60_000) as disk:
        (tmp_path / "tensorboard").symlink_to(disk)
        with MetricsWriter(tmp_path, epoch=0, global_step=0, tensorboard=True) as writer:
            for step in range(1, 400):
                writer.write(train_point(step))
    told = capsys.readouterr().err
    assert told.count("\n") == 1, "one warning"
    assert "No space left on device; the run goes on without TensorBoard events" in told
    assert len(read_points(tmp_path)[0]) == 399


def test_events_name_their_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 20_000) as disk:
        events = EventsFile(disk)
        with pytest.raises(OSError, match="tfevents"):
            events.add({f"loss {number}": 1.0 for number in range(2000)}, step=1, time_s=0.0)
        events.close()


def test_a_checkpoint_that_cannot_be_saved_ends_the_run_in_a_line(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--checkpoint-steps", "2", "--tensorboard", "--resume", "auto")
    with small_disk(tmp_path / "disk", ENOUGH) as disk:
        run_dir = disk / "run"
        assert train(loader_target, run_dir, "--epochs", "1", *options) == 0
        last = folder.numbered(run_dir)[0]
        ballast = fill(disk, leave_bytes=40_000)
        capsys.readouterr()
        assert train(loader_target, run_dir, "--epochs", "3", *options) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        line = told.splitlines()[-1]
        assert "checkpoints/step-0000000" in line
        assert "No space left on device; the last checkpoint is " + str(last) in line
        assert load(last).global_step == 6
        assert not list(folder.folder_of(run_dir).glob("*.tmp"))
        ballast.unlink()
        assert train(loader_target, run_dir, "--epochs", "3", *options) == 0


@pytest.mark.parametrize("file", ["metrics.jsonl", "run.json", "run.lock"])
def test_a_disk_without_room_for_anything(
    file: str, loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that fails first is named, whichever it is."""
    with small_disk(tmp_path / "disk", ENOUGH) as disk:
        run_dir = disk / "run"
        assert train(loader_target, run_dir, "--epochs", "1") == 0
        if file == "metrics.jsonl":
            (run_dir / "metrics.jsonl").write_bytes((run_dir / "metrics.jsonl").read_bytes() * 40)
        fill(disk, leave_bytes={"metrics.jsonl": 12_288, "run.json": 0, "run.lock": 0}[file])
        if file == "run.lock":
            run_dir = disk / "another"
        capsys.readouterr()
        assert train(loader_target, run_dir, "--epochs", "2", "--resume", "auto") == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert "No space left on device" in told.splitlines()[-1]
        assert str(disk) in told.splitlines()[-1]


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", ENOUGH):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "curve.svg").mkdir()  # nothing can be renamed onto a folder
        (tmp_path / "run" / "curve.svg" / "x").touch()
        assert train(loader_target, tmp_path / "run", "--epochs", "2") == 0
        assert capsys.readouterr().err.count("the run goes on without its picture") == 1


def test_reports_and_exports_name_their_file(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert train(loader_target, run_dir, "--epochs", "1") == 0
    with small_disk(tmp_path / "disk", 20_000) as disk:
        fill(disk)
        for command in (
            ["report", str(run_dir), "--out", str(disk / "page.html")],
            ["export", "--checkpoint", str(run_dir), "--out", str(disk / "weights.safetensors")],
        ):
            capsys.readouterr()
            assert main(command) == 1
            told = capsys.readouterr().err
            assert "No space left on device" in told
            assert str(disk) in told
            assert "Traceback" not in told
            assert [entry.name for entry in disk.iterdir()] == ["ballast"]


def test_a_full_disk_does_not_keep_a_run_from_stopping(loader_target: str, tmp_path: Path) -> None:
    """TensorBoard's folder is full while the rest is not: the run goes on, and hears SIGTERM."""
    with small_disk(tmp_path / "disk", 40_000) as disk:
        fill(disk)
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "tensorboard").symlink_to(disk)
        options = ("--epochs", "9999", "--checkpoint-steps", "2", "--tensorboard", "--log-steps", "1")
        with started(loader_target, run_dir, *options) as process:
            wait_for_checkpoint(run_dir, process, least_step=40)
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=300)
        assert process.returncode == 143, stderr
        assert "without TensorBoard events" in stderr
        assert os.path.exists(run_dir / "metrics.jsonl")
        assert shutil.disk_usage(run_dir).free > 0
