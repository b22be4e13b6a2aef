"""The store's bytes: golden values, whole or absent files, and every way a store can be wrong."""

import itertools
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocess.errors import DamagedRecordError, StoreError
from preprocess.job.plan import shuffled_order
from preprocess.sources.listing import ImageListBuilder
from preprocess.store import ClassInfo, ImageSpec, Manifest, ShardInfo, ShardWriter, SplitInfo, Store
from preprocess.store.format import pack_record, shard_key, unpack_record
from tests.stores import make_store

_MANIFEST = Manifest(
    image=ImageSpec(),
    classes=(ClassInfo(id="n01440764", name="tench"), ClassInfo(id="n01443537", name="goldfish")),
    splits={
        "train": SplitInfo(
            shards=(ShardInfo(file="shards/train-00000.lmdb", num_images=2, size_bytes=8192, content_sha256="ab"),)
        )
    },
    statistics_sha256="cd",
    source={"layout": "folder"},
)


def test_golden_bytes() -> None:
    # These are the format. Where they change, old stores no longer read: FORMAT_VERSION changes with them.
    assert shard_key(258).hex() == "0000000000000102"
    assert pack_record(7, b"pixels").hex() == "07000000000000003fac846266f413d9706978656c73"
    assert _MANIFEST.fingerprint == "46c5208e3e83e65c39726f252b4d425c188bb82950ad5ee3dffd94296b0b4f7d"


def test_golden_shuffle() -> None:
    # These decide which image lies in which shard; another order is another store from the same source.
    builder = ImageListBuilder("file")
    for number in range(10):
        builder.add(b"%d" % number, 0, 1)
    images = builder.build()
    assert shuffled_order(images, 0, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert shuffled_order(images, 1, 0).tolist() == [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]
    assert shuffled_order(images, 0, 1).tolist() == [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]


def test_groups_stay_together() -> None:
    builder = ImageListBuilder("row")
    builder.begin_container("x.parquet")
    for number in range(20):
        if number in (0, 3, 4, 11):
            builder.begin_group()
        builder.add(b"%d" % number, 0, 1, number)
    order = shuffled_order(builder.build(), 3, 0).tolist()
    assert sorted(order) == list(range(20))
    assert order != list(range(20))
    jumps = [second for first, second in itertools.pairwise(order) if second != first + 1]
    assert {order[0], *jumps} <= {0, 3, 4, 11}


def test_a_record_covers_its_label() -> None:
    label, image = unpack_record(memoryview(pack_record(7, b"pixels")))
    assert (label, bytes(image)) == (7, b"pixels")
    record = bytearray(pack_record(7, b"pixels"))
    record[0] = 6
    with pytest.raises(ValueError, match="expected checksum"):
        unpack_record(memoryview(record))
    with pytest.raises(ValueError, match="expected at least 16 bytes, found 3"):
        unpack_record(memoryview(b"abc"))


def test_the_fingerprint_is_of_the_samples_alone() -> None:
    moved = replace(_MANIFEST, source={"root": "/elsewhere"})
    renamed = replace(_MANIFEST, classes=tuple(replace(info, name="x") for info in _MANIFEST.classes))
    assert moved.fingerprint == renamed.fingerprint == _MANIFEST.fingerprint
    for changed in (
        replace(_MANIFEST, image=ImageSpec(quality=94)),
        replace(_MANIFEST, classes=_MANIFEST.classes[::-1]),
        replace(_MANIFEST, statistics_sha256="ce"),
    ):
        assert changed.fingerprint != _MANIFEST.fingerprint


def test_a_manifest_survives_its_json() -> None:
    assert Manifest.from_json(_MANIFEST.to_json(), "here") == _MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "expected store format version 1, found 2; preprocess again"),
        ({"format": "other"}, "expected a manifest of format 'alexnet-store'"),
        ({"image": {"side": 256, "depth": 3}}, "the manifest is malformed"),
        ({"image": {"encoding": "webp"}}, "expected one of jpeg, yuv420, raw, found 'webp'"),
        ({"image": {"encoding": "yuv420", "side": 255}}, "expected an even number of pixels .* found 255"),
        ({"splits": []}, "the manifest is malformed"),
        ({"statistics_sha256": "xx"}, "the manifest was edited or damaged"),
    ],
)
def test_a_manifest_that_is_wrong(change: dict[str, object], message: str) -> None:
    document = json.loads(_MANIFEST.to_json()) | change
    with pytest.raises(StoreError, match=message):
        Manifest.from_json(json.dumps(document), "here")
    with pytest.raises(StoreError, match="expected a JSON manifest"):
        Manifest.from_json("{", "here")


