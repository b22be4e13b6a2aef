"""Damaged and foreign files: one line, from every command, and never another network than was saved."""

import io
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import serving
from tests.stores import make_store
from tests.trainer.runs import train
from trainer.__main__ import main
from trainer.checkpoint import folder
from trainer.checkpoint.snapshot import load
from trainer.errors import CheckpointError


@pytest.fixture(scope="module")
def run(loader_target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    assert train(loader_target, run_dir, "--epochs", "1") == 0
    return run_dir


def document(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder.best_of(run_dir), weights_only=True)
    return found


def bytes_of(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: {key: value for key, value in document.items() if key != name}


def with_value(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document | {name: value}


def with_part(part: str, name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document | {part: document[part] | {name: value}}


FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a module": lambda document: torch.nn.Linear(2, 2),
    "a list": lambda document: [1, 2, 3],
    "a tensor": lambda document: torch.zeros(3),
    "weights alone": lambda document: document["weights"],
    "another format": with_value("format", 7),
    **{
        f"without {name}": without(name)
        for name in ("weights", "velocities", "schedule", "network", "identity", "step")
    },
    "a step in words": with_value("step", "three"),
    "a step before the first": with_value("step", -1),
    "a list of weights": with_value("weights", []),
    "no weights": with_value("weights", {}),
    "numbers for weights": with_value("weights", {"columns.0.conv1.weight": 3}),
    "no velocities": with_value("velocities", {}),
    "generators of another kind": with_value("generators", [torch.zeros(3)]),
    "sums of another shape": with_value("epoch_sums", torch.zeros(2)),
    "an unknown schedule": with_part("schedule", "warmth", 1),
    "an unknown recipe": with_part("network", "recipe", "lenet"),
    "an unknown ablation": with_part("network", "ablation", {"colour": "blue"}),
    "no mean image": with_part("network", "mean_image", None),
    "a mean image of another shape": with_part("network", "mean_image", torch.zeros(3)),
    "a crop in words": with_part("network", "crop", "large"),
    "no classes": with_part("network", "classes", []),
    "other widths": with_part("network", "width", 0.125),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_every_command_says_it_in_a_line(
    kind: str, run: Path, loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.path_of(tmp_path, 6)
    path.parent.mkdir()
    path.write_bytes(bytes_of(FOREIGN[kind](document(run))))
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    (tmp_path / "x.png").touch()
    only_training = kind in ("no velocities", "generators of another kind")
    capsys.readouterr()
    for command in (
        ["evaluate", "--target", loader_target, "--checkpoint", str(path), "--crops", "centre"],
        ["report", str(tmp_path)],
        ["predict", "--checkpoint", str(path), str(tmp_path / "x.png")],
        ["export", "--checkpoint", str(path), "--out", str(tmp_path / "x.safetensors")],
    ):
        code = main(command)
        told = capsys.readouterr().err
        if only_training and command[0] != "predict":
            assert code == 0
            continue
        assert code == 1
        assert "Traceback" not in told
        assert told.count("\n") == 1 or command[0] in ("evaluate", "report"), told
    for how in (str(path), "auto"):
        assert train(loader_target, tmp_path, "--epochs", "2", "--resume", how) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert str(path.name) in told or "numbered checkpoints can be read" in told


CONTENTS = {
    "empty": b"",
    "text": b"hello",
    "a pickle": pickle.dumps({"format": 1}),
    "a zip of something else": b"PK\x05\x06" + b"\0" * 18,
    "an old torch file": bytes_of({"format": 1}, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_bytes_that_are_no_checkpoint(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(CONTENTS[kind])
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        load(path)


@pytest.mark.parametrize("place", ["a folder", "nothing", "no permission"])
def test_what_cannot_be_opened(place: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if place == "a folder":
        path.mkdir()
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        load(path)


def test_no_flipped_or_missing_byte_makes_another_checkpoint(run: Path, tmp_path: Path) -> None:
    whole = folder.best_of(run).read_bytes()
    expected = load(folder.best_of(run))
    drawn = random.Random(int(os.environ.get("ALEXNET_FUZZ_SEED", "0")))
    path = tmp_path / "x.pt"
    num_refused = 0
    for _ in range(int(os.environ.get("ALEXNET_FUZZES", "300"))):
        content = bytearray(whole)
        kind = drawn.choice(["flip", "flips", "cut", "zeros", "end"])
        if kind == "cut":
            del content[drawn.randrange(len(content)) :]
        elif kind == "zeros":
            begin = drawn.randrange(len(content))
            content[begin : begin + 512] = bytes(len(content[begin : begin + 512]))
        elif kind == "end":  # the archive's directory, which no checksum covers
            content[-drawn.randrange(1, 4000)] ^= 1 << drawn.randrange(8)
        else:
            for _ in range(1 if kind == "flip" else 20):
                content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        path.write_bytes(content)
        try:
            found = load(path)
        except CheckpointError:
            num_refused += 1
            continue
        assert all(map(torch.equal, found.weights.values(), expected.weights.values()))
        assert all(map(torch.equal, found.velocities.values(), expected.velocities.values()))
        assert (found.identity, found.step, found.schedule) == (expected.identity, expected.step, expected.schedule)
    assert num_refused


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"x"', '{"store": 3, "options": []}', '{"recipe": {"lrn": null}}', "\x00"]
)
def test_a_report_does_without_a_run_record(content: str, run: Path, tmp_path: Path) -> None:
    record = (run / "run.json").read_bytes()
    try:
        (run / "run.json").write_text(content)
        assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    finally:
        (run / "run.json").write_bytes(record)


def test_no_command_takes_another_store(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for store, message in (
        (
            make_store(tmp_path / "classes", num_classes=4),
            "was trained on other classes (10) than the loaders serve (4)",
        ),
        (make_store(tmp_path / "side", side=96), "was trained on images of 64 pixels, the loaders serve 96"),
    ):
        with serving(store) as target:
            for command in (
                ["evaluate", "--target", target, "--checkpoint", str(run)],
                ["report", str(run), "--target", target],
            ):
                assert main(command) == 1
                told = capsys.readouterr().err
                assert message in told
                assert told.count("\n") == 1
