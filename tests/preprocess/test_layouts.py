"""The five layouts of one data set give the same images, labels and statistics; each says what it lacks."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from preprocess.__main__ import main
from preprocess.errors import SourceError
from preprocess.images.decode import decoder_versions
from preprocess.job.shard import ShardWork, make_shard
from preprocess.sources import SourceOptions, read_source, reading
from preprocess.sources.local_storage import LocalStorage
from preprocess.store import ImageSpec, Store
from tests.preprocess.layouts import (
    CLASSES,
    LAYOUTS,
    TRAIN,
    VAL,
    WNIDS,
    devkit_files,
    write_flat_folder,
    write_kaggle,
    write_official,
    write_parquet,
    write_webdataset,
)

_Sample = tuple[str, int, bytes]


def _read(root: Path | str, **options: Any) -> dict[str, dict[str, int]]:
    """Label by stem, of each split."""
    source = read_source(str(root), SourceOptions(**options), map)
    return {split: {_short(entry.name): entry.label for entry in images} for split, images in source.splits.items()}


def _short(name: bytes) -> str:
    """The image's own name, without folders and what a layout adds."""
    stem = name.decode().rsplit("/", 1)[-1].split(".")[0].split("_")
    return "_".join(stem[:2] if stem[0].startswith("n") else stem[:3])


EXPECTED = {split: {photo.stem: photo.label for photo in photos} for split, photos in (("train", TRAIN), ("val", VAL))}


@pytest.mark.usefixtures("local_ray")
def test_all_layouts_give_the_same_samples_and_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples: dict[str, dict[str, set[_Sample]]] = {}
    statistics = {}
    for layout, write in LAYOUTS.items():
        write(tmp_path / layout)
        out = tmp_path / f"{layout}-store"
        options = ["--encoding", "raw", "--shorter-side", "32", "--images-per-shard", "7"]
        assert main(["run", "--source", str(tmp_path / layout), "--out", str(out), *options]) == 0
        assert f"{layout} layout: train 20 images, val 8 images in 4 classes" in capsys.readouterr().err
        samples[layout] = {}
        with Store(out) as store:
            assert [info.id for info in store.manifest.classes] == WNIDS
            if layout not in ("folder", "webdataset"):  # these two hold no names
                assert [info.name for info in store.manifest.classes] == [CLASSES[wnid][0] for wnid in WNIDS]
            for split in ("train", "val"):
                reader = store.split(split)
                names = [name for shard in range(len(reader.info.shards)) for name in reader.names(shard)]
                records = (reader.read(index) for index in range(reader.num_images))
                samples[layout][split] = {
                    (_short(name), label, bytes(image)) for name, (label, image) in zip(names, records, strict=True)
                }
                found = {name: label for name, label, _ in samples[layout][split]}
                assert found == EXPECTED[split]
        statistics[layout] = (out / "statistics.npz").read_bytes()
    for layout in LAYOUTS:
        assert samples[layout] == samples["folder"]
        assert statistics[layout] == statistics["folder"]


def test_known_labels_of_imagenet() -> None:
    # What the translation of orders must come to: sorted wnids, n01440764 first.
    assert WNIDS[0] == "n01440764"
    assert [CLASSES[wnid][1] for wnid in WNIDS] != sorted(CLASSES[wnid][1] for wnid in WNIDS)


@pytest.mark.parametrize("layout", ["folder", "kaggle", "official", "parquet", "webdataset"])
def test_any_url_of_fsspec_is_read(layout: str, tmp_path: Path) -> None:
    local = LAYOUTS[layout](tmp_path / "local")
    memory = fsspec.filesystem("memory")
    root = f"/{layout}-{tmp_path.name}"
    memory.put(str(local), root, recursive=True)
    url = f"memory:/{root}"
    (tmp_path / "store/shards").mkdir(parents=True)
    source = read_source(url, SourceOptions(), map)
    assert source.layout == layout
    for split, images in source.splits.items():
        assert {_short(entry.name): entry.label for entry in images} == EXPECTED[split]
        work = ShardWork(
            store=str(tmp_path / "store"),
            root=url,
            split=split,
            stem=f"{split}-00000",
            images=images,
            image=ImageSpec(side=16),
            max_pixels=10**6,
            decoders=decoder_versions(),
            probe=None,
        )
        outcome = make_shard(work)
        assert (outcome.num_images, outcome.bad_images) == (len(EXPECTED[split]), ())


class _FlakyStorage(LocalStorage):
    """Remote storage that fails now and then, as networks do."""

    is_local = False
    failures = 0

    def read(self, path: str, most_bytes: int) -> bytes:
        if self.failures:
            self.failures -= 1
            raise TimeoutError("no answer")
        return super().read(path, most_bytes)


