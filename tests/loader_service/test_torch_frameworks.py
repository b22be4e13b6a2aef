"""The adapter under what frameworks and DataLoaders do to a loader: look, copy, fork, resume in their own way."""

import multiprocessing
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from loader_service.client import LoaderClient, StreamSpec
from loader_service.torch_adapter import RemoteLoader
from tests.loader_service.test_torch_adapter import ROOT, assert_same, epoch_of

START_METHODS = ("fork", "spawn", "forkserver")


def position_of(loader: RemoteLoader) -> tuple[int, int]:
    state = loader.state_dict()
    return state["epoch"], state["step"]


def test_looking_moves_nothing(loader_target: str) -> None:
    """Frameworks call ``iter`` to look, and throw away what they get."""
    loader = RemoteLoader(loader_target, batch_size=16, seed=3)
    for _ in range(3):
        iter(loader)
    assert position_of(loader) == (0, 0)
    whole = epoch_of(loader)
    again = RemoteLoader(loader_target, batch_size=16, seed=3)
    again.load_state_dict({**again.state_dict(), "step": 4})
    iter(again)
    assert_same(epoch_of(again), whole[4:])


def test_two_iterators_do_not_write_each_others_state(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16)
    older, newer = iter(loader), iter(loader)
    next(older)
    next(newer)
    assert position_of(loader) == (1, 1)
    next(older)
    assert position_of(loader) == (1, 1)
    list(older)
    assert position_of(loader) == (1, 1)
    next(newer)
    assert position_of(loader) == (1, 2)


def test_the_end_of_an_epoch_goes_on_with_the_next(loader_target: str) -> None:
    """Taken after the last batch and before the loop has seen the end, as frameworks do that know the length."""
    loader = RemoteLoader(loader_target, batch_size=16)
    batches = iter(loader)
    list(islice(batches, 6))
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (0, 6)
    following = epoch_of(loader)

    resumed = RemoteLoader(loader_target, batch_size=16)
    resumed.load_state_dict(state)
    assert_same(epoch_of(resumed), following)  # nobody has said which epoch it is
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert_same(epoch_of(resumed), following)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(0)  # a loop that is still in the epoch whose batches it has had
    assert epoch_of(resumed) == []
    assert_same(epoch_of(resumed), following)


def test_resized_crops(loader_target: str) -> None:
    options: dict[str, Any] = {"batch_size": 16, "view": "resized_crop", "crop_size": 32, "pixel_format": "uint8"}
    loader = RemoteLoader(loader_target, **options)
    whole = epoch_of(loader)
    assert whole[0][0].shape == (16, 3, 32, 32)
    state = loader.state_dict()
    others: dict[str, Any] = {"scale": (0.5, 1.0), "ratio": (1.0, 1.0), "mirror": False}
    for name, value in others.items():
        other = RemoteLoader(loader_target, **options, **{name: value})
        assert not torch.equal(next(iter(other))[0], whole[0][0])
        with pytest.raises(ValueError, match=f"{name}: the state has"):
            other.load_state_dict(state)
    loader.load_state_dict({**state, "epoch": 0, "step": 5})
    assert_same(epoch_of(loader), whole[5:])


def test_a_state_of_before_resized_crops_still_loads(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16)
    state = {name: value for name, value in loader.state_dict().items() if name not in ("scale", "ratio", "mirror")}
    loader.load_state_dict({**state, "step": 2})
    assert position_of(loader) == (0, 2)


def test_what_is_not_there_says_what_to_do(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16)
    assert not hasattr(loader, "dataset")
    with pytest.raises(AttributeError, match="to skip batches: load_state_dict"):
        loader.dataset  # noqa: B018


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_pinned_memory_without_a_gpu_is_a_warning(loader_target: str) -> None:
    with pytest.warns(UserWarning, match="pin_memory: expected a GPU, found none"):
        loader = RemoteLoader(loader_target, batch_size=16, pin_memory=True)
    assert len(epoch_of(loader)) == 6


