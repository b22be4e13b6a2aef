"""The digest of what a run has consumed: of the images' order and crops, whatever the batches and the interruptions."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from loader_service.client import Batch, LoaderClient, StreamSpec
from tests.trainer.runs import train
from trainer.checkpoint import folder
from trainer.data.consumed import ConsumedDigest, rows_of

SPEC = StreamSpec(split="train", crop_size=56, seed=1, batch_size=20)


def consumed(run_dir: Path) -> list[str]:
    found: list[str] = json.loads((run_dir / "run.json").read_text())["stream"]["consumed_by_epoch"]
    return found


def digest_of(batches: Iterator[Batch]) -> str:
    digest = ConsumedDigest()
    for batch in batches:
        digest.add(rows_of(batch))
    digest.end_epoch()
    return digest.epochs[0]


def test_it_depends_on_the_images_and_not_on_the_batches(loader_target: str) -> None:
    def of(**stream: Any) -> str:
        with LoaderClient([loader_target]) as client:
            return digest_of(client.stream(dataclasses.replace(SPEC, **stream)))

    whole = of()
    assert of(batch_size=50) == of(batch_size=100) == whole
    assert len({whole, of(seed=2), of(view="centre"), of(shuffle=False), of(colour_std=0.2), of(crop_size=48)}) == 6


@pytest.mark.parametrize("change", ["shifted", "mirrored", "label", "index", "shift"])
def test_every_part_of_an_image_counts(change: str) -> None:
    drawn = np.random.default_rng(0)
    scene = drawn.integers(0, 256, (4, 33, 33, 3), np.uint8)
    batch = Batch(
        epoch=0,
        step=0,
        images=scene[:, :32, :32],
        labels=np.arange(4),
        indices=np.arange(4),
        colour_shifts=np.zeros((4, 3), np.float32),
    )
    before = rows_of(batch)
    if change in ("shifted", "mirrored"):
        images = scene[:, 1:, 1:] if change == "shifted" else batch.images[:, :, ::-1]
        batch = dataclasses.replace(batch, images=images)
    else:
        parts: dict[str, npt.NDArray[Any]]
        parts = {"label": batch.labels, "index": batch.indices, "shift": batch.colour_shifts}
        parts[change][3] += 1
    assert rows_of(batch) != before


def test_an_interrupted_run_has_the_digests_of_an_unbroken_one(loader_target: str, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert train(loader_target, one, "--epochs", "3", "--checkpoint-steps", "4") == 0
    assert len(set(consumed(one))) == 3
    assert train(loader_target, other, "--epochs", "2", "--checkpoint-steps", "4", "--keep", "9") == 0
    assert consumed(other) == consumed(one)[:2]
    middle = folder.path_of(other, 8)
    assert train(loader_target, other, "--epochs", "3", "--resume", str(middle)) == 0
    assert consumed(other) == consumed(one)


def test_a_checkpoint_of_before_the_digest_is_continued_without_one(loader_target: str, tmp_path: Path) -> None:
    assert train(loader_target, tmp_path, "--epochs", "1") == 0
    [path] = folder.numbered(tmp_path)
    document = torch.load(path, weights_only=True)
    del document["consumed"], document["network"]["ablation"]["parts_of_2012"]
    document["identity"] = {name: value for name, value in document["identity"].items() if value is not None}
    torch.save(document, path)
    assert train(loader_target, tmp_path, "--epochs", "2", "--resume", "auto") == 0
    assert json.loads((tmp_path / "run.json").read_text())["stream"] == {"consumed_by_epoch": None}
