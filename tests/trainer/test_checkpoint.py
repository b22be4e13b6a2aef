"""Checkpoints: whole or absent, read back exactly, damaged ones passed over loudly, foreign ones refused."""

from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import CPU_PAIR, tiny_architecture
from trainer.checkpoint import files as checkpoint
from trainer.checkpoint.files import Snapshot
from trainer.errors import CheckpointError
from trainer.network.columns import TwoColumns
from trainer.optimizer import PaperUpdate
from trainer.recipes import PAPER
from trainer.recipes.schedule import ScheduleState


def snapshot(global_step: int = 7) -> Snapshot:
    network = TwoColumns(tiny_architecture(), CPU_PAIR)
    update = PaperUpdate(network.named_parameters(), PAPER)
    return Snapshot(
        identity={"fingerprint": "abc", "seed": 1, "recipe.lrn.k": 2.0},
        epoch=2,
        step=3,
        global_step=global_step,
        weights=network.state_dict(),
        velocities=update.velocities,
        generators=network.generator_states(),
        schedule=ScheduleState(num_drops=1, best_error=0.5, epochs_since_best=2),
        epoch_sums=torch.arange(4.0, dtype=torch.float64),
        network={"recipe": "paper", "classes": [["n1", "one"]], "mean_image": torch.zeros(2, 2, 3)},
        validation={"loss": 1.0},
    )


def test_reads_back_what_was_saved(tmp_path: Path) -> None:
    before = snapshot()
    checkpoint.save(before, checkpoint.path_of(tmp_path, 7))
    after = checkpoint.load(checkpoint.path_of(tmp_path, 7))
    assert (after.identity, after.schedule, after.validation) == (before.identity, before.schedule, before.validation)
    assert (after.epoch, after.step, after.global_step) == (2, 3, 7)
    for name, value in before.weights.items():
        assert torch.equal(value, after.weights[name])
    assert torch.equal(before.generators[0], after.generators[0])
    assert [path.name for path in checkpoint.folder_of(tmp_path).iterdir()] == ["step-000000007.pt"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty"])
def test_a_damaged_newest_falls_back_loudly(tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (5, 9):
        checkpoint.save(snapshot(step), checkpoint.path_of(tmp_path, step))
    newest = checkpoint.path_of(tmp_path, 9)
    content = bytearray(newest.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content if harm == "flip" else content[: len(content) // 2 if harm == "truncate" else 0])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1].global_step == 5
    assert "WARNING" in capsys.readouterr().err


def test_no_whole_checkpoint_is_an_error_and_no_checkpoint_is_not(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    checkpoint.path_of(tmp_path, 1).parent.mkdir()
    checkpoint.path_of(tmp_path, 1).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="none of 1 checkpoints can be read"):
        checkpoint.newest(tmp_path)


def test_a_failed_save_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.path_of(tmp_path, 1)
    checkpoint.save(snapshot(1), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(snapshot(1), path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_old_ones_go_and_the_best_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(snapshot(step), checkpoint.path_of(tmp_path, step))
    checkpoint.save(snapshot(2), checkpoint.folder_of(tmp_path) / checkpoint.BEST_NAME)
    checkpoint.remove_old(tmp_path, keep=2)
    names = sorted(path.name for path in checkpoint.folder_of(tmp_path).iterdir())
    assert names == ["best.pt", "step-000000003.pt", "step-000000004.pt"]
    assert checkpoint.find(tmp_path).name == "best.pt"


def test_a_mismatch_names_every_difference() -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.refuse_mismatch(Path("x.pt"), {"seed": 1, "crop": 224, "a": 1}, {"seed": 2, "crop": 224, "b": 1})
    text = str(caught.value)
    assert "seed: the checkpoint has 1, this run 2" in text
    assert "a: the checkpoint has 1, this run None" in text
    assert "b: the checkpoint has None, this run 1" in text
    assert "crop" not in text


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.path_of(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 0)
    checkpoint.save(snapshot(1), path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="expected checkpoint format 1, found 0"):
        checkpoint.load(path)
