"""Where records lie, which of their bytes are read, and what stays in memory."""

import ctypes
import os
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.__main__ import main
from preprocess.errors import DamagedRecordError
from preprocess.store import ShardWriter, Store, page_cache
from preprocess.store.index_pages import record_places
from tests.stores import forget, make_store, resident_bytes


def records(path: Path) -> list[tuple[int, bytes]]:
    """Label and bytes of every image of a store."""
    found = []
    with Store(path) as store:
        for reader in map(store.split, store.manifest.splits):
            for index in range(reader.num_images):
                label, image = reader.read(index)
                found.append((label, bytes(image)))
    return found


def of_lmdb(shard: Path) -> list[bytes]:
    """All values of a shard in the order of their keys, as LMDB reads them."""
    with lmdb.open(str(shard), subdir=False, readonly=True, lock=False, lib_version=0) as environment:
        with environment.begin() as transaction:
            return [bytes(value) for _, value in transaction.cursor()]


def drop(path: Path) -> None:
    """Has the kernel forget a file's pages; skips the test where it does not."""
    if forget(path):
        pytest.skip("the file system keeps its pages in memory")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.one_of(
        st.lists(st.integers(0, 9000), max_size=40),
        st.integers(0, 3000).flatmap(lambda num: st.integers(0, 60).map(lambda size: [size] * num)),
        # Around half a page, from which on a record has pages of its own.
        st.lists(st.integers(1990, 2030), max_size=400),
    )
)
def test_index_pages_say_what_lmdb_says(tmp_path: Path, sizes: list[int]) -> None:
    draw = np.random.default_rng(len(sizes))
    with ShardWriter(tmp_path, "shard.lmdb") as writer:
        for number, size in enumerate(sizes):
            writer.add(number, b"name %d" % number, draw.bytes(size))
    shard = tmp_path / "shard.lmdb"
    content = shard.read_bytes()
    with shard.open("rb") as file:
        places = record_places(file.fileno(), len(sizes)).tolist()
        assert [content[offset : offset + size] for offset, size in places] == of_lmdb(shard)
        for wrong in {max(len(sizes) - 1, 0), len(sizes) + 1} - {len(sizes)}:
            with pytest.raises(ValueError, match="expected the keys of"):
                record_places(file.fileno(), wrong)


def test_a_damaged_index_is_an_error_and_no_other_record(tmp_path: Path) -> None:
    """Whatever byte of an index page is wrong: each record is read whole, or an error names the shard."""
    path = make_store(tmp_path / "store", num_train=12, num_val=1, side=48, encoding="raw")
    expected = records(path)
    shard = path / "shards/train-00000.lmdb"
    whole = shard.read_bytes()
    draw = np.random.default_rng(0)
    # Of LMDB's two heads and its leaves: what is left of the file is records and free pages.
    index = [page for page in range(0, len(whole), 4096) if page < 8192 or whole[page + 10] & 0x03]
    assert len(index) > 2
    heads = [page + place for page in index for place in range(168 + 12 * 32)]
    others = [page + place for page in index for place in draw.integers(0, 4096, 50).tolist()]
    for place in (heads + others)[::6]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draw.integers(8))
        shard.write_bytes(damaged)
        try:
            assert records(path) == expected
        except DamagedRecordError as error:
            assert "train-00000.lmdb: " in str(error)  # noqa: PT017  # either is right


