"""Parts that preprocessing's tests share: one local Ray, small pictures, small data sets, real photographs."""

import io
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from preprocess.job.cluster import start_ray


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of four worker processes for the whole session."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ.setdefault(name, "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    start_ray(lambda: ray.init(address="local", num_cpus=4, **options))
    yield
    ray.shutdown()


def smooth_pixels(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: something between a photograph and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy: npt.NDArray[np.int64] = pixels + rng.integers(-8, 9, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def jpeg(seed: int, width: int = 80, height: int = 60, mode: str = "RGB", quality: int = 90) -> bytes:
    """A JPEG file of ``smooth_pixels``."""
    buffer = io.BytesIO()
    Image.fromarray(smooth_pixels(seed, width, height)).convert(mode).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


CLASS_IDS = ("n01440764", "n01443537", "n02102040")


def make_folder(root: Path, *, train: int = 12, val: int = 4) -> Path:
    """A folder tree with three classes, ``train`` and ``val`` images each, of sizes between 40 and 120 pixels."""
    for split, count in (("train", train), ("val", val)):
        for label, class_id in enumerate(CLASS_IDS):
            folder = root / split / class_id
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * label + number + (500 if split == "val" else 0)
                sides = np.random.default_rng(seed).integers(40, 121, 2)
                name = f"{class_id}_{number}.JPEG" if split == "train" else f"ILSVRC2012_val_{seed:08d}.JPEG"
                (folder / name).write_bytes(jpeg(seed, int(sides[0]), int(sides[1])))
    return root


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder tree of 36 training and 12 validation images; not to be changed."""
    return make_folder(tmp_path_factory.mktemp("small") / "imagenet")


def store_files(store: Path) -> dict[str, bytes]:
    """Every file of a store but the report, which holds times."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """Forty real photographs, full size, from ALEXNET_TEST_DATA; skips without it."""
    folder = os.environ.get("ALEXNET_TEST_DATA")
    if folder is None or not (Path(folder) / "imagenet500.tar").exists():
        pytest.skip("ALEXNET_TEST_DATA names no folder with imagenet500.tar")
    found = []
    with tarfile.open(Path(folder) / "imagenet500.tar") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".JPEG"):
                file = archive.extractfile(member)
                assert file is not None
                found.append(file.read())
            if len(found) == 40:
                break
    return found
