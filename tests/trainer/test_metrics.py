"""Metrics: each step and each epoch once, in both files, after any number of kills and whatever the file holds."""

import json
import signal
import struct
from collections import Counter
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.thoroughness import NUM_KILLS, moments
from tests.trainer.runs import started, train, wait_for_checkpoint
from trainer.monitor.metrics import EpochPoint, MetricsWriter, TrainPoint, read_points


def train_point(global_step: int, epoch: int = 0, loss: float = 1.0) -> TrainPoint:
    return TrainPoint(
        epoch=epoch,
        step=global_step,
        global_step=global_step,
        loss=loss,
        top1_error=0.5,
        top5_error=0.25,
        rate=0.01,
        images_per_s=10.0,
        data_wait=0.0,
    )


def epoch_point(epoch: int, global_step: int) -> EpochPoint:
    return EpochPoint(
        epoch=epoch,
        global_step=global_step,
        train_loss=1.0,
        train_top1_error=0.5,
        train_top5_error=0.25,
        rate=0.01,
        validation_loss=None,
        validation_top1_error=None,
        validation_top5_error=None,
    )


def events(run_dir: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of every event in the run's TensorBoard folder, read by the format's own words."""
    found = []
    for path in sorted((run_dir / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            [length] = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


def assert_each_once(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    keys = [(line["kind"], line["epoch"] if line["kind"] == "epoch" else line["global_step"]) for line in lines]
    assert max(Counter(keys).values()) == 1
    written = events(run_dir)
    assert max(Counter((name, step) for name, step, _ in written).values()) == 1
    losses = [(f"{line['kind']}/{name}", line["global_step"]) for line in lines for name in ("loss",) if name in line]
    assert sorted((name, step) for name, step, _ in written if name == "train/loss") == sorted(losses)


def test_a_run_that_continues_takes_its_steps_once(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, epoch=0, global_step=0, tensorboard=True) as writer:
        for step in (2, 4, 6):
            writer.write(train_point(step))
        writer.write(epoch_point(0, 6))
        writer.write(train_point(8, epoch=1))
    # The checkpoint at hand is of step 6, before the validation of epoch 0.
    with MetricsWriter(tmp_path, epoch=0, global_step=6, tensorboard=True) as writer:
        assert [name for name, step, _ in events(tmp_path) if step == 6].count("train/loss") == 1
        writer.write(epoch_point(0, 6))
        writer.write(train_point(8, epoch=1, loss=3.0))
    train_points, epochs = read_points(tmp_path)
    assert [point.global_step for point in train_points] == [2, 4, 6, 8]
    assert train_points[-1].loss == 3.0
    assert [point.epoch for point in epochs] == [0]
    assert_each_once(tmp_path)


BROKEN = [
    '{"kind": "train", "glo',
    "",
    "[]",
    "7",
    "{}",
    '{"kind": "epoch"}',
    "\x00\xff",
    '{"kind": ["train"]}',
    "[" * 9999,
]


def test_broken_and_repeated_lines_are_passed_over(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, epoch=0, global_step=0, tensorboard=False) as writer:
        writer.write(train_point(2))
        writer.write(epoch_point(0, 2))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    strange = json.dumps(vars(train_point(4)) | {"kind": "train", "loss": "much"})
    path.write_bytes("\n".join([*BROKEN, whole, whole, strange]).encode("latin-1"))
    before = read_points(tmp_path)
    assert ([p.global_step for p in before[0]], [p.epoch for p in before[1]]) == ([2], [0])
    with MetricsWriter(tmp_path, epoch=1, global_step=2, tensorboard=True):
        pass
    assert read_points(tmp_path) == before
    assert_each_once(tmp_path)


def test_lines_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train"} | vars(train_point(2))) + "\n")
    assert read_points(tmp_path)[0] == [train_point(2)]


def test_after_kills_at_random_moments_each_step_is_there_once(loader_target: str, tmp_path: Path) -> None:
    options = ("--epochs", "4", "--checkpoint-steps", "2", "--log-steps", "1", "--tensorboard", "--resume", "auto")
    drawn = moments()
    for kill in range(NUM_KILLS):
        with started(loader_target, tmp_path, *options) as process:
            wait_for_checkpoint(tmp_path, process, least_step=2 * kill + 1)
            signal.sigtimedwait([], drawn.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            _, stderr = process.communicate(timeout=300)
        assert "Traceback" not in stderr
    assert train(loader_target, tmp_path, *options) == 0
    train_points, epochs = read_points(tmp_path)
    assert [point.global_step for point in train_points] == list(range(1, 25))
    assert [point.epoch for point in epochs] == [0, 1, 2, 3]
    assert_each_once(tmp_path)


@pytest.mark.parametrize("steps", [7])
def test_steps_with_a_stop_between_are_there_once(loader_target: str, tmp_path: Path, steps: int) -> None:
    options = ("--epochs", "3", "--log-steps", "1", "--tensorboard", "--checkpoint-steps", "1")
    with started(loader_target, tmp_path, *options) as process:
        wait_for_checkpoint(tmp_path, process, least_step=steps)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert train(loader_target, tmp_path, *options, "--resume", "auto") == 0
    assert [point.global_step for point in read_points(tmp_path)[0]] == list(range(1, 19))
    assert_each_once(tmp_path)
