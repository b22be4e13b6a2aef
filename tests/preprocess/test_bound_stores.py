"""A store's records are its own: whatever is installed over it, the images that were written or an error; and what the
system's troubles are called."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from preprocess.errors import DamagedRecordError, StoreError, StoreUnavailableError
from preprocess.store import ShardInfo, Store
from preprocess.store.folder import store_error
from tests.stores import make_store, without_digests

Make = Callable[..., Path]


def written_now(path: Path, **options: int) -> Path:
    return make_store(path, num_train=24, num_val=4, side=32, images_per_shard=12, encoding="raw", **options)


def written_before(path: Path, **options: int) -> Path:
    return without_digests(written_now(path, **options))


def contents(store: Store) -> list[tuple[int, bytes] | str]:
    """Label and bytes of each image, or what is said instead."""
    found: list[tuple[int, bytes] | str] = []
    for reader in map(store.split, store.manifest.splits):
        for index in range(reader.num_images):
            try:
                label, image = reader.read(index)
                found.append((label, bytes(image)))
            except DamagedRecordError as error:
                found.append(str(error))
    return found


def overwrite(store: Path, other: Path) -> None:
    """Copies one store's files into those of another, in place."""
    for shard in (other / "shards").glob("*.lmdb"):
        with (store / "shards" / shard.name).open("r+b") as file:
            file.write(shard.read_bytes())


@pytest.mark.parametrize("make", [written_now, written_before])
@pytest.mark.parametrize("way", ["a link leads elsewhere", "another store is moved there", "its files are replaced"])
def test_what_its_path_leads_to_later_does_not_matter(tmp_path: Path, make: Make, way: str) -> None:
    """Also for shards that are read for the first time then."""
    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    path = tmp_path / "store"
    path.symlink_to(one)
    with Store(one) as store:
        expected = contents(store)
    with Store(path) as store:
        store.open_shards()
        if way == "a link leads elsewhere":
            path.unlink()
            path.symlink_to(other)
        elif way == "another store is moved there":
            one.rename(tmp_path / "former")
            other.rename(one)
        else:
            for file in (one / "shards").iterdir():
                shutil.copy(other / "shards" / file.name, tmp_path / "copy")
                (tmp_path / "copy").rename(file)
        assert contents(store) == expected
    with Store(path) as store, suppress(StoreError):  # what is there now is another's, or is refused
        assert set(contents(store)).isdisjoint(expected)


def test_a_folder_that_leads_elsewhere_before_a_shard_is_read(tmp_path: Path) -> None:
    one, other = written_now(tmp_path / "one"), written_now(tmp_path / "other", seed=1)
    with Store(one) as store:
        expected = contents(store)
    with Store(one) as store:
        one.rename(tmp_path / "former")
        other.rename(one)
        assert contents(store) == expected


@pytest.mark.parametrize("make", [written_now, written_before])
def test_a_store_that_is_written_over_in_place(tmp_path: Path, make: Make) -> None:
    """Same sizes, same places, images that are whole: and none of them goes out under the first one's name."""
    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    with Store(one) as store:
        store.open_shards()
        expected = contents(store)
        os.utime(other, ns=(0, 0))
        overwrite(one, other)
        found = contents(store)
    assert all(isinstance(image, str) for image in found), "errors, all of them"
    assert len(found) == len(expected)


def test_one_foreign_shard_of_the_same_size(tmp_path: Path) -> None:
    one, other = written_now(tmp_path / "one"), written_now(tmp_path / "other", seed=1)
    shard = "shards/train-00001.lmdb"
    assert (one / shard).stat().st_size == (other / shard).stat().st_size
    shutil.copy(other / shard, one / shard)
    with Store(one) as store:
        with pytest.raises(
            DamagedRecordError, match=r"train-00001\.lmdb: expected the shard of content SHA-256 .* anoth"
        ):
            store.open_shards()
        store.split("train").read(3)
        with pytest.raises(DamagedRecordError, match="expected the shard of content SHA-256"):
            store.split("train").read(13)


