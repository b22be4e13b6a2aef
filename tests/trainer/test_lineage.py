"""Checkpoints belong to one line of descent: what a run saves is never given up for a branch that was abandoned."""

import os
from pathlib import Path

import pytest

from tests.trainer.runs import train
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load
from trainer.monitor.metrics import read_points

SAVING = ("--epochs", "3", "--checkpoint-steps", "2", "--keep", "2")


def names(run_dir: Path) -> list[str]:
    return [path.name for path in folder.numbered(run_dir)]


@pytest.fixture
def run(loader_target: str, tmp_path: Path) -> Path:
    """A run of 18 steps that keeps everything."""
    run_dir = tmp_path / "run"
    assert train(loader_target, run_dir, "--epochs", "3", "--checkpoint-steps", "2", "--keep", "99") == 0
    return run_dir


def test_the_new_branch_is_kept_and_followed(run: Path, loader_target: str, capsys: pytest.CaptureFixture[str]) -> None:
    later = [name for name in names(run) if name > "step-000000008.pt"]
    metrics = (run / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    back = str(folder.path_of(run, 8))
    assert train(loader_target, run, *SAVING, "--lr", "0.001", "--resume", back, "--epochs", "2") == 0
    told = capsys.readouterr().err
    aside = folder.folder_of(run) / "abandoned-1"
    assert f"set aside in {aside}" in told
    assert all(name in told for name in later)
    assert sorted(path.name for path in aside.glob("step-*.pt")) == sorted(later), "nothing of the old branch is lost"
    assert (aside / "metrics.jsonl").read_bytes() == metrics
    assert names(run) == ["step-000000012.pt", "step-000000010.pt"], "and what the new one saved is kept"
    assert train(loader_target, run, *SAVING, "--lr", "0.001", "--resume", "auto") == 0
    assert "continuing from " + str(folder.path_of(run, 12)) in capsys.readouterr().err
    assert [point.epoch for point in read_points(run)[1]] == [0, 1, 2]


def test_a_checkpoint_of_another_folder_begins_a_line_of_its_own(
    run: Path, loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert train(loader_target, other, *SAVING) == 0
    theirs = [*names(other), folder.BEST_NAME]
    assert train(loader_target, other, *SAVING, "--resume", str(folder.path_of(run, 4))) == 0
    aside = folder.folder_of(other) / "abandoned-1"
    assert sorted(path.name for path in aside.glob("*.pt")) == sorted(theirs)
    assert names(other) == ["step-000000018.pt", "step-000000016.pt"]
    assert folder.best_of(other).is_file()


def test_metrics_are_those_of_the_line(run: Path, loader_target: str, tmp_path: Path) -> None:
    """Steps before the checkpoint are its own run's, whatever the folder held; also of a branch that was set aside."""
    other = tmp_path / "other"
    assert train(loader_target, other, *SAVING, "--seed", "3") == 0
    theirs = read_points(other)[0]
    assert train(loader_target, other, *SAVING, "--resume", str(folder.path_of(run, 8))) == 0
    ours = read_points(run)[0]
    found = read_points(other)[0]
    assert [point.global_step for point in found] == [point.global_step for point in ours]
    assert [point.loss for point in found] == [point.loss for point in ours]
    aside = folder.folder_of(other) / "abandoned-1"
    back = str(aside / "step-000000016.pt")
    assert train(loader_target, other, *SAVING, "--seed", "3", "--resume", back) == 0
    assert [point.loss for point in read_points(other)[0]] == [point.loss for point in theirs]


def test_a_damaged_one_that_was_passed_over_counts_no_more(run: Path, loader_target: str) -> None:
    for step in (10, 12, 14, 16, 18):
        folder.path_of(run, step).write_bytes(b"damaged")
    assert train(loader_target, run, *SAVING, "--resume", "auto", "--epochs", "2") == 0
    assert names(run) == ["step-000000012.pt", "step-000000010.pt"]
    assert all(load(path) for path in folder.numbered(run))


def test_the_best_stays_with_its_line(run: Path, loader_target: str) -> None:
    """The best of the abandoned branch goes with it; the new branch has a best of its own as soon as it has any."""
    best = load(folder.best_of(run))
    back = folder.path_of(run, 2)
    assert train(loader_target, run, *SAVING, "--resume", str(back), "--epochs", "1") == 0
    assert load(folder.folder_of(run) / "abandoned-1" / "best.pt").global_step == best.global_step
    assert load(folder.best_of(run)).global_step == 6
    ours = {path.stat().st_ino for path in folder.numbered(run)}
    assert folder.best_of(run).stat().st_ino in ours, "another name, not another 455 MB"


def test_a_power_cut_between_the_two_names_of_the_best(run: Path, loader_target: str) -> None:
    """A checkpoint says itself that it is the best so far: whoever continues from it gives it that name as well."""
    best = folder.path_of(run, load(folder.best_of(run)).global_step)
    for path in folder.numbered(run):
        if path > best:
            path.unlink()
    folder.best_of(run).unlink()
    os.link(folder.path_of(run, 6) if best != folder.path_of(run, 6) else folder.path_of(run, 2), folder.best_of(run))
    epochs = str(load(best).epoch)
    assert train(loader_target, run, *SAVING, "--resume", "auto", "--epochs", epochs) == 0, "nothing is left to train"
    assert folder.best_of(run).samefile(best)


def test_only_the_best_is_left(run: Path, loader_target: str, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.numbered(run):
        path.unlink()
    before = folder.best_of(run).read_bytes()
    capsys.readouterr()
    for how in ("auto", "never"):
        assert train(loader_target, run, *SAVING, "--resume", how) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert folder.best_of(run).read_bytes() == before
        if how == "auto":
            assert f"--resume {folder.best_of(run)}" in told
    assert train(loader_target, run, *SAVING, "--resume", str(folder.best_of(run))) == 0


def test_all_numbered_ones_are_damaged(run: Path, loader_target: str, capsys: pytest.CaptureFixture[str]) -> None:
    best = folder.best_of(run).read_bytes()
    folder.best_of(run).unlink()
    folder.best_of(run).write_bytes(best)  # a file of its own, as an earlier version wrote it
    for path in folder.numbered(run):
        path.write_bytes(path.read_bytes()[:1000])
    assert train(loader_target, run, *SAVING, "--resume", "auto") == 1
    assert f"continue from the best one, of epoch {load(folder.best_of(run)).epoch}" in capsys.readouterr().err
    folder.best_of(run).write_bytes(b"damaged too")
    assert train(loader_target, run, *SAVING, "--resume", "auto") == 1
    assert "start again in another --run-dir" in capsys.readouterr().err.splitlines()[-1]


def test_leftovers_of_a_kill_go(run: Path, loader_target: str) -> None:
    """And nothing else: what ends in .tmp may be somebody's."""
    unfinished = ".{}.0123456789abcdef0123456789abcdef.tmp"
    leftovers = [folder.folder_of(run) / unfinished.format("step-000000019.pt"), run / unfinished.format("run.json")]
    others = [folder.folder_of(run) / "mine.tmp", run / ".mine.tmp"]
    for path in (*leftovers, *others):
        path.write_bytes(b"half")
    assert train(loader_target, run, *SAVING, "--resume", "auto") == 0
    assert not any(map(os.path.exists, leftovers))
    assert all(map(os.path.exists, others))
