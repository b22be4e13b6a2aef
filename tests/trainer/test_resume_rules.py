"""What may change when a run continues: a table in the code, the same in the docs, and what each change does."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from tests.trainer.runs import train
from trainer.checkpoint import folder
from trainer.checkpoint.identity import RESUME_RULES
from trainer.checkpoint.snapshot import load
from trainer.config import TrainConfig
from trainer.monitor.metrics import read_points

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"
PLATEAU = ("--recipe", "paper", "--lr", "0.002")


def test_every_option_of_train_has_one_rule() -> None:
    options = [option for rule in RESUME_RULES for option in rule.options]
    assert sorted(options) == sorted("--" + f.name.replace("_", "-") for f in dataclasses.fields(TrainConfig))


def test_the_docs_have_the_table_of_the_code() -> None:
    rows = [
        f"| {', '.join(f'`{option}`' for option in rule.options) or 'the store and the loaders'} "
        f"| {'yes' if rule.may_change else 'no'} | {rule.note} |"
        for rule in RESUME_RULES
    ]
    assert "\n".join(rows) in DOCUMENT.read_text("utf-8"), "\n".join(rows)


@pytest.mark.parametrize("recipe", [("--recipe", "convnet2012"), PLATEAU])
def test_a_finished_run_can_be_extended(
    recipe: tuple[str, ...], loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, tmp_path, *recipe, "--epochs", "1") == 0
    assert train(loader_target, tmp_path, *recipe, "--epochs", "1", "--resume", "auto") == 0
    assert "nothing is left to train: 1 epochs of --epochs 1 have been" in capsys.readouterr().err
    assert train(loader_target, tmp_path, *recipe, "--epochs", "3", "--resume", "auto") == 0
    assert [point.epoch for point in read_points(tmp_path)[1]] == [0, 1, 2]
    assert load(folder.numbered(tmp_path)[0]).epoch == 3


def test_a_plateau_goes_on_to_count_where_it_was(loader_target: str, tmp_path: Path) -> None:
    """Extending a run of the paper's recipe is the same as having asked for as many epochs at once."""
    assert train(loader_target, tmp_path / "one", *PLATEAU, "--epochs", "3") == 0
    assert train(loader_target, tmp_path / "two", *PLATEAU, "--epochs", "1") == 0
    assert train(loader_target, tmp_path / "two", *PLATEAU, "--epochs", "3", "--resume", "auto") == 0
    a, b = (load(folder.numbered(tmp_path / name)[0]) for name in ("one", "two"))
    assert a.schedule == b.schedule
    assert all(map(torch.equal, a.weights.values(), b.weights.values()))


def test_rates_by_hand(loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand = ("--lr", "0.002", "--epochs", "4")
    assert train(loader_target, tmp_path, *by_hand, "--lr-drops", "1", "--epochs", "2") == 0
    assert train(loader_target, tmp_path, *by_hand, "--lr-drops", "1,3", "--resume", "auto") == 0
    assert "changed since that checkpoint: the schedule" in capsys.readouterr().err
    assert [point.rate for point in read_points(tmp_path)[1]] == pytest.approx([2e-3, 2e-4, 2e-4, 2e-5])
    assert train(loader_target, tmp_path, "--lr", "0.001", "--epochs", "5", "--lr-drops", "1", "--resume", "auto") == 0
    assert read_points(tmp_path)[1][-1].rate == pytest.approx(1e-4)


def test_another_batch_size_where_the_position_allows(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, tmp_path, "--epochs", "2", "--checkpoint-steps", "1", "--keep", "99") == 0
    middle = str(folder.path_of(tmp_path, 8))  # two batches of 16 into the second epoch
    for size, code in (("20", 1), ("8", 0), ("32", 0)):
        run_dir = tmp_path / size
        assert train(loader_target, run_dir, "--epochs", "2", "--resume", middle, "--batch-size", size) == code
        told = capsys.readouterr().err
        if code:
            assert "--batch-size 20" in told
            assert "32 images into an epoch, no whole batches of that size: continue with --batch-size 16" in told
        else:
            assert "changed since that checkpoint: --batch-size" in told
            assert load(folder.numbered(run_dir)[0]).global_step == 8 + (100 - 32) // int(size)
    begin = str(folder.path_of(tmp_path, 6))  # the epoch's end, before or after whose validation any size will do
    assert train(loader_target, tmp_path / "any", "--epochs", "2", "--resume", begin, "--batch-size", "20") == 0


def test_where_and_how_it_is_computed_may_change(loader_target: str, tmp_path: Path) -> None:
    assert train(loader_target, tmp_path, "--epochs", "1") == 0
    changed = ("--precision", "bfloat16", "--no-channels-last", "--validation-split", "train", "--keep", "1")
    assert train(loader_target, tmp_path, "--epochs", "2", "--resume", "auto", *changed) == 0


def test_a_device_that_would_choose_another_precision_asks_which(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(loader_target, tmp_path, "--epochs", "1") == 0
    assert capsys.readouterr().err.splitlines()[0].endswith(", float32")
    monkeypatch.setattr("trainer.train.precision_on", lambda device: "bfloat16")
    assert train(loader_target, tmp_path, "--epochs", "2", "--resume", "auto") == 1
    assert "was trained in float32, and this device would choose bfloat16: give --precision" in capsys.readouterr().err
    assert train(loader_target, tmp_path, "--epochs", "2", "--resume", "auto", "--precision", "float32") == 0


def test_a_validation_split_that_is_not_there(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, tmp_path, "--epochs", "1", "--validation-split", "nope") == 1
    told = capsys.readouterr().err
    assert re.search(r"--validation-split: expected one of train, val, found 'nope'", told)
    assert told.count("\n") == 1
