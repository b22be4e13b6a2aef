"""The adapter: a DataLoader to whoever uses it."""

from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from loader_service.client import LoaderClient, PixelFormat, View
from loader_service.torch_adapter import Finish, RemoteLoader

ROOT = Path(__file__).parents[2]


def epoch_of(loader: RemoteLoader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader)


def assert_same(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert len(a) == len(b)
    for (images_a, labels_a), (images_b, labels_b) in zip(a, b, strict=True):
        assert torch.equal(images_a, images_b)
        assert torch.equal(labels_a, labels_b)


def test_looks_like_a_data_loader(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16)
    batches = epoch_of(loader)
    assert len(loader) == len(batches) == 6
    images, labels = batches[0]
    assert images.shape == (16, 3, 56, 56)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert abs(float(torch.cat([i for i, _ in batches]).mean())) < 15  # centred on the mean image
    evaluation = RemoteLoader(loader_target, split="val", batch_size=16, view="ten_crop", pixel_format="uint8")
    assert [images.shape for images, _ in evaluation] == [(16, 10, 3, 56, 56), (14, 10, 3, 56, 56)]
    assert loader.num_classes == 10


def test_epochs(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16, seed=3)
    first, second = epoch_of(loader), epoch_of(loader)
    assert not torch.equal(first[0][1], second[0][1]) or not torch.equal(first[0][0], second[0][0])
    loader.set_epoch(0)
    assert_same(epoch_of(loader), first)
    loader.set_epoch(1)
    assert_same(epoch_of(loader), second)


def test_resumes_from_its_state(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16)
    loader.set_epoch(4)
    whole = epoch_of(loader)
    loader.set_epoch(4)
    part = []
    for batch in loader:
        part.append(batch)
        if len(part) == 2:
            state = loader.state_dict()
            break
    again = RemoteLoader(loader_target, batch_size=16)
    again.load_state_dict(state)
    again.set_epoch(4)
    assert_same([*part, *epoch_of(again)], whole)
    other = RemoteLoader(loader_target, batch_size=16, seed=1)
    with pytest.raises(ValueError, match="seed: the state has 0, this loader 1"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="expected the state of a RemoteLoader, found one without fingerprint, seed"):
        again.load_state_dict({name: value for name, value in state.items() if name not in ("seed", "fingerprint")})


def test_each_iteration_is_an_epoch_from_its_start(loader_target: str) -> None:
    """Also when the one before was broken off, or is not at its end."""
    loader = RemoteLoader(loader_target, batch_size=16, split="val", drop_last=True)
    whole = epoch_of(loader)
    assert len(whole) == 1
    loader = RemoteLoader(loader_target, batch_size=16)
    for _ in loader:
        break
    assert loader.state_dict()["epoch"] == 0
    assert loader.state_dict()["step"] == 1
    assert len(epoch_of(loader)) == 6
    assert (loader.state_dict()["epoch"], loader.state_dict()["step"]) == (2, 0)
    next(iter(loader))
    loader.set_epoch(2)
    again = epoch_of(loader)
    loader.set_epoch(2)
    assert_same(epoch_of(loader), again)
    assert len(again) == 6


def test_closing_does_not_end_the_epoch(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16)
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == 2:
            loader.close()
    assert len(batches) == 2
    assert (loader.state_dict()["epoch"], loader.state_dict()["step"]) == (0, 2)


def test_positions_of_other_streams_are_refused(loader_target: str) -> None:
    state = RemoteLoader(loader_target, batch_size=16).state_dict()
    differences: dict[str, Any] = {"crop_size": 32, "colour_std": 0.0, "view": "centre", "drop_last": False}
    for name, value in differences.items():
        other = RemoteLoader(loader_target, batch_size=16, **{name: value})
        with pytest.raises(ValueError, match=f"{name}: the state has"):
            other.load_state_dict(state)
    loader = RemoteLoader(loader_target, batch_size=16)
    for name, value in (("epoch", -1), ("epoch", 2**32), ("step", 7), ("step", 2.7), ("step", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            loader.load_state_dict({**state, name: value})
    with pytest.raises(ValueError, match="epoch: expected a whole number"):
        loader.set_epoch(-1)


def test_one_of_rank_and_world_size_says_nothing(loader_target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="rank and world_size: expected both or neither, found 1 and None"):
        RemoteLoader(loader_target, rank=1)
    with pytest.raises(ValueError, match="rank and world_size: expected both or neither, found None and 4"):
        RemoteLoader(loader_target, world_size=4)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE in the environment: expected both or neither"):
        RemoteLoader(loader_target)
    assert RemoteLoader(loader_target, rank=1, world_size=4).spec.slice == (128, 256)


@pytest.mark.parametrize(("split", "view", "crop_size"), [("train", "train", None), ("val", "ten_crop", 40)])
def test_finished_here_is_finished_there(loader_target: str, split: str, view: View, crop_size: int | None) -> None:
    """The same bits and the same layout, whoever subtracts the mean; and of what is sent, a quarter of the bytes."""

    def loader(pixel_format: PixelFormat | None) -> RemoteLoader:
        return RemoteLoader(
            loader_target, split=split, view=view, crop_size=crop_size, batch_size=16, seed=5, pixel_format=pixel_format
        )

    here, there = loader(None), loader("float32")
    batches, expected = epoch_of(here), epoch_of(there)
    assert_same(batches, expected)
    assert [images.stride() for images, _ in batches] == [images.stride() for images, _ in expected]
    assert here.spec.step_bytes(64) * 4 == there.spec.step_bytes(64)
    here.load_state_dict(there.state_dict())


def test_memory_of_finished_images_is_used_again(loader_target: str) -> None:
    """Where nobody holds them: fresh memory costs more than to finish images does."""
    with closing(RemoteLoader(loader_target, batch_size=4)) as loader:
        places = [images.data_ptr() for images, _ in loader]
        assert len(set(places)) <= 3 < len(places)
        held = [images for images, _ in loader]
        assert len({images.data_ptr() for images in held}) == len(held)


def test_finish_for_those_who_take_uint8(loader_target: str) -> None:
    """The module compiles into one graph, and gives the loader's own values."""
    loader = RemoteLoader(loader_target, batch_size=16, seed=5)
    with LoaderClient([loader_target]) as client, client.stream(loader.spec) as stream:
        finish = Finish(client.describe().mean_image, 56)
        compiled = torch.compile(finish, backend="eager", fullgraph=True)
        for batch, (expected, _) in zip(stream, loader, strict=True):
            images = torch.from_numpy(batch.images).movedim(-1, -3)
            assert torch.equal(finish(images, torch.from_numpy(batch.colour_shifts)), expected)
            assert torch.equal(compiled(images, torch.from_numpy(batch.colour_shifts)), expected)
    assert finish.state_dict() == {}, "nothing to be saved with a network that has it as its first layer"


def test_device(loader_target: str) -> None:
    """Images and labels come to the device that was named, in whatever form. The meta device has no values, and every
    operation that took a tensor of another device would fail there."""
    for pixel_format in (None, *get_args(PixelFormat)):
        images, labels = next(
            iter(RemoteLoader(loader_target, batch_size=16, device="meta", pixel_format=pixel_format))
        )
        assert images.device.type == labels.device.type == "meta"


def test_ranks_share_the_global_batch(loader_target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = epoch_of(RemoteLoader(loader_target, batch_size=16))
    halves = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        halves.append(epoch_of(RemoteLoader(loader_target, batch_size=8)))
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(halves[0], halves[1], strict=True)]
    assert_same(joined, whole)


def test_transform(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16, transform=lambda images, labels: (images * 2, labels + 1))
    plain = RemoteLoader(loader_target, batch_size=16)
    for (images, labels), (expected, expected_labels) in zip(loader, plain, strict=True):
        assert torch.equal(images, expected * 2)
        assert torch.equal(labels, expected_labels + 1)
