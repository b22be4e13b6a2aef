"""What the service sends, against a plain NumPy reading of the store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from loader_service.client.client import LoaderClient
from loader_service.commands.digest import StreamDigest
from loader_service.pipeline.draws import colour_scales, colour_shifts, draw
from loader_service.pipeline.order import epoch_order
from loader_service.pipeline.pipeline import pipeline_version
from loader_service.wire.errors import DataLossError
from loader_service.wire.types import Batch, StreamSpec, View
from preprocess.images.yuv420 import yuv420_to_rgb
from preprocess.store import Encoding, Store
from tests.conftest import serving
from tests.stores import make_store, relabel

SEED, EPOCH = 11, 5
IMAGE_BYTES = 64 * 64 * 3


def read_all(target: str, spec: StreamSpec, epoch: int = EPOCH) -> list[Batch]:
    with LoaderClient([target]) as client, client.stream(spec, epoch=epoch) as stream:
        return list(stream)


def stored_images(path: Path, split: str) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """Labels and decoded images of a split, one by one."""
    with Store(path) as store:
        reader = store.split(split)
        side = store.manifest.image.side
        images = []
        for index in range(reader.num_images):
            label, data = reader.read(index)
            if store.manifest.image.encoding == "raw":
                image = np.frombuffer(data, np.uint8).reshape(side, side, 3).copy()
            elif store.manifest.image.encoding == "yuv420":
                image = yuv420_to_rgb(data, side)
            else:
                image = simplejpeg.decode_jpeg(bytes(data), "RGB", fastdct=False, fastupsample=False)
            images.append((label, image))
        return images


@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
@pytest.mark.parametrize("cache_bytes", [0, IMAGE_BYTES * 20])
def test_train_view(tmp_path: Path, encoding: Encoding, cache_bytes: int) -> None:
    path = make_store(tmp_path / "store", num_train=50, encoding=encoding)
    stored = stored_images(path, "train")
    with serving(path, cache_bytes=cache_bytes) as target:
        batches = read_all(target, StreamSpec(seed=SEED, batch_size=16, drop_last=False))
    assert [batch.num_images for batch in batches] == [16, 16, 16, 2]
    indices = np.concatenate([batch.indices for batch in batches])
    np.testing.assert_array_equal(indices, epoch_order(50, SEED, EPOCH))
    draws = draw(indices, seed=SEED, epoch=EPOCH, side=64, crop_size=56)
    with Store(path) as store:
        scales = colour_scales(store.statistics.eigenvalues, unit=False)
        shifts = colour_shifts(draws.alphas, scales, store.statistics.eigenvectors, 0.1)
    crops = np.concatenate([batch.images for batch in batches])
    for i, index in enumerate(indices.tolist()):
        label, image = stored[index]
        top, left = draws.tops[i], draws.lefts[i]
        crop = image[top : top + 56, left : left + 56]
        np.testing.assert_array_equal(crops[i], crop[:, ::-1] if draws.mirrors[i] else crop)
        assert np.concatenate([batch.labels for batch in batches])[i] == label
    np.testing.assert_array_equal(np.concatenate([batch.colour_shifts for batch in batches]), shifts)


@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
def test_evaluation_views(tmp_path: Path, encoding: Encoding) -> None:
    path = make_store(tmp_path / "store", num_train=1, encoding=encoding)
    stored = stored_images(path, "val")

    def images(target: str, view: View) -> npt.NDArray[np.generic]:
        spec = StreamSpec(split="val", view=view, shuffle=False, batch_size=8, drop_last=False)
        batches = read_all(target, spec)
        assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(30))
        assert not any(batch.colour_shifts.any() for batch in batches)
        return np.concatenate([batch.images for batch in batches])

    with serving(path) as target:
        full, centre, ten = images(target, "full"), images(target, "centre"), images(target, "ten_crop")
    assert ten.shape == (30, 10, 56, 56, 3)
    for i, (_, image) in enumerate(stored):
        np.testing.assert_array_equal(full[i], image)
        np.testing.assert_array_equal(centre[i], image[4:60, 4:60])
        for crop, (top, left) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))):
            window = image[top : top + 56, left : left + 56]
            np.testing.assert_array_equal(ten[i, crop], window)
            np.testing.assert_array_equal(ten[i, crop + 5], window[:, ::-1])


@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
def test_threads_batches_and_cache_change_no_byte(tmp_path: Path, encoding: Encoding) -> None:
    """Crops of 47 of 64 pixels, at odd places too; epochs are read twice, the second time from the cache."""
    path = make_store(tmp_path / "store", num_train=40, num_val=10, encoding=encoding)
    views: tuple[tuple[str, View], ...] = (("train", "train"), ("val", "ten_crop"), ("val", "centre"), ("val", "full"))
    digests: dict[str, set[str]] = {view: set() for _, view in views}
    for threads, batch_size, cached_images in ((1, 40, 0), (4, 7, 0), (1, 16, 15), (4, 10, 50)):
        with serving(path, threads=threads, cache_bytes=cached_images * IMAGE_BYTES) as target:
            for split, view in (*views, *views):
                spec = StreamSpec(split=split, view=view, seed=SEED, batch_size=batch_size, drop_last=False)
                if view != "full":
                    spec = replace(spec, crop_size=47)
                digest = StreamDigest()
                for batch in read_all(target, spec):
                    digest.add(batch)
                digests[view].add(digest.hexdigest())
    assert [len(found) for found in digests.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize(("encoding", "expected"), [("yuv420", 6144), ("raw", 12288)])
def test_a_record_of_another_length_is_data_loss(tmp_path: Path, encoding: Encoding, expected: int) -> None:
    path = make_store(tmp_path / "store", num_train=4)
    relabel(path, encoding)
    with serving(path) as target, pytest.raises(DataLossError) as caught:
        read_all(target, StreamSpec(shuffle=False, batch_size=1))
    assert f"train-00000.lmdb: key 0: cannot be decoded: expected {expected} bytes, found" in str(caught.value)


@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
def test_the_version_is_of_the_store_s_decoder(tmp_path: Path, encoding: Encoding) -> None:
    path = make_store(tmp_path / "store", num_train=4, num_val=1, encoding=encoding)
    with serving(path) as target, LoaderClient([target]) as client:
        version = client.describe().pipeline_version
    assert version == pipeline_version(encoding)
    assert (version == pipeline_version("jpeg")) is (encoding != "yuv420")


def test_float32_is_what_the_trainer_computes(tiny_store: Path, loader_target: str) -> None:
    spec = StreamSpec(seed=SEED, batch_size=20, crop_size=48)
    finished = StreamSpec(seed=SEED, batch_size=20, crop_size=48, pixel_format="float32")
    with Store(tiny_store) as store:
        mean = store.statistics.mean_image[8:56, 8:56]
    for plain, done in zip(read_all(loader_target, spec), read_all(loader_target, finished), strict=True):
        expected = plain.images.astype(np.float32) - mean + plain.colour_shifts[:, None, None, :]
        np.testing.assert_allclose(done.images, expected, atol=1e-4)


def test_two_ranks_make_the_stream_of_one(loader_target: str) -> None:
    whole = read_all(loader_target, StreamSpec(batch_size=9))
    left = read_all(loader_target, StreamSpec(batch_size=9, rank=0, world_size=2))
    right = read_all(loader_target, StreamSpec(batch_size=9, rank=1, world_size=2))
    for one, a, b in zip(whole, left, right, strict=True):
        np.testing.assert_array_equal(one.images, np.concatenate([a.images, b.images]))
        np.testing.assert_array_equal(one.indices, np.concatenate([a.indices, b.indices]))


def test_short_last_step_leaves_a_rank_with_nothing(loader_target: str) -> None:
    """100 images in steps of 32: the last step has 4, all of them rank 0's."""
    sizes = [
        [
            b.num_images
            for b in read_all(loader_target, StreamSpec(batch_size=32, rank=r, world_size=2, drop_last=False))
        ]
        for r in range(2)
    ]
    assert sizes == [[16, 16, 16, 4], [16, 16, 16, 0]]


