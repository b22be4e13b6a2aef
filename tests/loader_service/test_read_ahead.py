"""Reading ahead: which records the kernel is asked for, how far, and what a store in memory pays."""

import re
import signal
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loader_service.client import LoaderClient, StreamSpec
from loader_service.commands.sizing import expectation
from loader_service.pipeline import read_ahead
from loader_service.pipeline.image_cache import DecodedCache
from loader_service.pipeline.order import epoch_order
from loader_service.pipeline.pipeline import Pipeline
from loader_service.pipeline.plan import Job, Planner
from loader_service.pipeline.read_ahead import ReadAhead
from loader_service.wire.types import StepRange
from preprocess.store import Manifest, Store
from tests.processes import LoaderProcess, free_port
from tests.stores import forget, make_store

SIDE, NUM_IMAGES = 128, 320
IMAGE_BYTES = SIDE * SIDE * 3
RECORD_BYTES = IMAGE_BYTES + 16
MESSAGE_BYTES = 8 * 112 * 112 * 3


@pytest.fixture(scope="module")
def raw_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MB in ten shards."""
    path = tmp_path_factory.mktemp("stores") / "raw"
    return make_store(path, num_train=NUM_IMAGES, num_val=1, side=SIDE, encoding="raw")


def steps(first: int, last: int, *, shuffle: bool = True) -> StepRange:
    return StreamSpec(crop_size=112, batch_size=32, seed=3, shuffle=shuffle).steps(first, last, epoch=1)


def drop(store: Path) -> None:
    """Has the kernel forget the shards' pages, but those that this process has touched in a mapping; skips the test
    where it forgets none."""
    shards = list((store / "shards").glob("*.lmdb"))
    if sum(map(forget, shards)) == sum(shard.stat().st_size for shard in shards):
        pytest.skip("the file system keeps its pages in memory")


def bytes_from_disk() -> int:
    """What this process has had read so far."""
    found = re.search(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def mapped_bytes(store: Path) -> int:
    """What of a store's shards is mapped into this process now."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    sizes = [re.search(r"^Rss: +(\d+) kB", each, re.MULTILINE) for each in mappings if str(store) in each]
    return 1024 * sum(int(size[1]) for size in sizes if size)


@contextmanager
def reading_ahead(store: Store, max_bytes: int, cache: DecodedCache | None = None) -> Iterator[ReadAhead]:
    ahead = ReadAhead(store, cache or DecodedCache(0), max_bytes=max_bytes, num_threads=1)
    try:
        yield ahead
    finally:
        ahead.close()


def test_what_is_read_is_the_records(raw_store: Path) -> None:
    """A tenth of a cold store, at random: its records and the shards' index pages, and nothing around them."""
    drop(raw_store)
    with Store(raw_store) as store, Pipeline(store, num_threads=2, message_bytes=MESSAGE_BYTES) as pipeline:
        before = bytes_from_disk()
        messages = list(pipeline.messages(steps(0, 1)))
        assert sum(message.num_images for message in messages) == 32
        found = bytes_from_disk() - before
        if not found:
            pytest.skip("the file system keeps its pages in memory")
        # A record's pages, of 4 KB, and three index pages of each shard with what the kernel adds to them.
        assert 32 * IMAGE_BYTES < found <= 32 * (RECORD_BYTES + 2 * 4096) + 10 * 5 * 4096
        assert store.reads.num_bytes == 32 * RECORD_BYTES


def test_the_stream_is_the_same_however_it_is_read(raw_store: Path) -> None:
    found = []
    for max_bytes in (0, 1, 10 * RECORD_BYTES, 1 << 30):
        drop(raw_store)
        with (
            Store(raw_store) as store,
            Pipeline(store, num_threads=2, message_bytes=MESSAGE_BYTES, read_ahead_bytes=max_bytes) as pipeline,
        ):
            found.append([bytes(message.body) for message in pipeline.messages(steps(0, 10))])
    assert found.count(found[0]) == 4


def test_jobs_are_taken_ahead_as_far_as_allowed(raw_store: Path) -> None:
    with Store(raw_store) as store:
        planner = Planner(store, MESSAGE_BYTES)
        expected = [job.indices.tolist() for job in planner.jobs(steps(0, 10))]
        for max_bytes, most_ahead in ((0, 0), (10 * RECORD_BYTES, 1), (100 * RECORD_BYTES, 11)):
            taken: list[list[int]] = []

            def jobs(taken: list[list[int]] = taken) -> Iterator[Job]:
                for job in planner.jobs(steps(0, 10)):
                    taken.append(job.indices.tolist())
                    yield job

            with reading_ahead(store, max_bytes) as ahead:
                handed_on = []
                for job in ahead.through(jobs()):
                    handed_on.append(job.indices.tolist())
                    assert len(taken) - len(handed_on) <= most_ahead
                    if len(handed_on) == 1:
                        assert len(taken) - 1 == most_ahead
                assert handed_on == expected
                # What a stream that was broken off had taken ahead does not count any more.
                broken_off = ahead.through(jobs())
                next(broken_off)
                broken_off.close()
                again = ahead.through(jobs())
                taken.clear()
                next(again)
                assert len(taken) - 1 == most_ahead
        planner.close()