def test_a_store_of_an_earlier_release(tmp_path: Path) -> None:
    """It is served with what can be checked when it is opened: places, sizes, some records; and all, when all is
    read."""
    now, before = written_now(tmp_path / "now"), written_before(tmp_path / "before")
    with Store(now) as new, Store(before) as old:
        for store in (new, old):
            store.open_shards()
        assert old.fingerprint == new.fingerprint
        assert contents(old) == contents(new)
        assert old.split("train").names(0) == new.split("train").names(0)
        counted: list[int] = []
        old.check_content(counted.append)
        assert sorted(counted) == [4, 12, 12]
    shard = "shards/train-00000.lmdb"
    shutil.copy(written_before(tmp_path / "other", seed=1) / shard, before / shard)
    with Store(before) as store:
        store.open_shards()  # nothing in it says whose it is
        with pytest.raises(DamagedRecordError, match=r"train-00000\.lmdb: expected content SHA-256"):
            store.check_content(counted.append)


def test_images_of_another_encoding_in_a_store_of_an_earlier_release(tmp_path: Path) -> None:
    before = written_before(tmp_path / "before")
    smaller = without_digests(
        make_store(tmp_path / "smaller", num_train=24, side=24, images_per_shard=12, encoding="raw")
    )
    shard, size_bytes = before / "shards/train-00000.lmdb", (before / "shards/train-00000.lmdb").stat().st_size
    shutil.copy(smaller / "shards/train-00000.lmdb", shard)
    os.truncate(shard, size_bytes)
    with (
        Store(before) as store,
        pytest.raises(DamagedRecordError, match="expected images of 3,072 bytes, found others"),
    ):
        store.open_shards()


def test_every_record_is_compared_when_all_are_read(tmp_path: Path) -> None:
    store_path = written_now(tmp_path / "store")
    shard = store_path / "shards/train-00001.lmdb"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with Store(store_path) as store:
        store.open_shards()
        with pytest.raises(DamagedRecordError, match=r"train-00001\.lmdb: "):
            store.check_content(lambda num_images: None)


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../other/x.lmdb", "shards/../../x", "", "shards//x", "a\0b", "./x", "x/"]
)
def test_a_shard_outside_its_store(file: str) -> None:
    with pytest.raises(ValueError, match="expected a name inside the store"):
        ShardInfo(file=file, num_images=1, size_bytes=1, content_sha256="")


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM", "EIO", "ESTALE"])
def test_the_systems_troubles_are_not_damage(number: str) -> None:
    error = store_error(Path("store/x"), OSError(getattr(errno, number), os.strerror(getattr(errno, number))))
    assert isinstance(error, StoreUnavailableError)
    assert not isinstance(error, DamagedRecordError)
    assert isinstance(store_error(Path("x"), MemoryError()), StoreUnavailableError)
    assert isinstance(store_error(Path("x"), FileNotFoundError(errno.ENOENT, "gone")), DamagedRecordError)


WITHOUT_DESCRIPTORS = """
    import os, resource, sys
    from pathlib import Path
    from preprocess.errors import StoreUnavailableError
    from preprocess.store import Store

    with Store(Path(sys.argv[1])) as store:
        reader = store.split("train")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))), hard))
        try:
            reader.read(0)
        except StoreUnavailableError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(len(reader.read(0)[1]))
"""


def test_a_shard_for_which_there_is_no_descriptor(tmp_path: Path) -> None:
    store = written_now(tmp_path / "store")
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_DESCRIPTORS), str(store)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [f"{store}/shards/train-00000.lmdb: cannot be read now: Too many open files", "3072"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read(tmp_path: Path) -> None:
    store = written_now(tmp_path / "store")
    (store / "shards/train-00000.lmdb").chmod(0)
    with Store(store) as opened, pytest.raises(StoreUnavailableError, match="Permission denied"):
        opened.open_shards()