def test_resumes_in_the_middle_and_crosses_epochs(loader_target: str) -> None:
    spec = StreamSpec(batch_size=32, seed=3)
    with LoaderClient([loader_target]) as client:
        with client.stream(spec, epoch=0, num_epochs=3) as stream:
            whole = list(stream)
        with client.stream(spec, epoch=1, step=2, num_epochs=2) as stream:
            rest = list(stream)
    assert [(b.epoch, b.step) for b in rest] == [(1, 2), (2, 0), (2, 1), (2, 2)]
    for expected, found in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(expected.images, found.images)


def test_a_name_stands_for_its_addresses(loader_target: str) -> None:
    port = loader_target.rpartition(":")[2]
    by_name = read_all(f"dns:localhost:{port}", StreamSpec(batch_size=25))
    for expected, found in zip(read_all(loader_target, StreamSpec(batch_size=25)), by_name, strict=True):
        np.testing.assert_array_equal(expected.images, found.images)


def test_colour_off_and_other_scale(loader_target: str) -> None:
    plain = read_all(loader_target, StreamSpec(batch_size=50, colour_std=0.0))
    assert not any(batch.colour_shifts.any() for batch in plain)
    sqrt = read_all(loader_target, StreamSpec(batch_size=50))
    unit = read_all(loader_target, StreamSpec(batch_size=50, colour_scale="unit_eigenvalue"))
    assert np.abs(unit[0].colour_shifts).mean() < np.abs(sqrt[0].colour_shifts).mean()
    np.testing.assert_array_equal(unit[0].images, sqrt[0].images)