def test_one_record_in_the_place_of_another_is_an_error(tmp_path: Path) -> None:
    """It is whole, and its checksum does not say which one it is."""
    path = make_store(tmp_path / "store", num_train=12, num_val=1, side=48, encoding="raw")
    shard = path / "shards/train-00000.lmdb"
    with shard.open("rb") as file:
        pages = [(offset // 4096).to_bytes(8, "little") for offset, _ in record_places(file.fileno(), 12).tolist()]
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(b"\5" + pages[5], b"\5" + pages[3]))  # behind the last byte of its key
    assert shard.read_bytes() != whole
    with pytest.raises(DamagedRecordError, match=r"train-00000.lmdb: .* found two in one"):
        records(path)


def test_the_kernel_reads_the_records_that_were_asked_for_and_no_more(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", num_train=64, num_val=1, images_per_shard=64, side=128, encoding="raw")
    shard = path / "shards/train-00000.lmdb"
    drop(shard)
    with Store(path) as store:
        reader = store.split("train")
        asked = reader.will_need([3, 4, 30, 60])
        assert asked == 4 * (128 * 128 * 3 + 16)
        deadline = time.monotonic() + 30
        while resident_bytes(shard) < asked and time.monotonic() < deadline:
            time.sleep(0.01)
        index_bytes = 5 * 4096  # two heads, and three pages or fewer
        assert asked <= resident_bytes(shard) <= asked + 4 * 2 * 4096 + index_bytes
        num_waits = store.reads.num_waits
        reader.read(30)
        assert store.reads.num_waits == num_waits
        for index in range(31, 60):
            reader.read(index)
        assert store.reads.num_waits == num_waits + 29
        assert resident_bytes(shard) <= 32 * (asked // 4 + 2 * 4096) + index_bytes


def test_to_ask_what_is_in_memory_reads_nothing(tmp_path: Path) -> None:
    """A disk may be so quick that what the question began to read is there for the answer, and nothing around it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16 * 64)
    drop(path)
    with path.open("rb") as file:
        page_cache.read_no_further(file.fileno())
        mapped = page_cache.MappedFile(file.fileno(), 64 * 4096)
        for first, last in ((0, 1), (4095, 4097), (5 * 4096 + 7, 64 * 4096)):
            assert mapped.is_cached(first, last - first) is False
        assert resident_bytes(path) == 0
        os.pread(file.fileno(), 3 * 4096, 10 * 4096)
        for first, last, is_cached in (
            (10 * 4096, 13 * 4096, True),
            (11 * 4096 + 9, 11 * 4096 + 10, True),
            (10 * 4096, 13 * 4096 + 1, False),
        ):
            assert mapped.is_cached(first, last - first) is is_cached
        assert resident_bytes(path) == 3 * 4096


def test_what_is_behind_the_end_is_not_in_memory(tmp_path: Path) -> None:
    """The kernel keeps pages of a truncated file that are parts of larger ones; who touches them is killed."""
    path, size_bytes = tmp_path / "file", 64 * 4096
    for cut in range(1, size_bytes, 12_345):
        path.write_bytes(bytes(size_bytes))
        with path.open("r+b") as file:
            mapped = page_cache.MappedFile(file.fileno(), size_bytes)
            assert mapped.is_cached(0, size_bytes)
            file.truncate(cut)
            for end in (cut + 1, min(cut + 4096, size_bytes), size_bytes):
                assert mapped.is_cached(end - 1, 1) is False
            assert mapped.is_cached(0, cut)


@pytest.mark.parametrize("reason", ["another's file", "a sandbox"])
def test_who_is_not_told_what_is_in_memory_maps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """The kernel says "all of it" to those who neither own a file nor may write to it, and a sandbox to everybody."""
    path = make_store(tmp_path / "store", num_train=8, num_val=1, images_per_shard=8, side=128, encoding="raw")
    expected, shard = records(path), path / "shards/train-00000.lmdb"
    with shard.open("rb") as file:
        if reason == "another's file":
            monkeypatch.setattr(os, "geteuid", lambda: shard.stat().st_uid + 1)
            monkeypatch.setattr(os, "access", lambda *_, **__: False)
        else:
            monkeypatch.setattr(
                page_cache, "_mincore", lambda _, size, pages: 0 * ctypes.memset(pages, 1, -(-size // 4096))
            )
        mapped = page_cache.MappedFile(file.fileno(), shard.stat().st_size)
        shard.read_bytes()
        assert mapped.is_cached(8192, 4096) is None
    assert records(path) == expected


def test_a_request_is_as_long_as_the_device_lets_it_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reads no more for one, and what is below that should not be two."""
    sys, disk = tmp_path / "sys", tmp_path / "sys/devices/disk"
    for path, kilobytes in (
        (disk / "queue/read_ahead_kb", "128\n"),
        (disk / "queue/max_sectors_kb", "1280\n"),
        (sys / "class/bdi/0:48/read_ahead_kb", "15360\n"),  # a network file system
        (sys / "class/bdi/0:49/read_ahead_kb", "0\n"),
        (sys / "class/bdi/0:50/read_ahead_kb", "unknown\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kilobytes)
    (disk / "disk1").mkdir()
    (sys / "dev/block").mkdir(parents=True)
    (sys / "dev/block/8:0").symlink_to(disk)
    (sys / "dev/block/8:1").symlink_to(disk / "disk1")
    found = {
        number: page_cache._request_bytes(os.makedev(*number), sys)
        for number in ((8, 0), (8, 1), (0, 48), (0, 49), (0, 50), (7, 7))
    }
    assert [size // 1024 for size in found.values()] == [1280, 1280, 15360, 128, 128, 128]

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, offset, size_bytes, __: asked.append((offset, size_bytes)))
    monkeypatch.setattr(page_cache, "request_bytes", lambda _: found[8, 0])
    page_cache.will_need(0, [(0, 196_624), (1 << 20, 1 << 21)])
    assert asked == [(0, 196_624), (1 << 20, 1_310_720), ((1 << 20) + 1_310_720, (1 << 21) - 1_310_720)]


def test_verify_leaves_the_page_cache_as_it_found_it(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", num_train=64, num_val=16, images_per_shard=16, side=128, encoding="raw")
    shards = sorted((path / "shards").glob("*.lmdb"))
    for shard in shards:
        drop(shard)
    shards[1].read_bytes()
    with shards[2].open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 65536, 131072)
    before = [resident_bytes(shard) for shard in shards]
    assert (before[1], before[2]) == (shards[1].stat().st_size, 65536)
    main(["verify", str(path), "--workers", "2"])
    assert [resident_bytes(shard) for shard in shards] == before
