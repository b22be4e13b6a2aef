"""Checkpoints: whole or absent, read back exactly, damaged ones passed over loudly, foreign ones refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.conftest import CPU_PAIR, tiny_architecture
from trainer.checkpoint import folder
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.checkpoint.snapshot import Snapshot, load, save
from trainer.checkpoint.state import TrainingState
from trainer.errors import CheckpointError
from trainer.network.architecture import Ablation
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
    save(before, folder.path_of(tmp_path, 7))
    after = load(folder.path_of(tmp_path, 7))
    assert (after.identity, after.schedule, after.validation) == (before.identity, before.schedule, before.validation)
    assert (after.epoch, after.step, after.global_step) == (2, 3, 7)
    for name, value in before.weights.items():
        assert torch.equal(value, after.weights[name])
    assert torch.equal(before.generators[0], after.generators[0])
    assert [path.name for path in folder.folder_of(tmp_path).iterdir()] == ["step-000000007.pt"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty"])
def test_a_damaged_newest_falls_back_loudly(tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (5, 9):
        save(snapshot(step), folder.path_of(tmp_path, step))
    newest = folder.path_of(tmp_path, 9)
    content = bytearray(newest.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content if harm == "flip" else content[: len(content) // 2 if harm == "truncate" else 0])
    found = folder.newest(tmp_path)
    assert found is not None
    assert found[1].global_step == 5
    assert "WARNING" in capsys.readouterr().err


def test_no_whole_checkpoint_is_an_error_and_no_checkpoint_is_not(tmp_path: Path) -> None:
    assert folder.newest(tmp_path) is None
    folder.path_of(tmp_path, 1).parent.mkdir()
    folder.path_of(tmp_path, 1).write_bytes(b"not a checkpoint")
    with pytest.raises(
        CheckpointError, match="none of 1 numbered checkpoints can be read; start again in another --run-dir"
    ):
        folder.newest(tmp_path)


def test_a_failed_save_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.path_of(tmp_path, 1)
    save(snapshot(1), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(snapshot(1), path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_old_ones_go_and_the_best_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(snapshot(step), folder.path_of(tmp_path, step))
    save(snapshot(2), folder.folder_of(tmp_path) / folder.BEST_NAME)
    folder.remove_old(tmp_path, keep=2, newest=folder.path_of(tmp_path, 4))
    names = sorted(path.name for path in folder.folder_of(tmp_path).iterdir())
    assert names == ["best.pt", "step-000000003.pt", "step-000000004.pt"]
    assert folder.find(tmp_path).name == "best.pt"


@given(steps=st.sets(st.integers(0, 50), min_size=1), keep=st.integers(1, 5), data=st.data())
def test_what_was_just_written_is_never_removed(steps: set[int], keep: int, data: st.DataObject) -> None:
    """Nor what has a higher number: damaged, or of another run, it takes nobody's place."""
    written = data.draw(st.sampled_from(sorted(steps)))
    with TemporaryDirectory() as run_dir:
        folder.folder_of(Path(run_dir)).mkdir()
        for step in steps:
            folder.path_of(Path(run_dir), step).touch()
        folder.remove_old(Path(run_dir), keep, folder.path_of(Path(run_dir), written))
        left = {int(path.stem[5:]) for path in folder.numbered(Path(run_dir))}
    until = sorted(step for step in steps if step <= written)
    assert left == {step for step in steps if step > written} | set(until[-keep:])


def test_a_snapshot_is_not_what_training_goes_on_to_change() -> None:
    """It is written beside training: a tensor that it shared would be half of one step, half of another."""
    network = TwoColumns(tiny_architecture(), CPU_PAIR)
    update = PaperUpdate(network.named_parameters(), PAPER)
    state = TrainingState(network=network, update=update, schedule=ScheduleState(), epoch_sums=torch.zeros(4))
    plan = NetworkPlan(
        recipe="paper",
        crop=67,
        width=1 / 16,
        ablation=Ablation(),
        classes=tuple((str(i), str(i)) for i in range(5)),
        mean_image=np.zeros((67, 67, 3), np.float32),
    )
    taken = state.snapshot({}, plan)
    for live in (*network.parameters(), *update.velocities.values(), state.epoch_sums):
        live.data.fill_(7.0)
    for tensor in (*taken.weights.values(), *taken.velocities.values(), taken.epoch_sums):
        assert not (tensor == 7.0).any()


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.path_of(tmp_path, 1)
    monkeypatch.setattr("trainer.checkpoint.snapshot.FORMAT", 0)
    save(snapshot(1), path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="expected checkpoint format 1, found 0"):
        load(path)