def read_in_child(loader: RemoteLoader, found: Any) -> None:
    found.put([labels.tolist() for _, labels in loader])


@pytest.mark.parametrize("method", START_METHODS)
def test_a_loader_is_handed_to_another_process(loader_target: str, method: str) -> None:
    """Also after it was used here: nothing of a connection goes along."""
    loader = RemoteLoader(loader_target, batch_size=16, drop_last=False)
    expected = [labels.tolist() for _, labels in loader]
    loader.set_epoch(0)
    context: Any = multiprocessing.get_context(method)
    found = context.Queue()
    child = context.Process(target=read_in_child, args=(loader, found))
    child.start()
    try:
        assert found.get(timeout=300) == expected
    finally:
        child.join(300)


def test_a_copy_goes_its_own_way(loader_target: str) -> None:
    loader = RemoteLoader(loader_target, batch_size=16, transform=torch_pair)
    batches = iter(loader)
    next(batches)
    copy = pickle.loads(pickle.dumps(loader))  # noqa: S301
    next(batches)
    assert position_of(copy) == (0, 1)
    assert position_of(loader) == (0, 2)


def torch_pair(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images, labels


def test_a_stream_in_a_forked_process_says_so_at_once(loader_target: str) -> None:
    with LoaderClient([loader_target]) as client, client.stream(StreamSpec(batch_size=16)) as stream:
        next(stream)
        context = multiprocessing.get_context("fork")
        found = context.Queue()

        def ask() -> None:
            try:
                next(stream)
            except RuntimeError as error:
                found.put(str(error))
            stream.close()

        child = context.Process(target=ask)
        child.start()
        assert found.get(timeout=300) == "this stream was opened before a fork: open one in each process"
        child.join(300)
        assert child.exitcode == 0
        assert len(list(stream)) == 5


@pytest.mark.parametrize("method", START_METHODS)
def test_workers_of_a_data_loader_share_an_epoch(loader_target: str, method: str) -> None:
    """The same batches in the same order, each once: from the middle of an epoch on, then a whole one; the last step is
    short, and the service was asked before any fork."""
    loader = RemoteLoader(loader_target, batch_size=16, seed=5, drop_last=False)
    expected = epoch_of(loader), epoch_of(loader)
    assert len(expected[0]) == 7
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "step": 3})
    through_workers: DataLoader[Any] = DataLoader(
        loader, batch_size=None, num_workers=2, multiprocessing_context=method, persistent_workers=True
    )
    assert_same(list(through_workers), expected[0][3:])
    assert_same(list(through_workers), expected[1])


def test_epochs_of_workers_are_chosen_where_the_loader_is(loader_target: str) -> None:
    """Workers that end with an epoch begin at the position of the loader that they are copies of."""
    loader = RemoteLoader(loader_target, batch_size=16, seed=5)
    expected = epoch_of(loader), epoch_of(loader)
    through_workers: DataLoader[Any] = DataLoader(
        loader, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for epoch in (0, 0, 1):
        loader.set_epoch(epoch)
        assert_same(list(through_workers), expected[epoch])


def test_workers_share_a_ranks_part(loader_target: str) -> None:
    for drop_last in (True, False):
        options: dict[str, Any] = {"batch_size": 6, "rank": 1, "world_size": 3, "drop_last": drop_last}
        expected = epoch_of(RemoteLoader(loader_target, **options))
        loader = RemoteLoader(loader_target, **options)
        assert_same(list(DataLoader(loader, batch_size=None, num_workers=2)), expected)


FRAMEWORKS = Path(__file__).parent / "frameworks"


@pytest.mark.parametrize("name", ["lightning", "accelerate"])
def test_frameworks(loader_target: str, name: str, tmp_path: Path) -> None:
    """Every image of each epoch once, in its epoch; resumed in the middle and at the end of one."""
    pytest.importorskip(name)
    script = FRAMEWORKS / f"{name}_epochs.py"
    command = [sys.executable, str(script), loader_target, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
