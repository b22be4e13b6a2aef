"""Reading ahead by the record: has the kernel read what jobs will need, while decode threads are at work on others.

The order of an epoch is known, so what is read is exactly the records of the ranges that were asked for, in order.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress

from loader_service.pipeline.image_cache import DecodedCache
from loader_service.pipeline.plan import Job
from preprocess.errors import StoreError
from preprocess.store import Store

log = logging.getLogger(__name__)

# Asking costs processor time where the kernel has everything, of decode threads too, which it interrupts: after so many
# records of which none had to be waited for, nothing is asked until one has to be. A store that is in memory when a
# service starts shows it sooner.
_AWAKE_RECORDS, _FIRST_AWAKE_RECORDS = 1 << 14, 1 << 10
_FIRST_DEPTH_BYTES = 8 << 20
_MAX_WAITING_JOBS = 256
# To ask may wait: for the index of a shard that was not open, or for a device whose queue is full.
_NUM_THREADS = 4
_REPORT_INTERVAL_S = 60.0
_SLOW_SHARE = 0.1


class ReadAhead:
    """Asks the kernel for the records of jobs, on threads of its own, up to ``max_bytes`` ahead; 0 asks for none.

    How far ahead follows the disk: twice as far whenever a decode thread still had to wait for it, and from the
    beginning again after a time without waits. The records that are asked for belong to the kernel's page cache.
    """

    def __init__(self, store: Store, cache: DecodedCache, *, max_bytes: int, num_threads: int) -> None:
        self._store, self._cache = store, cache
        self._max_bytes = max_bytes
        self._num_threads = num_threads
        num_images = sum(split.num_images for split in store.manifest.splits.values())
        size_bytes = sum(shard.size_bytes for split in store.manifest.splits.values() for shard in split.shards)
        self._image_bytes = size_bytes // max(num_images, 1)
        self.num_bytes = 0
        """Bytes that were asked for ahead."""
        self._lock = threading.Lock()
        self._depth = min(_FIRST_DEPTH_BYTES, max_bytes)
        self._pending = 0  # bytes of jobs that were taken from their plans and not yet handed on
        self._awake = _FIRST_AWAKE_RECORDS  # records that will be asked for unless another one is waited for
        self._deepened_at = 0  # ``num_bytes`` then
        self._waits_seen = 0
        self._reported_at, self._reported_wait_s = time.monotonic(), 0.0
        self._jobs: queue.Queue[Job | None] = queue.Queue(_MAX_WAITING_JOBS)
        self._threads = [
            threading.Thread(target=self._work, name=f"read-ahead-{number}", daemon=True)
            for number in range(_NUM_THREADS if max_bytes else 0)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the threads; the store may be closed after."""
        self._max_bytes = 0
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def through(self, jobs: Iterator[Job]) -> Generator[Job]:
        """The same jobs, taken from their plan as far ahead as is read ahead."""
        ahead: deque[tuple[Job, int]] = deque()
        try:
            for job in jobs:
                ahead.append((job, self._ask(job)))
                while ahead and not self._goes_further():
                    yield self._handed_on(*ahead.popleft())
            while ahead:
                yield self._handed_on(*ahead.popleft())
        finally:
            for job, size_bytes in ahead:
                self._handed_on(job, size_bytes)

    def _ask(self, job: Job) -> int:
        """Has a job's records asked for, if that may be worth it; bytes that now count as pending."""
        self._note_waits()
        with self._lock:
            asks = self._max_bytes > 0 and self._awake > 0
            self._store.reads.are_from_disk = asks
            if not asks:
                return 0
            size_bytes = len(job.indices) * self._image_bytes
            self._pending += size_bytes
            self._awake -= len(job.indices)
            if self._awake <= 0:
                self._depth = min(_FIRST_DEPTH_BYTES, self._max_bytes)
        with suppress(queue.Full):  # the disk is far behind: the decode threads ask for themselves
            self._jobs.put_nowait(job)
        return size_bytes

    def _goes_further(self) -> bool:
        with self._lock:
            return 0 < self._pending < self._depth and self._awake > 0

    def _handed_on(self, job: Job, size_bytes: int) -> Job:
        with self._lock:
            self._pending -= size_bytes
        return job

    def _note_waits(self) -> None:
        """Goes deeper where a record was waited for: at most once for each depth's worth of bytes."""
        reads = self._store.reads
        with self._lock:
            if reads.num_waits != self._waits_seen:
                self._waits_seen = reads.num_waits
                if self._awake > 0 and self.num_bytes - self._deepened_at > self._depth:
                    self._depth = min(2 * self._depth, self._max_bytes)
                    self._deepened_at = self.num_bytes
                self._awake = _AWAKE_RECORDS
            now = time.monotonic()
            elapsed_s = now - self._reported_at
            if elapsed_s < _REPORT_INTERVAL_S:
                return
            wait_s = reads.wait_s - self._reported_wait_s
            self._reported_at, self._reported_wait_s = now, reads.wait_s
        if wait_s > _SLOW_SHARE * elapsed_s * self._num_threads:
            log.warning(
                "the disk is too slow: decode threads waited for it %.0f %% of the last %.0f s; "
                "see 'A store that is cold or larger than memory' in docs/loader.md",
                100 * wait_s / (elapsed_s * self._num_threads),
                elapsed_s,
            )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._max_bytes:
                continue
            split = job.range.spec.split
            wanted = [index for index in job.indices.tolist() if not self._cache.has(split, index)]
            with suppress(StoreError, OSError):  # whoever reads the record says so
                size_bytes = self._store.split(split).will_need(wanted)
                with self._lock:
                    self.num_bytes += size_bytes