def test_a_shard_is_whole_or_absent(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with ShardWriter(tmp_path, "shards/train-00000.lmdb") as writer:
            for number in range(300):
                writer.add(number, b"name", bytes(1000))
            raise RuntimeError("as if killed")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_shard_may_be_of_any_size_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    # Past the map that LMDB begins with.
    image = np.random.default_rng(0).bytes(400_000)
    infos = []
    for name in ("a", "b"):
        with ShardWriter(tmp_path, f"{name}.lmdb") as writer:
            for number in range(400):
                writer.add(number, b"%d" % number, image)
        infos.append(writer.info)
    assert infos[0].size_bytes > 2 * 2**26
    assert replace(infos[0], file="x") == replace(infos[1], file="x")
    assert (tmp_path / "a.lmdb").read_bytes() == (tmp_path / "b.lmdb").read_bytes()


def test_reading(tmp_path: Path) -> None:
    with Store(make_store(tmp_path / "store", num_train=70, num_val=5)) as store:
        reader = store.split("train")
        assert [reader.locate(index) for index in (0, 31, 32, 69)] == [(0, 0), (0, 31), (1, 0), (2, 5)]
        assert reader.names(1)[0] == b"train/32.JPEG"
        for index in (-1, 70):
            with pytest.raises(IndexError, match=r"expected an index in \[0, 70\)"):
                reader.read(index)
        with pytest.raises(StoreError, match="expected one of the splits train, val, found 'test'"):
            store.split("test")


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    with Store(make_store(tmp_path / "store", num_train=100)) as store:
        reader = store.split("train")
        expected = [(label, bytes(image)) for label, image in map(reader.read, range(100))]
        found: dict[int, list[tuple[int, bytes]]] = {}

        def read(thread: int) -> None:
            found[thread] = [(label, bytes(image)) for label, image in map(reader.read, range(100))]

        threads = [threading.Thread(target=read, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert [found[thread] for thread in range(8)] == [expected] * 8


def test_a_foreign_shard_of_the_same_size(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_train=40)
    shard = store / "shards/train-00000.lmdb"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with Store(store) as opened, pytest.raises(DamagedRecordError, match="expected an LMDB file of version 1"):
        opened.split("train").read(0)


def test_a_shard_that_is_truncated_while_it_is_open(tmp_path: Path) -> None:
    """To read what is mapped beyond a file's end kills the process; one that is only gone from its folder is whole."""
    with Store(make_store(tmp_path / "store", num_train=96, num_val=5)) as store:
        reader = store.split("train")
        expected = [bytes(reader.read(index)[1]) for index in (0, 40, 80)]
        truncated, unlinked, replaced = (tmp_path / f"store/shards/train-0000{number}.lmdb" for number in range(3))
        os.truncate(truncated, 0)
        unlinked.unlink()
        (tmp_path / "short").write_bytes(b"another file")
        (tmp_path / "short").rename(replaced)
        with pytest.raises(DamagedRecordError, match=r"train-00000\.lmdb: key 3: expected a shard of .*, found 0"):
            reader.read(3)
        assert [bytes(reader.read(index)[1]) for index in (40, 80)] == expected[1:]
        reader.read(95)
        store.split("val").read(4)