def test_a_store_in_memory_is_not_asked_for(raw_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some records without a wait, fewer at the start, nothing is asked until one has to be waited for."""
    monkeypatch.setattr(read_ahead, "_FIRST_AWAKE_RECORDS", 32)
    monkeypatch.setattr(read_ahead, "_AWAKE_RECORDS", 64)
    with Store(raw_store) as store, Pipeline(store, num_threads=1, message_bytes=MESSAGE_BYTES) as pipeline:
        counts = []
        for shard in (raw_store / "shards").glob("*.lmdb"):
            shard.read_bytes()
        for first in (0, 0, 5):  # in stored order, so that the second half of the shards is untouched
            if first:
                drop(raw_store)
            for _ in pipeline.messages(steps(first, first + 5, shuffle=False)):
                pass
            counts.append(pipeline._read_ahead.num_bytes)
        assert 0 < counts[0] <= 40 * RECORD_BYTES
        assert counts[1] == counts[0]
        assert counts[2] > counts[1]


def test_what_comes_from_the_disk_is_not_mapped(raw_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel can take its pages back at once; those of a store in memory are mapped, and not copied."""
    drop(raw_store)
    with Store(raw_store) as store:
        with Pipeline(store, num_threads=2, message_bytes=MESSAGE_BYTES) as pipeline:
            for _ in pipeline.messages(steps(0, 10)):
                pass
            assert mapped_bytes(raw_store) == 0
        monkeypatch.setattr(read_ahead, "_FIRST_AWAKE_RECORDS", 1)
        for max_bytes in (0, 1 << 20):
            with Pipeline(store, num_threads=2, message_bytes=MESSAGE_BYTES, read_ahead_bytes=max_bytes) as pipeline:
                for _ in pipeline.messages(steps(0, 2)):
                    pass
            assert mapped_bytes(raw_store) > 32 * IMAGE_BYTES


def test_images_that_are_kept_decoded_are_not_read(raw_store: Path) -> None:
    with Store(raw_store) as store:
        planner, cache = Planner(store, MESSAGE_BYTES), DecodedCache(1 << 30)
        kept = [index for job in planner.jobs(steps(0, 5)) for index in job.indices.tolist()]
        for index in kept:
            cache.offer("train", index, 0, np.zeros((2, 2, 3), np.uint8))
        with reading_ahead(store, 1 << 30, cache) as ahead:
            for _ in ahead.through(planner.jobs(steps(0, 10))):
                pass
            expected, deadline = (NUM_IMAGES - len(kept)) * RECORD_BYTES, time.monotonic() + 30
            while ahead.num_bytes < expected and time.monotonic() < deadline:
                time.sleep(0.01)
        planner.close()
        assert ahead.num_bytes == expected


def test_metrics_of_the_disk(raw_store: Path) -> None:
    drop(raw_store)
    port = free_port()
    replica = LoaderProcess(raw_store, "--metrics-listen", f"127.0.0.1:{port}")
    try:
        with LoaderClient([replica.target]) as client, client.stream(StreamSpec(batch_size=32)) as stream:
            assert len(list(stream)) == 10
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
            text = response.read().decode()
    finally:
        replica.end()
    found = {name: float(value) for name, value in re.findall(r"^(alexnet_loader_\w+) (\S+)$", text, re.MULTILINE)}
    assert found["alexnet_loader_read_bytes_total"] == NUM_IMAGES * RECORD_BYTES
    assert found["alexnet_loader_read_ahead_bytes_total"] == NUM_IMAGES * RECORD_BYTES
    assert (found["alexnet_loader_disk_waits_total"] > 0) == (found["alexnet_loader_disk_wait_seconds_total"] > 0)


def test_a_slow_disk_is_said(
    raw_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(read_ahead, "_REPORT_INTERVAL_S", 0.0)
    with Store(raw_store) as store:
        planner = Planner(store, MESSAGE_BYTES)
        with reading_ahead(store, 1 << 20) as ahead:
            for _ in ahead.through(planner.jobs(steps(0, 1))):
                pass
            assert not caplog.records
            store.reads.add_wait(1000.0)
            for _ in ahead.through(planner.jobs(steps(1, 2))):
                pass
        planner.close()
    assert "the disk is too slow" in caplog.records[0].getMessage()
    assert len(caplog.records) == 1


def _missed(share: float, num_images: int = 20_000) -> float:
    """The share of an epoch's images that a cache of so many of them does not hold, when it keeps the last used."""
    cache: OrderedDict[int, None] = OrderedDict()
    num_missed = 0
    for epoch in (0, 1):
        for index in epoch_order(num_images, 1, epoch).tolist():
            num_missed += epoch and index not in cache
            cache[index] = None
            cache.move_to_end(index)
            if len(cache) > share * num_images:
                cache.popitem(last=False)
    return num_missed / num_images


def test_what_to_expect_is_said_at_the_start(raw_store: Path) -> None:
    with Store(raw_store) as store:
        manifest = store.manifest
    assert "each image is read from the disk once" in expectation(manifest, 1 << 30)
    train = manifest.splits["train"]
    large: Manifest = replace(
        manifest,
        splits={
            "train": replace(train, shards=tuple(replace(s, size_bytes=s.size_bytes * 1000) for s in train.shards))
        },
    )
    said = expectation(large, 10_000_000_000)
    assert re.match(
        r"the store's \d\d\.\d GB, memory for 10\.0 GB: an epoch over all of it reads about \d+\.\d GB", said
    )


def test_the_end_does_not_wait_for_what_was_asked(raw_store: Path) -> None:
    """SIGTERM while a client reads: nothing that reads ahead keeps the process."""
    drop(raw_store)
    replica = LoaderProcess(raw_store, "--drain-s", "0")
    try:
        with (
            LoaderClient([replica.target]) as client,
            client.stream(StreamSpec(batch_size=32), num_epochs=None) as stream,
        ):
            next(stream)
            replica.send(signal.SIGTERM)
            assert replica.wait() == 0
    finally:
        replica.end()