@pytest.mark.parametrize(("failures", "recovers"), [(4, True), (1000, False)])
def test_a_network_that_fails_is_asked_again(
    failures: int, recovers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FIRST_PAUSE_S", 0.0)
    root = LAYOUTS["folder"](tmp_path / "source")
    images = read_source(str(root), SourceOptions(), map).splits["train"]
    storage = _FlakyStorage(str(root))
    storage.failures = failures
    if recovers:
        found = {_short(entry.name): content for entry, content in reading.read_images(storage, images, 1 << 20)}
        assert found == {photo.stem: photo.content for photo in TRAIN}
    else:
        with pytest.raises(SourceError, match=r"cannot be read after 5 attempts: no answer"):
            list(reading.read_images(storage, images, 1 << 20))


@pytest.mark.usefixtures("local_ray")
def test_workers_read_urls(tmp_path: Path) -> None:
    # file:// goes through fsspec as s3:// does, and the workers' processes can reach it.
    source = write_webdataset(tmp_path / "source")
    out = tmp_path / "store"
    assert main(["run", "--source", f"file://{source}", "--out", str(out), "--shorter-side", "16"]) == 0
    with Store(out) as store:
        assert store.split("train").num_images == 20


def _wnid_lines() -> str:
    return "".join(f"{photo.wnid}\n" for photo in VAL)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("val_labels.txt", "".join(f"{photo.file} {photo.wnid}\n" for photo in reversed(VAL))),
        ("val.txt", "".join(f"{photo.file} {photo.label}\n" for photo in VAL)),
        ("imagenet_2012_validation_synset_labels.txt", _wnid_lines()),
        ("LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(f"{p.stem},{p.wnid} 1 2 3 4\n" for p in VAL)),
    ],
)
def test_a_flat_val_folder_with_any_file_of_labels(file: str, text: str, tmp_path: Path) -> None:
    root = write_flat_folder(tmp_path / "source")
    (root / file).write_text(text)
    assert _read(root)["val"] == EXPECTED["val"]
    (root / file).rename(tmp_path / "elsewhere")
    assert _read(root, val_labels=str(tmp_path / "elsewhere"))["val"] == EXPECTED["val"]


def test_a_flat_val_folder_with_the_devkit(tmp_path: Path) -> None:
    root = write_flat_folder(tmp_path / "source")
    for name, content in devkit_files().items():
        path = tmp_path / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert _read(root, devkit=str(tmp_path / "kit"))["val"] == EXPECTED["val"]


def test_a_layout_can_be_told(tmp_path: Path) -> None:
    root = write_kaggle(tmp_path / "source")
    write_official(tmp_path / "tars")
    for path in (tmp_path / "tars").iterdir():
        path.rename(root / path.name)
    assert read_source(str(root), SourceOptions(), map).layout == "official"
    assert read_source(str(root), SourceOptions(), map, layout="kaggle").layout == "kaggle"


def _no_labels(root: Path) -> None:
    write_flat_folder(root)


def _one_label_missing(root: Path) -> None:
    write_flat_folder(root)
    (root / "val.txt").write_text("".join(f"{photo.file} {photo.label}\n" for photo in VAL[1:]))


def _too_few_positions(root: Path) -> None:
    write_flat_folder(root)
    (root / "val_labels.txt").write_text("n01440764\n")


def _unknown_class(root: Path) -> None:
    write_flat_folder(root)
    (root / "val_labels.txt").write_text(_wnid_lines().replace("n01440764", "n09999999"))


def _val_class_without_training(root: Path) -> None:
    LAYOUTS["folder"](root)
    (root / "val/n09999999").mkdir()


def _truncated_train_tar(root: Path) -> None:
    write_official(root)
    tar = root / "ILSVRC2012_img_train.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def _truncated_val_tar(root: Path) -> None:
    write_official(root)
    tar = root / "ILSVRC2012_img_val.tar"
    tar.write_bytes(tar.read_bytes()[:9000])


def _val_without_devkit(root: Path) -> None:
    write_official(root)
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()


def _train_tar_of_images(root: Path) -> None:
    write_official(root)
    (root / "ILSVRC2012_img_val.tar").replace(root / "ILSVRC2012_img_train.tar")


def _sample_without_label(root: Path) -> None:
    root.mkdir()
    with tarfile.open(root / "x-train-0.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))


def _parquet_without_label(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    pq.write_table(pa.table({"image": [b"x"], "text": ["y"]}), root / "train-0.parquet")


def _parquet_that_is_none(root: Path) -> None:
    write_parquet(root)
    next((root / "data").glob("train-00000*")).write_bytes(b"PAR1 no more")


def _one_file(root: Path) -> None:
    root.mkdir()
    (root / "x.jpg").write_bytes(TRAIN[0].content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_labels, "expected the labels of 8 validation images in --val-labels, --devkit"),
        (_one_label_missing, "val.txt: expected a label for each image, found none for 'ILSVRC2012_val_00000001.JPEG'"),
        (_too_few_positions, "val_labels.txt: expected 8 labels, one an image, found 1"),
        (_unknown_class, "expected one of the training split's 4 classes, found 'n09999999'"),
        (_val_class_without_training, "val/n09999999: expected one of the training split's 4 classes"),
        (_truncated_train_tar, "ILSVRC2012_img_train.tar: expected a whole tar"),
        (_truncated_val_tar, "ILSVRC2012_img_val.tar: expected a whole tar"),
        (_val_without_devkit, "expected the labels of 8 validation images"),
        (_train_tar_of_images, "expected a tar of one tar for each class, found 'ILSVRC2012_val_"),
        (_sample_without_label, "sample b'a': expected a label"),
        (_parquet_without_label, "train-0.parquet: expected a column 'label', found image, text"),
        (_parquet_that_is_none, "train-00000"),
        (_one_file, "expected one of the layouts"),
    ],
)
def test_what_a_layout_lacks_is_said(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "source")
    with pytest.raises(SourceError) as caught:
        read_source(str(tmp_path / "source"), SourceOptions(), map)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_rows_of_a_whole_group_and_plain_bytes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "source").mkdir()
    table = pa.table({"image": [photo.content for photo in TRAIN], "label": [photo.label for photo in TRAIN]})
    pq.write_table(table, tmp_path / "source/train-0.parquet")
    source = read_source(str(tmp_path / "source"), SourceOptions(), map)
    assert [info.id for info in source.classes] == ["0", "1", "2", "3"]
    assert [entry.label for entry in source.splits["train"]] == [photo.label for photo in TRAIN]
