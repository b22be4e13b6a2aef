"""What is not finite is wrong: it never wins an order, is never the best, and never pushes a sound checkpoint out."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import CPU_PAIR, tiny_architecture
from tests.trainer.runs import train
from trainer.__main__ import main
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load, save
from trainer.checkpoint.state import TrainingState
from trainer.errors import DivergedError
from trainer.evaluate import score, tally
from trainer.monitor.metrics import read_points
from trainer.network.columns import TwoColumns
from trainer.optimizer import PaperUpdate
from trainer.recipes import PAPER
from trainer.recipes.schedule import ScheduleState, after_epoch, is_better

ODD = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("num_classes", [3, 10])
def test_a_row_that_is_not_finite_is_wrong(odd: float, num_classes: int) -> None:
    labels = torch.arange(3)
    for place in range(num_classes):
        scores = torch.zeros(3, num_classes)
        scores[:, place] = odd
        _, top1, top5, count = tally(scores, labels, torch.tensor(0.0)).tolist()
        assert (top1, top5, count) == (3, 3, 3)


def test_finite_rows_keep_their_rank() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0, -2.0], [0.0] * 6])
    assert tally(scores, torch.tensor([0, 0]), torch.tensor(0.0)).tolist()[1:] == [1, 1, 2]
    assert math.isnan(score(torch.full((1, 6), float("nan")), torch.tensor([0]))[0])


@pytest.mark.parametrize("odd", ODD)
def test_no_schedule_takes_it_for_the_best(odd: float) -> None:
    assert not is_better(odd, None)
    assert not is_better(odd, 0.5)
    assert is_better(0.9, odd)
    state = after_epoch(PAPER, 0, ScheduleState(), odd)
    assert (state.best_error, state.epochs_since_best) == (None, 1)
    assert after_epoch(PAPER, 1, state, 0.9).best_error == 0.9


@pytest.mark.parametrize("where", ["weights", "velocities", "sums"])
@pytest.mark.parametrize("odd", ODD)
def test_no_checkpoint_holds_it(where: str, odd: float) -> None:
    network = TwoColumns(tiny_architecture(), CPU_PAIR)
    update = PaperUpdate(network.named_parameters(), PAPER)
    state = TrainingState(network=network, update=update, schedule=ScheduleState(), epoch_sums=torch.zeros(4))
    last = list(network.state_dict())[-1]
    tensor = {"weights": network.state_dict()[last], "velocities": update.velocities[last], "sums": state.epoch_sums}
    tensor[where].view(-1)[-1] = odd
    with pytest.raises(DivergedError):
        state.check()


def test_a_run_that_diverges_keeps_its_sound_checkpoints_and_advises_what_works(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saving at each step while the loss is looked at every twentieth: the saves must look for themselves."""
    run_dir = tmp_path / "diverging"
    options = ("--epochs", "2", "--checkpoint-steps", "1", "--keep", "2")
    assert train(loader_target, run_dir, *options) == 0
    sound = [path.name for path in folder.numbered(run_dir)]
    capsys.readouterr()
    more = ("--epochs", "9", "--checkpoint-steps", "1", "--keep", "2", "--log-steps", "1000", "--lr", "1e12")
    assert train(loader_target, run_dir, *more, "--resume", "auto") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Traceback" not in last
    for path in [*folder.numbered(run_dir), folder.best_of(run_dir)]:
        assert all(torch.isfinite(value).all() for value in load(path).weights.values())
    assert sound[0] in [path.name for path in folder.numbered(run_dir)] or len(folder.numbered(run_dir)) == 2
    [lower] = set(re.findall(r"--lr ([\d.e-]+)", last))
    assert train(loader_target, tmp_path / "anew", "--epochs", "2", "--lr", lower) == 0


def broken_copy(run_dir: Path, to: Path) -> Path:
    """A run folder whose best network has one weight that is no number."""
    snapshot = load(folder.find(run_dir))
    weights = next(iter(snapshot.weights.values()))
    weights[(0,) * weights.ndim] = float("nan")
    save(snapshot, folder.best_of(to))
    (to / "metrics.jsonl").write_bytes((run_dir / "metrics.jsonl").read_bytes())
    return to


def test_no_command_believes_a_network_that_diverged(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, tmp_path / "sound", "--epochs", "1") == 0
    broken = broken_copy(tmp_path / "sound", tmp_path / "broken")
    (tmp_path / "x.png").write_bytes(b"")
    capsys.readouterr()
    for command in (
        ["evaluate", "--target", loader_target, "--checkpoint", str(broken), "--json"],
        ["report", str(broken), "--target", loader_target],
        ["predict", "--checkpoint", str(broken), str(tmp_path / "x.png")],
        ["export", "--checkpoint", str(broken), "--out", str(tmp_path / "x.safetensors")],
    ):
        assert main(command) == 1, command
        told = capsys.readouterr()
        assert told.out == ""
        assert "not finite" in told.err
        assert told.err.count("\n") == 1


def test_validation_diverges_as_training_does(
    loader_target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = TwoColumns.forward

    def overflows_at_test(self: TwoColumns, *arguments: object) -> torch.Tensor:
        scores = forward(self, *arguments)  # type: ignore[arg-type]
        return scores if self.training else scores * float("inf")

    monkeypatch.setattr(TwoColumns, "forward", overflows_at_test)
    assert train(loader_target, tmp_path, "--epochs", "2") == 1
    assert "outputs are not finite numbers, validating epoch 0" in capsys.readouterr().err.splitlines()[-1]
    assert not folder.best_of(tmp_path).exists()


def test_numbers_that_are_not_finite_in_metrics_are_drawn_nowhere(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, tmp_path, "--epochs", "2") == 0
    path = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "epoch" and line["epoch"] == 0:
            line |= {"validation_top1_error": float("nan"), "train_loss": float("nan")}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(tmp_path)]) == 0
    capsys.readouterr()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "nan" not in page.replace("dominant", "")
    assert "(epoch 2)" in page
    assert len(read_points(tmp_path)[1]) == 2
